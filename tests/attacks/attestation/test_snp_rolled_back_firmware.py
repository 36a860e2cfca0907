"""SEV-SNP: a chip that was rolled back to old firmware still has the certificate of its new one; key and TCB must be the report's."""

from __future__ import annotations

import pytest
from support.amd import TCB, Vendor, refusals, tcb_version, verify, without_part_of_the_platform_check

from confide.errors import EvidenceInvalidError


@pytest.mark.parametrize("component", sorted(TCB))
def test_certificate_for_a_newer_tcb_of_the_same_chip_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch, component: str) -> None:
    evidence = amd.evidence(leaf=amd.leaf(tcb={**amd.tcb, component: amd.tcb[component] + 1}))
    with pytest.raises(EvidenceInvalidError, match="another TCB"):
        verify(amd, evidence)
    without_part_of_the_platform_check(monkeypatch, "tcb")
    assert verify(amd, evidence)


def test_turins_extra_component_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor("Turin")
    assert "fmc" in vendor.tcb
    older = vendor.evidence(tcb=tcb_version({**vendor.tcb, "fmc": 0}, "Turin"))
    with pytest.raises(EvidenceInvalidError, match="another TCB"):
        verify(vendor, older)
    with pytest.raises(EvidenceInvalidError, match="lacks an extension"):
        verify(vendor, vendor.evidence(leaf=vendor.leaf(extensions={"3.9": None})))
    without_part_of_the_platform_check(monkeypatch, "tcb")
    assert verify(vendor, older)


@pytest.mark.parametrize("component", sorted(TCB))
def test_older_firmware_than_the_minimum_is_refused(amd: Vendor, component: str) -> None:
    """The control is a policy that asks for less."""
    verified = verify(amd, amd.evidence())
    assert refusals(verified, min_tcb={"Genoa": {**amd.tcb, component: amd.tcb[component] + 1}}) == ["tcb"]
    assert refusals(verified, min_tcb={"Genoa": {**amd.tcb, component: amd.tcb[component] - 1}}) == []


def test_minimum_of_another_product_says_nothing_of_this_one(amd: Vendor) -> None:
    verified = verify(amd, amd.evidence())
    assert refusals(verified, min_tcb={"Milan": dict.fromkeys(TCB, 0)}) == ["product", "tcb"]
    assert refusals(verified, min_tcb={"Genoa": dict.fromkeys(TCB, 0)}) == []
