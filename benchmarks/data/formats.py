"""Scan, pruned read and write of each format, with Spark's own readers and writers, beside plain Spark on the same files."""

from __future__ import annotations

from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.data.owned import Owned, encrypted, plain_twin
from benchmarks.data.rows import Measured, Row, in_turn, note, require_equal
from benchmarks.data.sessions import Answer, Session, Shape, confidential, plain
from benchmarks.tpch.tables import generate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confide.canonical import Json

TABLE = "orders"
FILES = ("csv", "json", "text", "orc")
_SCHEMA = (
    "o_orderkey BIGINT, o_custkey BIGINT, o_orderstatus STRING, o_totalprice DECIMAL(15,2), o_orderdate DATE, "
    "o_orderpriority STRING, o_clerk STRING, o_shippriority INT, o_comment STRING"
)
_WARM_UP: Final = 4
"""Rounds after which both JVMs have compiled what a row needs: the first queries of sessions have a table of their own."""
_LEAST_S: Final = 2.0
"""A scan that takes less CPU than this is asked several times in each round."""


def measure(scale: Decimal, repeat: int, folder: Path) -> list[Row]:
    """All formats, on TPC-H's table ``orders``."""
    shape = Shape()
    table = encrypted(generate(scale, folder / "made")[TABLE], folder / "encrypted" / TABLE)
    table_info = table.input.info()
    twin: dict[str, Json] = {TABLE: {**table_info, "path": str(plain_twin(table, folder / "plain" / TABLE))}}
    places = _written(twin, folder / "writer", shape)
    owned = {TABLE: table, **{kind: encrypted(place, folder / "encrypted" / kind) for kind, place in places.items()}}
    for kind, place in places.items():
        twin[kind] = {"path": str(place), "files": sorted(file.name for file in place.iterdir())}
    outputs = [f"{kind}-{number}" for kind in ("parquet", *FILES) for number in range(_WARM_UP + repeat)]
    with ExitStack() as stack:
        ours = confidential(owned, folder / "ours", shape, stack, outputs=outputs)
        theirs = plain(twin, folder / "theirs", shape, stack)
        sizes = {"parquet" if name == TABLE else name: _size(Path(one["path"])) for name, one in twin.items()}
        return _measured(ours, theirs, repeat, _last_key(owned[TABLE]), sizes)


def _written(twin: Mapping[str, Json], folder: Path, shape: Shape) -> dict[str, Path]:
    """The table in the other formats, written by plain Spark."""
    with ExitStack() as stack:
        session = plain(twin, folder, shape, stack)
        for kind in FILES:
            note(f"{kind}: writing the files to read")
            session.ask("write", name=TABLE, kind=kind, output=kind)
    for kind in FILES:
        for file in [*(folder / kind).glob("_*"), *(folder / kind).glob(".*")]:
            file.unlink()
    return {kind: folder / kind for kind in FILES}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _measured(ours: Session, theirs: Session, repeat: int, last: int, sizes: Mapping[str, int]) -> list[Row]:
    """Scans first: once the table is in memory for the writes, Spark would take it from there."""
    scans: list[tuple[Row, Measured, Measured]] = []
    for what, source in _sources(last).items():
        note(f"{what}: comparing")
        found = [session.ask("checksum", source=source).value for session in (ours, theirs)]
        require_equal(what, *found)
        size = f", {sizes[what.removeprefix('scan ')]:,} bytes" if what.startswith("scan ") else ""
        row = Row(what, note=f"{int(found[0][0]):,} rows{size}")
        scans.append((row, _asking(ours, source), _asking(theirs, source)))
    in_turn(scans, repeat, warm_up=_WARM_UP, least_s=_LEAST_S)
    for session in (ours, theirs):
        session.ask("keep", name=TABLE)
    commits: list[Answer] = []
    writes: list[tuple[Row, Measured, Measured]] = []
    for kind in ("parquet", *FILES):
        row = Row(f"write {kind}", note="from the executors' memory")
        writes.append((row, _Writing(ours, kind, commits), _Writing(theirs, kind, [])))
    in_turn(writes, repeat, warm_up=_WARM_UP)
    commit = Row("commit of one output", commits, note="each file is opened, hashed and synced; manifest signed; not in the rows above")
    return [*(row for row, _, _ in (*scans, *writes)), commit]


def _sources(last: int) -> dict[str, Json]:
    """What is read: all of each format, and of those that have statistics the few rows of one key range."""
    described: dict[str, Any] = {kind: {"name": kind, "format": kind, "schema": _SCHEMA} for kind in ("csv", "json", "orc")}
    described = {"parquet": {"name": TABLE}, **described, "text": {"name": "text", "format": "text"}}
    scans = {f"scan {kind}": source for kind, source in described.items()}
    where = f"o_orderkey BETWEEN {last // 2} AND {last // 2 + 1000}"
    return {**scans, **{f"pruned read {kind}": {**described[kind], "where": where} for kind in ("parquet", "orc")}}


def _last_key(table: Owned) -> int:
    """About the largest key: TPC-H uses 8 of each 32 numbers for its orders."""
    return 4 * (table.input.manifest.rows or 0)


def _asking(session: Session, source: Json) -> Measured:
    return lambda: session.ask("scan", source=source)


class _Writing:
    """Writes to a new output each time.  What the agent's commit takes, which plain Spark has no counterpart for, is kept apart."""

    def __init__(self, session: Session, kind: str, commits: list[Answer]) -> None:
        self._session, self._kind, self._commits = session, kind, commits
        self._number = 0

    def __call__(self) -> Answer:
        """One output."""
        before = len(self._session.commits)
        whole = self._session.ask("write", name=TABLE, kind=self._kind, output=f"{self._kind}-{self._number}")
        self._number += 1
        made = self._session.commits[before:]
        self._commits += made
        return Answer(whole.value, whole.wall - sum(one.wall for one in made), whole.cpu - sum(one.cpu for one in made))
