"""TPC-H's 22 queries, warm, in a Confide group and in plain Spark."""

from __future__ import annotations

from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.data.owned import plain_twin
from benchmarks.data.rows import Measured, Row, geometric_mean, in_turn, note, require_equal
from benchmarks.data.sessions import Protections, Session, Shape, confidential, plain
from benchmarks.tpch import NUMBERS, TABLES, sql
from benchmarks.tpch.__main__ import encrypted_tables
from benchmarks.tpch.answers import differences, has_answers
from benchmarks.tpch.tables import generate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BARE_UNTIL = 1
"""The largest scale at which a third session finds room in this machine's memory."""
_WARM_UP: Final = {"small": 4, "large": 1}
"""Rounds that are not counted, of small and of large tables: a short query runs more often until its code is compiled."""

_LEAST_S: Final = 5.0
"""A query that takes less CPU than this is asked several times in each round."""


def measure(scale: Decimal, repeat: int, folder: Path) -> list[Row]:
    """All queries, beside plain Spark and where there is room beside the same processes without protections."""
    shape = Shape(memory_mb=3072 + int(1024 * scale))
    owned = encrypted_tables(generate(scale, folder / "made"), folder)
    twin = {name: {**one.input.info(), "path": str(plain_twin(one, folder / "plain" / name))} for name, one in owned.items()}
    with ExitStack() as stack:
        sessions = {"ours": confidential(owned, folder / "ours", shape, stack), "theirs": plain(twin, folder / "theirs", shape, stack)}
        if scale <= _BARE_UNTIL:
            off = Protections(rpc=False, disks=False, data=False)
            sessions["bare"] = confidential({}, folder / "bare", shape, stack, protections=off, unprotected=twin)
        for name in TABLES:
            for session in sessions.values():
                session.ask("view", name=name)
        rows, beside = _warm(sessions, scale, repeat)
    means = [geometric_mean(f"TPC-H SF {scale}, geometric mean", rows)]
    if beside:
        means.append(geometric_mean(f"TPC-H SF {scale}, geometric mean, plain: the same processes without protections", beside))
    return [*rows, *means]


def _warm(sessions: Mapping[str, Session], scale: Decimal, repeat: int) -> tuple[list[Row], list[Row]]:
    """All queries, once to compare and then in turn: beside plain Spark, and beside our own processes without their protections."""
    rows: list[tuple[Row, Measured | None, Measured]] = []
    for number in NUMBERS:
        note(f"q{number:02}: comparing")
        _check(number, scale, sessions.values())
        asking = {name: partial(session.ask, "sql", text=sql(number, scale)) for name, session in sessions.items()}
        row = Row(f"TPC-H q{number:02}, warm")
        rows.append((row, asking["ours"], asking["theirs"]))
        if "bare" in asking:
            rows.append((Row(f"{row.what}, without protections", ours=row.ours), None, asking["bare"]))
    in_turn(rows, repeat, warm_up=_WARM_UP["small" if scale <= _BARE_UNTIL else "large"], least_s=_LEAST_S)
    return [row for row, ours, _ in rows if ours is not None], [row for row, ours, _ in rows if ours is None]


def _check(number: int, scale: Decimal, sessions: Iterable[Session]) -> None:
    """The answers are the same, and right where the right ones are known."""
    found, *others = (session.ask("sql", text=sql(number, scale)).value for session in sessions)
    for other in others:
        require_equal(f"q{number:02}", found, other)
    if has_answers(scale):
        require_equal(f"q{number:02}", differences(number, scale, found), [])
