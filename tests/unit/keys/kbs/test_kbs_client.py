"""The client: what it takes from our own server and from any other, and what never becomes a resource."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.false_kbs import CHALLENGE, FalseKbs, encrypting, http
from support.kbs_guest import INIT_DATA

from confide.attest.init_data import InitData
from confide.attest.insecure import InsecureAttester
from confide.crypto.secret import SecretBytes
from confide.crypto.tls import PinnedSpki
from confide.errors import AttestationError, KbsError, ParseError, ResourceDeniedError, ResourceMissingError, UsageError
from confide.ids import SpkiDigest, Tee
from confide.keys.kbs.client import KbsClient, resource_of_uri
from confide.keys.kbs.resources import ResourceName
from confide.keys.kbs.tee_key import KeyKind
from confide.keys.kbs.transport import PinnedCa

NAME = ResourceName.parse("airline/key/flights")
SECRET = b"the resource that only accepted guests may read"
FIVE = timedelta(minutes=16)


def _client(kbs: Any, attester: Any = None, **options: Any) -> KbsClient:
    server = kbs.world.server
    return KbsClient(server.url, PinnedSpki(server.spki), attester=attester or kbs.attester, **options)


@pytest.mark.parametrize("kind", list(KeyKind))
def test_takes_a_resource_from_our_own_server(kbs: Any, kind: KeyKind) -> None:
    with _client(kbs, kind=kind) as client:
        assert client.resource(NAME).reveal() == SECRET


def test_attests_once_and_again_when_the_session_has_ended(kbs: Any) -> None:
    client = _client(kbs)
    client.resource(NAME)
    client.resource(NAME)
    assert len(kbs.world.events("kbs-attest")) == 1
    kbs.world.ahead = FIVE
    assert client.resource(NAME).reveal() == SECRET
    assert len(kbs.world.events("kbs-attest")) == 2


def test_refusals_say_which_kind_they_are(kbs: Any) -> None:
    other = InsecureAttester(kbs.world.installation, Tee.SGX, "ee" * 32)
    with pytest.raises(ResourceDeniedError, match="PolicyDeny"):
        _client(kbs, other).resource(NAME)
    with pytest.raises(ResourceMissingError):
        _client(kbs).resource(ResourceName.parse("airline/key/none"))
    with pytest.raises(AttestationError, match="init-data"):
        _client(kbs, init_data=InitData.parse(INIT_DATA)).resource(NAME)


def test_server_with_another_key_is_not_asked(kbs: Any) -> None:
    client = KbsClient(kbs.world.server.url, PinnedSpki(SpkiDigest("00" * 32)), attester=kbs.attester)
    with pytest.raises(KbsError):
        client.resource(NAME)
    assert kbs.world.events("kbs-attest") == []


# --- any other server ---------------------------------------------------------------------------------------------------


def _of(server: FalseKbs, attester: Any, **options: Any) -> KbsClient:
    return KbsClient(server.url, PinnedCa(server.ca_pem), attester=attester, **{"timeout": 5.0, **options})


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_takes_a_resource_from_a_server_under_a_pinned_ca(attester: Any, key: str) -> None:
    with FalseKbs(encrypting(b"upstream"), key=key) as server:
        assert _of(server, attester).resource(NAME).reveal() == b"upstream"
        message = json.loads(server.asked[1][2])
        assert set(message["runtime-data"]) == {"nonce", "tee-pubkey"}
        assert [path for _, path, _ in server.asked] == ["/kbs/v0/auth", "/kbs/v0/attest", f"/kbs/v0/resource/{NAME.path}"]


def test_server_under_another_ca_or_of_another_name_is_not_asked(attester: Any) -> None:
    script = encrypting(b"x")
    with FalseKbs(script) as server, FalseKbs({}, key="ec") as stranger, FalseKbs(script, name="kbs.example") as named:
        for client in (
            KbsClient(server.url, PinnedCa(stranger.ca_pem), attester=attester),
            KbsClient(named.url, PinnedCa(named.ca_pem), attester=attester),
        ):
            with pytest.raises(KbsError):
                client.resource(NAME)
        assert server.asked == named.asked == []


ERROR = {"type": "https://github.com/confidential-containers/kbs/errors/PluginInternalError", "detail": "no"}
ANSWERS: dict[str, Any] = {
    "200 with an error body": http(200, ERROR),
    "200 with nothing": http(200, b""),
    "200 with the plaintext": http(200, SECRET),
    "200 with plaintext JSON": http(200, {"ciphertext": "c2VjcmV0"}),
    "200 with a list": http(200, [1]),
    "500": http(500, ERROR),
    "500 with a resource's form": http(500, {"protected": "e30", "encrypted_key": "AA", "iv": "AA", "ciphertext": "AA", "tag": "AA"}),
    "201": http(201, ERROR),
    "302": http(302, ERROR, "location: https://127.0.0.1:1/"),
    "garbage": b"\x00\xff" * 300,
    "garbage in HTTP": http(200, b"\x00\xff" * 300),
    "half a body": http(200, {"protected": "x" * 400})[:-200],
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "nothing at all": b"",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
}


@pytest.mark.parametrize("step", ["auth", "attest", "resource"])
@pytest.mark.parametrize("what", list(ANSWERS))
def test_wrong_answer_at_any_step_is_an_error_and_never_a_resource(attester: Any, step: str, what: str) -> None:
    with FalseKbs({**encrypting(SECRET), step: ANSWERS[what]}) as server, pytest.raises(KbsError) as refused:
        _of(server, attester, timeout=2.0).resource(NAME)
    assert SECRET.decode() not in str(refused.value.to_json())


@pytest.mark.parametrize("status", [201, 404, 500, 503])
def test_what_would_be_a_good_answer_counts_under_status_200_only(attester: Any, status: int) -> None:
    def under(good: Any) -> Callable[..., bytes]:
        return lambda *asked: (good(*asked) if callable(good) else good).replace(b" 200 ", f" {status} ".encode(), 1)

    script = {"auth": CHALLENGE, **encrypting(SECRET)}
    for step in ("auth", "attest", "resource"):
        with FalseKbs({**script, step: under(script[step])}) as server, pytest.raises((KbsError, ResourceMissingError)):
            _of(server, attester).resource(NAME)


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_without_error_information_is_still_one(attester: Any, status: int) -> None:
    for step, error in (("auth", AttestationError), ("attest", AttestationError), ("resource", ResourceDeniedError)):
        with FalseKbs({**encrypting(SECRET), step: http(status, b"")}) as server, pytest.raises(error):
            _of(server, attester).resource(NAME)


def _drip(answer: bytes, pause: float) -> list[Any]:
    pieces: list[Any] = []
    for at in range(len(answer)):
        pieces += [answer[at : at + 1], lambda: time.sleep(pause)]
    return pieces


@pytest.mark.parametrize("step", ["auth", "attest", "resource"])
def test_slow_answer_is_given_up_as_a_whole_and_not_for_each_byte(attester: Any, step: str) -> None:
    slow: Callable[..., Any] = lambda *_: _drip(CHALLENGE, 0.05)  # noqa: E731
    with FalseKbs({**encrypting(SECRET), step: slow}) as server:
        started = time.monotonic()
        with pytest.raises(KbsError) as refused:
            _of(server, attester, timeout=0.5).resource(NAME)
    assert refused.value.facts["cause"] == "channel-timeout"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("challenge", "headers"),
    [
        ({"nonce": "", "extra-params": ""}, ("set-cookie: kbs-session-id=a",)),
        ({"nonce": 3}, ("set-cookie: kbs-session-id=a",)),
        ({"nonce": "x" * 5000}, ("set-cookie: kbs-session-id=a",)),
        ({"nonce": "bm9uY2U=bm9uY2U="}, ()),
        ({"nonce": "bm9uY2U=bm9uY2U="}, ("set-cookie: other=a",)),
        ({"nonce": "bm9uY2U=bm9uY2U=", "extra-params": {"selected-hash-algorithm": "sha1"}}, ("set-cookie: kbs-session-id=a",)),
    ],
)
def test_challenge_of_another_form_is_an_error(attester: Any, challenge: dict[str, Any], headers: tuple[str, ...]) -> None:
    with FalseKbs({"auth": http(200, challenge, *headers)}) as server, pytest.raises(KbsError):
        _of(server, attester).resource(NAME)


def test_resource_that_was_encrypted_to_another_guest_is_no_resource(attester: Any) -> None:
    from confide.keys.kbs.tee_key import TeeKey

    stolen = http(200, TeeKey.generate().public.encrypt(SecretBytes(SECRET)))
    with FalseKbs({"resource": stolen}) as server, pytest.raises(KbsError):
        _of(server, attester).resource(NAME)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1", "https://", "https://a/b", "https://u@a", "https://a:99999", "kbs://a"])
def test_address_without_tls_or_of_another_form_is_refused(attester: Any, url: str) -> None:
    with pytest.raises(UsageError):
        KbsClient(url, PinnedCa(""), attester=attester)


def test_ca_that_is_none_is_refused(attester: Any) -> None:
    for pem in ("", "not PEM"):
        with pytest.raises(UsageError):
            KbsClient("https://127.0.0.1:1", PinnedCa(pem), attester=attester).resource(NAME)


def test_uri_names_a_server_and_a_resource() -> None:
    assert resource_of_uri("kbs://kbs.example:8080/airline/key/flights") == ("https://kbs.example:8080", NAME)
    assert resource_of_uri("kbs:///airline/key/flights") == (None, NAME)
    for wrong in ("http://x/a/b/c", "kbs://x/a/b", "kbs://x/../b/c", "airline/key/flights"):
        with pytest.raises(ParseError):
            resource_of_uri(wrong)
