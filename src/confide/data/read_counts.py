"""What a program with Polars did with datasets: the numbers that Spark's executors count, for the receipt's row of the node.

Knows nothing of the agent: who is told is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confide.canonical import Json


@dataclass(slots=True)
class Counts:
    """As ``confide.jobs.statement.DataEntry``: a task is one reading of an input by one query, or one file that was written."""

    tasks: int = 0
    rows_read: int = 0
    rows_written: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    open_us: int = 0
    seal_us: int = 0


Told = Callable[[Counts], None]
"""Is told of each task."""


class Totals:
    """All tasks of a program so far.  Safe to use from several threads."""

    def __init__(self, tell: Callable[[Json], object]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._sum = Counts()

    def add(self, more: Counts) -> None:
        """Add a task's, and tell: totals, so that nothing is lost if one message is."""
        with self._lock:
            for one in fields(Counts):
                setattr(self._sum, one.name, getattr(self._sum, one.name) + getattr(more, one.name))
            self._tell({one.name: getattr(self._sum, one.name) for one in fields(Counts)})
