"""The launch digest of an SEV-SNP guest, from the firmware and whatever else is measured before its first instruction.

Rules: AMD publication 56860, SEV Secure Nested Paging Firmware ABI Specification, SNP_LAUNCH_UPDATE ("PAGE_INFO").  The chain of pages
and the processors' first state (VMSA), which is what the host's software puts there, are ``sev-snp-measure``'s, the one package of the
extra ``measure``; it takes what it is given, so everything is checked here first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from confide.attest.launch.files import read_capped
from confide.attest.launch.firmware import MAX_FIRMWARE_BYTES, PAGE, SEV_ES_RESET_BLOCK, SEV_HASH_TABLE, SEV_KERNEL_HASHES, Firmware
from confide.attest.launch.values import SnpValues
from confide.errors import ExtraMissingError, ParseError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

MAX_VCPUS = 4096
"""What KVM allows."""
SNP_ACTIVE = 1
"""``SEV_FEATURES`` of a guest without further ones (AMD64 manual, volume 2, "SEV_FEATURES"): bit 0, SNP is on."""
HASH_TABLE_BYTES = 176
"""QEMU's ``PaddedSevHashTable``: three hashes with their GUIDs under one more, padded to 16 bytes."""


class Host(StrEnum):
    """Whose software starts the guest: each gives the processors another first state."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True)
class Launch:
    """What a guest is started from.

    ``vcpu_type`` is QEMU's name of the processor model; with ``kernel`` the guest boots directly, and ``initrd`` and ``append`` (its
    command line) are measured too.
    """

    firmware: Path
    vcpus: int
    vcpu_type: str
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    features: int = SNP_ACTIVE
    host: Host = Host.QEMU


def launch_digest(launch: Launch) -> SnpValues:
    """What reports of the guest will say.

    Raises:
        UsageError: the request means nothing, or a file cannot be read.
        ExtraMissingError: the extra ``measure`` is not installed.
        ParseError: the firmware is not made for this.
    """
    try:
        from sevsnpmeasure import guest, vcpu_types  # noqa: PLC0415 - an extra
        from sevsnpmeasure.vmm_types import VMMType  # noqa: PLC0415
    except ImportError as cause:
        raise ExtraMissingError("sev-snp-measure is not installed", hint="pip install 'confide[measure]'") from cause
    _check(launch)
    signature = vcpu_types.CPU_SIGS.get(launch.vcpu_type)
    if signature is None:
        known = ", ".join(vcpu_types.CPU_SIGS)
        raise UsageError(f"{launch.vcpu_type!r} is no processor model whose signature is known", hint=f"one of {known}")
    _check_firmware(launch)
    vmm = {Host.QEMU: VMMType.QEMU, Host.EC2: VMMType.ec2, Host.GCE: VMMType.gce}[launch.host]
    files = [str(path) if path is not None else "" for path in (launch.firmware, launch.kernel, launch.initrd)]
    try:
        return SnpValues(guest.snp_calc_launch_digest(launch.vcpus, signature, *files, launch.append or "", launch.features, "", vmm))
    except OSError as cause:
        raise UsageError(f"cannot read {cause.filename}: {cause.strerror}", path=cause.filename) from cause


def _check(launch: Launch) -> None:
    if not 1 <= launch.vcpus <= MAX_VCPUS:
        raise UsageError(f"a guest has 1 to {MAX_VCPUS} processors", got=launch.vcpus)
    if not launch.features & SNP_ACTIVE or launch.features >> 64:
        raise UsageError("SEV features without bit 0 are not those of an SEV-SNP guest", got=launch.features)
    if launch.kernel is None and (launch.initrd is not None or launch.append is not None):
        raise UsageError("an initrd and a command line are measured with a kernel only", hint="name the kernel too")
    if launch.append is not None and "\0" in launch.append:
        raise UsageError("a kernel's command line ends at its first zero byte")


def _check_firmware(launch: Launch) -> None:
    firmware = Firmware.parse(read_capped(launch.firmware, MAX_FIRMWARE_BYTES))
    sections = firmware.sev_sections()
    block = firmware.table.get(SEV_ES_RESET_BLOCK)
    if block is None or len(block) != 4:
        raise ParseError("the firmware does not say where further processors start: it is not made for SEV-SNP")
    if launch.kernel is None:
        return
    pages = [section.address for section in sections if section.kind == SEV_KERNEL_HASHES]
    if not pages:
        raise ParseError(
            "the firmware does not measure a kernel that the host gives it",
            hint="only images built for that do (OvmfPkg/AmdSev); with others the guest's disk decides what boots",
        )
    entry = firmware.table.get(SEV_HASH_TABLE, b"")
    place = int.from_bytes(entry[:4], "little")
    if len(entry) != 8 or not any(page <= place <= page + PAGE - HASH_TABLE_BYTES for page in pages):
        raise ParseError("the firmware does not say where in that page the hashes of kernel, initrd and command line go", got=place)
