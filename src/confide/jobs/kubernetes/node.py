"""A node's process in a pod with a real TEE: ``python -I -B -m confide.jobs.kubernetes.node``.  It cannot make simulated evidence."""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # before all else is read, which takes a second: a container's first process hears only what it asks for
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # there is nothing to wipe yet

from typing import TYPE_CHECKING

from confide.attest.collect import find_attester
from confide.attest.vendor_verifier import vendor_verifier
from confide.errors import UsageError
from confide.jobs.kubernetes.pod import run_pod
from confide.jobs.plan import POD_FOLDER

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.attest.verify import Verifier
    from confide.node.spec import NodeSpec


def main() -> int:
    """Run the node of this pod; its exit status."""
    return run_pod(_real)


def _real(spec: NodeSpec) -> tuple[Attester, Verifier]:
    if spec.simulation is not None:
        raise UsageError("this image runs nodes in real TEEs only", hint="use an image of the shape `simulated`")
    services = spec.services
    verifier = vendor_verifier(POD_FOLDER / "collateral", intel=services.intel, amd=services.amd, ca_file=services.ca_file)
    return find_attester(), verifier


if __name__ == "__main__":
    sys.exit(main())
