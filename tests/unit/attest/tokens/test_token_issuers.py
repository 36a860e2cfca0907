"""Tokens of Intel Trust Authority and Azure Attestation count if, and only if, a policy names their issuer."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support.foreign_tokens import (
    ITA,
    ITA_ENTRY,
    KEY,
    KEYS,
    MAA,
    MAA_ENTRY,
    NOW,
    checked,
    ita,
    jwk,
    jwks,
    maa_snp,
    policy,
    sign,
    tdx,
    times,
)  # fmt: skip
from support.vendor_server import VendorServer

from confide.attest.binding import SessionBinding
from confide.attest.policy import Policy, Rules, appraise
from confide.attest.policy_diff import diff
from confide.attest.tokens.issuers import TokenIssuer
from confide.attest.tokens.jwks import IssuerKeys
from confide.attest.tokens.jwt import TokenBook
from confide.attest.tokens.verified import VerifiedToken, verify_token
from confide.attest.vendor_http import Http
from confide.canonical import sha256_hex
from confide.errors import (
    AppraisalError,
    BindingError,
    CollateralError,
    PolicyError,
    TokenExpiredError,
    TokenInvalidError,
    TokenMisdirectedError,
    TokenReplayError,
)
from confide.ids import Tee


def test_a_token_of_a_named_issuer_is_appraised(binding: SessionBinding) -> None:
    result = appraise(checked(ita(binding)), policy(ITA_ENTRY), binding, now=NOW)
    assert (result.claims.measurement, result.claims.tcb_eval, result.claims.simulated) == ("aa" * 48, 20, False)
    flat = {**times(ITA), "attester_type": "TDX", **tdx(binding.report_data)}
    assert appraise(checked(flat), policy(ITA_ENTRY), binding, now=NOW).claims.registers["rtmr2"] == "2b" * 48


def test_intels_older_name_is_an_issuer(binding: SessionBinding) -> None:
    named = TokenIssuer(kind="ita", issuer="Intel Trust Authority", jwks=jwks())
    assert appraise(checked({**ita(binding), "iss": "Intel Trust Authority"}, named), policy(named), binding, now=NOW)
    with pytest.raises(TokenMisdirectedError):
        checked(ita(binding), named)


def test_by_default_no_issuer_counts(binding: SessionBinding) -> None:
    assert Rules(name="p", measurements={Tee.SGX: ("5a" * 32,)}).token_issuers == ()
    for named in ((), (MAA_ENTRY,), (ITA_ENTRY.model_copy(update={"jwks": jwks(jwk("two"))}),)):
        with pytest.raises(AppraisalError) as refused:
            appraise(checked(ita(binding)), policy(*named), binding, now=NOW)
        assert refused.value.facts["check"] == "token-issuer"


def test_token_whose_collateral_nobody_knows_is_too_old_for_a_policy_that_asks(binding: SessionBinding) -> None:
    asks = Rules(**{**policy(ITA_ENTRY).to_json(), "max_collateral_age_days": 3650})
    with pytest.raises(AppraisalError) as refused:
        appraise(checked(ita(binding)), asks, binding, now=NOW)
    assert refused.value.facts["check"] == "collateral-age"


def test_naming_an_issuer_makes_a_policy_laxer() -> None:
    assert [(c.field, c.direction) for c in diff(policy(), policy(ITA_ENTRY))] == [("token_issuers", "laxer")]


def test_a_token_of_another_session_is_refused(binding: SessionBinding) -> None:
    with pytest.raises(BindingError):
        appraise(checked(ita(binding, tdx_report_data="00" * 64)), policy(ITA_ENTRY), binding, now=NOW)


@pytest.mark.parametrize(("changes", "check"), [
    ({"tdx_mrtd": "ab" * 48}, "measurement"), ({"tdx_rtmr2": "00" * 48}, "rtmr2"), ({"tdx_td_attributes_debug": True}, "debug"),
    ({"tdx_td_attributes": "0100001000000000"}, "debug"), ({"tdx_td_attributes": "0000000000000000"}, "no-sept-ve-disable"),
    ({"tdx_td_attributes": "0000003000000000"}, "migratable"), ({"tdx_mrservicetd": "01" * 48}, "service-td"),
    ({"attester_tcb_status": "OutOfDate"}, "tcb-status"), ({"attester_tcb_status": None}, "tcb-status"),
    ({"attester_advisory_ids": ["INTEL-SA-00001"]}, "advisories"),
])  # fmt: skip
def test_a_token_is_held_to_the_same_policy_as_evidence(changes: dict[str, Any], check: str, binding: SessionBinding) -> None:
    with pytest.raises(AppraisalError) as refused:
        appraise(checked(ita(binding, **changes)), policy(ITA_ENTRY), binding, now=NOW)
    assert refused.value.facts["check"] == check


@pytest.mark.parametrize("changes", [
    {"tdx_mrtd": "aa"}, {"tdx_mrtd": None}, {"tdx_report_data": "zz" * 64}, {"tdx_td_attributes_debug": "false"}, {"tdx_rtmr0": 7},
    {"attester_advisory_ids": "none"}, {"tdx_collateral": {"tcbevaluationdatanumber": True}},
])  # fmt: skip
def test_claims_are_read_totally(changes: dict[str, Any], binding: SessionBinding) -> None:
    with pytest.raises(TokenInvalidError):
        checked(ita(binding, **changes))


def test_azure_snp_counts_with_the_owners_product_and_switch(binding: SessionBinding) -> None:
    least = {"bootloader": 4, "tee": 0, "snp": 8, "microcode": 115}
    told: dict[str, Any] = {"name": "p", "measurements": {Tee.SNP: ("cc" * 48,)}}
    told |= {"min_tcb": {"Milan": least}, "token_issuers": [MAA_ENTRY]}
    with pytest.raises(AppraisalError, match="revocation-list"):
        appraise(checked(maa_snp(binding), MAA_ENTRY), Rules(**told), binding, now=NOW)
    accepting = Rules(**told, allow=("snp-no-revocation-list",))
    assert appraise(checked(maa_snp(binding), MAA_ENTRY), accepting, binding, now=NOW).claims.platform == "Milan"
    with pytest.raises(AppraisalError, match="tcb"):
        appraise(checked(maa_snp(binding, **{"x-ms-sevsnpvm-snpfw-svn": 7}), MAA_ENTRY), accepting, binding, now=NOW)


def test_sgx_tokens_are_read(binding: SessionBinding) -> None:
    words = {"sgx_mrenclave": "5a" * 32, "sgx_mrsigner": "6b" * 32, "sgx_report_data": "01" * 64, "sgx_is_debuggable": False}
    assert checked({**times(ITA), "sgx": words}).claims.signer == "6b" * 32
    azure = {"x-ms-attestation-type": "sgx", **{f"x-ms-{name.replace('_', '-')}": value for name, value in words.items()}}
    found = checked({**times(MAA), **azure}, MAA_ENTRY)
    assert (found.claims.measurement, found.claims.tcb_status) == ("5a" * 32, "unknown")


@pytest.mark.parametrize(("options", "error"), [
    ({"alg": "RS256", "kid": "two"}, TokenInvalidError), ({"kid": None}, TokenInvalidError), ({"kid": "../one"}, TokenInvalidError),
    ({"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)}, TokenInvalidError),
])  # fmt: skip
def test_the_key_is_the_issuers_by_its_id(options: dict[str, Any], error: type[Exception], binding: SessionBinding) -> None:
    with pytest.raises(error):
        verify_token(sign(ita(binding), **options), ITA_ENTRY, KEYS, now=NOW)


def test_algorithm_issuer_audience_time_and_id_are_checked(binding: SessionBinding) -> None:
    only = ITA_ENTRY.model_copy(update={"algorithms": ("PS384",)})
    with pytest.raises(TokenInvalidError, match="algorithm"):
        verify_token(sign(ita(binding), alg="RS256"), only, KEYS, now=NOW)
    with pytest.raises(TokenMisdirectedError):
        checked({**ita(binding), "iss": MAA})
    with pytest.raises(TokenMisdirectedError):
        checked(ita(binding), ITA_ENTRY.model_copy(update={"audience": "us"}))
    with pytest.raises(TokenExpiredError):
        verify_token(sign(ita(binding)), ITA_ENTRY, KEYS, now=NOW + timedelta(hours=1))
    book = TokenBook()
    verify_token(sign(ita(binding)), ITA_ENTRY, KEYS, now=NOW, book=book)
    with pytest.raises(TokenReplayError):
        verify_token(sign(ita(binding)), ITA_ENTRY, KEYS, now=NOW, book=book)


def test_token_is_of_one_day_at_most_and_clocks_may_differ_by_half_a_minute(binding: SessionBinding) -> None:
    claims, began = ita(binding), int(NOW.timestamp())
    assert checked({**claims, "exp": began + 24 * 3600})
    with pytest.raises(TokenExpiredError):
        checked({**claims, "exp": began + 24 * 3600 + 1})
    for seconds, good in ((-31, False), (-30, True), (329, True), (330, False)):
        text, now = sign(claims), NOW + timedelta(seconds=seconds)
        if good:
            assert verify_token(text, ITA_ENTRY, KEYS, now=now)
            continue
        with pytest.raises(TokenExpiredError):
            verify_token(text, ITA_ENTRY, KEYS, now=now)


def test_entry_of_an_issuer_does_not_change_and_its_audience_may_be_short() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ITA_ENTRY.audience = "another"  # type: ignore[misc]
    assert TokenIssuer(kind="ita", issuer=ITA, jwks=jwks(), audience="x").audience == "x"


def test_a_verified_token_is_made_by_verifying_only(binding: SessionBinding) -> None:
    found = checked(ita(binding))
    with pytest.raises(TypeError):
        VerifiedToken(found.claims, found.issuer, "id", NOW)
    with pytest.raises(TypeError):
        pickle.dumps(found)


@pytest.mark.parametrize("text", [
    "[]", "{}", '{"keys":[1]}', jwks(jwk(), jwk()), '{"keys":[],"keys":[]}', jwks({**jwk(), "d": "AA"}), jwks({"kty": "RSA", "kid": "one"}),
    jwks({"kty": "oct", "kid": "one", "k": "AAAA"}), jwks({**jwk(), "x5c": ["AAAA"]}), jwks({**jwk(), "use": "enc"}),
    jwks({**jwk(), "alg": "RS256"}),
])  # fmt: skip
def test_a_wrong_key_set_is_refused(text: str, binding: SessionBinding) -> None:
    with pytest.raises(TokenInvalidError):
        checked(ita(binding), ITA_ENTRY.model_copy(update={"jwks": text}))


def certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, MAA)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(1)
    return builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1)).sign(KEY, SHA256())


def test_certificates_of_keys_are_verified_where_the_owner_wants_it(binding: SessionBinding) -> None:
    der = certificate().public_bytes(Encoding.DER)
    only_certificate = {"kty": "RSA", "kid": "one", "x5c": [base64.b64encode(der).decode()]}
    pinned = MAA_ENTRY.model_copy(update={"jwks": jwks(only_certificate), "x5c_root": sha256_hex(der)})
    assert checked(maa_snp(binding), pinned)
    for changes in ({"x5c_root": "00" * 32}, {"jwks": jwks()}):
        with pytest.raises(TokenInvalidError, match="root"):
            checked(maa_snp(binding), pinned.model_copy(update=changes))
    day, second = timedelta(days=1), timedelta(seconds=1)
    for moment in (NOW - day, NOW + day - second):
        assert KEYS.find(pinned, "one", moment)
    for moment in (NOW - day - second, NOW + day):
        with pytest.raises(TokenInvalidError, match="valid now"):
            KEYS.find(pinned, "one", moment)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(TokenInvalidError, match=r"4\.7"):
        checked(maa_snp(binding), pinned.model_copy(update={"jwks": jwks({**jwk(key=other), "x5c": only_certificate["x5c"]})}))


@pytest.mark.parametrize("changes", [
    {"kind": "maa", "issuer": "Intel Trust Authority"}, {"issuer": "Intel trust authority"},
    {"jwks": None}, {"jwks_url": "https://keys"}, {"jwks": None, "jwks_url": "http://keys.example"}, {"issuer": "portal"},
    {"kind": "other"}, {"kind": []},
    {"algorithms": ("HS256",)}, {"algorithms": ("none",)}, {"x5c_root": "aa"}, {"audience": ""}, {"unknown": 1},
])  # fmt: skip
def test_an_issuer_that_is_not_well_formed_makes_no_policy(changes: dict[str, Any]) -> None:
    entry = {"kind": "ita", "issuer": ITA, "jwks": jwks(), **changes}
    with pytest.raises(PolicyError):
        Policy.from_json({"name": "p", "measurements": {"sgx": ["5a" * 32]}, "token_issuers": [entry]})


@pytest.mark.parametrize("entry", ["text", 7, None, [], {}])
def test_an_issuer_that_is_no_table_makes_no_policy(entry: Any) -> None:
    with pytest.raises(PolicyError):
        Policy.from_json({"name": "p", "measurements": {"sgx": ["5a" * 32]}, "token_issuers": [entry]})


@pytest.mark.parametrize("url", [
    "ftp://127.0.0.1/keys", "http://keys.example", "https:///keys", "https://me@keys.example", "https://:word@keys.example",
    "https://keys.example/?a=1", "https://keys.example/#a", "keys.example", "", "//keys.example", "http://127.0.0.1.example/keys",
])  # fmt: skip
def test_an_address_is_a_place_and_nothing_else(url: str) -> None:
    for field in ({"jwks_url": url}, {"jwks": jwks(), "issuer": url}):
        with pytest.raises(ValueError, match="https://HOST"):
            TokenIssuer(**{"kind": "ita", "issuer": ITA, **field})  # type: ignore[arg-type]


@pytest.mark.parametrize(("root", "good"), [("ab" * 32, True), ("AB" * 32, False), ("ab" * 31, False), ("ab" * 33, False), ("", False)])
def test_root_of_keys_is_a_digest(root: str, good: bool) -> None:
    if good:
        assert TokenIssuer(kind="maa", issuer=MAA, jwks=jwks(), x5c_root=root).x5c_root == root
        return
    with pytest.raises(ValueError, match="x5c_root"):
        TokenIssuer(kind="maa", issuer=MAA, jwks=jwks(), x5c_root=root)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/keys", "http://[::1]/keys", "http://localhost/keys", "https://keys.example/a/b"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    assert TokenIssuer(kind="ita", issuer=url, jwks_url=url).jwks_url == url


@pytest.fixture
def server() -> Iterator[VendorServer]:
    made = VendorServer()
    yield made
    made.close()


def fetched(server: VendorServer) -> tuple[TokenIssuer, IssuerKeys]:
    http = Http(retries=0, timeout_s=2)
    return TokenIssuer(kind="ita", issuer=ITA, jwks_url=f"{server.url}/certs"), IssuerKeys(http)


def test_keys_are_fetched_kept_and_rotated(server: VendorServer) -> None:
    entry, keys = fetched(server)
    server.replies["/certs"] = (200, {}, jwks().encode())
    for _ in range(3):
        assert keys.find(entry, "one", NOW)
    assert server.asked["/certs"] == 1
    server.replies["/certs"] = (200, {}, jwks(jwk("two")).encode())
    for _ in range(3):
        with pytest.raises(TokenInvalidError):
            keys.find(entry, "two", NOW + timedelta(minutes=1))
    assert server.asked["/certs"] == 1, "made-up key ids are no stream of requests"
    assert keys.find(entry, "two", NOW + timedelta(minutes=6))
    with pytest.raises(TokenInvalidError):
        keys.find(entry, "one", NOW + timedelta(minutes=7))


def test_keys_serve_for_an_hour_and_are_asked_for_at_most_once_in_five_minutes(server: VendorServer) -> None:
    entry, keys = fetched(server)
    server.replies["/certs"] = (200, {}, jwks().encode())

    def asked(kid: str | None, **later: int) -> int:
        if kid == "one":
            assert keys.find(entry, kid, NOW + timedelta(**later))
        else:
            with pytest.raises(TokenInvalidError):
                keys.find(entry, kid, NOW + timedelta(**later))
        return server.asked["/certs"]

    assert [asked("one"), asked("two", seconds=299), asked("two", seconds=300), asked("two", seconds=301)] == [1, 1, 2, 2]
    assert asked(None, seconds=900) == 2, "no key has no id: there is nothing to ask for"
    assert [asked("one", seconds=300 + 3599), asked("one", seconds=300 + 3600)] == [2, 3]


def test_server_that_is_down_is_left_alone_for_a_while(server: VendorServer) -> None:
    entry, keys = fetched(server)
    for seconds, words, asked in ((0, "not where", 1), (299, "a moment ago", 1), (300, "not where", 2)):
        with pytest.raises(CollateralError, match=words):
            keys.find(entry, "one", NOW + timedelta(seconds=seconds))
        assert server.asked["/certs"] == asked


def test_keys_that_cannot_be_fetched_are_missing_collateral() -> None:
    entry = TokenIssuer(kind="ita", issuer=ITA, jwks_url="https://keys.example")
    for keys, issuer in ((IssuerKeys(), entry), (IssuerKeys(Http(retries=0)), entry.model_copy(update={"jwks_url": None}))):
        with pytest.raises(CollateralError, match="not where"):
            keys.find(issuer, "one", NOW)


@pytest.mark.parametrize("reply", [
    (404, {}, b""), (500, {}, b""), (302, {"Location": "/certs2"}, b""), (200, {}, b"x" * 300_000), (200, {}, b"no JSON"),
    (200, {}, b"\xff"),
])  # fmt: skip
def test_a_misbehaving_server_gives_no_key(reply: tuple[int, dict[str, str], bytes], server: VendorServer) -> None:
    entry, keys = fetched(server)
    server.replies |= {"/certs": reply, "/certs2": (200, {}, jwks().encode())}
    with pytest.raises((CollateralError, TokenInvalidError)):
        keys.find(entry, "one", NOW)
    assert server.asked["/certs2"] == 0


def test_keys_that_are_too_old_are_not_used_while_the_server_is_down(server: VendorServer) -> None:
    entry, keys = fetched(server)
    server.replies["/certs"] = (200, {}, jwks().encode())
    assert keys.find(entry, "one", NOW)
    server.replies["/certs"] = (503, {}, b"")
    with pytest.raises(CollateralError):
        keys.find(entry, "one", NOW + timedelta(hours=2))


def test_a_tokens_header_leads_nowhere(server: VendorServer, binding: SessionBinding) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    server.replies["/evil"] = (200, {}, jwks(jwk(key=other)).encode())
    with pytest.raises(TokenInvalidError, match="signature"):
        checked(ita(binding), key=other, jku=f"{server.url}/evil", x5u=f"{server.url}/evil")
    assert not server.asked
