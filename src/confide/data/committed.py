"""What a program of either engine shares: where its agent is, and what it hears of a committed output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confide.canonical import Json

AGENT_SOCKET = "CONFIDE_AGENT_SOCKET"
"""Environment variable with the path of the agent's socket.  A path, not a secret: the agent knows its children by itself."""


@dataclass(frozen=True, slots=True)
class Committed:
    """An output that was committed: how much it holds, and the SHA-384 of its manifest."""

    name: str
    files: int
    rows: int | None
    manifest: str

    @classmethod
    def from_json(cls, name: str, answer: Json) -> Committed:
        """What the agent answers to a commit."""
        return cls(name, answer["files"], answer["rows"], answer["manifest"])
