"""RA-TLS certificates: read where it was asked for, bound to their key, and never taken for a session's evidence."""

from __future__ import annotations

import hashlib
import pickle
from datetime import datetime, timedelta

import pytest
from support.ratls import OTHER, Make, certificate, claims_buffer, gramine, head, interoperable, octets, spki, tagged

from confide.attest.cbor import Tagged, decode
from confide.attest.policy import AttestationResult, Policy, Rules
from confide.attest.ratls import GRAMINE_OID, TCG_OID, RatlsCertificate, UnboundResult, verify_ratls
from confide.attest.verify import Verifier
from confide.errors import AppraisalError, BindingError, EvidenceInvalidError, ParseError
from confide.ids import Tee


@pytest.fixture(scope="module")
def accepting(measurements: dict[Tee, str]) -> Policy:
    return Rules(name="p", measurements={tee: (value,) for tee, value in measurements.items()}, allow=("simulated",))


def test_both_formats_are_read_and_are_no_results(make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime) -> None:
    nonce = interoperable(make_evidence, now, claims_buffer(nonce=b"fresh"))
    assert RatlsCertificate.parse(nonce).nonce == b"fresh"
    for der in (gramine(make_evidence, now), interoperable(make_evidence, now), nonce):
        found = verify_ratls(der, verifier, accepting, now=now, accept_not_session_bound=True)
        assert found.to_json()["session_bound"] is False
        assert found.spki_sha256 == hashlib.sha256(spki()).hexdigest()
        assert not isinstance(found, AttestationResult)
        with pytest.raises(TypeError):
            pickle.dumps(found)
        with pytest.raises(TypeError):
            UnboundResult(found.claims, "", "", now)


def test_it_is_off_by_default(make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime) -> None:
    with pytest.raises(BindingError, match="no session"):
        verify_ratls(gramine(make_evidence, now), verifier, accepting, now=now)


def test_a_quote_of_another_key_is_refused(make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime) -> None:
    elsewhere = hashlib.sha256(spki(OTHER)).digest()
    swapped = make_evidence(Tee.TDX, report_data=hashlib.sha256(claims_buffer(elsewhere)).digest() + bytes(32)).quote
    cases = [
        gramine(make_evidence, now, OTHER),
        interoperable(make_evidence, now, claims_buffer(elsewhere)),
        certificate(now, (TCG_OID, tagged(swapped, claims_buffer()))),
        certificate(now, (GRAMINE_OID, make_evidence(Tee.SGX, report_data=hashlib.sha256(spki()).digest() + b"\1" * 32).quote)),
    ]
    for der in cases:
        with pytest.raises(BindingError):
            verify_ratls(der, verifier, accepting, now=now, accept_not_session_bound=True)


def test_the_certificate_itself_is_checked(make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime) -> None:
    with pytest.raises(EvidenceInvalidError, match="own key"):
        verify_ratls(gramine(make_evidence, now, signer=OTHER), verifier, accepting, now=now, accept_not_session_bound=True)
    with pytest.raises(EvidenceInvalidError, match="valid now"):
        verify_ratls(gramine(make_evidence, now - timedelta(days=3)), verifier, accepting, now=now, accept_not_session_bound=True)
    strict = Rules(name="p", measurements={Tee.SGX: ("6b" * 32,)}, allow=("simulated",))
    with pytest.raises(AppraisalError):
        verify_ratls(gramine(make_evidence, now), verifier, strict, now=now, accept_not_session_bound=True)


def test_what_is_no_ratls_certificate_is_refused(make_evidence: Make, now: datetime) -> None:
    quote = make_evidence(Tee.SGX).quote
    whole = tagged(quote, claims_buffer())
    for extensions in (
        (), ((GRAMINE_OID, quote), (TCG_OID, whole)), ((GRAMINE_OID, quote + b"\1"),), ((TCG_OID, whole + b"\0"),),
        ((TCG_OID, whole[:-1]),),
        ((TCG_OID, tagged(quote, claims_buffer(), 60001)),), ((TCG_OID, tagged(quote, head(5, 0))),), ((TCG_OID, octets(quote)),),
    ):  # fmt: skip
        with pytest.raises(ParseError):
            RatlsCertificate.parse(certificate(now, *extensions))


@pytest.mark.parametrize("text", [
    "", "5f4100ff", "9f00ff", "1800", "190017", "f6", "20", "42", "6180", "0000", "a200000000", "a18000",
    "81" * 9 + "00", "9841", "1c", "fb0000000000000000",
])  # fmt: skip
def test_cbor_has_one_encoding_for_one_value(text: str) -> None:
    with pytest.raises(ParseError):
        decode(bytes.fromhex(text))


def test_cbor_is_read() -> None:
    assert decode(bytes.fromhex("d9ea60821818a1616101")) == Tagged(60000, [24, {"a": 1}])
