"""SEV-SNP: reports that the chip did not sign, or that say something that no document explains.

The vendor is of our own making, with each product's layouts.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.amd import Vendor, refusals, verify

from confide.attest import snp, snp_report
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import Evidence
from confide.attest.roots import TrustRoots
from confide.attest.snp_report import Report
from confide.attest.verify import Verifier
from confide.errors import EvidenceInvalidError
from confide.ids import Tee

# --- what is right is accepted: else the refusals would prove nothing -----------------------------------------------------


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("version", [2, 3, 5])
def test_genuine_report_of_each_product_and_version_is_accepted(product: str, version: int) -> None:
    vendor = Vendor(product)
    verified = verify(vendor, vendor.evidence(version=version))
    assert refusals(verified) == []
    assert verified.claims.tcb == vendor.tcb
    assert verified.claims.platform == product


def test_genuine_report_under_a_providers_key_is_accepted(amd: Vendor) -> None:
    evidence = amd.evidence(leaf=amd.leaf("vlek"), flags=1 << 2)
    verified = verify(amd, evidence, amd.collateral("vlek"))
    assert refusals(verified) == []
    assert (verified.claims.vendor["signing_key"], verified.claims.vendor["csp_id"]) == ("vlek", "a-cloud")


# --- signature --------------------------------------------------------------------------------------------------------


def _changed(evidence: Evidence, at: int) -> Evidence:
    return Evidence(Tee.SNP, evidence.quote[:at] + bytes([evidence.quote[at] ^ 1]) + evidence.quote[at + 1 :], evidence.chain)


FORGED = {
    "signed by another key": lambda v: v.evidence(key=ec.generate_private_key(ec.SECP384R1())),
    "measurement changed": lambda v: _changed(v.evidence(), 0x90),
    "report data changed": lambda v: _changed(v.evidence(), 0x50),
    "signature changed": lambda v: _changed(v.evidence(), 672),
}


@pytest.mark.parametrize("case", FORGED)
def test_report_that_the_chips_key_did_not_sign_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    evidence = FORGED[case](amd)
    with pytest.raises(EvidenceInvalidError, match="signature"):
        verify(amd, evidence)
    monkeypatch.setattr(snp, "_check_signature", lambda report, endorsement: None)
    assert verify(amd, evidence)


@pytest.mark.parametrize(("r", "s"), [(0, 0), (1, 0), (2**400, 5)], ids=["zeros", "zero", "oversized"])
def test_zero_and_oversized_numbers_are_no_signature(amd: Vendor, monkeypatch: pytest.MonkeyPatch, r: int, s: int) -> None:
    evidence = amd.evidence()
    raw = evidence.quote[:672] + (r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(512, b"\0")
    with pytest.raises(EvidenceInvalidError, match="signature"):
        verify(amd, Evidence(Tee.SNP, raw, evidence.chain))
    monkeypatch.setattr(snp, "_check_signature", lambda report, endorsement: None)
    assert verify(amd, Evidence(Tee.SNP, raw, evidence.chain))


def test_second_form_of_the_signature_does_not_make_new_evidence(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """(r, n - s) signs the same bytes: the evidence digest, which names a report, stays."""
    evidence = amd.evidence()
    order = int("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16)
    s = order - int.from_bytes(evidence.quote[672 + 72 : 672 + 144], "little")
    twin = Evidence(Tee.SNP, evidence.quote[: 672 + 72] + s.to_bytes(72, "little") + evidence.quote[672 + 144 :], evidence.chain)

    def digests() -> set[str]:
        return {verify(amd, one).claims.evidence_digest for one in (evidence, twin)}

    assert len(digests()) == 1
    # The weakened variant names a report by all of its bytes.
    whole = Report.parse
    monkeypatch.setattr(Report, "parse", lambda raw: _with_signed(whole(raw), raw))
    monkeypatch.setattr(snp, "_check_signature", lambda report, endorsement: None)
    assert len(digests()) == 2


def _with_signed(report: Report, raw: bytes) -> Report:
    object.__setattr__(report, "signed", raw)
    return report


# --- bytes that mean nothing known ----------------------------------------------------------------------------------------

Weak = tuple[str, Any] | None
"""A name in ``snp_report``, and the value that makes the check lax."""
UNKNOWN: list[tuple[dict[str, Any], str, Weak]] = [
    ({"version": 1}, "version 2 to 5", ("_VERSIONS", range(9))),
    ({"version": 6}, "version 2 to 5", ("_VERSIONS", range(9))),
    ({"policy": 0x10000}, "guest policy", ("_POLICY_ALWAYS_ONE", 1 << 16)),
    ({"policy": 0x30000 | 1 << 40}, "guest policy", ("_POLICY_BITS", (1 << 64) - 1)),
    ({"flags": 7 << 2}, "not signed", ("_signing_key", lambda number: "vcek")),
    ({"flags": 2 << 2}, "not signed", ("_signing_key", lambda number: "vcek")),
    ({"patch": (0x34, b"\x02")}, "ECDSA", ("ECDSA_P384_SHA384", 2)),
    ({"patch": (0x18C, b"\x01")}, "reserved", ("_check_rest", lambda raw, version: None)),
    ({"patch": (0x200, b"\x01")}, "reserved", ("_check_rest", lambda raw, version: None)),
    ({"version": 2, "patch": (0x188, b"\x19")}, "reserved", ("_check_rest", lambda raw, version: None)),
    ({"version": 3, "patch": (0x1F8, bytes(range(1, 17)))}, "reserved", ("_VECTORS_FROM", 3)),
    ({"flags": 1 << 5}, "reserved", None),
    ({"patch": (0x4C, b"\x01")}, "reserved", None),
    ({"patch": (0x1EB, b"\x01")}, "reserved", None),
    ({"patch": (0x183, b"\x01")}, "reserved bytes of a TCB", None),
]
"""Without a lax value: the comparison stands in ``Report.parse`` or ``tcb_parts`` itself, and what mutation testing removes."""


@pytest.mark.parametrize(("changes", "says", "weak"), UNKNOWN, ids=[str(changes) for changes, *_ in UNKNOWN])
def test_report_with_anything_unknown_in_it_is_refused(
    amd: Vendor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str, weak: Weak
) -> None:
    evidence = amd.evidence(**changes)
    with pytest.raises(EvidenceInvalidError, match=says):
        verify(amd, evidence)
    if weak is not None:
        monkeypatch.setattr(snp_report, *weak)
        assert verify(amd, evidence)


def test_mitigation_vectors_are_of_version_5(amd: Vendor) -> None:
    assert verify(amd, amd.evidence(version=5, patch=(0x1F8, bytes(range(1, 17)))))


@pytest.mark.parametrize("tail", [b"", b"\0", b"\x01" * 100], ids=len)
def test_bytes_cut_off_or_added_are_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch, tail: bytes) -> None:
    raw = amd.report()
    evidence = Evidence(Tee.SNP, raw + tail if tail else raw[:-1], amd.leaf())
    with pytest.raises(EvidenceInvalidError, match="1184"):
        verify(amd, evidence)
    parse = Report.parse
    monkeypatch.setattr(Report, "parse", lambda raw: parse(raw[:1184].ljust(1184, b"\0")))
    assert verify(amd, evidence)


def test_report_is_no_evidence_of_intel(amd: Vendor) -> None:
    """The other way round is in ``test_forged_evidence``.  No control: the readers of the two have nothing in common."""
    verifier = Verifier(TrustRoots(amd=amd.roots), FixedCollateral(amd.collateral()))
    for tee in (Tee.SGX, Tee.TDX):
        with pytest.raises(EvidenceInvalidError):
            verifier.verify(Evidence(tee, amd.report()), amd.now)
