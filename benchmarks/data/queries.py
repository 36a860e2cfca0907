"""TPC-H's 22 queries, in a Confide group and in plain Spark: cold, from the start of a session, and warm."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.data.owned import plain_twin
from benchmarks.data.rows import Measured, Row, geometric_mean, in_turn, note, require_equal
from benchmarks.data.sessions import Answer, Protections, Session, Shape, confidential, plain
from benchmarks.tpch import NUMBERS, TABLES, sql
from benchmarks.tpch.__main__ import encrypted_tables
from benchmarks.tpch.answers import differences, has_answers
from benchmarks.tpch.tables import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_FIRST = 1
_BARE_UNTIL = 1
"""The largest scale at which a third session finds room in this machine's memory."""


def measure(scale: Decimal, repeat: int, folder: Path) -> list[Row]:
    """Starts, then all queries."""
    shape = Shape(memory_mb=3072 + int(1024 * scale))
    owned = encrypted_tables(generate(scale, folder / "made"), folder)
    twin = {name: {**one.input.info(), "path": str(plain_twin(one, folder / "plain" / name))} for name, one in owned.items()}

    def ours(stack: ExitStack, name: str) -> Session:
        return confidential(owned, folder / name, shape, stack)

    def theirs(stack: ExitStack, name: str) -> Session:
        return plain(twin, folder / name, shape, stack)

    def bare(stack: ExitStack, name: str) -> Session:
        return confidential({}, folder / name, shape, stack, protections=Protections(rpc=False, disks=False, data=False), unprotected=twin)

    starts = _starts(ours, theirs, repeat, scale)
    kinds = {"ours": ours, "theirs": theirs, **({"bare": bare} if scale <= _BARE_UNTIL else {})}
    with ExitStack() as stack:
        sessions = {name: kind(stack, name) for name, kind in kinds.items()}
        for name in TABLES:
            for session in sessions.values():
                session.ask("view", name=name)
        rows, beside = _warm(sessions, scale, repeat)
    means = [geometric_mean(f"TPC-H SF {scale}, geometric mean", rows)]
    if beside:
        means.append(geometric_mean(f"TPC-H SF {scale}, geometric mean, plain: the same processes without protections", beside))
    return [*starts, *rows, *means]


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
    in_turn(rows, repeat)
    return [row for row, ours, _ in rows if ours is not None], [row for row, ours, _ in rows if ours is None]


def _check(number: int, scale: Decimal, sessions: Iterable[Session]) -> None:
    """The answers are the same, and right where the right ones are known."""
    found, *others = (session.ask("sql", text=sql(number, scale)).value for session in sessions)
    for other in others:
        require_equal(f"q{number:02}", found, other)
    if has_answers(scale):
        require_equal(f"q{number:02}", differences(number, scale, found), [])


def _starts(ours: Callable[..., Session], theirs: Callable[..., Session], repeat: int, scale: Decimal) -> list[Row]:
    """From nothing to the first answer, in new sessions each time."""
    ready, first, whole = Row("session ready"), Row(f"first query (q{_FIRST:02}), cold"), Row("session and first query, end to end")
    for number in range(repeat):
        for name, kind in (("plain", theirs), ("ours", ours), ("again", theirs)):
            note(f"start {number + 1} of {repeat}: {name}")
            columns: list[list[Answer]] = [getattr(row, name) for row in (ready, first, whole)]
            for column, answer in zip(columns, _start(partial(kind, name=f"{name}-{number}"), scale), strict=True):
                column.append(answer)
    return [ready, first, whole]


def _start(kind: Callable[[ExitStack], Session], scale: Decimal) -> tuple[Answer, Answer, Answer]:
    with ExitStack() as stack:
        own, began = os.times(), time.perf_counter()
        session = kind(stack)
        wall, cpu = time.perf_counter() - began, session.cpu() - own.user - own.system
        session.ask("view", name="lineitem")
        query = session.ask("sql", text=sql(_FIRST, scale))
        return Answer(None, wall, cpu), query, Answer(None, time.perf_counter() - began, session.cpu() - own.user - own.system)
