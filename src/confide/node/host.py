"""What a driver's agent asks of whoever runs its node: to say where it listens, to start its workers, to keep its result.

Not trusted, and told public values only.  Knows nothing of any one backend: the jobs layer passes a host in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from confide.canonical import Json
    from confide.ids import NodeId
    from confide.node.spec import Announcement

Heard = Callable[[str, "NodeId", "Json"], None]
"""``heard(type, node, fields)``: an event of a node that has not spoken for itself yet.  Safe to call from any thread."""
Ended = Callable[["NodeId"], None]
"""``ended(node)``: the host says that a node's process is gone.  Safe to call from any thread."""


class DriverHost(Protocol):
    """``goes_on_alone``: whether a run outlives its client, so that a client can come back to it, and its result is kept here."""

    goes_on_alone: bool

    def announce(self, said: Announcement) -> None:
        """Let the client know where the driver listens.

        Raises:
            ConfideError: it cannot be said.
        """
        ...

    def start_workers(self, nodes: Sequence[NodeId], *, heard: Heard, ended: Ended) -> bool:
        """Start these workers and watch them until :meth:`close`; ``False`` if it is the client who starts them.

        Raises:
            ConfideError: one cannot be started.
        """
        ...

    def tell(self, kind: str, node: NodeId, fields: Json) -> None:
        """Let people who look at the run see what has happened to a node.  Public values.  Never waits, and never fails."""
        ...

    def keep(self, result: str) -> None:
        """Keep how the run ended, for its client that comes later: a text that only that client can read.

        Raises:
            ConfideError: it cannot be kept.
        """
        ...

    def close(self) -> None:
        """End the workers that were started here.  Idempotent."""
        ...


class ClientHost:
    """A driver whose client runs the nodes: it reads the announcement from a file, starts the workers, and hears the result itself."""

    goes_on_alone = False

    def __init__(self, announce_path: Path) -> None:
        self._announce_path = announce_path

    def announce(self, said: Announcement) -> None:
        """Write the announcement, whole or not at all."""
        said.save(self._announce_path)

    def start_workers(self, nodes: Sequence[NodeId], *, heard: Heard, ended: Ended) -> bool:
        """Leave it to the client."""
        del nodes, heard, ended
        return False

    def tell(self, kind: str, node: NodeId, fields: Json) -> None:
        """Nothing: the client hears it itself."""

    def keep(self, result: str) -> None:
        """Nothing: without its client the run has ended."""

    def close(self) -> None:
        """Nothing was started here."""
