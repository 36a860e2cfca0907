"""Rules of the Intel verifier that no forged quote shows by itself: times, extensions and lengths at their limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from support.amd import Vendor
from support.simulated_evidence import make_vendor, pem

from confide.attest import certs
from confide.attest.collateral_check import check_current
from confide.attest.evidence import Evidence
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.insecure.authority import Signer, new_platform_ca, new_root
from confide.attest.insecure.installation import raw_signature
from confide.attest.quote import Quote, SgxBody, Signature, parse_quote, split_quote
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import CollateralError, EvidenceInvalidError
from confide.ids import ReportData, Tee

__all__ = ["make_vendor"]
NOW = datetime(2030, 6, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def _attester(vendor: Installation) -> InsecureAttester:
    return InsecureAttester(vendor, Tee.SGX, "5a" * 32)


def _quote(vendor: Installation) -> Quote:
    return parse_quote(_attester(vendor).quote(ReportData(bytes(64))).quote)


def _leaf(vendor: Installation, change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder], **times: datetime) -> Signer:
    """The good machine's PCK certificate, issued anew with a change."""
    ca, good = vendor._signer("platform-ca"), vendor._signer("pck-good")
    builder = x509.CertificateBuilder().subject_name(good.certificate.subject).issuer_name(ca.certificate.subject)
    builder = builder.public_key(good.key.public_key()).serial_number(0x1EAF)
    builder = builder.not_valid_before(times.get("begin", NOW - timedelta(days=9)))
    builder = builder.not_valid_after(times.get("end", NOW + timedelta(days=9)))
    platform = certs.SgxExtension.of(good.certificate)
    builder = builder.add_extension(x509.UnrecognizedExtension(certs.SGX_EXTENSION, platform.to_der()), critical=False)
    return Signer(change(builder).sign(ca.key, hashes.SHA256()), good.key)


def _under(vendor: Installation, leaf: Signer) -> Evidence:
    """A genuine quote whose quoting enclave is vouched for by ``leaf``."""
    quote, chain = _quote(vendor), pem(leaf, vendor._signer("platform-ca"), vendor._signer("root"))
    signed = raw_signature(leaf.key, quote.signature.qe_report.to_bytes())
    signature = dataclasses.replace(quote.signature, cert_data=chain.encode(), qe_report_signature=signed)
    return Evidence(Tee.SGX, dataclasses.replace(quote, signature=signature).to_bytes())


def _verify(vendor: Installation, evidence: Evidence, now: datetime = NOW) -> str:
    return Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source()).verify(evidence, now).claims.tcb_status


def _same(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    return builder


def test_certificate_counts_from_its_first_second_to_its_last(vendor: Installation) -> None:
    begin, end = NOW - timedelta(minutes=2), NOW + timedelta(minutes=2)
    evidence = _under(vendor, _leaf(vendor, _same, begin=begin, end=end))
    for now in (begin, NOW, end):
        assert _verify(vendor, evidence, now) == "UpToDate"
    for now in (begin - SECOND, end + SECOND):
        with pytest.raises(EvidenceInvalidError, match="not valid at this time"):
            _verify(vendor, evidence, now)


def test_collateral_of_another_vendor_is_refused(vendor: Installation) -> None:
    amd = Vendor("Genoa").collateral()
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), SimpleNamespace(get=lambda *_: amd))
    with pytest.raises(CollateralError, match="another vendor"):
        verifier.verify(_attester(vendor).quote(ReportData(bytes(64))), NOW)


def test_leaf_that_is_a_ca_or_has_an_unknown_critical_extension_is_refused(vendor: Installation) -> None:
    usage = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    for extension, match in ((x509.BasicConstraints(ca=True, path_length=0), "CA certificate"), (usage, "critical extension")):
        leaf = _leaf(vendor, lambda builder, extension=extension: builder.add_extension(extension, critical=True))
        with pytest.raises(EvidenceInvalidError, match=match):
            _verify(vendor, _under(vendor, leaf))
    known = _leaf(vendor, lambda builder: builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True))
    assert _verify(vendor, _under(vendor, known)) == "UpToDate"
    harmless = _leaf(vendor, lambda builder: builder.add_extension(usage, critical=False))
    assert _verify(vendor, _under(vendor, harmless)) == "UpToDate"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_authentication_data_of_another_length_is_refused_even_if_it_is_vouched_for(vendor: Installation, length: int) -> None:
    quote, leaf = _quote(vendor), vendor._signer("pck-good")
    signature: Signature = dataclasses.replace(quote.signature, auth_data=bytes(length))
    report: SgxBody = dataclasses.replace(signature.qe_report, report_data=signature.expected_qe_report_data)
    signature = dataclasses.replace(signature, qe_report=report, qe_report_signature=raw_signature(leaf.key, report.to_bytes()))
    with pytest.raises(EvidenceInvalidError, match="another length than 32"):
        _verify(vendor, Evidence(Tee.SGX, dataclasses.replace(quote, signature=signature).to_bytes()))


def test_leaf_or_ca_that_the_next_did_not_issue_is_refused(vendor: Installation) -> None:
    """Names are the vendor's in both chains; only signatures tell."""
    root, ca, good = (vendor._signer(name) for name in ("root", "platform-ca", "pck-good"))
    impostor = new_platform_ca(new_root(NOW), NOW)
    for chain in (pem(good, impostor, root), pem(good, root, root)):
        quote = _quote(vendor)
        signature = dataclasses.replace(quote.signature, cert_data=chain.encode())
        with pytest.raises(EvidenceInvalidError, match="not issued by"):
            _verify(vendor, Evidence(Tee.SGX, dataclasses.replace(quote, signature=signature).to_bytes()))
    own = impostor.issue("Intel SGX PCK Certificate", NOW, platform=certs.SgxExtension.of(good.certificate))
    quote = _quote(vendor)
    signed = raw_signature(own.key, quote.signature.qe_report.to_bytes())
    for chain in (pem(own, impostor, root), pem(own, ca, root)):
        signature = dataclasses.replace(quote.signature, cert_data=chain.encode(), qe_report_signature=signed)
        with pytest.raises(EvidenceInvalidError, match="not issued by the next"):
            _verify(vendor, Evidence(Tee.SGX, dataclasses.replace(quote, signature=signature).to_bytes()))


def test_chain_of_another_installation_is_refused_where_simulation_is_trusted(vendor: Installation, tmp_path: Path) -> None:
    other = Installation.create(tmp_path / "tee", now=NOW)
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), other.collateral_source())
    with pytest.raises(EvidenceInvalidError, match="does not end at a root"):
        verifier.verify(_attester(other).quote(ReportData(bytes(64))), NOW)


def test_what_vouches_for_a_version_4_quote_does_not_for_one_of_version_3(vendor: Installation) -> None:
    """The bytes that vouch are remembered with the layout in which they were read."""
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())
    td = InsecureAttester(vendor, Tee.TDX, "5a" * 48).quote(ReportData(bytes(64)))
    verifier.verify(td, NOW)
    nested = split_quote(td.quote)
    enclave = split_quote(_attester(vendor).quote(ReportData(bytes(64))).quote)
    data = nested.signature + nested.vouching
    mixed = Evidence(Tee.SGX, enclave.signed_bytes + len(data).to_bytes(4, "little") + data)
    refusals = []
    for fresh in (verifier, Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())):
        with pytest.raises(EvidenceInvalidError) as refused:
            fresh.verify(mixed, NOW)
        refusals.append(refused.value.message)
    assert refusals[0] == refusals[1]


def test_collateral_counts_from_the_second_of_its_issue_until_the_one_in_which_it_goes_stale(vendor: Installation) -> None:
    collateral = vendor.collateral(Tee.SGX)
    stale = collateral.epoch.stale_from
    for now in (collateral.issued, stale - SECOND):
        check_current(collateral, now)
    for now, match in ((collateral.issued - SECOND, "not valid yet"), (stale, "stale")):
        with pytest.raises(CollateralError, match=match):
            check_current(collateral, now)


def test_quote_that_its_attestation_key_did_not_sign_is_refused(vendor: Installation) -> None:
    """All that vouches for the key is genuine; only the last signature is over something else, or another's."""
    quote = _quote(vendor)
    changed = dataclasses.replace(quote, body=dataclasses.replace(quote.body, report_data=b"\1" * 64))
    stranger = raw_signature(vendor._signer("pck-good").key, quote.signed_bytes)
    foreign = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, signature=stranger))
    assert _verify(vendor, Evidence(Tee.SGX, quote.to_bytes())) == "UpToDate"
    for forged in (changed, foreign):
        with pytest.raises(EvidenceInvalidError, match="signature of the quote does not verify"):
            _verify(vendor, Evidence(Tee.SGX, forged.to_bytes()))


def test_evidence_under_the_simulated_root_says_so(vendor: Installation) -> None:
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())
    for tee, measurement in ((Tee.SGX, "5a" * 32), (Tee.TDX, "5a" * 48)):
        assert verifier.verify(InsecureAttester(vendor, tee, measurement).quote(ReportData(bytes(64))), NOW).claims.simulated is True


@pytest.mark.parametrize(("tee", "other"), [(Tee.SGX, Tee.TDX), (Tee.TDX, Tee.SGX)])
def test_tcb_info_of_the_other_kind_of_tee_is_refused_beside_the_right_enclave_identity(vendor: Installation, tee: Tee, other: Tee) -> None:
    good, foreign = vendor.collateral(tee), vendor.collateral(other)
    mixed = dataclasses.replace(foreign, qe_identity=good.qe_identity, qe_identity_signature=good.qe_identity_signature)
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), SimpleNamespace(get=lambda *_: mixed))
    evidence = InsecureAttester(vendor, tee, "5a" * (32 if tee is Tee.SGX else 48)).quote(ReportData(bytes(64)))
    with pytest.raises(CollateralError, match="another kind"):
        verifier.verify(evidence, NOW)


def test_attestation_key_that_is_no_point_is_refused_even_if_it_is_vouched_for(vendor: Installation) -> None:
    quote, leaf = _quote(vendor), vendor._signer("pck-good")
    signature = dataclasses.replace(quote.signature, attestation_key=bytes(64))
    report = dataclasses.replace(signature.qe_report, report_data=signature.expected_qe_report_data)
    signature = dataclasses.replace(signature, qe_report=report, qe_report_signature=raw_signature(leaf.key, report.to_bytes()))
    with pytest.raises(EvidenceInvalidError, match="no point of P-256"):
        _verify(vendor, Evidence(Tee.SGX, dataclasses.replace(quote, signature=signature).to_bytes()))
