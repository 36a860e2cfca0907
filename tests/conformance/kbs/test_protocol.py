"""KBS protocol 0.4.0, from outside: what any server of it does.  Pointed at a server by ``--kbs-url`` (docs/reference/kbs.md).

The server must take ``sample`` evidence and give one resource to guests that show it.  Sections: Trustee's "KBS Attestation Protocol".
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from confide.canonical import from_b64url
from confide.errors import UnwrapError
from confide.keys.kbs.tee_key import KeyKind, TeeKey

ERRORS = "https://github.com/confidential-containers/kbs/errors/"


def _is_refused(answer: Any, *statuses: int) -> None:
    """An error with error information ("Error information")."""
    assert answer.status in statuses, (answer.status, answer.json)
    assert isinstance(answer.json, dict)
    assert answer.json["type"].startswith(ERRORS)
    assert isinstance(answer.json["detail"], str)
    assert answer.json["detail"]


# --- Request and Challenge -----------------------------------------------------------------------------------------------


def test_challenge_has_a_nonce_extra_params_and_a_cookie(guest: Any) -> None:
    answer = guest.auth()
    assert answer.status == 200
    assert set(answer.json) == {"nonce", "extra-params"}
    assert len(base64.b64decode(answer.json["nonce"], validate=True)) >= 32
    name, _, value = answer.headers["set-cookie"].split(";")[0].partition("=")
    assert (name, bool(value)) == ("kbs-session-id", True)


def test_each_challenge_is_another(guest: Any) -> None:
    found = []
    for _ in range(5):
        guest.auth()
        found.append((guest.nonce, guest.cookie))
    assert len({nonce for nonce, _ in found}) == len({cookie for _, cookie in found}) == 5


@pytest.mark.parametrize("extra", ["", {}, {"supported-hash-algorithms": ["sha256", "sha384", "sha512"]}])
def test_extra_params_may_be_empty_or_offer_digests(guest: Any, extra: Any) -> None:
    assert guest.auth(**{"extra-params": extra}).status == 200


@pytest.mark.parametrize("version", ["0.1.1", "0.3.0", "0.5.0", "1.4.0", "zero"])
def test_another_version_is_refused(guest: Any, version: str) -> None:
    _is_refused(guest.auth(version=version), 401)


def test_unknown_kind_of_tee_and_missing_fields_are_refused(guest: Any) -> None:
    _is_refused(guest.auth(tee="toaster"), 400, 401)
    for body in ({}, {"version": "0.4.0"}, {"tee": "sample"}):
        _is_refused(guest.server.ask("POST", "auth", body), 400, 401)


# --- Attestation -----------------------------------------------------------------------------------------------------------


def test_attestation_answers_a_token_for_the_guests_key(guest: Any) -> None:
    guest.auth()
    answer = guest.attest()
    assert answer.status == 200
    parts = answer.json["token"].split(".")
    assert len(parts) == 3
    header, claims = (json.loads(from_b64url(part)) for part in parts[:2])
    assert header["alg"] in {"RS256", "RS384", "PS384", "ES256", "ES384"}
    assert claims["exp"] > time.time() >= claims["iat"] - 60
    assert guest.key.public.jwk["x"] in json.dumps(claims)


def test_attestation_without_a_session_is_refused(guest: Any) -> None:
    guest.auth()
    _is_refused(guest.attest(cookie=""), 401)
    _is_refused(guest.attest(cookie="kbs-session-id=00000000000000000000000000000000"), 401)


def test_nonce_of_another_session_is_refused(server: Any, guest: Any) -> None:
    other = type(guest)(server)
    guest.auth()
    other.auth()
    _is_refused(guest.attest(guest.message(nonce=other.nonce)), 401)


def test_evidence_over_other_report_data_is_refused(guest: Any) -> None:
    guest.auth()
    _is_refused(guest.attest(guest.message(over=bytes(48))), 401)


def test_evidence_that_was_made_for_another_key_is_refused(guest: Any) -> None:
    guest.auth()
    message = guest.message()
    guest.key = TeeKey.generate()
    message["runtime-data"]["tee-pubkey"] = dict(guest.key.public.jwk)
    _is_refused(guest.attest(message), 401)


@pytest.mark.parametrize("part", ["runtime-data", "tee-evidence"])
def test_message_without_a_part_is_refused(guest: Any, part: str) -> None:
    guest.auth()
    _is_refused(guest.attest({name: value for name, value in guest.message().items() if name != part}), 400, 401)


# --- Response --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KeyKind))
def test_resource_is_a_flattened_jwe_to_the_guests_key(server: Any, guest: Any, kind: KeyKind) -> None:
    guest = type(guest)(server, kind).ready()
    answer = guest.get()
    assert answer.status == 200
    assert {"protected", "encrypted_key", "iv", "ciphertext", "tag"} <= set(answer.json) <= {
        "protected", "encrypted_key", "iv", "ciphertext", "tag", "aad",
    }  # fmt: skip
    header = json.loads(from_b64url(answer.json["protected"]))
    assert (header["alg"], header["enc"]) == (guest.key.public.jwk["alg"], "A256GCM")
    content = guest.key.open(answer.json).reveal()
    assert content
    assert server.content in {None, content}


def test_resource_by_token_is_the_same_as_by_cookie(guest: Any) -> None:
    guest.ready()
    by_cookie, by_token = guest.get(), guest.get(authorization=f"Bearer {guest.token}")
    assert by_token.status == 200
    assert guest.key.open(by_cookie.json).reveal() == guest.key.open(by_token.json).reveal()


def test_each_answer_is_encrypted_anew(guest: Any) -> None:
    guest.ready()
    answers = [guest.get().json for _ in range(3)]
    for part in ("encrypted_key", "iv", "ciphertext"):
        assert len({answer[part] for answer in answers}) == 3


def test_answer_for_one_guest_opens_for_no_other(server: Any, guest: Any) -> None:
    guest.ready()
    other = type(guest)(server).ready()
    with pytest.raises(UnwrapError):
        other.key.open(guest.get().json)


def test_resource_without_a_session_before_attestation_or_with_a_false_token_is_refused(guest: Any) -> None:
    _is_refused(guest.get(accept="application/json"), 401)
    guest.auth()
    _is_refused(guest.get(), 401)
    guest.attest()
    head, payload, signature = guest.token.split(".")
    false = f"{head}.{payload}.{signature[:-4]}{'AAAA' if signature[-4:] != 'AAAA' else 'BBBB'}"
    _is_refused(guest.get(authorization=f"Bearer {false}"), 401)


def test_resource_that_is_not_there_or_not_named_is_refused(guest: Any) -> None:
    guest.ready()
    repository = guest.server.resource.split("/")[0]
    _is_refused(guest.get(f"{repository}/no-such-type/nothing"), 401, 403, 404)
    for name in (f"{repository}/x", f"{repository}/x/y/z", f"{repository}/../x", f"{repository}/%2e%2e/x"):
        _is_refused(guest.get(name), 400, 401, 403, 404)


def test_resources_are_registered_by_nobody_unknown(guest: Any) -> None:
    guest.ready()
    answer = guest.server.ask("POST", f"resource/{guest.server.resource}", {"not": "mine"}, cookie=guest.cookie)
    _is_refused(answer, 401, 403)
    answer = guest.server.ask("POST", f"resource/{guest.server.resource}", {"not": "mine"}, authorization=f"Bearer {guest.token}")
    _is_refused(answer, 401, 403)


@pytest.mark.parametrize("path", ["resource-policy", "attestation-policy", "reference-value"])
def test_policies_are_set_by_nobody_unknown(guest: Any, path: str) -> None:
    _is_refused(guest.server.ask("POST", path, {"policy": ""}), 401, 403)
