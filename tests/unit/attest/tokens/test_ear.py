"""EAR tokens: only results are written, and nothing but the right token is read."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from confide.attest.ar4si import CLAIMS, status_of, tier_of, vector_of
from confide.attest.claims import UNRATED
from confide.attest.ear import PROFILE, EarClaims, EarReader, EarRequest, write_ear, write_guest_ear
from confide.attest.policy import AttestationResult
from confide.attest.tokens.jwt import TokenBook, UnverifiedJwt
from confide.canonical import b64url, from_b64url
from confide.errors import AttestationError, TokenExpiredError, TokenInvalidError, TokenMisdirectedError, TokenReplayError, UsageError
from confide.ids import Tee

REQUEST = EarRequest("confide-broker", "relying-party", nonce="0123456789abcdef")
Key = ec.EllipticCurvePrivateKey


def public(key: Key) -> JWK:
    return JWK.from_pyca(key.public_key())


@pytest.fixture(scope="module")
def token(result: AttestationResult, signing_key: Key, now: datetime) -> str:
    return write_ear(result, REQUEST, signing_key, now=now)


@pytest.fixture
def reader(signing_key: Key) -> EarReader:
    return EarReader("confide-broker", public(signing_key), "relying-party")


def resigned(token: str, key: Key, **changes: Any) -> str:
    """The token with claims changed, signed by its own key: what is wrong is what it says."""
    made = JWS(json.dumps({**json.loads(from_b64url(token.split(".")[1])), **changes}))
    made.add_signature(JWK.from_pyca(key), protected='{"alg":"ES256"}')
    return cast(str, made.serialize(compact=True))


def test_what_was_written_is_read(token: str, reader: EarReader, result: AttestationResult, now: datetime) -> None:
    found = reader.read(token, nonce=REQUEST.nonce, now=now)
    assert found.policy_digest == result.policy_digest
    assert found.collateral_epoch == result.claims.epoch.to_json()
    assert found.confirmation == result.context.seal
    assert found.evidence["evidence_digest"] == result.claims.evidence_digest
    assert found.validity.expires_at - now == REQUEST.lifetime


def test_token_counts_for_five_minutes_and_clocks_may_differ_by_half_a_minute(reader: EarReader) -> None:
    assert (EarRequest("i", "a").lifetime, reader.leeway) == (timedelta(minutes=5), timedelta(seconds=30))
    assert "key" not in repr(reader)


def test_es384_is_written_and_read(result: AttestationResult, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    assert EarReader("confide-broker", public(key), "relying-party").read(write_ear(result, REQUEST, key, now=now), now=now)
    with pytest.raises(UsageError):
        write_ear(result, REQUEST, ec.generate_private_key(ec.SECP521R1()), now=now)


def test_only_an_attestation_result_is_written(token: str, reader: EarReader, signing_key: Key, now: datetime) -> None:
    read = reader.read(token, now=now)
    with pytest.raises(TypeError):
        write_ear(cast(Any, read), REQUEST, signing_key, now=now)
    assert isinstance(read, EarClaims)
    assert not isinstance(read, AttestationResult)
    assert (read.session_bound, read.to_json()["session_bound"]) == (False, False)
    values = {each.name: getattr(read, each.name) for each in dataclasses.fields(read)}
    with pytest.raises(TypeError, match="session_bound"):
        EarClaims(**values)
    assert hash(read) == hash(reader.read(token, now=now)), "members that are objects are left out"
    with pytest.raises(dataclasses.FrozenInstanceError):
        cast(Any, read).status = "affirming"


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS384", "RS256", "ES384", "EdDSA"])
def test_a_tokens_own_algorithm_is_never_believed(algorithm: str, token: str, reader: EarReader, signing_key: Key, now: datetime) -> None:
    payload = token.split(".")[1]
    head = b64url(json.dumps({"alg": algorithm}).encode())
    spki = signing_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = b64url(hmac.new(spki, f"{head}.{payload}".encode(), hashlib.sha256).digest())
    for signature in (forged, token.split(".")[2], ""):
        with pytest.raises(TokenInvalidError):
            reader.read(f"{head}.{payload}.{signature}", now=now)


@pytest.mark.parametrize("header", [
    '{"alg":"ES256","alg":"ES256"}', '{"alg":"ES256","crit":["b64"],"b64":false}', '{"alg":["ES256"]}', '{"kid":"a"}',
    '{"alg":"ES256","kid":7}', '{"alg":"ES256","typ":"JWE"}', "[]", "{" + '"a":{' * 20 + "}" * 21,
])  # fmt: skip
def test_a_strange_header_is_refused(header: str, token: str, reader: EarReader, now: datetime) -> None:
    _, payload, signature = token.split(".")
    with pytest.raises(TokenInvalidError):
        reader.read(f"{b64url(header.encode())}.{payload}.{signature}", now=now)


def test_a_key_in_the_header_is_not_used(token: str, reader: EarReader, now: datetime) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    made = JWS(from_b64url(token.split(".")[1]))
    header = {"alg": "ES256", "jwk": public(other).export_public(as_dict=True), "jku": "https://attacker.example/keys"}
    made.add_signature(JWK.from_pyca(other), protected=json.dumps(header))
    with pytest.raises(TokenInvalidError, match="signature"):
        reader.read(made.serialize(compact=True), now=now)


def test_too_large_or_nested_is_refused(signing_key: Key, token: str, reader: EarReader, now: datetime) -> None:
    with pytest.raises(TokenInvalidError):
        UnverifiedJwt.parse("a." * 2 + "a" * 64 * 1024)
    nested: Any = 1
    for _ in range(20):
        nested = [nested]
    with pytest.raises(TokenInvalidError, match="nested"):
        reader.read(resigned(token, signing_key, extra=nested), now=now)


@pytest.mark.parametrize(("changes", "error"), [
    ({"aud": "another"}, TokenMisdirectedError), ({"aud": []}, TokenMisdirectedError), ({"iss": "another"}, TokenMisdirectedError),
    ({"eat_profile": "tag:other"}, TokenMisdirectedError), ({"eat_nonce": "another-nonce"}, TokenMisdirectedError),
    ({"exp": True}, TokenInvalidError), ({"exp": 1e300}, TokenInvalidError), ({"exp": 253402300799}, TokenInvalidError),
    ({"iat": "now"}, TokenInvalidError), ({"exp": 4102444800}, TokenExpiredError), ({"nbf": 4102444800}, TokenExpiredError),
    ({"exp": 1}, TokenExpiredError),
    ({"jti": ""}, TokenInvalidError), ({"submods": {}}, TokenInvalidError), ({"cnf": {}}, TokenInvalidError),
])  # fmt: skip
def test_a_genuine_token_for_something_else_is_refused(  # noqa: PLR0917
    changes: dict[str, Any], error: type[AttestationError], token: str, reader: EarReader, signing_key: Key, now: datetime
) -> None:
    with pytest.raises(error):
        reader.read(resigned(token, signing_key, **changes), nonce=REQUEST.nonce, now=now)


def test_a_token_is_of_its_time(token: str, reader: EarReader, now: datetime) -> None:
    last = now + REQUEST.lifetime + reader.leeway
    assert reader.read(token, now=last - timedelta(seconds=1))
    for moment in (last, now - reader.leeway - timedelta(seconds=1)):
        with pytest.raises(TokenExpiredError):
            reader.read(token, now=moment)
    with pytest.raises(TokenExpiredError, match="leeway"):
        dataclasses.replace(reader, leeway=timedelta(hours=1)).read(token, now=now)


def test_a_token_is_taken_once(token: str, reader: EarReader, now: datetime) -> None:
    once = dataclasses.replace(reader, book=TokenBook())
    once.read(token, now=now)
    with pytest.raises(TokenReplayError):
        once.read(token, now=now)


def test_a_status_better_than_its_vector_is_refused(token: str, reader: EarReader, signing_key: Key, now: datetime) -> None:
    submods = json.loads(from_b64url(token.split(".")[1]))["submods"]
    assert submods["cpu0"]["ear.status"] == "contraindicated", "simulated evidence affirms nothing"
    submods["cpu0"]["ear.status"] = "affirming"
    with pytest.raises(TokenInvalidError, match="status"):
        reader.read(resigned(token, signing_key, submods=submods), now=now)


def test_vector_says_what_was_looked_at(result: AttestationResult) -> None:
    real = dataclasses.replace(result.claims, simulated=False, vendor={"sept_ve_disable": True, "migratable": False, "service_td": False})
    good = vector_of(real)
    assert set(good) == set(CLAIMS)
    assert good == {**dict.fromkeys(CLAIMS, 0), "configuration": 2, "executables": 3, "hardware": 2, "runtime-opaque": 2}
    assert status_of(good) == "affirming"
    assert vector_of(dataclasses.replace(real, tcb_status="OutOfDate"))["hardware"] == 32
    assert vector_of(dataclasses.replace(real, advisory_ids=("INTEL-SA-00001",)))["hardware"] == 32
    assert vector_of(dataclasses.replace(real, vendor={}))["configuration"] == 32
    assert status_of(vector_of(dataclasses.replace(real, debug=True))) == "contraindicated"
    assert status_of({}) == "none"
    tpm = vector_of(dataclasses.replace(real, tee=Tee.TPM))
    assert (tpm["runtime-opaque"], tpm["executables"], status_of(tpm)) == (96, 0, "contraindicated")


@pytest.mark.parametrize(("changes", "claim", "value"), [
    ({"vendor": {"sept_ve_disable": True, "migratable": True, "service_td": False}}, "configuration", 32),
    ({"vendor": {"sept_ve_disable": True, "migratable": False, "service_td": True}}, "configuration", 32),
    ({"vendor": {"sept_ve_disable": False, "migratable": False, "service_td": False}}, "configuration", 32),
    ({"tcb_status": "ConfigurationAndSWHardeningNeeded"}, "configuration", 32),
    ({"debug": True}, "configuration", 96), ({"debug": True}, "executables", 0), ({"debug": True}, "runtime-opaque", 96),
    ({"simulated": True}, "hardware", 97), ({"simulated": True}, "executables", 0), ({"simulated": True}, "runtime-opaque", 96),
    ({"tee": Tee.SGX, "vendor": {}}, "configuration", 2),
    ({"tee": Tee.SNP, "vendor": {"migration_agent": False}, "tcb_status": UNRATED}, "configuration", 2),
    ({"tee": Tee.SNP, "vendor": {"migration_agent": True}, "tcb_status": UNRATED}, "configuration", 32),
    ({"tee": Tee.SNP, "vendor": {}, "tcb_status": UNRATED}, "configuration", 32),
    ({"tee": Tee.SNP, "vendor": {"migration_agent": False}, "tcb_status": "ConfigurationNeeded"}, "configuration", 32),
    ({"tee": Tee.SNP, "vendor": {}, "tcb_status": UNRATED}, "hardware", 2),
    ({"tcb_status": "SWHardeningNeeded"}, "hardware", 32),
], ids=str)  # fmt: skip
def test_vector_says_what_is_weak(result: AttestationResult, changes: dict[str, Any], claim: str, value: int) -> None:
    good = {"simulated": False, "vendor": {"sept_ve_disable": True, "migratable": False, "service_td": False}}
    assert vector_of(dataclasses.replace(result.claims, **{**good, **changes}))[claim] == value


@pytest.mark.parametrize(("options", "good"), [
    ({}, True), ({"issuer": ""}, False), ({"audience": ""}, False),
    ({"lifetime": timedelta(0)}, False), ({"lifetime": timedelta(seconds=1)}, True),
    ({"lifetime": timedelta(hours=1)}, True), ({"lifetime": timedelta(hours=1, seconds=1)}, False),
    ({"nonce": "n" * 7}, False), ({"nonce": "n" * 8}, True), ({"nonce": "n" * 88}, True), ({"nonce": "n" * 89}, False),
    ({"nonce": ""}, False),
], ids=str)  # fmt: skip
def test_request_for_a_token_is_whole(options: dict[str, Any], good: bool) -> None:
    if good:
        assert EarRequest(**{"issuer": "i", "audience": "a", **options})
        return
    with pytest.raises(UsageError):
        EarRequest(**{"issuer": "i", "audience": "a", **options})


def submods_of(token: str) -> Any:
    return json.loads(from_b64url(token.split(".")[1]))["submods"]


@pytest.mark.parametrize("value", [-128, 127])
def test_value_of_a_vector_is_a_signed_byte(token: str, reader: EarReader, signing_key: Key, now: datetime, value: int) -> None:
    submods = submods_of(token)
    submods["cpu0"]["ear.trustworthiness-vector"]["sourced-data"] = value
    assert reader.read(resigned(token, signing_key, submods=submods), now=now).vector["sourced-data"] == value
    for wrong in (value + (1 if value > 0 else -1), True, float(value), str(value), None):
        submods["cpu0"]["ear.trustworthiness-vector"]["sourced-data"] = wrong
        with pytest.raises(TokenInvalidError, match="claim or value"):
            reader.read(resigned(token, signing_key, submods=submods), now=now)


def test_token_is_of_one_tee_and_of_claims_that_exist(token: str, reader: EarReader, signing_key: Key, now: datetime) -> None:
    foreign, two = submods_of(token), submods_of(token)
    foreign["cpu0"]["ear.trustworthiness-vector"]["another"] = 0
    two["gpu0"] = two["cpu0"]
    for submods, words in ((foreign, "claim or value"), (two, "more than one TEE")):
        with pytest.raises(TokenInvalidError, match=words):
            reader.read(resigned(token, signing_key, submods=submods), now=now)


def test_what_only_confide_says_may_be_missing(token: str, reader: EarReader, signing_key: Key, now: datetime) -> None:
    submods = submods_of(token)
    for name in ("confide.policy-digest", "confide.collateral-epoch"):
        del submods["cpu0"][name]
    found = reader.read(resigned(token, signing_key, submods=submods), now=now)
    assert (found.policy_digest, found.collateral_epoch) == (None, None)
    for name in list(submods["cpu0"]):
        rest = {other: value for other, value in submods["cpu0"].items() if other != name}
        with pytest.raises(TokenInvalidError):
            reader.read(resigned(token, signing_key, submods={"cpu0": rest}), now=now)


def test_nonce_is_answered_where_one_was_given_out(result: AttestationResult, reader: EarReader, signing_key: Key, now: datetime) -> None:
    silent = write_ear(result, EarRequest("confide-broker", "relying-party"), signing_key, now=now)
    assert reader.read(silent, now=now).nonce is None
    with pytest.raises(TokenMisdirectedError, match="nonce"):
        reader.read(silent, nonce="0123456789abcdef", now=now)


def test_guests_token_says_that_no_policy_judged_it(result: AttestationResult, reader: EarReader, signing_key: Key, now: datetime) -> None:
    runtime = {"tee-pubkey": {"kty": "EC"}, "nonce": "n"}
    real = dataclasses.replace(result.claims, simulated=False)
    texts = {}
    for claims in (real, None):
        text, name = write_guest_ear(claims, runtime, REQUEST, signing_key, now=now)
        found = reader.read(text, nonce=REQUEST.nonce, now=now)
        assert (found.token_id, found.policy_id, found.policy_digest) == (name, "confide:none", None)
        assert (found.confirmation, found.evidence["runtime_data_claims"]) == ({"kty": "EC"}, runtime)
        texts[claims is None] = found
    assert texts[False].vector == {**vector_of(real), "executables": 0}
    assert texts[False].collateral_epoch == real.epoch.to_json()
    assert texts[True].vector == {**dict.fromkeys(CLAIMS, 0), "hardware": 97}
    assert (texts[True].status, texts[True].collateral_epoch) == ("contraindicated", None)


@pytest.mark.parametrize(("value", "tier"), [
    (-128, "contraindicated"), (-97, "contraindicated"), (-96, "warning"), (-33, "warning"), (-32, "affirming"), (-2, "affirming"),
    (-1, "none"), (0, "none"), (1, "none"), (2, "affirming"), (31, "affirming"), (32, "warning"), (95, "warning"), (96, "contraindicated"),
])  # fmt: skip
def test_tiers_are_those_of_the_draft(value: int, tier: str) -> None:
    assert tier_of(value) == tier


def test_profile_is_trustees() -> None:
    assert PROFILE == "tag:github.com,2024:confidential-containers/Trustee"
