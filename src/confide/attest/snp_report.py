"""AMD SEV-SNP attestation reports: bytes to frozen records and back, no IO and no trust.

Layout: AMD publication 56860, SEV Secure Nested Paging Firmware ABI Specification, "ATTESTATION_REPORT" (versions 2 to 5).  Integers
are little-endian.  What is parsed here is only *claimed*: ``snp`` checks it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Literal, Self

from confide.errors import ParseError

REPORT_BYTES = 1184
SIGNED_BYTES = 672
"""What the signature is over: everything before it."""
ECDSA_P384_SHA384 = 1
_SCALAR_BYTES = 72
"""Room for r and for s in a signature, little-endian, padded with zeros; then reserved bytes."""
_VERSIONS = (2, 3, 4, 5)
"""Firmware 1.55 of Milan makes version 4 in the field, with version 3's layout; what it might add is refused as a reserved field in use."""
_FAMILY_FROM = 3
"""The first version that names the processor's family, model and stepping."""
_VECTORS_FROM = 5
"""The first version with the mitigation vectors."""

POLICY_MIGRATE_MA = 1 << 18
POLICY_DEBUG = 1 << 19
_POLICY_ALWAYS_ONE = 1 << 17
_POLICY_BITS = (1 << 26) - 1

SigningKey = Literal["vcek", "vlek"]
_SIGNING_KEYS: dict[int, SigningKey] = {0: "vcek", 1: "vlek"}
_HEAD = struct.Struct("<IIQ16s16sIIQQII64s48s32s48s48s32s32sQ")
_TAIL = struct.Struct("<64sQ4B4BQ")
_CPUID_AT, _CHIP_AT, _VECTORS_AT = 0x188, 0x1A0, 0x1F8


@dataclass(frozen=True, slots=True)
class Report:
    """One report.  ``signed`` are the bytes that the signature covers; TCB versions are kept as numbers, see :func:`tcb_parts`.

    ``family`` and ``model`` are CPUID's (combined), ``None`` before version 3.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: int
    platform_info: int
    author_key: bool
    masked_chip: bool
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: int
    family: int | None
    model: int | None
    chip_id: bytes
    committed_tcb: int
    launch_tcb: int
    signature: tuple[int, int] = field(repr=False)
    signed: bytes = field(repr=False)

    @property
    def debug(self) -> bool:
        """Whether the guest's policy lets the host read and change its memory."""
        return bool(self.policy & POLICY_DEBUG)

    @property
    def migratable(self) -> bool:
        """Whether the guest's policy lets a migration agent take its keys elsewhere."""
        return bool(self.policy & POLICY_MIGRATE_MA)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read one report, to its last byte; reserved fields have to be zero.

        Raises:
            ParseError: it is not exactly one report of a known version; ``facts`` hold the offset where it is known.
        """
        if len(raw) != REPORT_BYTES:
            raise ParseError("an SEV-SNP report has 1184 bytes", length=len(raw))
        values = _HEAD.unpack_from(raw)
        version, algorithm, flags, reserved = values[0], values[6], values[9], values[10]
        if version not in _VERSIONS:
            raise ParseError("not an SEV-SNP report of version 2 to 5", offset=0, version=version)
        if algorithm != ECDSA_P384_SHA384:
            raise ParseError("the report is not signed with ECDSA P-384", offset=0x34, got=algorithm)
        if flags >> 5 or reserved:
            raise ParseError("a reserved field of the report is in use", offset=0x48)
        policy = values[2]
        if not policy & _POLICY_ALWAYS_ONE or policy & ~_POLICY_BITS:
            raise ParseError("the report's guest policy is none", offset=0x08)
        chip_id, committed, *builds, launch = _TAIL.unpack_from(raw, _CHIP_AT)
        if builds[3] or builds[7]:
            raise ParseError("a reserved field of the report is in use", offset=0x1EB)
        family, model = _processor(raw, version)
        _check_rest(raw, version)
        return cls(
            version=version,
            guest_svn=values[1],
            policy=policy,
            family_id=values[3],
            image_id=values[4],
            vmpl=values[5],
            current_tcb=values[7],
            platform_info=values[8],
            author_key=bool(flags & 1),
            masked_chip=bool(flags & 2),
            signing_key=_signing_key(flags >> 2 & 7),
            report_data=values[11],
            measurement=values[12],
            host_data=values[13],
            id_key_digest=values[14],
            author_key_digest=values[15],
            report_id=values[16],
            report_id_ma=values[17],
            reported_tcb=values[18],
            family=family,
            model=model,
            chip_id=chip_id,
            committed_tcb=committed,
            launch_tcb=launch,
            signature=_signature(raw[SIGNED_BYTES:]),
            signed=raw[:SIGNED_BYTES],
        )


def encode_signature(r: int, s: int) -> bytes:
    """The 512 bytes of a report's signature field."""
    return (r.to_bytes(_SCALAR_BYTES, "little") + s.to_bytes(_SCALAR_BYTES, "little")).ljust(REPORT_BYTES - SIGNED_BYTES, b"\0")


def tcb_parts(version: int, *, turin: bool) -> dict[str, int]:
    """A TCB version by component: security version numbers that only grow.  Turin's layout differs (and has ``fmc``).

    Raises:
        ParseError: reserved bytes are in use.
    """
    raw = version.to_bytes(8, "little")
    if turin:
        names, reserved = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}, raw[4:7]
    else:
        names, reserved = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}, raw[2:6]
    if any(reserved):
        raise ParseError("reserved bytes of a TCB version are in use", got=raw.hex())
    return {name: raw[at] for name, at in names.items()}


def _signing_key(number: int) -> SigningKey:
    if number not in _SIGNING_KEYS:
        raise ParseError("the report is not signed, or by a kind of key that is not known", offset=0x48, got=number)
    return _SIGNING_KEYS[number]


def _processor(raw: bytes, version: int) -> tuple[int | None, int | None]:
    if version < _FAMILY_FROM:
        return None, None
    return raw[_CPUID_AT], raw[_CPUID_AT + 1]


def _check_rest(raw: bytes, version: int) -> None:
    """Reserved bytes behind the processor's name and behind the last field are zero."""
    named = 3 if version >= _FAMILY_FROM else 0
    vectors = 16 if version >= _VECTORS_FROM else 0
    for start, end in ((_CPUID_AT + named, _CHIP_AT), (_VECTORS_AT + vectors, SIGNED_BYTES)):
        if any(raw[start:end]):
            raise ParseError("a reserved field of the report is in use", offset=start)


def _signature(raw: bytes) -> tuple[int, int]:
    if any(raw[2 * _SCALAR_BYTES :]):
        raise ParseError("there are bytes after the report's signature", offset=SIGNED_BYTES + 2 * _SCALAR_BYTES)
    return int.from_bytes(raw[:_SCALAR_BYTES], "little"), int.from_bytes(raw[_SCALAR_BYTES : 2 * _SCALAR_BYTES], "little")
