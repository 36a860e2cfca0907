"""Where the fields of quotes, reports and enclave signatures lie, and what they mean to people.  Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from confide.attest.quote import (
    SGX_DEBUG,
    TD_DEBUG,
    TD_MIGRATABLE,
    TD_SEPT_VE_DISABLE,
)
from confide.attest.snp_report import POLICY_DEBUG, POLICY_MIGRATE_MA

if TYPE_CHECKING:
    from confide.canonical import Json

Meaning = str | Callable[[bytes], str]
Layout = Sequence[tuple[str, int, Meaning]]


@dataclass(frozen=True, slots=True)
class Field:
    """One field.  ``offset`` is None inside a certificate, whose fields have no fixed place."""

    name: str
    offset: int | None
    value: str
    meaning: str

    def to_json(self) -> Json:
        """The field as JSON."""
        return {"name": self.name, "offset": self.offset, "value": self.value, "meaning": self.meaning}


def walk(data: bytes, at: int, layout: Layout, *, base: int = 0) -> Iterator[Field]:
    """The fields of ``data`` from byte ``at`` on; offsets are told from ``base`` on.  Reserved bytes show only if they are set."""
    for name, size, meaning in layout:
        value = data[at : at + size]
        said = meaning if isinstance(meaning, str) else meaning(value)
        if name != "reserved" or any(value):
            yield Field(name, base + at, value.hex(), said)
        at += size


# --- Intel ------------------------------------------------------------------------------------------------------------


def as_number(data: bytes) -> str:
    """A little-endian number in decimal."""
    return str(int.from_bytes(data, "little"))


def _flags(*bits: tuple[int, str]) -> Callable[[bytes], str]:
    def say(data: bytes) -> str:
        number = int.from_bytes(data, "little")
        return ", ".join(text for bit, text in bits if number & bit) or "nothing set that matters here"

    return say


QUOTE_HEADER: Final[Layout] = (
    ("version", 2, as_number),
    ("attestation key type", 2, "2: ECDSA over SHA-256 with P-256"),
    ("TEE type", 4, lambda data: "TDX" if data[0] == 0x81 else "SGX"),
    ("QE SVN", 2, as_number),
    ("PCE SVN", 2, as_number),
    ("QE vendor", 16, "Intel's, or the quote would not parse"),
    ("user data", 20, "of the quoting enclave; its first 16 bytes tell platforms apart"),
)
_SGX_FLAGS = _flags(
    (1, "initialised"), (SGX_DEBUG, "DEBUG: protects nothing"), (4, "64 bit"), (0x10, "provisioning key"), (0x20, "EINIT token key"),
)  # fmt: skip
SGX_BODY: Final[Layout] = (
    ("CPUSVN", 16, "security version of processor and microcode"),
    ("MISCSELECT", 4, "what an exception tells the enclave"),
    ("reserved", 28, ""),
    ("ATTRIBUTES", 16, _SGX_FLAGS),
    ("MRENCLAVE", 32, "the measurement: the enclave's code and initial data"),
    ("reserved", 32, ""),
    ("MRSIGNER", 32, "SHA-256 of the key that signed the enclave"),
    ("reserved", 96, ""),
    ("ISVPRODID", 2, as_number),
    ("ISVSVN", 2, as_number),
    ("reserved", 60, ""),
    ("REPORTDATA", 64, "what the enclave said about itself: a session's binding"),
)
_TD_FLAGS = _flags(
    (TD_DEBUG, "DEBUG: protects nothing"), (TD_SEPT_VE_DISABLE, "SEPT_VE_DISABLE"), (TD_MIGRATABLE, "migratable"), (1 << 30, "PKS"),
    (1 << 31, "key locker"), (1 << 63, "PERFMON"),
)  # fmt: skip
TD_BODY: Final[Layout] = (
    ("TEE_TCB_SVN", 16, "security versions: TDX module minor, major, microcode"),
    ("MRSEAM", 48, "the TDX module"),
    ("MRSIGNERSEAM", 48, "who signed the TDX module; zeros: Intel"),
    ("SEAMATTRIBUTES", 8, "zeros for a production module"),
    ("TDATTRIBUTES", 8, _TD_FLAGS),
    ("XFAM", 8, "processor features that the TD may use"),
    ("MRTD", 48, "the measurement: the TD's initial memory, its firmware"),
    ("MRCONFIGID", 48, "chosen by who started the TD"),
    ("MROWNER", 48, "chosen by who started the TD"),
    ("MROWNERCONFIG", 48, "chosen by who started the TD"),
    ("RTMR0", 48, "firmware's configuration and devices"),
    ("RTMR1", 48, "boot loader and kernel"),
    ("RTMR2", 48, "kernel's command line and initial file system"),
    ("RTMR3", 48, "left to software"),
    ("REPORTDATA", 64, "what the TD said about itself: a session's binding"),
)
TD15_BODY: Final[Layout] = (
    ("TEE_TCB_SVN_2", 16, "security versions now; TEE_TCB_SVN has those of the launch"),
    ("MRSERVICETD", 48, "service TD bound to this one; zeros: none"),
)


SIGSTRUCT: Final[Layout] = (
    ("HEADER", 16, ""),
    ("VENDOR", 4, lambda data: "Intel" if any(data) else "not Intel"),
    ("DATE", 4, "of the signature, as its signer wrote it"),
    ("HEADER2", 16, ""),
    ("SWDEFINED", 4, ""),
    ("reserved", 84, ""),
    ("MODULUS", 384, "of the signer's key; its SHA-256 is MRSIGNER"),
    ("EXPONENT", 4, as_number),
    ("SIGNATURE", 384, "over what is before the modulus, and from MISCSELECT to ISVSVN"),
    ("MISCSELECT", 4, "what an exception tells the enclave"),
    ("MISCMASK", 4, "bits of MISCSELECT that have to be so"),
    ("CET_ATTRIBUTES", 1, ""),
    ("CET_ATTRIBUTES_MASK", 1, ""),
    ("reserved", 2, ""),
    ("ISVFAMILYID", 16, ""),
    ("ATTRIBUTES", 16, _SGX_FLAGS),
    ("ATTRIBUTEMASK", 16, "bits of ATTRIBUTES that have to be so"),
    ("ENCLAVEHASH", 32, "the measurement: MRENCLAVE"),
    ("reserved", 16, ""),
    ("ISVEXTPRODID", 16, ""),
    ("ISVPRODID", 2, as_number),
    ("ISVSVN", 2, as_number),
    ("reserved", 12, ""),
    ("Q1", 384, "speeds up the check of the signature"),
    ("Q2", 384, "speeds up the check of the signature"),
)


# --- AMD --------------------------------------------------------------------------------------------------------------


def snp_report(version: int) -> Layout:
    """An SEV-SNP report of that version."""
    policy = _flags(
        (1 << 16, "SMT"), (POLICY_MIGRATE_MA, "migration agent"), (POLICY_DEBUG, "DEBUG: protects nothing"), (1 << 20, "single socket"),
        (1 << 21, "CXL"), (1 << 22, "AES-256-XTS"), (1 << 23, "RAPL off"), (1 << 24, "ciphertext hiding"),
        (1 << 25, "no page swapping"),
    )  # fmt: skip
    platform = _flags(
        (1, "SMT"), (2, "TSME"), (4, "ECC"), (8, "RAPL off"), (16, "ciphertext hiding"), (32, "alias check"), (128, "TIO"),
    )  # fmt: skip
    processor: Layout = (("CPUID family, model, stepping", 3, ""), ("reserved", 21, "")) if version > 2 else (("reserved", 24, ""),)
    vectors: Layout = (("LAUNCH_MIT_VECTOR", 8, ""), ("CURRENT_MIT_VECTOR", 8, ""), ("reserved", 152, ""))
    tail: Layout = vectors if version > 4 else (("reserved", 168, ""),)
    return (
        ("VERSION", 4, as_number),
        ("GUEST_SVN", 4, as_number),
        ("POLICY", 8, policy),
        ("FAMILY_ID", 16, "chosen by the guest's owner"),
        ("IMAGE_ID", 16, "chosen by the guest's owner"),
        ("VMPL", 4, as_number),
        ("SIGNATURE_ALGO", 4, "1: ECDSA P-384 with SHA-384"),
        ("CURRENT_TCB", 8, "firmware now"),
        ("PLATFORM_INFO", 8, platform),
        ("SIGNING_KEY and flags", 4, lambda data: {0: "VCEK", 1: "VLEK", 7: "none"}.get(data[0] >> 2 & 7, "unknown")),
        ("reserved", 4, ""),
        ("REPORT_DATA", 64, "what the guest said about itself: a session's binding"),
        ("MEASUREMENT", 48, "the measurement: the guest's initial memory and state"),
        ("HOST_DATA", 32, "chosen by the host at launch"),
        ("ID_KEY_DIGEST", 48, "key that signed the guest's identity block"),
        ("AUTHOR_KEY_DIGEST", 48, "key that certified the identity key"),
        ("REPORT_ID", 32, "this guest, until it ends"),
        ("REPORT_ID_MA", 32, "its migration agent; all ones: none"),
        ("REPORTED_TCB", 8, "firmware that the signing key is for"),
        *processor,
        ("CHIP_ID", 64, "zeros: masked"),
        ("COMMITTED_TCB", 8, "firmware below which the platform cannot go back"),
        ("CURRENT build, minor, major", 4, ""),
        ("COMMITTED build, minor, major", 4, ""),
        ("LAUNCH_TCB", 8, "firmware when the guest was started"),
        *tail,
        ("SIGNATURE r, s", 144, "by the VCEK or VLEK, little-endian"),
        ("reserved", 368, ""),
    )
