"""Custodies behind a network that answer wrongly, late or not at all: never a key, always a failure that says so."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.custody.backends import Service, http
from support.custody.mischief import MischiefServer
from support.custody.tls import Tls

from confide.crypto.secret import SecretBytes
from confide.errors import CustodyOfflineError, UnwrapError
from confide.keys.custody.protocol import Kms
from confide.keys.kbs.client import KbsClient

CONTEXT = {"use": "root", "service": "x"}
_KEY = base64.b64encode(bytes(32)).decode()
_FAULTS = {
    "nothing": b"",
    "garbage": b"\x16\x03\x01\x00\xff\xfe not a protocol of anybody \x00" * 3,
    "an error page": http(500, b"0123456789abcdef0123456789abcdef"),
    "an error of the service": http(503, b'{"errors":["Vault is sealed"]}'),
    "too many requests": http(429, b'{"errors":["request path rate limit"],"__type":"ThrottlingException"}'),
    "half a body": http(200, b'{"data":{"plaintext":"' + _KEY.encode(), length=1000),
    "no JSON": http(200, b"<html>0123456789abcdef0123456789abcdef</html>"),
    "other JSON": http(200, b"[1, 2, 3]"),
    "JSON without the field": http(200, b'{"data":{"other":"x"},"Other":"x"}'),
    "a field of another type": http(200, b'{"data":{"plaintext":5,"ciphertext":5},"Plaintext":5,"CiphertextBlob":5}'),
    "a field that is not ASCII": http(200, '{"data":{"plaintext":"\u00e9"},"Plaintext":"\u00e9","CiphertextBlob":"\u00e9"}'.encode()),
    "an empty field": http(200, b'{"data":{"plaintext":"","ciphertext":""},"Plaintext":"","CiphertextBlob":""}'),
    "a body without end": http(200, b'{"data":{"plaintext":"' + b"A" * 200_000 + b'"}}'),
    "another place": http(307, b"", "Location: https://127.0.0.1:1/"),
    "a KMIP message without end": bytes.fromhex("42007b01") + b"\xff\xff\xff\xf0" + bytes(64),
    "a cut KMIP message": bytes.fromhex("42007b0100000040") + bytes(16),
    "an empty KMIP message": bytes.fromhex("42007b0100000000"),
    "a KMIP message of something else": bytes.fromhex("42007801000000104200690100000008") + bytes(8),
}


@pytest.fixture(params=list(_FAULTS))
def wrong(request: pytest.FixtureRequest, remote: Service, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    monkeypatch.setitem(KbsClient.__init__.__kwdefaults__, "patience", 0.0)  # it would give a service the pauses that it asks for
    server = MischiefServer(tls, _FAULTS[request.param])
    assert remote.at_port is not None
    yield remote.at_port(server.port, tls)
    server.stop()


def test_an_answer_that_is_not_one_is_never_a_key(remote: Service, wrong: Kms) -> None:
    wrapped = remote.kms.wrap(SecretBytes.random(), context=CONTEXT)
    with pytest.raises((CustodyOfflineError, UnwrapError)):
        wrong.unwrap(wrapped, context=CONTEXT)


def test_an_answer_that_is_not_one_wraps_nothing(wrong: Kms) -> None:
    with pytest.raises(CustodyOfflineError):
        wrong.wrap(SecretBytes.random(), context=CONTEXT)


@pytest.mark.parametrize("plain", [bytes(32), bytes(16), b"0"], ids=["a key", "a short key", "a byte"])
def test_a_service_that_answers_with_another_key_opens_nothing(remote: Service, tls: Tls, plain: bytes) -> None:
    text = base64.b64encode(plain).decode()
    server = MischiefServer(tls, http(200, json.dumps({"data": {"plaintext": text}, "Plaintext": text, "KeyId": "k"}).encode()))
    assert remote.at_port is not None
    wrapped = remote.kms.wrap(SecretBytes.random(), context=CONTEXT)
    with pytest.raises((UnwrapError, CustodyOfflineError)):
        remote.at_port(server.port, tls).unwrap(wrapped, context=CONTEXT)
    server.stop()


@pytest.mark.parametrize(
    ("pause_s", "size", "parts"),
    [(600, 4000, 1), (0.2, 4000, 4000), (0.2, 400_000, 2000)],
    ids=["silence", "a head drop by drop", "a body drop by drop"],
)
def test_a_slow_service_is_not_waited_for(remote: Service, tls: Tls, pause_s: float, size: int, parts: int) -> None:
    """Each piece comes in time, and all of them in minutes, which the test does not have."""
    server = MischiefServer(tls, http(200, b" " * size), pause_s=pause_s, parts=parts)
    assert remote.at_port is not None
    with pytest.raises(CustodyOfflineError):
        remote.at_port(server.port, tls).wrap(SecretBytes.random(), context=CONTEXT)
    server.stop()


@pytest.mark.parametrize("name", ["127.0.0.1", "kms.example"], ids=["a stranger's certificate", "a certificate for another name"])
def test_a_false_service_is_not_asked(remote: Service, tls: Tls, tmp_path: Path, name: str) -> None:
    other = Tls(tmp_path / "other", server_name=name)
    text = base64.b64encode(bytes(32)).decode()
    server = MischiefServer(other, http(200, json.dumps({"data": {"ciphertext": "vault:v1:AA=="}, "CiphertextBlob": text}).encode()))
    assert remote.at_port is not None
    with pytest.raises(CustodyOfflineError, match="cannot be reached"):
        remote.at_port(server.port, tls if name == "127.0.0.1" else other).wrap(SecretBytes.random(), context=CONTEXT)
    server.stop()
