"""A run's result that is kept for its client: nobody else reads it, and nobody changes it unnoticed."""

from __future__ import annotations

import json

import pytest

from confide.canonical import b64url, from_b64url
from confide.crypto.sign import SigningKey
from confide.errors import ProtocolError
from confide.ids import RunId
from confide.node.kept_result import open_result, seal_result

RUN = RunId("demo-1")
CLIENT = SigningKey.generate()
RESULT = {"ok": True, "summary": {"rows": 3}, "receipt": {"arguments": ["--patient", "4711"]}}


@pytest.fixture
def kept() -> str:
    return seal_result(RESULT, CLIENT.spki_der, RUN)


def test_the_client_reads_what_was_kept(kept: str) -> None:
    assert open_result(kept, CLIENT, RUN) == RESULT


def test_nothing_of_it_is_to_be_read(kept: str) -> None:
    body = from_b64url(json.loads(kept)["body"])
    assert b"patient" not in body
    assert "patient" not in kept
    assert seal_result(RESULT, CLIENT.spki_der, RUN) != kept


def test_another_client_or_run_is_refused(kept: str) -> None:
    with pytest.raises(ProtocolError):
        open_result(kept, SigningKey.generate(), RUN)
    with pytest.raises(ProtocolError):
        open_result(kept, CLIENT, RunId("demo-2"))


def test_any_changed_byte_is_refused(kept: str) -> None:
    fields = json.loads(kept)
    body = from_b64url(fields["body"])
    for place in range(len(body)):
        changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        with pytest.raises(ProtocolError):
            open_result(json.dumps({**fields, "body": b64url(changed)}), CLIENT, RUN)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"key": "a.b.c.d.e", "body": ""}', '{"key": 1, "body": 2}'])
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        open_result(text, CLIENT, RUN)


def test_a_result_that_unpacks_without_end_is_refused() -> None:
    kept = seal_result({"a": "b" * 10_000}, CLIENT.spki_der, RUN)
    with pytest.raises(ProtocolError, match="too large"):
        open_result(kept, CLIENT, RUN, most=1000)
