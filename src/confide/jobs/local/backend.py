"""Nodes as processes of this machine.

Each node is a session of its own (setsid): Ctrl-C in the terminal does not reach it, and everything that it started can be found
again.  A node ends when the thread that started it does (the node asks the kernel for that: :mod:`confide.jobs.local.lifeline`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import confide
from confide.errors import ConfigError, ProtocolError, UnavailableError
from confide.ids import NodeId, RunId
from confide.jobs.backend import Address, NodeHandle, NodeStatus
from confide.node.child import session_members
from confide.node.private_dir import sweep
from confide.node.spec import Announcement, NodeSpec

TAMPERED = "tampered"
"""The fault that this backend itself plays: the node runs a copy of this package with one line changed."""
_TERM_WAIT_S = 2.0
_KILL_WAIT_S = 1.0
_KEPT = ("PATH", "JAVA_HOME", "LD_LIBRARY_PATH")
"""What a node inherits of the environment: where programs and libraries are.  Nothing else, so no secret by accident."""


class LocalBackend:
    """Starts nodes as child processes; see the module."""

    name = "local"
    simulated = True
    init_data: str | None = None

    def __init__(self, folder: Path, *, entry: Sequence[str] = ("-m", "confide.jobs.local.node")) -> None:
        self._nodes = folder / "nodes"
        self._entry = entry
        self._processes: dict[tuple[RunId, NodeId], subprocess.Popen[bytes]] = {}
        self._specs: dict[tuple[RunId, NodeId], NodeSpec] = {}

    def start(self, spec: NodeSpec) -> NodeHandle:
        """Start one node.  Call it from the thread that drives the run: the node ends with that thread.

        Raises:
            UnavailableError: the process could not be started.
        """
        home = self._nodes / spec.node_id
        spec_file = home / "spec.json"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            spec.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            spec.save(spec_file)
            process = self._spawn(spec, spec_file, home)
        except OSError as cause:
            raise UnavailableError(f"cannot start node {spec.node_id}: {cause.strerror}", node=str(spec.node_id)) from cause
        self._processes[spec.run_id, spec.node_id] = process
        self._specs[spec.run_id, spec.node_id] = spec
        return NodeHandle(spec.run_id, spec.node_id, str(process.pid))

    def _spawn(self, spec: NodeSpec, spec_file: Path, home: Path) -> subprocess.Popen[bytes]:
        packages = Path(confide.__file__).parents[1]
        if spec.simulation is not None and spec.simulation.fault == TAMPERED:
            packages = tampered_copy(home / "tampered")
        # -P: no module comes from the current folder.  -s: none from the user's site folder.
        command = [sys.executable, "-P", "-s", *self._entry, "--spec", str(spec_file), "--parent", str(os.getpid())]
        spec.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(spec.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(packages, spec.work_dir),
                cwd=spec.work_dir,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def poll(self, handle: NodeHandle) -> NodeStatus:
        """Say whether the node runs.  Leaves the ended process unreaped, so that its session id cannot be given to another."""
        process = self._processes.get((handle.run, handle.node))
        if process is None:
            return NodeStatus(running=False)
        if process.returncode is not None:
            return NodeStatus(running=False, exit_status=process.returncode)
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return NodeStatus(running=True)
        return NodeStatus(running=False, exit_status=ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)

    def announced(self, handle: NodeHandle) -> Address | None:
        """Where the node says that it listens.

        Raises:
            ProtocolError: the announcement is not one, or is another node's.
        """
        path = self._specs[handle.run, handle.node].announce_path
        if path is None or not path.exists():
            return None
        try:
            said = Announcement.load(path)
        except ConfigError as cause:
            raise ProtocolError("the node's announcement is not one", node=str(handle.node)) from cause
        if (said.run_id, said.node_id) != (handle.run, handle.node):
            raise ProtocolError("the announcement is another node's", node=str(handle.node), got=str(said.node_id))
        return Address(said.host, said.port)

    def log_path(self, handle: NodeHandle) -> Path:
        """The node's log file."""
        return self._specs[handle.run, handle.node].log_path

    def stop(self, handles: Iterable[NodeHandle]) -> None:
        """End nodes and what they started: SIGTERM, two seconds, SIGKILL; then remove what only they needed."""
        keys = [key for key in ((handle.run, handle.node) for handle in handles) if key in self._processes]
        running = [self._processes[key] for key in keys if self._processes[key].returncode is None]
        _end_sessions([process.pid for process in running])
        for process in running:
            process.wait(timeout=_KILL_WAIT_S)
        for key in keys:
            sweep(*key)
            shutil.rmtree(self._specs[key].work_dir, ignore_errors=True)
            shutil.rmtree(self._nodes / key[1] / "tampered", ignore_errors=True)


def tampered_copy(folder: Path) -> Path:
    """Copy this package under ``folder`` with one line of the agent changed; return what goes on the module path."""
    source = Path(confide.__file__).parent
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder / "confide", ignore=shutil.ignore_patterns("__pycache__"), copy_function=_copy_code)
    agent = folder / "confide" / "node" / "agent.py"
    agent.write_text(agent.read_text(encoding="utf-8") + "\nKEYS_GO_TO = 'somebody else'\n", encoding="utf-8")
    return folder


def _copy_code(source: str, place: str) -> None:
    """Copy Python files, link to the (large) others."""
    if source.endswith(".py"):
        shutil.copy2(source, place)
    else:
        Path(place).symlink_to(source)


def _environment(packages: Path, scratch: Path) -> dict[str, str]:
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env |= {"LANG": "C.UTF-8", "TMPDIR": str(scratch), "HOME": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    if packages != Path(sysconfig.get_path("purelib")):  # a source tree, or the tampered copy
        env["PYTHONPATH"] = str(packages)
    return env


def _end_sessions(leaders: list[int]) -> None:
    """End every process in the sessions of ``leaders``, which are our unreaped children, so the ids are still theirs."""
    for leader in leaders:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, signal.SIGTERM)  # the agent ends its children in order and wipes
    _wait(lambda: set(_members(leaders)) & set(leaders), _TERM_WAIT_S)  # what outlives its agent has nobody to end it in order
    for pid in _members(leaders):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _wait(lambda: _members(leaders), _KILL_WAIT_S)


def _wait(going_on: Callable[[], Collection[int]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while going_on() and time.monotonic() < deadline:
        time.sleep(0.02)


def _members(leaders: list[int]) -> list[int]:
    return [pid for leader in leaders for pid in session_members(leader)]
