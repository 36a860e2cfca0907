"""SEV-SNP: a report is shown with the certificate of another chip, or of another processor than it is of.

The attacker has several genuine chips, and asks for the certificate of the one that looks best.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.amd import Vendor, verify, without_part_of_the_platform_check

from confide.errors import EvidenceInvalidError

PRODUCTS = pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])


@PRODUCTS
def test_report_of_another_chip_than_the_certificates_is_refused(product: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor(product)
    evidence = vendor.evidence(chip_id=b"\xc2" * len(vendor.chip_id))
    with pytest.raises(EvidenceInvalidError, match="another chip"):
        verify(vendor, evidence)
    without_part_of_the_platform_check(monkeypatch, "chip")
    assert verify(vendor, evidence).claims.platform == product


def test_turins_short_chip_id_is_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor("Turin")
    evidence = vendor.evidence(chip_id=vendor.chip_id + b"\x01")
    with pytest.raises(EvidenceInvalidError, match="another chip"):
        verify(vendor, evidence)
    without_part_of_the_platform_check(monkeypatch, "chip")
    assert verify(vendor, evidence)


@pytest.mark.parametrize("changes", [{"flags": 2}, {"flags": 2, "chip_id": b""}, {"chip_id": b""}], ids=["masked", "both", "zeros"])
def test_masked_chip_is_refused_under_a_chips_key(amd: Vendor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """A host that masks the chip's id, or a certificate that names no chip, would let one certificate serve any chip."""
    evidence = amd.evidence(leaf=amd.leaf(chip_id=bytes(64)) if "chip_id" in changes else None, **changes)
    with pytest.raises(EvidenceInvalidError, match="does not say which chip"):
        verify(amd, evidence)
    without_part_of_the_platform_check(monkeypatch, "chip")
    assert verify(amd, evidence)


@pytest.mark.parametrize("cpu", [(0x19, 0x01), (0x1A, 0x02), (0x17, 0x31)], ids=["Milan", "Turin", "Rome"])
def test_report_of_another_processor_than_the_certificates_is_refused(
    amd: Vendor, monkeypatch: pytest.MonkeyPatch, cpu: tuple[int, int]
) -> None:
    evidence = amd.evidence(cpu=cpu)
    with pytest.raises(EvidenceInvalidError, match="another processor"):
        verify(amd, evidence)
    without_part_of_the_platform_check(monkeypatch, "processor")
    assert verify(amd, evidence)
