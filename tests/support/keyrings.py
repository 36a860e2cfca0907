"""What tests of a node's keyring ask it with: a clock that they turn, and a request as it comes over the socket."""

from __future__ import annotations

from confide.canonical import Json
from confide.node.keyring import Keyring


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(ring: Keyring, op: str, path: str, **fields: object) -> Json:
    """What the keyring answers."""
    return ring.operations()[op]({"op": op, "path": path, **fields})
