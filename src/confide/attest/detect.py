"""Which TEE can this process get evidence from, and if none, why not?  Asks for no quote and changes nothing on the machine.

(An entry is made and removed in configfs: the kernel tells its driver's name in no other way.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confide.attest.configfs import ConfigfsAttester
from confide.attest.device_files import Files
from confide.attest.gramine import GramineAttester
from confide.attest.occlum import Ioctl, OcclumAttester
from confide.errors import AttesterError
from confide.ids import Tee

if TYPE_CHECKING:
    from confide.canonical import Json

_CONFIGFS_SINCE: Final = (6, 7)
"""The first Linux with configfs-tsm reports."""
_FLAGS: Final = {Tee.SGX: "sgx", Tee.TDX: "tdx_guest", Tee.SNP: "sev_snp"}
"""Words of /proc/cpuinfo.  ``sev_snp`` is there on hosts too: it says what the processor can do, not where this process runs."""
_MODULES: Final = {Tee.TDX: "tdx-guest", Tee.SNP: "sev-guest"}
_DEVICES: Final = {Tee.TDX: ("tdx_guest",), Tee.SNP: ("sev-guest",), Tee.SGX: ("sgx_enclave", "sgx/enclave")}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a machine's devices, kernel and processor are looked for: here, or below another folder in tests."""

    root: Path = Path("/")
    release: str = field(default_factory=platform.release)
    files: Files = field(default=os, repr=False)
    ioctl: Ioctl = field(default=fcntl.ioctl, repr=False)

    @property
    def gramine(self) -> Path:
        """Gramine's pseudo-files."""
        return self.root / "dev/attestation"

    @property
    def occlum(self) -> Path:
        """Occlum's device."""
        return self.root / "dev/sgx"

    @property
    def configfs(self) -> Path:
        """The kernel's report interface."""
        return self.root / "sys/kernel/config/tsm/report"

    def cpu_flags(self) -> frozenset[str]:
        """The processor's features as the kernel tells them, none if it does not."""
        try:
            text = (self.root / "proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        except OSError:
            return frozenset()
        found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
        return frozenset(found[1].split()) if found else frozenset()


@dataclass(frozen=True, slots=True)
class Source:
    """One way to evidence: whether it is there, what was found, and if it is not there, what would help."""

    name: str
    tee: Tee
    available: bool
    found: str
    hint: str = ""

    def to_json(self) -> Json:
        """The source as JSON."""
        return {"name": self.name, "tee": self.tee.value, "available": self.available, "found": self.found, "hint": self.hint}


def detect(machine: Machine) -> tuple[Source, ...]:
    """Each source in the order in which ``find_attester`` takes them: the enclave before the machine around it."""
    return _gramine(machine), _occlum(machine), _configfs(machine, Tee.TDX), _configfs(machine, Tee.SNP)


def devices(machine: Machine) -> tuple[Source, ...]:
    """What processor and kernel show of each TEE.  Not a source of evidence: it tells where the trouble is."""
    return *(_device(machine, tee) for tee in (Tee.SGX, Tee.TDX, Tee.SNP)), _tpm(machine)


def _gramine(machine: Machine) -> Source:
    if not machine.gramine.is_dir():
        hint = "run the node under gramine-sgx" if _has_device(machine, Tee.SGX) else _no_device(machine, Tee.SGX)[1]
        return Source("gramine", Tee.SGX, available=False, found=f"no {machine.gramine}: this process is not under Gramine", hint=hint)
    try:
        GramineAttester(machine.gramine, machine.files)
    except AttesterError as error:
        return Source("gramine", Tee.SGX, available=False, found=_said(error), hint=error.hint or "")
    return Source("gramine", Tee.SGX, available=True, found="gives DCAP quotes")


def _occlum(machine: Machine) -> Source:
    if not machine.occlum.exists():
        return Source("occlum", Tee.SGX, available=False, found=f"no {machine.occlum}: this process is not under Occlum",
                      hint="run the node with `occlum run`")  # fmt: skip
    if machine.occlum.is_dir():
        return Source("occlum", Tee.SGX, available=False, found=f"{machine.occlum} is the SGX driver's folder, not Occlum's device",
                      hint="run the node with `occlum run`")  # fmt: skip
    try:
        OcclumAttester(machine.occlum, machine.files, machine.ioctl)
    except AttesterError as error:
        return Source("occlum", Tee.SGX, available=False, found=error.message, hint="build Occlum with DCAP")
    return Source("occlum", Tee.SGX, available=True, found="gives DCAP quotes")


def _configfs(machine: Machine, tee: Tee) -> Source:
    name = f"configfs-{tee.value}"
    found, hint = _configfs_missing(machine, tee)
    if not found:
        try:
            attester = ConfigfsAttester(machine.configfs, machine.files)
        except AttesterError as error:
            found, hint = _entry_refused(error, tee)
        else:
            if attester.tee is tee:
                return Source(name, tee, available=True, found="the kernel gives reports")
            found, hint = f"this is a guest of {attester.tee.value}", ""
    return Source(name, tee, available=False, found=found, hint=hint)


def _configfs_missing(machine: Machine, tee: Tee) -> tuple[str, str]:
    """Why the folder of the kernel's reports is not there, from the outside in; empty if it is there."""
    if machine.configfs.is_dir():
        return "", ""
    version = tuple(int(part) for part in re.findall(r"\d+", machine.release)[:2])
    if version < _CONFIGFS_SINCE:
        return f"Linux {machine.release} is older than 6.7, which first has configfs-tsm", "boot a newer kernel"
    if not _has_device(machine, tee):
        return _no_device(machine, tee)
    mounted = machine.configfs.parents[1]
    if not mounted.is_dir() or not any(mounted.iterdir()):
        return f"configfs is not mounted at {mounted}", f"mount -t configfs none {mounted}"
    return f"no {machine.configfs}: the module tsm is not loaded", f"modprobe {_MODULES[tee]}"


def _entry_refused(error: AttesterError, tee: Tee) -> tuple[str, str]:
    number = error.facts.get("errno")
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"no permission: {error.message}", "run as root, or let the node's user make folders there"
    # A report group without a driver behind it answers so (drivers/virt/coco).
    if number in {errno.ENXIO, errno.ENOTTY}:
        return f"no driver gives reports: {error.message}", f"modprobe {_MODULES[tee]}"
    return _said(error), ""


def _device(machine: Machine, tee: Tee) -> Source:
    flag = "with" if _FLAGS[tee] in machine.cpu_flags() else "without"
    paths = [machine.root / "dev" / name for name in _DEVICES[tee]]
    there = next((path for path in paths if path.exists()), None)
    if there is None:
        found, hint = _no_device(machine, tee)
        return Source(f"device-{tee.value}", tee, available=False, found=found, hint=hint)
    if not os.access(there, os.R_OK | os.W_OK):
        return Source(f"device-{tee.value}", tee, available=False, found=f"no permission to use {there}",
                      hint=f"add the node's user to the group that owns {there}")  # fmt: skip
    return Source(f"device-{tee.value}", tee, available=True, found=f"{there}, processor {flag} flag {_FLAGS[tee]}")


def _tpm(machine: Machine) -> Source:
    device = machine.root / "dev/tpmrm0"
    if not device.exists():
        old = (machine.root / "dev/tpm0").exists()
        found = f"no {device}, the resource manager of a TPM 2.0" + (", but a TPM of version 1.2 or a kernel without it" if old else "")
        return Source("tpm", Tee.TPM, available=False, found=found, hint="switch the TPM on in the firmware, or give the machine a vTPM")
    if not os.access(device, os.R_OK | os.W_OK):
        return Source("tpm", Tee.TPM, available=False, found=f"no permission to use {device}", hint="add the node's user to the group tss")
    if shutil.which("tpm2_quote") is None:
        return Source("tpm", Tee.TPM, available=False, found=f"{device}, but no tpm2_quote", hint="install tpm2-tools")
    return Source("tpm", Tee.TPM, available=True, found=f"{device}: says what was started, protects no memory in use")


def _has_device(machine: Machine, tee: Tee) -> bool:
    return any((machine.root / "dev" / name).exists() for name in _DEVICES[tee])


def _no_device(machine: Machine, tee: Tee) -> tuple[str, str]:
    path = machine.root / "dev" / _DEVICES[tee][0]
    if _FLAGS[tee] not in machine.cpu_flags():
        where = "switch SGX on in the firmware" if tee is Tee.SGX else f"start this machine as a guest of {tee.value}"
        return f"no {path}, and the processor shows no flag {_FLAGS[tee]}", where
    load = f"modprobe {_MODULES[tee]}" if tee in _MODULES else "boot a kernel with CONFIG_X86_SGX, and pass the device into the container"
    return f"the processor has {_FLAGS[tee]}, but there is no {path}: its module is not loaded", load


def _said(error: AttesterError) -> str:
    got = error.facts.get("got")
    return f"{error.message} ({got})" if got else error.message
