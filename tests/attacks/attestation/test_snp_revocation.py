"""SEV-SNP: AMD's key that certified the chip is revoked, and the list that says so is hidden, forged, stale or left out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from support.amd import NOW, Vendor, refusals, verify

from confide.attest import collateral_sources, snp
from confide.attest.amd_collateral import AmdCollateral
from confide.attest.collateral_sources import CollateralStore
from confide.errors import CollateralError, EvidenceInvalidError


def test_revoked_issuer_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = amd.issuer(serial=0x5EC)
    collateral = amd.collateral(issuer=issuer, crl=amd.crl(0x5EC, 9))
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        verify(amd, amd.evidence(), collateral)
    verify(amd, amd.evidence(), amd.collateral(issuer=issuer, crl=amd.crl(9)))
    monkeypatch.setattr(snp, "_check_revocations", lambda collateral, issuer, root: None)
    assert verify(amd, amd.evidence(), collateral)


def _whose_list_it_is_does_not_matter(collateral: AmdCollateral, issuer: x509.Certificate, root: x509.Certificate) -> None:
    """The weakened check: the list is looked up, but anybody may have signed it."""
    crl = collateral.revocations
    if crl is not None and crl.get_revoked_certificate_by_serial_number(issuer.serial_number) is not None:
        raise EvidenceInvalidError("the key that certified the chip is revoked")


@pytest.mark.parametrize("changes", [{"signed_by": "SEV-Genoa"}, {"signed_by": "ARK-Milan"}, {"issuer": "ARK-Milan"}], ids=str)
def test_revocation_list_that_the_root_did_not_sign_is_refused(
    amd: Vendor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    """An empty list of the attacker's hides that the issuer is revoked."""
    collateral = amd.collateral(issuer=amd.issuer(serial=0x5EC), crl=amd.crl(**changes))
    with pytest.raises(CollateralError, match="not signed by AMD's root"):
        verify(amd, amd.evidence(), collateral)
    monkeypatch.setattr(snp, "_check_revocations", _whose_list_it_is_does_not_matter)
    assert verify(amd, amd.evidence(), collateral)


@pytest.mark.parametrize(
    ("times", "says"), [({"until": NOW}, "stale"), ({"issued": NOW + timedelta(seconds=1)}, "not valid yet")], ids=["stale", "early"]
)
def test_list_outside_of_its_time_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch, times: dict[str, datetime], says: str) -> None:
    collateral = amd.collateral(crl=amd.crl(**times))
    with pytest.raises(CollateralError, match=says):
        verify(amd, amd.evidence(), collateral)
    monkeypatch.setattr(snp, "check_current", lambda collateral, now: None)
    assert verify(amd, amd.evidence(), collateral)


def test_revocation_list_is_not_rolled_back(amd: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    store = CollateralStore(tmp_path)
    store.put(amd.collateral(crl=amd.crl(number=5)))
    older = [amd.crl(number=4), amd.crl(number=5, issued=NOW - timedelta(days=11)), b""]
    for crl in older:
        with pytest.raises(CollateralError, match="older"):
            store.put(amd.collateral(crl=crl))
    store.put(amd.collateral(crl=amd.crl(number=6)))
    monkeypatch.setattr(collateral_sources, "check_not_older", lambda collateral, seen: None)
    for crl in older:
        store.put(amd.collateral(crl=crl))


def test_set_without_a_revocation_list_needs_the_policys_switch(amd: Vendor) -> None:
    verified = verify(amd, amd.evidence(), amd.collateral(crl=b""))
    assert refusals(verified) == ["revocation-list-missing"]
    assert refusals(verified, allow=["snp-no-revocation-list"]) == []
