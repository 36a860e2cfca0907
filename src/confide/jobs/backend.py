"""What every backend does: start nodes, watch them, hand out their logs, stop them.

A backend sees public information only (:class:`~confide.node.spec.NodeSpec`) and is not trusted: what a node is, its evidence
says.  Knows nothing of any one backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from confide.ids import NodeId, RunId
from confide.node.spec import NodeSpec


@dataclass(frozen=True, slots=True)
class NodeHandle:
    """One started node.  ``name`` is the backend's own name for it (a process id, a pod)."""

    run: RunId
    node: NodeId
    name: str


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Whether a node runs; ``exit_status`` (negative: ended by that signal) once it does not.

    ``condition`` says in words for a user what it waits for, or why it ended, where the backend knows.
    """

    running: bool
    exit_status: int | None = None
    condition: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens, as the backend or the node claims: nobody trusts it before attestation."""

    host: str
    port: int


class Backend(Protocol):
    """Starts, watches, logs and stops nodes.

    ``init_data``: what the evidence of its nodes holds, in hex, if it starts them with init-data that only the run's nodes have.
    """

    name: str
    simulated: bool
    init_data: str | None

    def start(self, spec: NodeSpec) -> NodeHandle:
        """Start one node.

        Raises:
            UnavailableError: the node could not be started.
        """

    def poll(self, handle: NodeHandle) -> NodeStatus:
        """Say whether the node runs.  Never waits."""

    def announced(self, handle: NodeHandle) -> Address | None:
        """Where the node listens, or ``None`` while it has not said so.  Never waits.

        Raises:
            ProtocolError: the announcement is not one.
        """

    def log_path(self, handle: NodeHandle) -> Path:
        """The file that the node's log is in (redacted by the node)."""

    def stop(self, handles: Iterable[NodeHandle]) -> None:
        """End these nodes and everything they started, and wait until they are gone.  Stopping twice is fine."""


@runtime_checkable
class LastingBackend(Backend, Protocol):
    """A backend whose runs go on without their client."""

    def find(self) -> NodeHandle | None:
        """The driver of a run that goes on, watched from now on; ``None`` if there is none."""
        ...

    def kept(self) -> str | None:
        """The result that a run left which has ended, sealed to its client, if it left one."""
        ...

    def leave(self) -> None:
        """Watch the run no more."""
        ...
