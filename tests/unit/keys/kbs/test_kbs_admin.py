"""Owners' commands: whose they are, by TLS key and by token, and what they refuse."""

from __future__ import annotations

import base64
import time
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS
from support.kbs_guest import encoded

from confide.canonical import b64url, canonical
from confide.keys.kbs.resources import MAX_RESOURCE_BYTES

ERRORS = "https://github.com/confidential-containers/kbs/errors/"
NAME = "airline/key/flights"


class Admin:
    """An owner's token key."""

    def __init__(self, kbs: Any, owner: str = "airline") -> None:
        self.key = ed25519.Ed25519PrivateKey.generate()
        raw = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.answer = kbs.post(owner, "/confide/v0/kbs-token-keys", {"public_key": b64url(raw), "revoked": False})
        self.raw = raw
        assert self.answer.status == 200, self.answer.json
        self.audience = self.answer.json["audience"]

    def token(self, algorithm: str = "EdDSA", key: JWK | None = None, **changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": "airline", "aud": self.audience, "iat": now, "exp": now + 600, **changes}
        token = JWS(canonical({name: value for name, value in claims.items() if value is not None}))
        token.add_signature(key or JWK.from_pyca(self.key), alg=algorithm, protected=canonical({"alg": algorithm, "typ": "JWT"}).decode())
        return f"Bearer {token.serialize(compact=True)}"


def test_token_of_a_registered_key_is_the_owners_word(kbs: Any) -> None:
    admin = Admin(kbs)
    answer = kbs.post("", f"resource/{NAME}", b"by token", authorization=admin.token())
    assert answer.json == {"resource": NAME, "version": 2}
    assert kbs.get("", "resource-policy", authorization=admin.token()).json["rules"][0]["policy"] == "simulated"
    assert kbs.world.events("kbs-put")[-1]["owner"] == "airline"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "urn:confide:kbs:another"},
        {"aud": None},
        {"exp": int(time.time()) - 3600, "iat": int(time.time()) - 7200},
        {"exp": None},
        {"exp": int(time.time()) + 86400},
        {"iat": int(time.time()) + 3600, "exp": int(time.time()) + 4000},
        {"iss": "mallory"},
        {"iss": "airline' OR '1'='1"},
        {"iss": None},
    ],
)
def test_token_of_another_audience_issuer_or_time_is_refused(kbs: Any, changes: dict[str, Any]) -> None:
    answer = kbs.post("", f"resource/{NAME}", b"x", authorization=Admin(kbs).token(**changes))
    assert (answer.status, answer.json["type"], answer.json["code"]) == (401, f"{ERRORS}AdminAuth", "credential-refused")


def test_token_of_a_key_that_is_not_registered_or_of_another_algorithm_is_refused(kbs: Any) -> None:
    admin = Admin(kbs)
    stranger = JWK.from_pyca(ed25519.Ed25519PrivateKey.generate())
    public = JWK(kty="oct", k=b64url(admin.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)))
    p256 = JWK.generate(kty="EC", crv="P-256")
    for token in (admin.token(key=stranger), admin.token("HS256", key=public), admin.token("ES256", key=p256)):
        assert kbs.post("", f"resource/{NAME}", b"x", authorization=token).status == 401


def test_wrong_token_is_not_made_up_for_by_the_tls_key(kbs: Any) -> None:
    assert kbs.post("airline", f"resource/{NAME}", b"x", authorization="Bearer a.b.c").status == 401
    assert kbs.post("airline", f"resource/{NAME}", b"x", authorization="Basic YTpi").json["type"] == f"{ERRORS}TokenVerifierError"


def test_token_makes_no_token_keys(kbs: Any) -> None:
    admin = Admin(kbs)
    answer = kbs.post("", "/confide/v0/kbs-token-keys", {"public_key": b64url(bytes(32)), "revoked": False}, authorization=admin.token())
    assert answer.status == 401


def test_token_key_that_was_revoked_counts_no_more_and_never_again(kbs: Any) -> None:
    admin = Admin(kbs)
    message = {"public_key": b64url(admin.raw), "revoked": True}
    assert kbs.post("airline", "/confide/v0/kbs-token-keys", message).status == 200
    assert kbs.post("", f"resource/{NAME}", b"x", authorization=admin.token()).status == 401
    assert kbs.post("airline", "/confide/v0/kbs-token-keys", {**message, "revoked": False}).json["code"] == "credential-refused"
    assert kbs.post("", f"resource/{NAME}", b"x", authorization=admin.token()).status == 401
    short = {"public_key": "AAAA", "revoked": True}
    for wrong in ({}, {"public_key": b64url(admin.raw)}, short, {**message, "x": 1}, {**message, "revoked": 1}):
        assert kbs.post("airline", "/confide/v0/kbs-token-keys", wrong).status == 400


def test_guests_token_is_no_admins(kbs: Any) -> None:
    guest = kbs.guest().ready()
    assert kbs.post("", f"resource/{NAME}", b"x", authorization=f"Bearer {guest.token}").status == 401


@pytest.mark.parametrize("path", [f"resource/{NAME}", "attestation-policy", "resource-policy", "reference-value"])
def test_nobody_and_strangers_command_nothing(kbs: Any, path: str) -> None:
    kbs.world.credential("stranger")
    for who in ("", "stranger"):
        answer = kbs.post(who, path, b"x" if path.startswith("resource/") else {"policy": ""})
        assert (answer.status, answer.json["type"]) == (401, f"{ERRORS}AdminAuth")


def test_repository_is_of_who_made_its_first_resource(kbs: Any) -> None:
    kbs.owner("mallory")
    assert kbs.post("mallory", f"resource/{NAME}", b"mine now").json["code"] == "credential-refused"
    assert kbs.post("mallory", "resource/airline/key/other", b"x").status == 401
    assert kbs.post("mallory", f"resource/{NAME}", None, "DELETE").status == 401
    assert kbs.post("mallory", "resource/mallory/key/own", b"x").status == 200
    assert kbs.get("mallory", "attestation-policy").json == {"policies": {}}
    assert kbs.get("mallory", "resource-policy").json == {"rules": []}


@pytest.mark.parametrize(("size", "status"), [(0, 400), (1, 200), (MAX_RESOURCE_BYTES, 200), (MAX_RESOURCE_BYTES + 1, 400)])
def test_resource_has_a_size(kbs: Any, size: int, status: int) -> None:
    assert kbs.post("airline", "resource/airline/key/sized", bytes(size)).status == status


# --- policies ---------------------------------------------------------------------------------------------------------


def _policy(**changes: Any) -> dict[str, Any]:
    return {"name": "simulated", "measurements": {"sgx": ["ab" * 32]}, "allow": ["simulated"], **changes}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "confide", "policy_id": "empty", "policy": encoded({"name": "empty"})}, "policy-invalid"),
        ({"type": "rego", "policy_id": "x", "policy": encoded(_policy())}, "usage"),
        ({"type": "confide", "policy_id": "sample", "policy": encoded(_policy())}, "usage"),
        ({"type": "confide", "policy_id": "../x", "policy": encoded(_policy())}, "usage"),
        ({"type": "confide", "policy_id": "x"}, "parse"),
        ({"type": "confide", "policy_id": "x", "policy": base64.b64encode(b'{"all_of":[' * 200 + b"{}" + b"]}" * 200).decode()}, "parse"),
        ({"type": "confide", "policy_id": "x", "policy": "###"}, "parse"),
        ({"type": "confide", "policy_id": "x", "policy": encoded([1])}, "parse"),
        ({"type": "confide", "policy_id": "x", "policy": encoded(_policy(measurements={"sgx": ["ref:none"]}))}, "parse"),
    ],
)
def test_policy_that_is_none_or_asks_nothing_is_refused(kbs: Any, message: dict[str, Any], code: str) -> None:
    answer = kbs.post("airline", "attestation-policy", message)
    assert (answer.status, answer.json["code"]) == (400, code)


@pytest.mark.parametrize(
    "rules",
    [
        [{"resource": "airline/key/*", "policy": "nowhere"}],
        [{"resource": "*/key/x", "policy": "simulated"}],
        [{"resource": "airline/k*/x", "policy": "simulated"}],
        [{"resource": "airline/key", "policy": "simulated"}],
        [{"resource": "airline/../x", "policy": "simulated"}],
        [{"resource": "airline/key/x"}],
        [{"resource": "airline/key/x", "policy": "simulated", "init_data": ["zz"]}],
        [{"resource": "airline/key/x", "policy": "simulated", "more": 1}],
        [{"resource": f"airline/key/x{number}", "policy": "simulated"} for number in range(300)],
    ],
)
def test_rules_that_are_none_are_refused_and_the_old_ones_stay(kbs: Any, rules: list[Any]) -> None:
    before = kbs.get("airline", "resource-policy").json
    assert kbs.set_rules("airline", rules).status == 400
    assert kbs.get("airline", "resource-policy").json == before


def _references(**values: Any) -> dict[str, Any]:
    return {"version": "0.1.0", "type": "sample", "payload": encoded(values)}


def test_reference_values_are_what_policies_name_and_change_them(kbs: Any) -> None:
    assert kbs.post("airline", "reference-value", _references(images=["ee" * 32])).json == {"references": ["images"]}
    kbs.set_policy("airline", "simulated", _policy(measurements={"sgx": ["ref:images"]}))
    guest = kbs.guest().ready()
    assert guest.get(NAME).status == 403
    kbs.post("airline", "reference-value", _references(images=["ee" * 32, "ab" * 32]))
    assert guest.get(NAME).status == 200
    assert kbs.get("airline", "reference-value").json == {"references": {"images": ["ee" * 32, "ab" * 32]}}
    kbs.post("airline", "reference-value", _references(images=["not a measurement"]))
    assert guest.get(NAME).status == 403  # a policy that cannot be built accepts nobody


@pytest.mark.parametrize(
    "message",
    [
        {"version": "0.2.0", "type": "sample", "payload": encoded({"x": ["y"]})},
        {"version": "0.1.0", "type": "in-toto", "payload": encoded({"x": ["y"]})},
        _references(),
        _references(x=[]),
        _references(x="y"),
        _references(**{"X' OR 1=1": ["y"]}),
    ],
)
def test_reference_values_of_another_form_are_refused(kbs: Any, message: dict[str, Any]) -> None:
    assert kbs.post("airline", "reference-value", message).status == 400


def test_admin_tokens_time_is_the_brokers(kbs: Any) -> None:
    admin = Admin(kbs)
    token = admin.token()
    kbs.world.ahead = timedelta(hours=1)
    assert kbs.post("", f"resource/{NAME}", b"x", authorization=token).status == 401


def test_policies_may_come_in_either_base64(kbs: Any) -> None:
    for text in (base64.b64encode(canonical(_policy())).decode(), base64.urlsafe_b64encode(canonical(_policy())).decode().rstrip("=")):
        assert kbs.post("airline", "attestation-policy", {"policy_id": "either", "policy": text}).status == 200
