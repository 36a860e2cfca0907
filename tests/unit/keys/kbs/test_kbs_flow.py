"""Guests' way through the protocol, over TLS against the real server: what they get, and what they do not."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from support.kbs_guest import INIT_DATA

from confide.attest.insecure import InsecureAttester
from confide.ids import Tee
from confide.keys.kbs.tee_key import KeyKind, TeeKey

SECRET = b"the resource that only accepted guests may read"
NAME = "airline/key/flights"
ERRORS = "https://github.com/confidential-containers/kbs/errors/"


@pytest.mark.parametrize("kind", list(KeyKind))
def test_guest_gets_the_resource_by_cookie_for_each_kind_of_key(kbs: Any, kind: KeyKind) -> None:
    guest = kbs.guest(key=TeeKey.generate(kind)).ready()
    answer = guest.get(NAME)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert guest.key.open(answer.json).reveal() == SECRET


def test_guest_gets_the_resource_by_its_token(kbs: Any) -> None:
    guest = kbs.guest().ready()
    answer = guest.get(NAME, authorization=f"Bearer {guest.token}")
    assert guest.key.open(answer.json).reveal() == SECRET


def test_token_says_what_was_found_and_that_no_policy_has_judged_it(kbs: Any) -> None:
    from jwcrypto.jwk import JWK

    from confide.attest.ear import EarReader

    guest = kbs.guest().ready()
    key = kbs.world.store.signing_key
    name = f"urn:confide:kbs:{key.spki_digest}"
    found = EarReader(name, JWK.from_pyca(key.unwrapped().public_key()), name).read(guest.token, now=kbs.world.now())
    assert (found.policy_id, found.policy_digest, found.vector["executables"]) == ("confide:none", None, 0)
    assert found.confirmation == guest.key.public.jwk
    # Where readers of Trustee's tokens look for the key:
    assert found.evidence["runtime_data_claims"] == {"nonce": guest.nonce, "tee-pubkey": dict(guest.key.public.jwk)}
    assert found.status == "contraindicated"  # simulated


def test_cookie_counts_on_another_connection_as_the_protocol_has_it(kbs: Any) -> None:
    guest = kbs.guest().ready()
    guest.channel.close()
    assert guest.key.open(guest.get(NAME).json).reveal() == SECRET


def test_td_gets_it_too(kbs: Any) -> None:
    td = InsecureAttester(kbs.world.installation, Tee.TDX, "cd" * 48)
    policy = {"name": "td", "measurements": {"tdx": ["cd" * 48]}, "allow": ["simulated"]}
    assert kbs.set_policy("airline", "td", policy).status == 200
    kbs.set_rules("airline", [{"resource": NAME, "policy": "td"}])
    guest = kbs.guest(td).ready()
    assert guest.key.open(guest.get(NAME).json).reveal() == SECRET


def test_without_a_rule_nothing_is_given_and_existence_does_not_show(kbs: Any) -> None:
    kbs.set_rules("airline", [])
    guest = kbs.guest().ready()
    answers = [guest.get(name) for name in (NAME, "airline/key/none", "nobody/key/none")]
    assert {(one.status, one.json["type"], one.json["detail"]) for one in answers} == {
        (403, f"{ERRORS}PolicyDeny", "no resource policy lets this guest have this resource")
    }


def test_rule_of_another_repository_type_or_tag_gives_nothing(kbs: Any) -> None:
    kbs.set_rules("airline", [{"resource": name, "policy": "simulated"} for name in ("airline/key/other", "airline/cert/*")])
    assert kbs.guest().ready().get(NAME).status == 403


def test_rule_that_accepts_and_no_such_resource_is_not_found(kbs: Any) -> None:
    answer = kbs.guest().ready().get("airline/key/none")
    assert (answer.status, answer.json["type"]) == (404, f"{ERRORS}InvalidRequestPath")


def test_guest_of_another_measurement_is_denied_and_only_the_log_says_why(kbs: Any) -> None:
    other = InsecureAttester(kbs.world.installation, Tee.SGX, "ee" * 32)
    answer = kbs.guest(other).ready().get(NAME)
    assert answer.status == 403
    assert "measurement" not in str(answer.json)
    refusal = kbs.world.events("refuse")[-1]
    assert (refusal["refused"], refusal["resource"]) == ("kbs-resource", NAME)
    assert "measurement is " + "ee" * 32 in refusal["reasons"]


def test_rules_of_somebody_else_for_the_repository_count_for_nothing(kbs: Any) -> None:
    kbs.set_rules("airline", [])
    kbs.owner("mallory")
    kbs.set_policy("mallory", "simulated", _policy())
    assert kbs.set_rules("mallory", [{"resource": "airline/key/*", "policy": "simulated"}]).status == 401
    assert kbs.guest().ready().get(NAME).status == 403


def _policy() -> dict[str, Any]:
    return {"name": "simulated", "measurements": {"sgx": ["ab" * 32]}, "allow": ["simulated"]}


def test_new_version_is_given_and_a_deleted_resource_is_gone(kbs: Any) -> None:
    guest = kbs.guest().ready()
    assert kbs.post("airline", f"resource/{NAME}", b"newer").json["version"] == 2
    assert guest.key.open(guest.get(NAME).json).reveal() == b"newer"
    assert kbs.post("airline", f"resource/{NAME}", None, "DELETE").status == 200
    assert guest.get(NAME).status == 404
    assert kbs.post("airline", f"resource/{NAME}", None, "DELETE").status == 404
    assert kbs.post("airline", f"resource/{NAME}", b"again").json["version"] == 4


def test_resource_survives_a_restart_and_lies_encrypted_in_the_store(kbs: Any) -> None:
    kbs.world.restart()
    guest = kbs.guest().ready()
    assert guest.key.open(guest.get(NAME).json).reveal() == SECRET
    for path in (kbs.world.folder / "store").iterdir():
        assert SECRET not in path.read_bytes()


def test_evidence_is_verified_anew_for_each_resource(kbs: Any) -> None:
    guest = kbs.guest().ready()
    assert guest.get(NAME).status == 200
    kbs.set_policy("airline", "simulated", {**_policy(), "measurements": {"sgx": ["cc" * 32]}})
    assert guest.get(NAME).status == 403


def test_session_and_token_end(kbs: Any) -> None:
    from datetime import timedelta

    guest = kbs.guest().ready()
    kbs.world.ahead = timedelta(minutes=16)
    by_cookie, by_token = guest.get(NAME), guest.get(NAME, authorization=f"Bearer {guest.token}")
    assert (by_cookie.status, by_token.status) == (401, 401)
    assert by_token.json["code"] == "token-expired"


# --- init-data -------------------------------------------------------------------------------------------------------


class _Configured(InsecureAttester):
    """A simulated TEE whose host gave it init-data."""

    def __init__(self, installation: Any, tee: Tee, measurement: str, digest: bytes) -> None:
        super().__init__(installation, tee, measurement)
        self._digest = digest

    def _td_body(self, report_data: Any) -> Any:
        from dataclasses import replace

        return replace(super()._td_body(report_data), mr_config_id=self._digest.ljust(48, b"\0"))

    def _sgx_body(self, report_data: Any) -> Any:
        from dataclasses import replace

        return replace(super()._sgx_body(report_data), reserved3=bytes(32) + self._digest.ljust(64, b"\0"))


@pytest.mark.parametrize(("tee", "measurement"), [(Tee.SGX, "ab" * 32), (Tee.TDX, "ab" * 48)])
def test_init_data_that_the_evidence_holds_is_bound_and_a_rule_can_name_it(kbs: Any, tee: Tee, measurement: str) -> None:
    digest = hashlib.sha384(INIT_DATA.encode()).digest()
    kbs.set_policy("airline", "simulated", {**_policy(), "measurements": {tee.value: [measurement]}})
    kbs.set_rules("airline", [{"resource": NAME, "policy": "simulated", "init_data": [digest.hex()]}])
    attester = _Configured(kbs.world.installation, tee, measurement, digest)
    guest = kbs.guest(attester, init_data={"format": "toml", "body": INIT_DATA}).ready()
    assert guest.get(NAME).status == 200
    silent = kbs.guest(attester).ready()  # shows none: the rule is for those who do
    assert silent.get(NAME).status == 403


def test_init_data_that_the_evidence_does_not_hold_is_refused(kbs: Any) -> None:
    guest = kbs.guest(init_data={"format": "toml", "body": INIT_DATA})
    guest.auth()
    answer = guest.attest()
    assert (answer.status, answer.json["code"]) == (401, "binding-mismatch")
    assert "init-data" in answer.json["detail"]


# --- sample ------------------------------------------------------------------------------------------------------------


def _sample(guest: Any) -> dict[str, Any]:
    import base64

    from confide.keys.kbs.messages import report_data

    return {"svn": "1", "report_data": base64.b64encode(report_data(guest.nonce, guest.key.public)[:48]).decode()}


def test_sample_is_refused_unless_a_rule_names_it_and_then_gets_only_that(kbs: Any) -> None:
    guest = kbs.guest(tee="sample")
    assert guest.auth().json["code"] == "evidence-invalid"
    kbs.post("airline", "resource/airline/test/public", b"not secret")
    kbs.set_rules("airline", [{"resource": "airline/test/*", "policy": "sample"}, {"resource": "airline/key/*", "policy": "simulated"}])
    assert guest.auth().status == 200
    assert guest.attest(guest.evidence(primary=_sample(guest))).status == 200
    assert guest.key.open(guest.get("airline/test/public").json).reveal() == b"not secret"
    assert guest.get(NAME).status == 403
    real = kbs.guest().ready()
    assert real.get("airline/test/public").status == 403  # a rule for samples is for nobody else


def test_sample_of_another_session_is_refused(kbs: Any) -> None:
    kbs.set_rules("airline", [{"resource": "airline/test/*", "policy": "sample"}])
    guest, other = kbs.guest(tee="sample"), kbs.guest(tee="sample")
    guest.auth()
    other.auth()
    assert guest.attest(guest.evidence(primary=_sample(other))).json["code"] == "binding-mismatch"


# --- the request's form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": "0.1.1"}, "protocol-violation"),
        ({"version": "0.5.0"}, "protocol-violation"),
        ({"version": 4}, "parse"),
        ({"tee": "cca"}, "parse"),
        ({"tee": "az-snp-vtpm"}, "evidence-invalid"),
        ({"tee": "az-tdx-vtpm"}, "evidence-invalid"),
        ({"more": 1}, "parse"),
        ({"extra-params": {"tee-metadata": {"primary_tee": {"tee": "tdx"}, "additional_tees": []}}}, "parse"),
        ({"extra-params": {"attestation-policy-selector": "alice"}}, "parse"),
    ],
)
def test_auth_of_another_form_is_a_401_with_error_information(kbs: Any, changes: dict[str, Any], code: str) -> None:
    answer = kbs.guest().auth(**changes)
    assert (answer.status, answer.json["type"], answer.json["code"]) == (401, f"{ERRORS}AttestationError", code)
    assert answer.json["detail"]


def test_extra_params_that_clients_of_the_protocol_send_are_taken(kbs: Any) -> None:
    metadata = {"primary_tee": {"tee": "sgx"}, "additional_tees": []}
    for extra in ("", {}, {"supported-hash-algorithms": ["sha256", "sha384"]}, {"tee-metadata": metadata}):
        assert kbs.guest().auth(**{"extra-params": extra}).status == 200


def test_health_and_metrics(kbs: Any) -> None:
    guest = kbs.guest().ready()
    guest.get(NAME)
    guest.get("airline/../../etc")
    assert guest.ask("GET", "/healthz").json == {"status": "ok"}
    text = _metrics(guest)
    assert 'confide_kbs_requests_total{endpoint="resource",outcome="ok"} 1.0' in text
    assert 'confide_kbs_attested_total{tee="sgx"} 1.0' in text
    assert "airline" not in text
    assert "flights" not in text


def _metrics(guest: Any) -> str:
    """By hand: the answer is text."""
    channel = guest.channel
    channel.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    data = b""
    while piece := channel.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"text/plain" in head
    return body.decode()


def test_health_is_a_503_when_the_store_does_not_answer(kbs: Any) -> None:
    guest = kbs.guest()
    assert guest.ask("GET", "/healthz").status == 200
    kbs.world.store.close()
    assert guest.ask("GET", "/healthz").status == 503


@pytest.mark.parametrize(("method", "path", "status"), [("PUT", "auth", 405), ("GET", "nothing", 404), ("GET", "resource", 404)])
def test_what_is_not_served_is_said(kbs: Any, method: str, path: str, status: int) -> None:
    answer = kbs.guest().ask(method, f"/kbs/v0/{path}")
    assert answer.status == status
    assert ("allow" in answer.headers) == (status == 405)
