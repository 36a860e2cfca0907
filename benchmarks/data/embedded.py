"""TPC-H's 22 queries in Polars, over encrypted files and over the same files in plaintext."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from benchmarks.data.owned import plain_twin
from benchmarks.data.rows import Measured, Row, geometric_mean, in_turn, note, require_equal, timed
from benchmarks.tpch import NUMBERS
from benchmarks.tpch.__main__ import encrypted_tables
from benchmarks.tpch.answers import differences, has_answers, line
from benchmarks.tpch.frames import encrypted_frame
from benchmarks.tpch.lazy import query
from benchmarks.tpch.tables import generate

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path

    from benchmarks.data.sessions import Answer
    from benchmarks.tpch.lazy import Tables


def measure(scale: Decimal, repeat: int, folder: Path) -> list[Row]:
    """All queries, each once to compare and then in turn, in this process."""
    owned = encrypted_tables(generate(scale, folder / "made"), folder)
    ours = {name: encrypted_frame(one) for name, one in owned.items()}
    places = {name: plain_twin(one, folder / "plain" / name) for name, one in owned.items()}
    theirs = {name: pl.scan_parquet([places[name] / entry.path for entry in one.input.manifest.files]) for name, one in owned.items()}
    rows: list[tuple[Row, Measured, Measured]] = []
    for number in NUMBERS:
        note(f"Polars q{number:02}: comparing")
        found, other = ([line(row) for row in query(number, tables, scale).collect().rows()] for tables in (ours, theirs))
        require_equal(f"Polars q{number:02}: rows", len(found), len(other))
        if has_answers(scale):
            for lines in (found, other):
                require_equal(f"Polars q{number:02}", differences(number, scale, lines), [])
        rows.append((Row(f"Polars q{number:02}"), partial(_asked, number, ours, scale), partial(_asked, number, theirs, scale)))
    in_turn(rows, repeat)
    queries = [row for row, _, _ in rows]
    return [*queries, geometric_mean(f"Polars, TPC-H SF {scale}, geometric mean", queries, least_s=0.02)]


def _asked(number: int, tables: Tables, scale: Decimal) -> Answer:
    return timed(query(number, tables, scale).collect)
