"""One node's processes beside its agent: their private files, the agent's socket, their logs.  The same for drivers, workers and engines.

Secrets go into files of the node's private folder and over the agent's socket, never into arguments or environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from confide.crypto.secret import SecretBytes
from confide.node.child import Child, Children, ChildSpec, Redactor
from confide.node.local_socket import LocalSocketServer, Operation

if TYPE_CHECKING:
    from confide.jobs.engines.launch import Launch
    from confide.node.workload import NodeServices

AGENT_SOCKET = "agent.sock"
_MAX_OUTPUT = 256 * 1024


class NodeProcesses:
    """Made when the node holds the job; :meth:`stop` is idempotent."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self.work_dir = services.private_dir.folder("work")
        self.agent_socket = services.private_dir.path / AGENT_SOCKET
        self._redactor = Redactor()
        self._children = Children(self._redactor)
        self._socket: LocalSocketServer | None = None

    def secret(self, name: str, secret: SecretBytes) -> None:
        """Give this node's processes a secret as a private file, and keep it out of their logs."""
        self._redactor.hide(secret)
        self._services.private_dir.write(name, secret)

    def serve(self, operations: Mapping[str, Operation]) -> None:
        """Open the agent's socket for this node's processes."""
        self._socket = LocalSocketServer(self.agent_socket, operations)
        self._socket.start()

    def start(self, name: str, launch: Launch) -> Child:
        """Start one process of the engine; its output goes to ``<node>.<name>.log`` beside the node's own log.

        Raises:
            UnavailableError: it cannot be started, or the node is ending.
        """
        for file, data in launch.files.items():
            self._services.private_dir.write(file, data)
        return self._children.start(ChildSpec(name, launch.argv, self._log_of(name), self.work_dir, launch.env))

    def output_of(self, name: str) -> str:
        """The last of what a process printed: at most 256 KiB."""
        with self._log_of(name).open("rb") as log:
            log.seek(-min(_MAX_OUTPUT, log.seek(0, os.SEEK_END)), os.SEEK_END)
            return log.read().decode("utf-8", errors="replace")

    def _log_of(self, name: str) -> Path:
        log = self._services.spec.log_path
        return log.with_name(f"{log.stem}.{name}.log")

    def stop(self) -> None:
        """End every process and close the socket.  Idempotent, and safe to use from several threads."""
        self._children.stop()
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()


def python_path() -> tuple[str, ...]:
    """Where the user's program finds this package: where this process found it."""
    return (str(Path(__file__).parents[2]),)


def interpreter() -> Path:
    """The Python of this node: the measured one."""
    return Path(sys.executable)
