"""Gets evidence from the TEE that this process runs in.  Knows nothing of what evidence is good for."""

from __future__ import annotations

from typing import Protocol

from confide.attest.configfs import ConfigfsAttester
from confide.attest.detect import Machine, Source, detect
from confide.attest.evidence import Evidence
from confide.attest.gramine import GramineAttester
from confide.attest.occlum import OcclumAttester
from confide.errors import AttesterError
from confide.ids import ReportData, Tee


class Attester(Protocol):
    """Makes evidence over report data."""

    @property
    def tee(self) -> Tee:
        """The kind of TEE that the evidence is of."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether the evidence protects nothing."""
        ...

    def quote(self, report_data: ReportData) -> Evidence:
        """Fresh evidence over exactly these 64 bytes.  Raises ``AttesterError`` if there is none to be had."""
        ...


def find_attester(machine: Machine | None = None, tpm: Attester | None = None) -> Attester:
    """The attester of the TEE that this process runs in, else ``tpm``.  Never a simulated one.

    ``tpm``: what the machine's owner configured (``tpm_device.configured``).  A TPM is no TEE: none is taken because it is there, and none
    in the place of a TEE.

    Raises:
        AttesterError: this process runs in no TEE that is known here; ``facts`` hold the reason for each.
    """
    machine = machine or Machine()
    found = detect(machine)
    for source in found:
        if source.available:
            return _attester(source, machine)
    if tpm is not None:
        return tpm
    raise AttesterError("this process does not run in a TEE", **{source.name: source.found for source in found})


def _attester(source: Source, machine: Machine) -> Attester:
    if source.name == "gramine":
        return GramineAttester(machine.gramine, machine.files)
    if source.name == "occlum":
        return OcclumAttester(machine.occlum, machine.files, machine.ioctl)
    return ConfigfsAttester(machine.configfs, machine.files)
