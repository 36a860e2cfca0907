"""Revoked keys of Intel's: a PCK, a TCB signer, a CA; and lists that hide a revocation.  AMD's are in ``test_snp_revocation``."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from support.simulated_evidence import BOTH, NOW, lists_of_any_issuer, pem, signed_tcb

from confide.attest import collateral_check, intel, intel_tcb
from confide.attest.collateral import Collateral
from confide.attest.insecure import Fault
from confide.attest.insecure.authority import Signer, new_platform_ca, new_root
from confide.attest.roots import TrustRoots
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import CollateralError, EvidenceInvalidError
from confide.ids import Tee


def test_pck_revocation_list_with_a_foreign_issuer_chain_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    good, root, impostor = vendor.collateral(Tee.SGX), vendor._signer("root"), new_platform_ca(vendor._signer("root"), NOW)
    foreign = [
        dataclasses.replace(good, pck_crl_issuer_chain=chain)
        for chain in (pem(impostor, root), pem(impostor), pem(vendor._signer("tcb-signer"), root))
    ]
    for collateral in foreign:
        with pytest.raises(CollateralError):
            with_collateral(collateral).verify(evidence_of(Tee.SGX), NOW)
    monkeypatch.setattr(collateral_check, "_check_pck_list", lambda collateral, root: None)
    for collateral in foreign:
        assert with_collateral(collateral).verify(evidence_of(Tee.SGX), NOW)


def test_revoked_tcb_signer_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    root, signer = vendor._signer("root"), vendor._signer("tcb-signer")
    revoked = root.revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9), (signer.certificate.serial_number,))
    forged = dataclasses.replace(vendor.collateral(Tee.SGX), root_ca_crl=revoked)
    with pytest.raises(CollateralError, match="revoked"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)
    # The weakened check looks the signer up in a list of before.
    child_of_root, before = collateral_check._child_of_root, vendor.collateral(Tee.SGX).root_ca_crl

    def weak(collateral: Collateral, name: str, root: x509.Certificate, *, ca: bool) -> x509.Certificate:
        return child_of_root(dataclasses.replace(collateral, root_ca_crl=before), name, root, ca=ca)

    monkeypatch.setattr(collateral_check, "_child_of_root", weak)
    assert with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_revocation_list_that_the_root_did_not_sign_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    """The attacker's signer is revoked, and the attacker brings a list of its own that says nothing of it."""
    ca, good = vendor._signer("platform-ca"), vendor.collateral(Tee.SGX)
    forged = dataclasses.replace(good, root_ca_crl=ca.revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9)))
    with pytest.raises(CollateralError, match="not signed by the root"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)
    # The weakened check is made of a list that is right, and the forged one is used.
    check = collateral_check.check_signers
    monkeypatch.setattr(intel, "check_signers", lambda one, root: check(dataclasses.replace(one, root_ca_crl=good.root_ca_crl), root))
    assert with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_pck_revocation_list_of_another_ca_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    """An attacker whose platform is revoked brings a list without it, signed by a CA of the right name."""
    impostor = new_platform_ca(new_root(NOW), NOW)
    empty = impostor.revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9))
    forged = dataclasses.replace(vendor.collateral(Tee.SGX), pck_crl=empty)
    with pytest.raises(CollateralError, match="not signed by its issuer"):
        with_collateral(forged).verify(evidence_of(Tee.SGX, Fault.REVOKED_PCK), NOW)
    monkeypatch.setattr(collateral_check, "_check_pck_list", lambda collateral, root: None)
    monkeypatch.setattr(intel, "_check_collateral", lists_of_any_issuer)
    assert with_collateral(forged).verify(evidence_of(Tee.SGX, Fault.REVOKED_PCK), NOW)


def test_revoked_tcb_level_is_refused_whatever_the_policy(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    signer, root = vendor._signer("tcb-signer"), vendor._signer("root")
    good = vendor.collateral(Tee.SGX)
    levels = [{**level, "tcbStatus": "Revoked"} for level in good.tcb["tcbLevels"]]
    revoked = signed_tcb(good, signer, pem(signer, root), tcbLevels=levels)
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        with_collateral(revoked).verify(evidence_of(Tee.SGX), NOW)
    monkeypatch.setattr(intel_tcb, "_refuse_revoked", lambda rating, what: None)
    assert with_collateral(revoked).verify(evidence_of(Tee.SGX), NOW).claims.tcb_status == "Revoked"


# --- the attacks, and what alone stops them ---------------------------------------------------------------------------


@BOTH
def test_revoked_platform_is_stopped_by_the_revocation_check_alone(vendor, evidence_of, monkeypatch, tee) -> None:
    def attack() -> VerifiedEvidence:
        fresh = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())
        return fresh.verify(evidence_of(tee, Fault.REVOKED_PCK), NOW)

    with pytest.raises(EvidenceInvalidError, match="revoked"):
        attack()
    monkeypatch.setattr(intel, "_check_not_revoked", lambda certificate, revocations: None)
    assert attack().claims.tee is tee


def test_list_of_a_second_ca_of_the_same_name_does_not_hide_a_revocation(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    """Both CAs are the vendor's and have one name; only the one that certified the platform may say that it is not revoked."""
    other, root = new_platform_ca(vendor._signer("root"), NOW), vendor._signer("root")
    empty = other.revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9))
    hiding = dataclasses.replace(vendor.collateral(Tee.SGX), pck_crl=empty, pck_crl_issuer_chain=pem(other, root))
    with pytest.raises(CollateralError, match="another PCK CA"):
        with_collateral(hiding).verify(evidence_of(Tee.SGX, Fault.REVOKED_PCK), NOW)
    monkeypatch.setattr(intel, "_check_collateral", lists_of_any_issuer)
    assert with_collateral(hiding).verify(evidence_of(Tee.SGX, Fault.REVOKED_PCK), NOW)


def test_quote_under_a_revoked_certificate_of_the_ca_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    """The vendor certified the CA's key anew and revoked the first certificate: the list is good, the chain in the quote is not."""
    root, ca = vendor._signer("root"), vendor._signer("platform-ca")
    builder = x509.CertificateBuilder().subject_name(ca.certificate.subject).issuer_name(root.certificate.subject)
    builder = builder.public_key(ca.key.public_key()).serial_number(0xCA2)
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=99))
    for extension in ca.certificate.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    anew = Signer(builder.sign(root.key, hashes.SHA256()), ca.key)
    revoking = root.revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9), (ca.certificate.serial_number,))
    collateral = dataclasses.replace(vendor.collateral(Tee.SGX), root_ca_crl=revoking, pck_crl_issuer_chain=pem(anew, root))
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        with_collateral(collateral).verify(evidence_of(Tee.SGX), NOW)
    monkeypatch.setattr(intel, "_check_not_revoked", lambda certificate, revocations: None)
    assert with_collateral(collateral).verify(evidence_of(Tee.SGX), NOW)
