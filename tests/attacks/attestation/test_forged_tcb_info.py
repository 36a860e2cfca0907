"""Collateral signed by somebody below the root who may not: a platform that grades itself."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from cryptography import x509
from support.simulated_evidence import BOTH, NOW, all_up_to_date, pem, signed_tcb

from confide.attest import certs, collateral_check, intel
from confide.attest.collateral import Collateral
from confide.attest.insecure import Fault
from confide.attest.insecure.authority import new_root, new_tcb_signer
from confide.attest.insecure.installation import raw_signature
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import CollateralError
from confide.ids import Tee


@BOTH
@pytest.mark.parametrize("name", ["platform-ca", "pck-good"])
def test_tcb_info_signed_by_another_key_under_the_root_is_refused(vendor, with_collateral, evidence_of, tee, name) -> None:
    """Any key that the root vouches for would do, if a chain to the root were all that is asked: a platform would grade itself."""
    signer, ca, root = vendor._signer(name), vendor._signer("platform-ca"), vendor._signer("root")
    good = vendor.collateral(tee)
    for chain in (pem(signer, root), pem(signer, ca, root), pem(signer)):
        forged = signed_tcb(good, signer, chain, tcbLevels=all_up_to_date(good))
        with pytest.raises(CollateralError):
            with_collateral(forged).verify(evidence_of(tee, Fault.OUT_OF_DATE), NOW)


@BOTH
def test_tcb_info_signed_by_a_grandchild_with_the_signers_name_is_refused(vendor, with_collateral, evidence_of, tee) -> None:
    ca, root = vendor._signer("platform-ca"), vendor._signer("root")
    impostor = new_tcb_signer(ca, NOW)
    good = vendor.collateral(tee)
    for chain in (pem(impostor, root), pem(impostor, ca, root)):
        with pytest.raises(CollateralError):
            with_collateral(signed_tcb(good, impostor, chain)).verify(evidence_of(tee), NOW)


def test_tcb_info_signed_under_a_root_of_the_attackers_is_refused(vendor, with_collateral, evidence_of) -> None:
    root = new_root(NOW)
    signer = new_tcb_signer(root, NOW)
    forged = signed_tcb(vendor.collateral(Tee.SGX), signer, pem(signer, root))
    with pytest.raises(CollateralError, match="pinned root"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_tcb_info_signed_by_another_end_entity_of_the_root_is_refused(vendor, with_collateral, evidence_of) -> None:
    root = vendor._signer("root")
    other = root.issue("Intel SGX Something Else", NOW)
    good = vendor.collateral(Tee.SGX)
    forged = signed_tcb(good, other, pem(other, root), tcbLevels=all_up_to_date(good))
    with pytest.raises(CollateralError, match="not signed by the TCB signer"):
        with_collateral(forged).verify(evidence_of(Tee.SGX, Fault.OUT_OF_DATE), NOW)


def test_tcb_info_signed_by_a_platforms_key_with_the_signers_name_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    """The name alone does not make a TCB signer, should the root ever sign a PCK certificate."""
    root, platform = vendor._signer("root"), certs.SgxExtension.of(vendor._signer("pck-good").certificate)
    signer = root.issue(certs.TCB_SIGNER_CN, NOW, platform=platform)
    good = vendor.collateral(Tee.SGX)
    forged = signed_tcb(good, signer, pem(signer, root), tcbLevels=all_up_to_date(good))
    with pytest.raises(CollateralError, match="platform's key"):
        with_collateral(forged).verify(evidence_of(Tee.SGX, Fault.OUT_OF_DATE), NOW)
    monkeypatch.setattr(collateral_check, "_PLATFORM_EXTENSION", x509.ObjectIdentifier("1.2.3"))  # the weakened check
    assert with_collateral(forged).verify(evidence_of(Tee.SGX, Fault.OUT_OF_DATE), NOW).claims.tcb_status == "UpToDate"


def test_tcb_signer_that_is_a_ca_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    root = vendor._signer("root")
    signer = root.issue(certs.TCB_SIGNER_CN, NOW, ca_depth=0)
    forged = signed_tcb(vendor.collateral(Tee.SGX), signer, pem(signer, root))
    with pytest.raises(CollateralError, match="CA certificate is where none"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)
    monkeypatch.setattr(collateral_check, "_tcb_signer", _any_chain_to_the_root)
    assert with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
def test_changed_document_is_refused(vendor, with_collateral, evidence_of, monkeypatch, field) -> None:
    good = vendor.collateral(Tee.SGX)
    forged = dataclasses.replace(good, **{field: getattr(good, field).replace('"UpToDate"', '"UpToDate" ')})
    with pytest.raises(CollateralError, match="signature"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)
    monkeypatch.setattr(collateral_check.certs, "check_raw_signature", lambda *_: None)
    assert with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_quoting_enclave_identity_signed_by_another_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    signer, root = vendor._signer("platform-ca"), vendor._signer("root")
    good = vendor.collateral(Tee.SGX)
    forged = dataclasses.replace(
        good,
        qe_identity_signature=raw_signature(signer.key, good.qe_identity.encode()),
        qe_identity_issuer_chain=pem(signer, root),
    )
    with pytest.raises(CollateralError, match=r"CA certificate is where none|TCB signer"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)
    monkeypatch.setattr(collateral_check, "_tcb_signer", _any_chain_to_the_root)
    assert with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def _for_any_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened check: genuine collateral is taken, whatever it is about."""
    monkeypatch.setattr(intel, "_check_platform", lambda tee, vouched, collateral: None)


def test_tcb_info_of_another_pceid_is_refused(vendor, with_collateral, evidence_of, monkeypatch) -> None:
    signer, root = vendor._signer("tcb-signer"), vendor._signer("root")
    other = signed_tcb(vendor.collateral(Tee.SGX), signer, pem(signer, root), pceId="0001")
    with pytest.raises(CollateralError, match="PCEID"):
        with_collateral(other).verify(evidence_of(Tee.SGX), NOW)
    _for_any_platform(monkeypatch)
    assert with_collateral(other).verify(evidence_of(Tee.SGX), NOW)


class _Whatever:
    """A source that the attacker controls: it answers every question with the same set."""

    def __init__(self, collateral: Collateral) -> None:
        self._collateral = collateral

    def get(self, fmspc: str, ca: str, tee: Tee) -> Collateral:
        return self._collateral


@pytest.mark.parametrize(("tee", "other"), [(Tee.SGX, Tee.TDX), (Tee.TDX, Tee.SGX)])
def test_collateral_of_the_other_kind_of_tee_is_refused(vendor, evidence_of, tee, other) -> None:
    good, foreign = vendor.collateral(tee), vendor.collateral(other)
    parts = {name: getattr(foreign, name) for name in ("qe_identity", "qe_identity_signature")}
    for collateral in (foreign, dataclasses.replace(good, **parts)):
        hostile = Verifier(TrustRoots(simulated=vendor.root_der), _Whatever(collateral))
        with pytest.raises(CollateralError, match="another kind"):
            hostile.verify(evidence_of(tee), NOW)


def test_genuine_collateral_of_another_platform_is_refused(vendor, evidence_of, monkeypatch) -> None:
    signer, root = vendor._signer("tcb-signer"), vendor._signer("root")
    other = signed_tcb(vendor.collateral(Tee.SGX), signer, pem(signer, root), fmspc="00C0F1DE00FF")
    hostile = Verifier(TrustRoots(simulated=vendor.root_der), _Whatever(other))
    with pytest.raises(CollateralError, match="another platform"):
        hostile.verify(evidence_of(Tee.SGX), NOW)
    _for_any_platform(monkeypatch)
    assert hostile.verify(evidence_of(Tee.SGX), NOW)


def _any_chain_to_the_root(collateral: Collateral, name: str, root: x509.Certificate) -> x509.Certificate:
    """The weakened check: a chain that ends at the root is all that is asked of whoever signs TCB info."""
    chain = collateral.chain(name)
    for child, issuer in itertools.pairwise([*chain, root] if chain[-1] != root else chain):
        child.verify_directly_issued_by(issuer)
    return chain[0]


@BOTH
def test_platform_grades_itself_where_a_chain_to_the_root_is_enough(vendor, with_collateral, evidence_of, monkeypatch, tee) -> None:
    pck, ca, root = vendor._signer("pck-good"), vendor._signer("platform-ca"), vendor._signer("root")
    good = vendor.collateral(tee)
    forged = signed_tcb(good, pck, pem(pck, ca, root), tcbLevels=all_up_to_date(good))

    def attack() -> str:
        return with_collateral(forged).verify(evidence_of(tee), NOW).claims.tcb_status

    with pytest.raises(CollateralError):
        attack()
    monkeypatch.setattr(collateral_check, "_tcb_signer", _any_chain_to_the_root)
    assert attack() == "UpToDate"
