"""A line of the table: what was measured, both ways, and once more plainly."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, log
from statistics import median
from typing import Any, Final

from benchmarks.data.sessions import Answer

Measured = Callable[[], Answer]
MOST_TIMES: Final = 5
"""A row is asked at most so often in one round, however short it is."""


@dataclass
class Row:
    """``again``: the plain variant, measured a second time when everything else was: what differs there is noise."""

    what: str
    ours: list[Answer] = field(default_factory=list)
    plain: list[Answer] = field(default_factory=list)
    again: list[Answer] = field(default_factory=list)
    note: str = ""
    ratios: tuple[float | None, float | None, float | None] | None = None
    """CPU, wall and noise, of a row that sums others up."""

    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        ours, plain = map(_both, (self.ours, self.plain))
        found = self.ratios or (*self.ratio(), ratio(self.again, self.plain, "cpu"))
        return self.what, ours, plain, *(f"{value:.2f}x" if value else "" for value in found), self.note

    def ratio(self) -> tuple[float | None, float | None]:
        """Of CPU seconds, and of wall time."""
        return ratio(self.ours, self.plain, "cpu"), ratio(self.ours, self.plain, "wall")


def ratio(those: Sequence[Answer], these: Sequence[Answer], what: str) -> float | None:
    """The ratio of the medians, if both were measured and are more than the clock's tick."""
    if not those or not these:
        return None
    above, below = (median(getattr(one, what) for one in them) for them in (those, these))
    return above / below if below else None


def _both(them: Sequence[Answer]) -> str:
    return f"{_seconds(one.cpu for one in them)} / {_seconds(one.wall for one in them)}" if them else ""


def _seconds(values: Iterable[float]) -> str:
    middle = median(values)
    return f"{middle:.2f} s" if middle >= 1 else f"{middle:.3f} s"


def in_turn(rows: Sequence[tuple[Row, Measured | None, Measured]], repeat: int, *, warm_up: int = 0, least_s: float = 0) -> None:
    """Measure all rows: ours and plain in turn, all rows before any of them again, then plain once more for all of them.

    So every row is as warm as its neighbour, and what a machine does for a minute does not fall on one row alone.  The first ``warm_up``
    rounds are not counted.  A row without ``ours`` has them from another one.  In each round a row is asked until its plain answers of
    that round have taken ``least_s`` of CPU, :data:`MOST_TIMES` at most: what is short is noisy.
    """
    for number in range(1, warm_up + 1):
        for row, ours, plain in rows:
            note(f"{row.what}, warm-up {number} of {warm_up}")
            _ask([], plain)
            _ask([], ours)
    for number in range(1, repeat + 1):
        for row, ours, plain in rows:
            note(f"{row.what}, {number} of {repeat}")
            for _ in _times(row.plain, least_s):
                _ask(row.plain, plain)
                _ask(row.ours, ours)
    for number in range(1, repeat + 1):
        for row, ours, plain in rows:
            note(f"{row.what}, plain again, {number} of {repeat}")
            for _ in _times(row.again, least_s) if ours is not None else ():
                _ask(row.again, plain)


def _ask(answers: list[Answer], measured: Measured | None) -> None:
    if measured is not None:
        answers.append(measured())


def _times(answers: Sequence[Answer], least_s: float) -> Iterator[None]:
    """Once, and again until what is added to ``answers`` meanwhile has taken so long."""
    before = len(answers)
    for _ in range(MOST_TIMES):
        yield
        if sum(one.cpu for one in answers[before:]) >= least_s:
            break


def geometric_mean(what: str, rows: Sequence[Row], least_s: float = 0.05) -> Row:
    """The mean of the ratios of all rows that take longer than what a CPU clock's tick can tell."""
    counted = [row for row in rows if row.plain and median(one.cpu for one in row.plain) >= least_s]
    columns = [
        [value for row in counted if (value := found(row))]
        for found in (lambda row: row.ratio()[0], lambda row: row.ratio()[1], lambda row: ratio(row.again, row.plain, "cpu"))
    ]
    if not columns[0]:
        return Row(what, note="too little to measure")
    cpu, wall, noise = (exp(sum(map(log, column)) / len(column)) if column else None for column in columns)
    worst = max(columns[0])
    return Row(what, note=f"of {len(counted)}; CPU at most {worst:.2f}x", ratios=(cpu, wall, noise))


def timed(action: Callable[[], Any]) -> Answer:
    """Do something in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = action()
    return Answer(value, time.perf_counter() - wall, time.process_time() - cpu)


def require_equal(what: str, ours: object, plain: object) -> None:
    """Nothing is timed that does not give the same."""
    if ours != plain:
        sys.exit(f"{what}: {ours} encrypted, {plain} plain")


def note(text: str) -> None:
    """Say on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)
