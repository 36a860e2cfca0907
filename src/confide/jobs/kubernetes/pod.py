"""A node's process in a pod: reads its spec, finds its address, and hands over to the agent.

All that the control plane says comes in files of a config map.  Nothing of them weakens a check: the job digest of the spec goes into the
node's evidence, a job that was left with the driver must have it, and the workers' pods are as untrusted as whoever starts them.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from confide.canonical import parse_object
from confide.errors import ConfideError, ConfigError
from confide.ids import Role
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.objects import LEFT_FILE, WORKERS_FILE
from confide.jobs.kubernetes.pod_host import PodHost, load_workers
from confide.jobs.kubernetes.pod_places import NODE_DIR
from confide.jobs.kubernetes.pods import NODE_FILE
from confide.jobs.node_main import agent, live
from confide.node.left_job import LeftJob
from confide.node.spec import NodeSpec

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.attest.verify import Verifier
    from confide.node.agent import DriverAgent, WorkerAgent

_FOLLOW_EVERY_S = 0.5
_RESOLVE_EVERY_S = 0.2

Tee = Callable[[NodeSpec], tuple["Attester", "Verifier"]]
"""What makes a node's evidence and judges that of others."""


def run_pod(tee: Tee, *, folder: Path = Path(NODE_DIR)) -> int:
    """Run the node of this pod; its exit status."""
    return live(partial(_node, tee, folder))


def _node(tee: Tee, folder: Path) -> DriverAgent | WorkerAgent:
    spec = NodeSpec.load(folder / NODE_FILE)
    spec = spec.model_copy(update={"peer_host": own_address()})
    try:
        spec.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as cause:
        raise ConfigError(f"cannot make the node's folders: {cause.strerror}", path=str(cause.filename)) from cause
    EngineLogs(spec.log_path.parent).start()
    attester, verifier = tee(spec)
    host, left = None, None
    if spec.driver_host is not None and spec.driver_port is not None:
        await_name(spec.driver_host, spec.driver_port, timeout_s=spec.timing.start_timeout_s)
    if spec.role is Role.DRIVER:
        host = PodHost(Cluster.in_pod(), spec.run_id, os.uname().nodename, load_workers(folder / WORKERS_FILE))
        left = load_left(folder / LEFT_FILE)
    return agent(spec, attester=attester, verifier=verifier, host=host, left=left)


def load_left(path: Path) -> LeftJob | None:
    """The job that was left with this driver; ``None`` if a client is to bring it.

    Raises:
        ConfigError: what is there is none.
    """
    try:
        return LeftJob.from_json(parse_object(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ConfideError) as cause:
        raise ConfigError("cannot read the job that was left here", path=str(path)) from cause


def own_address() -> str:
    """This pod's address: the one that the kubelet writes into ``/etc/hosts`` beside the host's name.

    Raises:
        ConfigError: the pod's name has none.
    """
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError as cause:
        raise ConfigError("this pod does not know its address", host=socket.gethostname()) from cause
    return str(found[0][4][0])


def await_name(host: str, port: int, *, timeout_s: float) -> None:
    """Wait until a name is known: a cluster's names may come later than what they are of.  One that never comes is told by who connects."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            time.sleep(_RESOLVE_EVERY_S)
        else:
            return


class EngineLogs:
    """Copies what engine processes log into the pod's log, whole lines, each with the log's name before it."""

    def __init__(self, folder: Path, target: IO[bytes] = sys.stderr.buffer) -> None:
        self._folder = folder
        self._target = target
        self._seen: dict[Path, int] = {}

    def start(self) -> None:
        """Copy from now on, until the process ends."""
        threading.Thread(target=self._follow, name="confide-engine-logs", daemon=True).start()

    def _follow(self) -> None:
        while True:
            self.copy()
            time.sleep(_FOLLOW_EVERY_S)

    def copy(self) -> None:
        """Copy the whole lines that came since the last time."""
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as log:
                log.seek(self._seen.get(path, 0))
                data = log.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._seen[path] = self._seen.get(path, 0) + len(whole)
            label = path.stem.encode()
            for line in whole.splitlines(keepends=True):
                self._target.write(label + b": " + line)
            self._target.flush()
