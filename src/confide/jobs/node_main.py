"""One node's process, from its spec to its end: the same for every backend.  Prints nothing: its log is its standard error."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from confide.crypto import core_dumps
from confide.errors import ConfideError, UsageError
from confide.ids import NodeId, Role, RunId
from confide.node.agent import DriverAgent, WorkerAgent
from confide.node.child import session_members
from confide.node.private_dir import sweep

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.attest.verify import Verifier
    from confide.node.host import DriverHost
    from confide.node.left_job import LeftJob
    from confide.node.spec import NodeSpec

_log = logging.getLogger("confide.node")
_LEAVE_S = 2.0
"""How long a node that was asked to end may take before it kills its own session."""


def live(node: Callable[[], DriverAgent | WorkerAgent]) -> int:
    """Make the agent of one node and let it live its whole life; the exit status of the process."""
    core_dumps.forbid()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        node().run()
    except ConfideError as error:
        _log.error("%s: %s %s", error.code, error.message, error.facts)
        return error.exit_status
    return 0


def agent(
    spec: NodeSpec, *, attester: Attester, verifier: Verifier, host: DriverHost | None = None, left: LeftJob | None = None
) -> DriverAgent | WorkerAgent:
    """The agent that the spec asks for; from now on SIGTERM and SIGINT end it in order.

    ``left``: the job of a driver whose run no client accompanies.

    Raises:
        UsageError: a job has no node of that role.
    """
    made: DriverAgent | WorkerAgent
    # A worker does without what drivers make results with, and need not load it.
    if spec.role is Role.DRIVER:
        from confide.jobs.workload import JobDriver  # noqa: PLC0415

        made = DriverAgent(spec, JobDriver(), attester=attester, verifier=verifier, host=host, left=left)
    elif spec.role is Role.WORKER:
        from confide.jobs.spark_worker import SparkWorker  # noqa: PLC0415

        made = WorkerAgent(spec, SparkWorker(), attester=attester, verifier=verifier)
    else:
        raise UsageError("a job's nodes are drivers and workers", role=str(spec.role))
    _end_on_signal(made, spec)
    return made


def _end_on_signal(made: DriverAgent | WorkerAgent, spec: NodeSpec) -> None:
    def end(number: int, _frame: object) -> None:
        made.stop(f"signal {signal.Signals(number).name}")
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
    os._exit(128 + signal.SIGKILL)  # a container's first process does not hear its own signals
