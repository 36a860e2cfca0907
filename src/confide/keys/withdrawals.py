"""How brokers that share one store notice that something was withdrawn: a number in the store, looked at twice a second.

Says that *something* was withdrawn, anywhere; what that means for a node is decided anew each time (``keys.broker``).  Every step that
takes a right away (a grant, a key version, a node's standing) counts the number up, in the same transaction.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from confide.canonical import Json
from confide.keys.store import Store

LOOK_EVERY_S: Final = 0.5
"""How late a broker may notice what another one wrote, in seconds."""
_ONLY: Final = "all"


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """How many times something was withdrawn at this store."""

    kind: ClassVar[str] = "withdrawals"
    number: int

    @property
    def id(self) -> str:
        """There is one."""
        return _ONLY

    @property
    def ref(self) -> str:
        """There is one."""
        return _ONLY

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"number": self.number}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["number"])


def withdrawn(store: Store) -> None:
    """Take note that something was withdrawn.  Inside the transaction that does it."""
    store.put(Withdrawals(_number(store) + 1))


def _number(store: Store) -> int:
    found = store.get(Withdrawals, _ONLY)
    return 0 if found is None else found.number


class Bell:
    """Wakes those who wait when the number has changed.  Safe to use from many threads: they look at the store in turn, not each."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen = -1
        self._looked = float("-inf")

    def number(self) -> int:
        """The number, not older than :data:`LOOK_EVERY_S`."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_EVERY_S:
                self._seen = _number(self._store)
                self._looked = time.monotonic()
            return self._seen

    def wait(self, seen: int, seconds: float, going: Callable[[], bool]) -> None:
        """Return when the number is another one than ``seen``, the time is over, or ``going()`` does not hold any more."""
        until = time.monotonic() + seconds
        while going() and self.number() == seen and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK_EVERY_S, left))
