"""A simulated node's process: ``python -m confide.jobs.local.node --spec FILE --parent PID``.

Ties its life to its parent's, reads its spec, measures itself, and hands over to the agent.  Prints nothing: its log is its standard
error, which the backend keeps.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from confide.crypto import core_dumps
from confide.errors import ConfideError, UsageError
from confide.ids import NodeId, Role, RunId
from confide.jobs.local.lifeline import end_with_parent
from confide.jobs.local.simulation import SimulatedTee
from confide.jobs.workload import JobDriver, SparkWorker
from confide.node.agent import DriverAgent, WorkerAgent
from confide.node.child import session_members
from confide.node.private_dir import sweep
from confide.node.spec import NodeSpec

_log = logging.getLogger("confide.node")
_LEAVE_S = 2.0
"""How long a node that was asked to end may take before it kills its own session."""


def main() -> int:
    """Run one node; its exit status."""
    parser = argparse.ArgumentParser(prog="confide-node")
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    end_with_parent(given.parent)
    core_dumps.forbid()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        spec = NodeSpec.load(given.spec)
        agent = _agent(spec)
        _end_on_signal(agent, spec)
        agent.run()
    except ConfideError as error:
        _log.error("%s: %s %s", error.code, error.message, error.facts)
        return error.exit_status
    return 0


def _agent(spec: NodeSpec) -> DriverAgent | WorkerAgent:
    if spec.simulation is None:
        raise UsageError("this backend starts simulated nodes only")
    _log.warning("SIMULATED TEE: nothing that this node does is protected")
    tee = SimulatedTee.at(spec.simulation.dir)
    attester, verifier = tee.attester(spec), tee.verifier(spec.services.intel, spec.services.ca_file)
    if spec.role is Role.DRIVER:
        return DriverAgent(spec, JobDriver(), attester=attester, verifier=verifier)
    if spec.role is Role.WORKER:
        return WorkerAgent(spec, SparkWorker(), attester=attester, verifier=verifier)
    raise UsageError("a job's nodes are drivers and workers", role=str(spec.role))


def _end_on_signal(agent: DriverAgent | WorkerAgent, spec: NodeSpec) -> None:
    def end(number: int, _frame: object) -> None:
        agent.stop(f"signal {signal.Signals(number).name}")
        last = threading.Timer(_LEAVE_S, leave_by_force, (spec.run_id, spec.node_id))
        last.daemon = True
        last.start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def leave_by_force(run: RunId, node: NodeId) -> None:
    """Kill what this node started, wipe what it has in memory, where keys may lie, and end: whoever else would wipe it may be gone."""
    for process in session_members(os.getpid()):  # a node leads a session of its own
        if process != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    sweep(run, node)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
