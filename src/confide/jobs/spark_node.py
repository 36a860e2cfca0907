"""One node's share of a Spark run: its private files, its agent socket, its JVM.  The same for drivers and workers.

Secrets go into files of the node's private folder and over the agent's socket, never into arguments, environment or Spark properties.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from confide.crypto.secret import SecretBytes
from confide.jobs.engines.spark import CHAIN_FILE, KEY_FILE, SparkNode, SparkRun, find_runtime
from confide.node.child import Child, Children, ChildSpec, Redactor
from confide.node.local_socket import LocalSocketServer, Operation

if TYPE_CHECKING:
    from confide.jobs.engines.spark import Launch
    from confide.node.workload import NodeServices

AGENT_SOCKET = "agent.sock"
_MAX_OUTPUT = 256 * 1024


class SparkEngine:
    """What :mod:`confide.jobs.workload` keeps of one node's engine.  Made when the node holds the job; :meth:`stop` is idempotent."""

    def __init__(self, services: NodeServices) -> None:
        spec, resources = services.spec, services.job.resources
        self._services = services
        self.runtime = find_runtime()
        self.node = SparkNode(
            private_dir=services.private_dir.path,
            work_dir=services.private_dir.folder("work"),
            agent_socket=services.private_dir.path / AGENT_SOCKET,
            host=services.peer_host,
            cores=spec.cores,
            memory_mb=spec.memory_mb,
        )
        self.run = SparkRun(app_id=str(spec.run_id), app_name=services.job.name, cores=resources.workers * resources.cores)
        self._redactor = Redactor()
        self._children = Children(self._redactor)
        self._socket: LocalSocketServer | None = None
        certificate = services.certificate
        services.private_dir.write(CHAIN_FILE, certificate.certificate_pem + certificate.ca_pem)
        services.private_dir.write(KEY_FILE, certificate.private_key_pem)

    def secret(self, name: str, secret: SecretBytes) -> None:
        """Give this node's processes a secret as a private file, and keep it out of their logs."""
        self._redactor.hide(secret)
        self._services.private_dir.write(name, secret)

    def serve(self, operations: Mapping[str, Operation]) -> None:
        """Open the agent's socket for this node's processes."""
        self._socket = LocalSocketServer(self.node.agent_socket, operations)
        self._socket.start()

    def start(self, name: str, launch: Launch) -> Child:
        """Start one process of the engine; its output goes to ``<node>.<name>.log`` beside the node's own log.

        Raises:
            UnavailableError: it cannot be started, or the node is ending.
        """
        for file, data in launch.files.items():
            self._services.private_dir.write(file, data)
        return self._children.start(ChildSpec(name, launch.argv, self._log_of(name), self.node.work_dir, launch.env))

    def output_of(self, name: str) -> str:
        """The last of what a process printed: at most 256 KiB."""
        with self._log_of(name).open("rb") as log:
            log.seek(-min(_MAX_OUTPUT, log.seek(0, os.SEEK_END)), os.SEEK_END)
            return log.read().decode("utf-8", errors="replace")

    def _log_of(self, name: str) -> Path:
        log = self._services.spec.log_path
        return log.with_name(f"{log.stem}.{name}.log")

    def stop(self) -> None:
        """End every process and close the socket."""
        self._children.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def python_path() -> tuple[str, ...]:
    """Where the user's program finds this package: where this process found it."""
    return (str(Path(__file__).parents[2]),)


def interpreter() -> Path:
    """The Python of this node: the measured one."""
    return Path(sys.executable)
