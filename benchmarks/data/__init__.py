"""The data path beside plain Spark, in one run: ``python -m benchmarks data``.

Each section makes its data, sees that both variants give the same rows, and only then takes times: CPU seconds of all processes of a
variant (driver, executors, program, agent) and wall time, medians, ours and plain in turn, and plain once more at the end.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from benchmarks import aead, encrypting
from benchmarks.data import embedded, formats, join, manifests, opening, queries, starts
from benchmarks.data.rows import Row, note

_QUICK = Decimal("0.01")


def _aead(*, quick: bool) -> list[Row]:
    """Throughput of the cipher and of containers, in memory."""
    found = aead.measure(rounds=2, openssl_seconds=1) if quick else aead.measure()
    return [Row(f"AEAD: {what}", note=f"{by}: {value:.2f} GB/s") for what, by, value in found]


def _encrypting(folder: Path, *, quick: bool) -> list[Row]:
    """What ``data encrypt`` and ``data decrypt`` take."""
    rows = []
    for one in encrypting.measure(megabytes=10, folder=folder) if quick else encrypting.measure(folder=folder):
        for step in ("encrypt", "decrypt"):
            speed, cpu, peak = (one[f"{step}_{what}"] for what in ("mb_s", "cpu_s", "peak_mb"))
            note = f"{speed} MB/s, {cpu} s of CPU for {one['bytes']:,} bytes, {peak} MB at most"
            rows.append(Row(f"data {step}, {one['form']}", note=note))
    return rows


def _sections(scale: Decimal, repeat: int, *, quick: bool) -> dict[str, Callable[[Path], list[Row]]]:
    return {
        "aead": lambda _: _aead(quick=quick),
        "encrypt": lambda folder: _encrypting(folder, quick=quick),
        "formats": lambda folder: formats.measure(scale, repeat, folder),
        "start": lambda folder: starts.measure(scale, repeat, folder),
        "tpch": lambda folder: queries.measure(scale, repeat, folder),
        "polars": lambda folder: embedded.measure(scale, repeat, folder),
        "join": lambda folder: join.measure(scale, repeat, folder),
        "manifest": lambda folder: manifests.measure(repeat, folder, files=1000 if quick else manifests.FILES),
        "opening": lambda folder: opening.measure(repeat, folder, files=50 if quick else opening.FILES),
    }


def _chosen(only: Collection[str]) -> list[str]:
    sections = [*_sections(_QUICK, 1, quick=True)]
    if not set(only) <= set(sections):
        sys.exit(f"--only: sections are {', '.join(sections)}")
    return [name for name in sections if not only or name in only]


def places(only: Collection[str] = (), scale: Decimal | None = None) -> list[str]:
    """The names that the sections' tables have in the page, in the order in which they are measured."""
    end = "" if scale in {None, 1} else f"-sf{scale}"
    return [f"data-{name}{end}" for name in _chosen(only)]


def measure(repeat: int, *, quick: bool = False, only: Collection[str] = (), scale: Decimal = Decimal(1)) -> Iterator[list[Row]]:
    """The rows of each section, or of the sections ``only``, when they are measured."""
    sections = _sections(_QUICK if quick else scale, repeat, quick=quick)
    for name in _chosen(only):
        note(f"--- {name}")
        with tempfile.TemporaryDirectory(prefix="confide-bench-") as scratch:
            yield sections[name](Path(scratch))


def markdown(rows: list[Row], about: dict[str, str], repeat: int) -> str:
    """A section's table as docs/benchmarks.md has it."""
    head = "| what | Confide (CPU / wall) | plain (CPU / wall) | CPU | wall | plain again, CPU | |"
    lines = [f"| {' | '.join(row.cells())} |" for row in rows]
    facts = "; ".join([*about.values(), f"{datetime.now(UTC):%Y-%m-%d}; medians of {repeat} rounds"])
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: | --- |", *lines, "", f"*{facts}*"])
