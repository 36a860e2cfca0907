"""Every field of an SEV-SNP report is read from where AMD publication 56860 ("ATTESTATION_REPORT") has it, and what is reserved is zero."""

from __future__ import annotations

import struct
from datetime import timedelta
from typing import Any

import pytest
from support.amd import NOW, Vendor

from confide.attest import snp
from confide.attest.amd_certs import Endorsement
from confide.attest.collateral_check import check_current
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.roots import TrustRoots
from confide.attest.snp_report import Report, encode_signature, tcb_parts
from confide.attest.verify import Verifier
from confide.errors import CollateralError, EvidenceInvalidError, ParseError

SECOND = timedelta(seconds=1)


def _number(at: int, length: int, value: int) -> tuple[int, bytes]:
    return at, value.to_bytes(length, "little")


FIELDS: dict[str, tuple[int, bytes]] = {
    "version": _number(0x00, 4, 5),
    "guest_svn": _number(0x04, 4, 0x01020304),
    "policy": _number(0x08, 8, 0x3_0000),
    "family_id": (0x10, b"f" * 16),
    "image_id": (0x20, b"i" * 16),
    "vmpl": _number(0x30, 4, 3),
    "algorithm": _number(0x34, 4, 1),
    "current_tcb": _number(0x38, 8, 0x0801000000000201),
    "platform_info": _number(0x40, 8, 0x2A),
    "flags": _number(0x48, 4, 0),
    "report_data": (0x50, b"d" * 64),
    "measurement": (0x90, b"m" * 48),
    "host_data": (0xC0, b"h" * 32),
    "id_key_digest": (0xE0, b"k" * 48),
    "author_key_digest": (0x110, b"a" * 48),
    "report_id": (0x140, b"r" * 32),
    "report_id_ma": (0x160, b"M" * 32),
    "reported_tcb": _number(0x180, 8, 0x0801000000000202),
    "family": _number(0x188, 1, 0x19),
    "model": _number(0x189, 1, 0x11),
    "stepping": _number(0x18A, 1, 0x77),
    "chip_id": (0x1A0, b"c" * 64),
    "committed_tcb": _number(0x1E0, 8, 0x0801000000000203),
    "builds": (0x1E8, bytes([1, 55, 1, 0, 2, 56, 2, 0])),
    "launch_tcb": _number(0x1F0, 8, 0x0801000000000204),
    "vectors": (0x1F8, b"v" * 16),
}
NUMBERS = {"version", "guest_svn", "policy", "vmpl", "platform_info", "family", "model"}
NUMBERS |= {"current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"}
NOT_SHOWN = {"algorithm", "flags", "stepping", "builds", "vectors"}


def _raw(**changes: bytes) -> bytes:
    raw = bytearray(672)
    for name, (at, value) in FIELDS.items():
        given = changes.get(name, value)
        raw[at : at + len(given)] = given
    return bytes(raw) + encode_signature(7, 9)


def _patched(raw: bytes, at: int, value: bytes) -> bytes:
    return raw[:at] + value + raw[at + len(value) :]


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - NOT_SHOWN))
def test_field_is_read_from_its_place(name: str) -> None:
    value = FIELDS[name][1]
    assert getattr(Report.parse(_raw()), name) == (int.from_bytes(value, "little") if name in NUMBERS else value)


def test_signature_is_over_the_first_672_bytes() -> None:
    report = Report.parse(_raw())
    assert (report.signature, report.signed) == ((7, 9), _raw()[:672])
    large = (1 << 383, (1 << 384) - 1)
    assert Report.parse(_raw()[:672] + encode_signature(*large)).signature == large


@pytest.mark.parametrize(
    ("flags", "author", "masked", "key"),
    [(0, False, False, "vcek"), (1, True, False, "vcek"), (2, False, True, "vcek"), (4, False, False, "vlek"), (7, True, True, "vlek")],
)
def test_flags_are_read(flags: int, author: bool, masked: bool, key: str) -> None:
    report = Report.parse(_raw(flags=struct.pack("<I", flags)))
    assert (report.author_key, report.masked_chip, report.signing_key) == (author, masked, key)


@pytest.mark.parametrize("number", [2, 3, 6, 7])
def test_signing_key_of_an_unknown_kind_is_refused(number: int) -> None:
    with pytest.raises(ParseError, match="not signed, or by a kind"):
        Report.parse(_raw(flags=struct.pack("<I", number << 2)))


@pytest.mark.parametrize("bit", range(64))
def test_policy_has_its_one_bit_and_no_unknown_ones(bit: int) -> None:
    policy = 0x2_0000 ^ 1 << bit
    raw = _raw(policy=policy.to_bytes(8, "little"))
    if bit == 17 or bit > 25:
        with pytest.raises(ParseError, match="guest policy"):
            Report.parse(raw)
        return
    report = Report.parse(raw)
    assert (report.policy, report.debug, report.migratable) == (policy, bit == 19, bit == 18)


RESERVED = [
    *(0x48 + at for at in (1, 2, 3, 4, 7)),
    *(0x1EB, 0x1EF),
    *(0x18B, 0x190, 0x19F),
    *(0x208, 0x250, 0x29F),
    *(0x2A0 + at for at in (144, 200, 511)),
]


@pytest.mark.parametrize("at", RESERVED, ids=hex)
def test_reserved_byte_is_zero(at: int) -> None:
    Report.parse(_raw())
    with pytest.raises(ParseError):
        Report.parse(_patched(_raw(), at, b"\x20"))


def test_flag_bits_above_the_signing_key_are_reserved() -> None:
    with pytest.raises(ParseError, match="reserved"):
        Report.parse(_raw(flags=struct.pack("<I", 1 << 5)))


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5, 6])
def test_fields_come_with_their_version(version: int) -> None:
    """The processor's name came with version 3, the mitigation vectors with version 5; before, the bytes were reserved."""
    bare = {"stepping": b"\0", "family": b"\0", "model": b"\0", "vectors": bytes(16)}
    named = {**bare, "family": b"\x19", "model": b"\x11", "stepping": b"\x01"}
    number = version.to_bytes(4, "little")
    if version in {0, 1, 6}:
        with pytest.raises(ParseError, match="version"):
            Report.parse(_raw(version=number, **bare))
        return
    plain = Report.parse(_raw(version=number, **bare))
    assert (plain.family, plain.model) == ((None, None) if version < 3 else (0, 0))
    for changes, since in ((named, 3), ({**bare, "vectors": b"\1" + bytes(15)}, 5), ({**bare, "vectors": bytes(15) + b"\1"}, 5)):
        raw = _raw(version=number, **changes)
        if version >= since:
            Report.parse(raw)
            continue
        with pytest.raises(ParseError, match="reserved"):
            Report.parse(raw)


def test_another_algorithm_or_length_is_refused() -> None:
    with pytest.raises(ParseError, match="P-384"):
        Report.parse(_raw(algorithm=b"\2\0\0\0"))
    for raw in (_raw()[:-1], _raw() + b"\0", b""):
        with pytest.raises(ParseError, match="1184"):
            Report.parse(raw)


def test_signature_and_what_it_is_over_are_not_in_a_repr() -> None:
    shown = repr(Report.parse(_raw()))
    assert "signature=" not in shown
    assert "signed=" not in shown


def test_certificate_of_a_chips_key_is_not_in_a_repr() -> None:
    endorsement = Endorsement.parse(Vendor("Genoa").leaf())
    assert repr(endorsement.certificate) not in repr(endorsement)


def test_components_of_a_tcb_version_are_in_their_products_order() -> None:
    version = int.from_bytes(bytes([1, 2, 0, 0, 0, 0, 7, 8]), "little")
    assert tcb_parts(version, turin=False) == {"bootloader": 1, "tee": 2, "snp": 7, "microcode": 8}
    version = int.from_bytes(bytes([1, 2, 3, 4, 0, 0, 0, 8]), "little")
    assert tcb_parts(version, turin=True) == {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 8}
    for turin, reserved in ((False, range(2, 6)), (True, range(4, 7))):
        for at in reserved:
            with pytest.raises(ParseError, match="reserved"):
                tcb_parts(1 << 8 * at, turin=turin)


# --- times and memory -------------------------------------------------------------------------------------------------


def test_collateral_counts_from_the_second_of_its_issue_until_the_one_in_which_it_goes_stale() -> None:
    collateral = Vendor("Genoa").collateral()
    stale = collateral.epoch.stale_from
    for now in (collateral.issued, stale - SECOND):
        check_current(collateral, now)
    for now, match in ((collateral.issued - SECOND, "not valid yet"), (stale, "stale")):
        with pytest.raises(CollateralError, match=match):
            check_current(collateral, now)


def test_certificate_counts_from_its_first_second_to_its_last() -> None:
    vendor = Vendor("Genoa")
    begin, end = NOW - timedelta(minutes=2), NOW + timedelta(minutes=2)
    evidence = vendor.evidence(leaf=vendor.leaf(begin=begin, end=end))
    verifier = Verifier(TrustRoots(amd=vendor.roots), FixedCollateral(vendor.collateral()))
    for now in (begin, NOW, end):
        assert verifier.verify(evidence, now).claims.platform == "Genoa"
    for now in (begin - SECOND, end + SECOND):
        with pytest.raises(EvidenceInvalidError, match="not valid at this time"):
            verifier.verify(evidence, now)


def test_chips_that_are_remembered_are_few_and_genuine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snp, "_MAX_KNOWN", 2)
    vendor = Vendor("Genoa")
    verifier = Verifier(TrustRoots(amd=vendor.roots), FixedCollateral(vendor.collateral()))
    tables: Any = verifier._snp
    for _ in range(5):
        verifier.verify(vendor.evidence(), NOW)  # the same chip, with a certificate issued anew
        assert 0 < len(tables._issued) <= 2
        assert 0 < len(tables._endorsements) <= 2
        assert len(tables._sets) == 1
    before = dict(tables._endorsements)
    with pytest.raises(EvidenceInvalidError, match="certified by its issuer"):
        verifier.verify(vendor.evidence(leaf=vendor.leaf(signed_by="nobody")), NOW)
    assert tables._endorsements == before


@pytest.mark.parametrize(("others", "left"), [(999, 1000), (1000, 1)])
def test_a_thousand_chips_are_remembered_and_the_next_begins_anew(others: int, left: int) -> None:
    vendor = Vendor("Genoa")
    verifier = Verifier(TrustRoots(amd=vendor.roots), FixedCollateral(vendor.collateral()))
    tables: Any = verifier._snp
    tables._issued.update(("another set", number) for number in range(others))
    verifier.verify(vendor.evidence(), NOW)
    assert len(tables._issued) == left
