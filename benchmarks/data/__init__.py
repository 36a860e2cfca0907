"""The data path beside plain Spark, in one run: ``python -m benchmarks data``.

Each section makes its data, sees that both variants give the same rows, and only then takes times: CPU seconds of all processes of a
variant (driver, executors, program, agent) and wall time, medians, ours and plain in turn, and plain once more at the end.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.data import embedded, formats, join, manifests, opening, queries
from benchmarks.data.rows import Row, note

_QUICK = Decimal("0.01")


_WITHOUT_SPARK = {"aead": "benchmarks.aead", "encrypt": "benchmarks.encrypting"}
"""Sections whose modules measure by themselves."""


def _elsewhere(module: str, _folder: Path) -> list[Row]:
    """Figures that need no Spark: the module's ``measure()`` gives them as name, unit and value."""
    found = importlib.import_module(module).measure()
    return [Row(what, note=f"{value:,.2f} {unit}") for what, unit, value in found]


def _sections(scale: Decimal, repeat: int, *, quick: bool) -> dict[str, Callable[[Path], list[Row]]]:
    there = {name: module for name, module in _WITHOUT_SPARK.items() if find_spec(module) is not None}
    return {
        **{name: partial(_elsewhere, module) for name, module in there.items()},
        "formats": lambda folder: formats.measure(scale, repeat, folder),
        "tpch": lambda folder: queries.measure(scale, repeat, folder),
        "polars": lambda folder: embedded.measure(scale, repeat, folder),
        "join": lambda folder: join.measure(scale, repeat, folder),
        "manifest": lambda folder: manifests.measure(repeat, folder, files=1000 if quick else manifests.FILES),
        "opening": lambda folder: opening.measure(repeat, folder, files=50 if quick else opening.FILES),
    }


def measure(repeat: int, *, quick: bool = False, only: tuple[str, ...] = (), scale: Decimal = Decimal(1)) -> list[Row]:
    """All rows, or those of the sections ``only``."""
    sections = _sections(_QUICK if quick else scale, repeat, quick=quick)
    if not set(only) <= set(sections):
        sys.exit(f"--only: sections are {', '.join(sections)}")
    rows: list[Row] = []
    for name, section in sections.items():
        if only and name not in only:
            continue
        note(f"--- {name}")
        with tempfile.TemporaryDirectory(prefix="confide-bench-") as scratch:
            rows += section(Path(scratch))
    return rows


def markdown(rows: list[Row], about: dict[str, str], repeat: int) -> str:
    """The table as docs/benchmarks.md has it."""
    head = "| what | Confide (CPU / wall) | plain Spark (CPU / wall) | CPU | wall | plain again, CPU | |"
    lines = [f"| {' | '.join(row.cells())} |" for row in rows]
    facts = [f"* {name}: {value}" for name, value in about.items()]
    when = f"* date: {datetime.now(UTC):%Y-%m-%d}; medians of {repeat}"
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: | --- |", *lines, "", *facts, when])
