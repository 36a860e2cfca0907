"""A dataset of 1,000 files: how often a node asks the broker for its key, and what opening them takes."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.data.owned import encrypted
from benchmarks.data.rows import Row, in_turn, require_equal
from benchmarks.data.sessions import Shape, confidential, plain

FILES = 1000
_LINES = 20


def measure(repeat: int, folder: Path, *, files: int = FILES) -> list[Row]:
    """Read all of them, with as many plain ones beside."""
    place, shape = folder / "plain", Shape()
    place.mkdir()
    for number in range(files):
        (place / f"{number:05}.csv").write_text("".join(f"{number},{line}\n" for line in range(_LINES)), encoding="ascii")
    table = encrypted(place, folder / "many")
    twin = {"many": {"path": str(place), "files": sorted(file.name for file in place.iterdir())}}
    source = {"name": "many", "format": "csv", "schema": "file INT, line INT"}
    row = Row(f"scan {files:,} small files (csv)")
    with ExitStack() as stack:
        both = confidential({"many": table}, folder / "ours", shape, stack), plain(twin, folder / "theirs", shape, stack)
        require_equal(row.what, *(session.ask("checksum", source=source).value for session in both))
        scans = [(row, partial(both[0].ask, "scan", source=source), partial(both[1].ask, "scan", source=source))]
        in_turn(scans, repeat, warm_up=1)
    row.note = f"the key was asked for {table.asked} times by {shape.executors + 1} nodes: once each, and again before a lease ends"
    return [row]
