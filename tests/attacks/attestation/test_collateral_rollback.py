"""Collateral roll-back and time travel: a revocation is hidden by putting back what the vendor signed before it."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support.amd import NOW as AMD_NOW
from support.amd import Vendor
from support.simulated_evidence import BOTH, NOW

from confide.attest import collateral_sources, intel
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import AnyCollateral, CollateralStore
from confide.attest.evidence import Evidence
from confide.attest.insecure import Installation
from confide.attest.insecure.documents import Machine
from confide.attest.roots import TrustRoots
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import CollateralError, EvidenceInvalidError


def roll_back(
    folder: Path, *, newer: AnyCollateral, older: AnyCollateral, roots: TrustRoots, evidence: Evidence, now: datetime
) -> VerifiedEvidence:
    """The verifier has the newer set; the attacker (a mirror, a bundle, a cache) hands it the older one."""
    store = CollateralStore(folder)
    store.put(newer)
    store.put(older)
    return Verifier(roots, store).verify(evidence, now)


def without_roll_back_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collateral_sources, "check_not_older", lambda epoch, seen: None)


def revoked_since(vendor: Installation, older: Collateral) -> Collateral:
    """The set after the vendor has revoked the good machine."""
    serial = vendor.machine(Machine.GOOD).certificate.serial_number
    newer = vendor._signer("platform-ca").revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9), (serial,))
    return dataclasses.replace(older, pck_crl=newer)


@BOTH
def test_older_set_that_hides_a_revoked_platform_is_refused(vendor, evidence_of, tmp_path, monkeypatch, tee) -> None:
    older = vendor.collateral(tee)
    newer, roots, evidence = revoked_since(vendor, older), TrustRoots(simulated=vendor.root_der), evidence_of(tee)
    with pytest.raises(CollateralError, match="older"):
        roll_back(tmp_path / "ours", newer=newer, older=older, roots=roots, evidence=evidence, now=NOW)
    # The refused set has changed nothing: the platform stays revoked.
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        Verifier(roots, CollateralStore(tmp_path / "ours")).verify(evidence, NOW)
    without_roll_back_check(monkeypatch)
    assert roll_back(tmp_path / "weak", newer=newer, older=older, roots=roots, evidence=evidence, now=NOW).claims.tee is tee


def test_older_set_that_hides_amds_revoked_issuer_is_refused(tmp_path, monkeypatch) -> None:
    amd = Vendor("Genoa")
    issuer = amd.issuer(serial=0x5EC)
    older, newer = amd.collateral(issuer=issuer, crl=amd.crl(number=5)), amd.collateral(issuer=issuer, crl=amd.crl(0x5EC, number=6))
    roots = TrustRoots(amd=amd.roots)
    sets = {"newer": newer, "older": older, "roots": roots, "evidence": amd.evidence(), "now": AMD_NOW}
    with pytest.raises(CollateralError, match="older"):
        roll_back(tmp_path / "ours", **sets)
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        Verifier(roots, CollateralStore(tmp_path / "ours")).verify(amd.evidence(), AMD_NOW)
    without_roll_back_check(monkeypatch)
    assert roll_back(tmp_path / "weak", **sets)


@BOTH
def test_collateral_that_is_withheld_until_it_is_stale_is_refused(vendor, evidence_of, monkeypatch, tee) -> None:
    """Time travel: the verifier's clock is right, and everything that it is given is of the past (or of the future)."""

    def attack(days: int) -> VerifiedEvidence:
        fresh = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())
        return fresh.verify(evidence_of(tee), NOW + timedelta(days=days))

    for days in (40, -40):
        with pytest.raises(CollateralError, match="stale" if days > 0 else "not valid yet"):
            attack(days)
    monkeypatch.setattr(intel, "check_current", lambda collateral, now: None)
    assert attack(40).claims.tee is tee
    assert attack(-40).claims.tee is tee
