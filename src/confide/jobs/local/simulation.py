"""The simulated TEE of this installation, as clients and nodes need it.

**Protects nothing**: anyone who can read its folder can forge evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.measure import Measurement, measure
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import UsageError
from confide.ids import Tee
from confide.jobs.local.backend import TAMPERED
from confide.node.spec import NodeSpec

_CACHE = "measured.json"
FAULTS = (TAMPERED, *(fault.value for fault in Fault))
"""What a simulated node can be asked to show; each gets it refused."""


@dataclass(frozen=True, slots=True)
class SimulatedTee:
    """One installation: verifies its own (and Intel's) evidence, measures this process, and attests nodes."""

    installation: Installation
    roots: TrustRoots

    @classmethod
    def at(cls, folder: Path) -> SimulatedTee:
        """Open the installation in ``folder``, or make it.

        Raises:
            ConfigError: the folder cannot be used.
        """
        installation = Installation.create(folder)
        return cls(installation, TrustRoots(simulated=installation.root_der))

    def verifier(self) -> Verifier:
        """A verifier that knows the simulated root beside Intel's."""
        return Verifier(self.roots, self.installation.collateral_source())

    def measurement(self) -> Measurement:
        """What this process runs; nodes started from the same installation have the same."""
        return measure(cache=self.installation.folder / _CACHE)

    def reference_values(self) -> dict[str, list[str]]:
        """The ``measurements`` of a policy that accepts this installation's nodes, and no changed one."""
        measured = self.measurement()
        return {tee.value: [measured.of(tee)] for tee in (Tee.SGX, Tee.TDX)}

    def attester(self, spec: NodeSpec) -> InsecureAttester:
        """The attester of a simulated node, with the fault that its spec asks for.

        Raises:
            UsageError: there is no such fault.
        """
        asked = spec.simulation.fault if spec.simulation is not None else None
        if asked is not None and asked not in FAULTS:
            raise UsageError(f"there is no fault {asked[:40]!r}", hint=f"faults: {', '.join(FAULTS)}")
        fault = None if asked in {None, TAMPERED} else Fault(asked)
        return InsecureAttester(self.installation, spec.tee, self.measurement().of(spec.tee), fault=fault)
