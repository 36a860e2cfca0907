"""TPC-H's 22 queries in Polars, over encrypted files and over the same files in plaintext."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import polars as pl

from benchmarks.data.owned import plain_twin
from benchmarks.data.rows import Measured, Row, geometric_mean, in_turn, note, require_equal, timed
from benchmarks.tpch import NUMBERS
from benchmarks.tpch.__main__ import encrypted_tables
from benchmarks.tpch.answers import differences, has_answers, line
from benchmarks.tpch.frames import encrypted_frame
from benchmarks.tpch.lazy import query
from benchmarks.tpch.tables import generate
from confide.data.opened_table import OpenedMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from pathlib import Path

    from benchmarks.data.sessions import Answer
    from benchmarks.tpch.lazy import Tables

_LEAST_S: Final = 0.5
"""A query that takes less CPU than this is asked several times in each round."""


def measure(scale: Decimal, repeat: int, folder: Path) -> list[Row]:
    """All queries, each once to compare and then in turn, in this process.

    Each in three ways.  In a program that asks several times: columns were opened by a query before.  First: with new frames, so that
    footers are read and columns opened; the plain side has new frames too.  Streamed: nothing stays open, as with a table that is too
    large for it.
    """
    owned = encrypted_tables(generate(scale, folder / "made"), folder)
    places = {name: plain_twin(one, folder / "plain" / name) for name, one in owned.items()}

    def ours(name: str) -> pl.LazyFrame:
        return encrypted_frame(owned[name], OpenedMemory())

    def theirs(name: str) -> pl.LazyFrame:
        return pl.scan_parquet([places[name] / entry.path for entry in owned[name].input.manifest.files])

    kept, plain = ({name: frame(name) for name in owned} for frame in (ours, theirs))
    streamed = {name: encrypted_frame(one) for name, one in owned.items()}
    ways: dict[str, list[tuple[Row, Measured, Measured]]] = {"": [], ", first": [], ", streamed": []}
    for number in NUMBERS:
        note(f"Polars q{number:02}: comparing")
        answers = [query(number, tables, scale).collect().rows() for tables in (kept, plain, streamed)]
        found, other, third = ([line(row) for row in rows] for rows in answers)
        require_equal(f"Polars q{number:02}: rows", len(found), len(other))
        require_equal(f"Polars q{number:02}: rows, streamed", len(third), len(other))
        if has_answers(scale):
            for lines in (found, other, third):
                require_equal(f"Polars q{number:02}", differences(number, scale, lines), [])
        asked = partial(_asked, number, plain, scale)
        sides = [
            (partial(_asked, number, kept, scale), asked),
            (partial(_asked_first, number, ours, scale), partial(_asked_first, number, theirs, scale)),
            (partial(_asked, number, streamed, scale), asked),
        ]
        for (way, rows), (one, another) in zip(ways.items(), sides, strict=True):
            rows.append((Row(f"Polars q{number:02}{way}"), one, another))
    means = []
    for way, rows in ways.items():
        in_turn(rows, repeat, least_s=_LEAST_S)
        means.append(geometric_mean(f"Polars, TPC-H SF {scale}{way}, geometric mean", [row for row, _, _ in rows], least_s=0.02))
    return [*(row for rows in ways.values() for row, _, _ in rows), *means]


def _asked(number: int, tables: Tables, scale: Decimal) -> Answer:
    return timed(query(number, tables, scale).collect)


def _asked_first(number: int, frame: Callable[[str], pl.LazyFrame], scale: Decimal) -> Answer:
    return timed(lambda: query(number, _New(frame), scale).collect())


class _New(dict[str, "pl.LazyFrame"]):
    """Frames that are made when a query names them."""

    def __init__(self, frame: Callable[[str], pl.LazyFrame]) -> None:
        super().__init__()
        self._frame = frame

    def __missing__(self, name: str) -> pl.LazyFrame:
        self[name] = self._frame(name)
        return self[name]
