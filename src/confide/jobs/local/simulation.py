"""The simulated TEE of this installation, as clients and nodes need it.

**Protects nothing**: anyone who can read its folder can forge evidence.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from confide.attest.collateral_sources import write_atomic
from confide.attest.collect import Attester
from confide.attest.endorsements import Endorsements
from confide.attest.evidence import Evidence
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.measure import Measurement, measure
from confide.attest.roots import TrustRoots
from confide.attest.tpm_trust import TpmTrust
from confide.attest.vendor_http import Http
from confide.attest.vendor_services import IntelService
from confide.attest.verify import Verifier
from confide.canonical import Json
from confide.errors import ConfigError, UsageError
from confide.ids import ReportData, Tee
from confide.jobs.local.backend import TAMPERED
from confide.node.spec import NodeSpec, Simulation

_log = logging.getLogger("confide.node")
_CACHE = "measured.json"
_PACKED_FORMAT = "confide-simulated-tee-v1"
_PACKED = {".json", ".key", ".mark", ".pem"}
_PLAIN = re.compile(r"(?:collateral/)?[a-z0-9-]+\.(?:json|key|mark|pem)")
FALLS_BEHIND = "falls-behind"
"""The fault of a platform that is good when the run begins and out of date some quotes later."""
_GOOD_QUOTES = 6
FAULTS = (TAMPERED, FALLS_BEHIND, *(fault.value for fault in Fault))
"""What a simulated node can be asked to show; each gets it refused."""


@dataclass(frozen=True, slots=True)
class SimulatedTee:
    """One installation: verifies its own (and Intel's) evidence, measures this process, and attests nodes.

    ``measured``: where digests of files are kept; in the installation by default.
    """

    installation: Installation
    roots: TrustRoots
    measured: Path | None = None

    @classmethod
    def at(cls, folder: Path) -> SimulatedTee:
        """Open the installation in ``folder``, or make it.

        Raises:
            ConfigError: the folder cannot be used.
        """
        installation = Installation.create(folder)
        return cls(installation, TrustRoots(simulated=installation.root_der))

    def packed(self) -> Json:
        """The installation as one value, for nodes on other machines: keys and all, because it protects nothing."""
        folder = self.installation.folder
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in _PACKED and path.name != _CACHE]
        return {"format": _PACKED_FORMAT, "files": {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in files}}

    @classmethod
    def unpacked(cls, packed: Json, folder: Path, *, measured: Path | None = None) -> SimulatedTee:
        """Put a packed installation into ``folder`` and open it.

        Raises:
            ConfigError: it is none, or the folder cannot be written.
        """
        files = packed.get("files")
        if packed.get("format") != _PACKED_FORMAT or not isinstance(files, dict):
            raise ConfigError("not a simulated TEE's installation", expected=_PACKED_FORMAT)
        for name, text in files.items():
            if not _PLAIN.fullmatch(name) or not isinstance(text, str):
                raise ConfigError("a simulated TEE's installation has a file that is none of it", file=name[:80])
            try:
                (folder / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomic(folder / name, text.encode(), mode=0o600)
            except OSError as cause:
                raise ConfigError(f"the simulated TEE cannot be unpacked: {cause.strerror}", path=str(folder / name)) from cause
        installation = Installation.open(folder)
        return cls(installation, TrustRoots(simulated=installation.root_der), measured)

    def verifier(self, pccs: str = "", ca_file: Path | None = None, *, tpm: Callable[[], TpmTrust] | None = None) -> Verifier:
        """A verifier that knows the simulated root beside Intel's, and the TPMs of ``tpm``.

        ``pccs``: where PCK certificates are asked for that a quote names and does not carry.  Without it nothing leaves this machine.

        Raises:
            UsageError: that is no address of a service.
        """
        chains = Endorsements(IntelService(Http(ca_file=ca_file), pccs)) if pccs else None
        return Verifier(self.roots, self.installation.collateral_source(), chains, tpm=tpm)

    def measurement(self) -> Measurement:
        """What this process runs; nodes started from the same installation have the same."""
        return measure(cache=self.measured or self.installation.folder / _CACHE)

    def reference_values(self) -> dict[str, list[str]]:
        """The ``measurements`` of a policy that accepts this installation's nodes, and no changed one."""
        measured = self.measurement()
        return {tee.value: [measured.of(tee)] for tee in (Tee.SGX, Tee.TDX)}

    def guest(self, tee: Tee) -> Attester:
        """The attester of a simulated guest: one that is no node of a run."""
        return InsecureAttester(self.installation, tee, self.measurement().of(tee))

    def attester(self, spec: NodeSpec, *, started_by: Sequence[str] = ()) -> Attester:
        """The attester of a simulated node, with the fault that its spec asks for.

        ``started_by``: what of how the node was started is not as it must be; it becomes part of the measurement.

        Raises:
            UsageError: there is no such fault.
        """
        asked = spec.simulation.fault if spec.simulation is not None else None
        if asked is not None and asked not in FAULTS:
            raise UsageError(f"there is no fault {asked[:40]!r}", hint=f"faults: {', '.join(FAULTS)}")
        measured = self.measurement().after(started_by).of(spec.tee)
        if asked == FALLS_BEHIND:
            good, behind = (InsecureAttester(self.installation, spec.tee, measured, fault=fault) for fault in (None, Fault.OUT_OF_DATE))
            return _FallingBehind(good, behind)
        fault = None if asked in {None, TAMPERED} else Fault(asked)
        return InsecureAttester(self.installation, spec.tee, measured, fault=fault)


def require_simulated(spec: NodeSpec) -> Simulation:
    """What a spec says of the simulated TEE; the node's log says what that is worth.

    Raises:
        UsageError: the spec is of a node in a real TEE.
    """
    if spec.simulation is None:
        raise UsageError("this process runs simulated nodes only")
    _log.warning("SIMULATED TEE: nothing that this node does is protected")
    return spec.simulation


class _FallingBehind:
    """A node whose platform becomes out of date while the node runs."""

    simulated = True

    def __init__(self, good: InsecureAttester, behind: InsecureAttester) -> None:
        self._good = good
        self._behind = behind
        self._made = itertools.count()
        self.tee = good.tee

    def quote(self, report_data: ReportData) -> Evidence:
        """Simulated evidence."""
        attester = self._good if next(self._made) < _GOOD_QUOTES else self._behind
        return attester.quote(report_data)
