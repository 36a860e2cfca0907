"""RA-TLS certificates: read where it was asked for, bound to their key, and never taken for a session's evidence."""

from __future__ import annotations

import hashlib
import pickle
from datetime import datetime, timedelta

import pytest
from support.ratls import OTHER, Make, certificate, claims_buffer, gramine, head, interoperable, octets, spki, tagged

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
        assert (found.session_bound, found.to_json()["session_bound"]) == (False, False)
        assert found.spki_sha256 == hashlib.sha256(spki()).hexdigest()
        assert not isinstance(found, AttestationResult)
        with pytest.raises(TypeError):
            pickle.dumps(found)
        with pytest.raises(TypeError):
            UnboundResult(found.claims, "", "", now)
        with pytest.raises(TypeError, match="session_bound"):
            UnboundResult(found.claims, "", "", now, session_bound=False)  # type: ignore[call-arg]


def test_bytes_of_a_certificate_are_not_shown(make_evidence: Make, now: datetime) -> None:
    shown = repr(RatlsCertificate.parse(gramine(make_evidence, now)))
    assert "report_data" not in shown
    assert "certificate" not in shown


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


def test_certificate_counts_from_its_first_second_to_before_its_last(
    make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime
) -> None:
    day, second = timedelta(days=1), timedelta(seconds=1)
    for made, good in ((now + day, True), (now - day + second, True), (now + day + second, False), (now - day, False)):
        der = gramine(make_evidence, made)
        if good:
            assert verify_ratls(der, verifier, accepting, now=now, accept_not_session_bound=True)
            continue
        with pytest.raises(EvidenceInvalidError, match="valid now"):
            verify_ratls(der, verifier, accepting, now=now, accept_not_session_bound=True)


@pytest.mark.parametrize(("number", "name"), [(1, "sha256"), (7, "sha384"), (8, "sha512")])
def test_key_is_named_by_one_of_three_hashes(make_evidence: Make, now: datetime, number: int, name: str) -> None:
    def buffer(key: bytes, algorithm: int = number) -> bytes:
        entry = head(4, 2) + head(0, algorithm) + octets(hashlib.new(name, key).digest())
        return head(5, 1) + head(3, 11) + b"pubkey-hash" + octets(entry)

    assert RatlsCertificate.parse(interoperable(make_evidence, now, buffer(spki()))).format == "interoperable"
    with pytest.raises(BindingError, match="another key"):
        RatlsCertificate.parse(interoperable(make_evidence, now, buffer(spki(OTHER))))
    for foreign in (0, 2, 6, 9):
        with pytest.raises(ParseError, match="array of an algorithm"):
            RatlsCertificate.parse(interoperable(make_evidence, now, buffer(spki(), foreign)))


def text(value: bytes) -> bytes:
    return head(3, len(value)) + value


def test_claims_buffer_has_a_key_and_at_most_a_nonce(make_evidence: Make, now: datetime) -> None:
    entry = octets(head(4, 2) + head(0, 1) + octets(hashlib.sha256(spki()).digest()))
    digest, nonce, more = text(b"pubkey-hash") + entry, text(b"nonce") + octets(b"n"), text(b"other") + octets(b"n")
    good = head(5, 2) + text(b"nonce") + octets(b"n") + digest
    for wrong in (
        head(5, 0), head(5, 1) + nonce, head(5, 2) + digest + more, head(5, 3) + digest + nonce + more, head(4, 1) + text(b"pubkey-hash"),
        head(5, 2) + digest + text(b"nonce") + text(b"n"), head(5, 2) + digest + text(b"nonce") + head(0, 1),
        head(5, 1) + text(b"pubkey-hash") + text(b"abc"), head(5, 1) + text(b"pubkey-hash") + octets(head(0, 1)),
        head(5, 1) + text(b"pubkey-hash") + octets(head(4, 2) + text(b"1") + octets(bytes(32))),
        head(5, 1) + text(b"pubkey-hash") + octets(head(4, 2) + head(0, 1) + text(b"1")),
    ):  # fmt: skip
        with pytest.raises(ParseError, match=r"claims buffer|pubkey-hash|CBOR"):
            RatlsCertificate.parse(interoperable(make_evidence, now, wrong))
    for right in (good, head(5, 2) + digest + nonce):
        try:
            assert RatlsCertificate.parse(interoperable(make_evidence, now, right)).nonce == b"n"
        except ParseError:
            assert right is good, "keys of a map are in order"


@pytest.mark.parametrize("value", [octets(b"quote"), head(4, 1) + octets(b"quote"), head(4, 2) + octets(b"quote") + head(0, 1)])
def test_tagged_evidence_is_a_quote_and_its_claims(now: datetime, value: bytes) -> None:
    with pytest.raises(ParseError, match="array of a quote"):
        RatlsCertificate.parse(certificate(now, (TCG_OID, head(6, 60000) + value)))


def test_certificate_has_a_size(now: datetime) -> None:
    for size in (64 * 1024, 64 * 1024 + 1):
        with pytest.raises(ParseError, match="not a DER certificate" if size == 64 * 1024 else "too large"):
            RatlsCertificate.parse(bytes(size))
