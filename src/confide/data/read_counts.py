"""What a program with Polars did with datasets: the numbers that Spark's executors count, for the receipt's row of the node.

Knows nothing of the agent: who is told is the caller's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from confide.canonical import Json


@dataclass(slots=True, eq=False)
class Counts:
    """As ``confide.jobs.statement.DataEntry``: a task is one reading of an input by one query, or one file that was written."""

    tasks: int = 0
    rows_read: int = 0
    rows_written: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    open_us: int = 0
    seal_us: int = 0


_NUMBERS: Final = tuple(one.name for one in fields(Counts))


class Totals:
    """All tasks of a program so far.  Safe to use from several threads.

    A query that is left before its end tells nothing: the garbage collector may notice it, and there nothing may be waited for, no lock
    and no answer of an agent.  What it has read is told with whatever is told next.
    """

    def __init__(self, tell: Callable[[Json], object] = lambda _: None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._past = Counts()
        self._begun: dict[int, Counts] = {}
        self._over: deque[Counts] = deque()

    def begin(self) -> Counts:
        """A new task's, to count on while it runs."""
        counts = Counts(tasks=1)
        with self._lock:
            self._begun[id(counts)] = counts
        return counts

    def over(self, counts: Counts) -> None:
        """Nothing is added to them any more.  Waits for nothing."""
        self._over.append(counts)

    def add(self, more: Counts) -> None:
        """Add a task that is over, and tell."""
        self.over(more)
        self.tell()

    def tell(self) -> None:
        """Tell the totals, those of tasks that have begun included: nothing is lost if one message is."""
        with self._lock:
            while self._over:
                over = self._over.popleft()
                self._begun.pop(id(over), None)
                self._past = _sum([self._past, over])
            totals = _sum([self._past, *self._begun.values()])
            self._tell({name: getattr(totals, name) for name in _NUMBERS})

    def tell_rest(self) -> None:
        """Tell them once more, if queries were left since, or run."""
        if self._over or self._begun:
            self.tell()


def _sum(tasks: Sequence[Counts]) -> Counts:
    return Counts(*(sum(getattr(one, name) for one in tasks) for name in _NUMBERS))
