"""From nothing to the first answer: of a small table, and of TPC-H's first query, in a new session each time."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.data.owned import encrypted, plain_twin
from benchmarks.data.rows import Row, note, require_equal
from benchmarks.data.sessions import Answer, Session, Shape, confidential, plain
from benchmarks.tpch import sql
from benchmarks.tpch.tables import generate

if TYPE_CHECKING:
    from collections.abc import Callable

_TABLES = ("nation", "lineitem")


def measure(scale: Decimal, repeat: int, folder: Path) -> list[Row]:
    """Both queries, each the first of its session."""
    shape = Shape(memory_mb=3072 + int(1024 * scale))
    made = generate(scale, folder / "made")
    owned = {name: encrypted(made[name], folder / "encrypted" / name) for name in _TABLES}
    twin = {name: {**one.input.info(), "path": str(plain_twin(one, folder / "plain" / name))} for name, one in owned.items()}

    def ours(stack: ExitStack, name: str) -> Session:
        return confidential(owned, folder / name, shape, stack)

    def theirs(stack: ExitStack, name: str) -> Session:
        return plain(twin, folder / name, shape, stack)

    ready = Row("session ready")
    queries = {
        "count of nation": ("nation", "SELECT n_regionkey, count(*) FROM nation GROUP BY n_regionkey ORDER BY n_regionkey"),
        f"q01, SF {scale}": ("lineitem", sql(1, scale)),
    }
    rows = [ready]
    for what, (table, text) in queries.items():
        first, whole = Row(f"first query ({what}), cold"), Row(f"session and first query ({what}), end to end")
        rows += [first, whole]
        for number in range(1, repeat + 1):
            for name, kind in (("plain", theirs), ("ours", ours), ("again", theirs)):
                note(f"start, {what}, {number} of {repeat}: {name}")
                place = partial(kind, name=f"{name}-{len(rows)}-{number}")
                for row, answer in zip((ready, first, whole), _start(place, table, text), strict=True):
                    getattr(row, name).append(answer)
        require_equal(what, first.ours[0].value, first.plain[0].value)
    return rows


def _start(kind: Callable[[ExitStack], Session], table: str, text: str) -> tuple[Answer, Answer, Answer]:
    """A session that is ready, its first query, and all until its rows are there, with naming the table it reads (as ``ctx.sql`` does)."""
    with ExitStack() as stack:
        own, began = os.times(), time.perf_counter()
        session = kind(stack)
        wall, cpu = time.perf_counter() - began, session.cpu() - own.user - own.system
        session.ask("view", name=table)
        query = session.ask("sql", text=text)
        return Answer(None, wall, cpu), query, Answer(None, time.perf_counter() - began, session.cpu() - own.user - own.system)
