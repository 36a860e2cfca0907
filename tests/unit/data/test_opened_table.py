"""Columns of encrypted tables that stay open in memory: opened once, when a query needs them, and only where there is the memory."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
from polars.selectors import by_name
from support.partitioned import partitioned
from support.scanned_table import DATASET, ROWS, ScannedTable, access_under, all_types, make_small_files

from confide.crypto.secret import SecretBytes
from confide.data import parquet_scan
from confide.data.opened_table import OpenedMemory, OpenedTable
from confide.data.parquet_footer import Footer
from confide.data.parquet_image import Room
from confide.data.parquet_scan import TableScan
from confide.data.pinned_parquet import Fetched, FileAccess, PinnedFile, TableFile
from confide.data.read_counts import Totals
from confide.errors import IntegrityError, KeyAccessError, SecretLeakError

if TYPE_CHECKING:
    from confide.canonical import Json

GROUPS = ROWS // 500


@pytest.fixture(scope="module")
def source() -> pa.Table:
    return all_types()


@pytest.fixture
def table(tmp_path: Path, source: pa.Table, monkeypatch: pytest.MonkeyPatch) -> ScannedTable:
    make_small_files(monkeypatch)
    return ScannedTable(tmp_path / "table", source, kept=True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The chunks that were opened: their row group and column."""
    places: list[tuple[int, int]] = []
    open_chunk = PinnedFile.open_chunk

    def noting(file: PinnedFile, place: tuple[int, int], room: Room, fetched: Fetched) -> int:
        places.append(place)
        return open_chunk(file, place, room, fetched)

    monkeypatch.setattr(PinnedFile, "open_chunk", noting)
    return places


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each step of a scan that opens what it reads and keeps nothing."""
    rows: list[int] = []
    collect = parquet_scan.collect

    def noting(parts: Any, *rest: Any) -> pl.DataFrame:
        rows.append(sum(part.rows for part in parts))
        return collect(parts, *rest)

    monkeypatch.setattr(parquet_scan, "collect", noting)
    return rows


def test_a_column_is_opened_once_and_only_if_a_query_names_it(
    table: ScannedTable, source: pa.Table, opened: list[tuple[int, int]], steps: list[int]
) -> None:
    frame = table.frame()
    assert opened == []
    for _ in range(3):
        assert frame.select(pl.col("id").sum()).collect().item() == sum(range(ROWS))
        assert len(opened) == GROUPS
    asked = frame.filter(pl.col("text").str.ends_with("9 \u2713")).select("id", "text", "price")
    for _ in range(2):
        assert asked.collect().equals(pl.DataFrame(source).filter(pl.col("text").str.ends_with("9 \u2713")).select("id", "text", "price"))
        assert len(opened) == 3 * GROUPS
    assert frame.collect().equals(pl.DataFrame(source))
    leaves = len(source.schema) + 1  # a struct of two
    assert len(opened) == leaves * GROUPS
    assert steps == []


def _in_a_loop(frame: pl.LazyFrame) -> pl.DataFrame:
    async def run() -> pl.DataFrame:
        return await frame.collect_async()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "ask",
    [
        lambda frame: frame.collect(engine="streaming"),
        lambda frame: frame.collect(engine="in-memory"),
        lambda frame: pl.collect_all([frame, frame.select("id")])[0],
        lambda frame: pl.concat(frame.collect_batches(chunk_size=700)),
        lambda frame: pl.SQLContext(t=frame).execute("SELECT * FROM t", eager=True),
        lambda frame: pl.from_arrow(pa.table(frame.collect())),
        _in_a_loop,
    ],
)
def test_however_polars_is_asked_it_reads_what_was_written(table: ScannedTable, source: pa.Table, ask: Any, steps: list[int]) -> None:
    """A place that was not filled would be no page, and the query would end with an error."""
    frame = table.frame()
    frame.select("id").collect()
    whole = pl.DataFrame(source)
    for query in (frame, frame.filter(pl.col("id") % 3 == 1)):
        expected = whole if query is frame else whole.filter(pl.col("id") % 3 == 1)
        found = ask(query)
        assert isinstance(found, pl.DataFrame)
        assert found.equals(expected)
    assert steps == []


@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
@pytest.mark.parametrize(
    "query",
    [
        lambda frame: frame.with_row_index().select("index", "small", "id"),
        lambda frame: frame.with_row_index().filter(pl.col("id") > 3).select("index", "small"),
        lambda frame: frame.with_row_index().filter(pl.col("id") > 3).select("index", "small").unique(maintain_order=True),
        lambda frame: frame.explode("many").select("text"),
        lambda frame: frame.select("text", top=pl.col("id").max().over("small")),
    ],
)
def test_no_column_is_taken_for_another_where_polars_counts_columns(
    table: ScannedTable, source: pa.Table, query: Any, engine: Any, steps: list[int]
) -> None:
    assert query(table.frame()).collect(engine=engine).equals(query(pl.DataFrame(source).lazy()).collect(engine="in-memory"))
    assert steps == []


@pytest.mark.parametrize("kept", [True, False])
def test_a_column_whose_name_is_a_pattern_is_itself(tmp_path: Path, *, kept: bool) -> None:
    source = pa.table({"^a.*$": [1, 2], "ab": [3, 4], "*": [5, 6], "x": [7, 8]})
    frame, whole = ScannedTable(tmp_path / "table", source, kept=kept).frame(), pl.DataFrame(source)
    assert frame.collect().equals(whole)
    for names in (["^a.*$"], ["*", "^a.*$"], ["x", "ab"]):
        assert frame.select(by_name(*names)).collect().equals(whole.select(by_name(*names)))
    assert frame.filter(pl.col("x") > 7).drop("x").collect().equals(whole.filter(pl.col("x") > 7).drop("x"))


def test_what_is_not_open_is_no_parquet_page(table: ScannedTable) -> None:
    scan = table.scan()
    part = scan.opened({"id"}, [])
    assert part is not None
    file = pl.scan_parquet(part.file)
    assert file.select("id").collect().height == ROWS
    for name in ("small", "text", "many"):
        with pytest.raises(pl.exceptions.ComputeError):
            file.select(name).collect()


def test_explaining_a_plan_runs_no_query_and_shows_no_value(table: ScannedTable) -> None:
    frame = table.frame()
    assert frame.collect_schema().names()[0] == "id"
    assert "Zeile" not in frame.select("text").explain()


@pytest.mark.parametrize("query", [lambda frame: frame.head(3), lambda frame: frame.select(pl.len()), lambda frame: frame.filter(id=4900)])
def test_a_query_of_few_rows_opens_no_column(table: ScannedTable, opened: list[tuple[int, int]], query: Any, source: pa.Table) -> None:
    frame = table.frame()
    assert query(frame).collect().equals(query(pl.DataFrame(source).lazy()).collect())
    assert len(opened) < 3 * len(source.schema)
    most = frame.filter(pl.col("id") >= 2000).select("id")
    before = len(opened)
    assert most.collect().height == 3000
    assert len(opened) == before + GROUPS
    before = len(opened)
    assert frame.filter(id=4900).select("id").collect().height == 1
    assert len(opened) == before  # it is open now


def test_a_key_is_asked_for_by_every_query(table: ScannedTable) -> None:
    allowed = True

    def key_of(path: str) -> FileAccess:
        if not allowed:
            raise KeyAccessError("the owner has taken the key back")
        return table.key_of(path)

    frame = table.frame(key_of=key_of)
    frame.select("id").collect()
    given = len(table.given)
    frame.select("id").collect()
    assert len(table.given) == given + 1
    assert all(len(key) == 0 for _, key in table.given)
    allowed = False
    with pytest.raises(KeyAccessError, match="taken the key back"):
        frame.select("id").collect()


def test_a_column_that_does_not_open_is_not_open_and_takes_no_memory(table: ScannedTable, opened: list[tuple[int, int]]) -> None:
    memory = OpenedMemory(sum(file.size for file in table.files))
    scan = table.scan(memory=memory)
    frame = scan.frame("table")
    frame.select("id").collect()
    good = table.first.read_bytes()
    with PinnedFile(table.folder, table.files[0], table.key_of(table.files[0].path)) as file:
        at = file.pinned.footer.groups[2].chunks[3].start + 100
    table.first.write_bytes(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
    left = memory._left
    for _ in range(2):
        with pytest.raises(IntegrityError, match=table.files[0].path):
            frame.select("price").collect()
        assert memory._left == left
        assert scan._opened is not None
        chunks = scan._opened.footer.footer.groups[0].chunks
        place = scan._opened._places[0][3]
        assert not any(scan._opened.file[place : place + chunks[3].length])
    assert frame.select("id").collect().height == ROWS
    table.first.write_bytes(good)
    before = len(opened)
    assert frame.select(pl.col("price").max()).collect().item() > 49
    assert len(opened) == before + GROUPS
    assert memory._left < left


def test_a_file_that_is_gone_is_missed_by_the_next_column_only(table: ScannedTable) -> None:
    frame = table.frame()
    frame.select("id").collect()
    table.first.unlink()
    assert frame.select("id").collect().height == ROWS
    with pytest.raises(IntegrityError, match="missing"):
        frame.select("text").collect()


@pytest.mark.parametrize("most", [0, 10_000, 60_000])
def test_without_the_memory_each_query_opens_what_it_reads(table: ScannedTable, source: pa.Table, steps: list[int], most: int) -> None:
    frame = table.frame(memory=OpenedMemory(most))
    for _ in range(2):
        assert frame.collect().equals(pl.DataFrame(source))
    assert sum(steps) == 2 * ROWS


def test_tables_share_the_memory(table: ScannedTable, source: pa.Table, steps: list[int]) -> None:
    size = sum(file.size for file in table.files)
    memory = OpenedMemory(max(size, source.nbytes * 2))
    memory.take(memory.most - size)
    one, other = table.frame(memory=memory), table.frame(memory=memory)
    assert one.collect().equals(pl.DataFrame(source))
    assert steps == []
    assert other.collect().equals(pl.DataFrame(source))
    assert sum(steps) == ROWS


def test_columns_that_are_larger_without_compression_than_the_memory_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    make_small_files(monkeypatch)
    table = ScannedTable(tmp_path / "wide", pa.table({"n": range(ROWS), "text": [f"{n:0400}" for n in range(ROWS)]}))
    most = ROWS * 200
    assert sum(file.size for file in table.files) < most / 2
    frame = table.frame(memory=OpenedMemory(most))
    assert frame.select("n").collect().height == ROWS
    assert steps == []
    assert frame.select(pl.col("text").str.len_bytes().sum()).collect().item() == ROWS * 400
    assert sum(steps) == ROWS


def test_a_system_without_the_addresses_for_it_has_each_query_open_what_it_reads(
    table: ScannedTable, source: pa.Table, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(parquet_scan, "OpenedTable", refused)
    assert table.frame().collect().equals(pl.DataFrame(source))
    assert sum(steps) == ROWS


def test_row_groups_of_no_row_are_not_opened(tmp_path: Path, steps: list[int]) -> None:
    """Arrow writes one into a file of no rows, and says of its pages that they are where the file begins."""
    numbers = pa.table({"n": range(10)})
    empty, full = ScannedTable(tmp_path / "empty", numbers.slice(0, 0)), ScannedTable(tmp_path / "full", numbers)
    keys = {one.files[0].path: one for one in (empty, full)}
    for one in (empty, full):
        one.first.rename(tmp_path / one.first.name)
    files = [empty.files[0], full.files[0]]
    scan = TableScan(tmp_path, files, lambda path: keys[path].key_of(path), full.schema, memory=OpenedMemory())
    assert scan.frame("t").collect().equals(pl.DataFrame(numbers))
    assert steps == []


def test_a_footer_that_says_a_column_is_outside_of_its_file_is_refused(table: ScannedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Footer.parse

    def beyond(data: bytes, like: Any = None) -> Footer:
        footer = parse(data, like)
        group = footer.groups[0]
        chunks = (replace(group.chunks[0], length=1 << 69), *group.chunks[1:])
        return replace(footer, groups=(replace(group, chunks=chunks), *footer.groups[1:]))

    monkeypatch.setattr(Footer, "parse", beyond)
    with pytest.raises(IntegrityError, match="does not open"):
        table.frame().select("id").collect()


def test_a_table_of_more_files_than_footers_are_kept_keeps_nothing_open(
    table: ScannedTable, source: pa.Table, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_scan, "_FOOTERS", len(table.files) - 1)
    frame = table.frame()
    for _ in range(2):
        assert frame.collect().equals(pl.DataFrame(source))
    assert sum(steps) == 2 * ROWS


class _Elsewhere:
    """A folder that is not of this machine, as far as a scan can see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __truediv__(self, path: str) -> Path:
        return self._folder / path


def test_a_table_that_is_elsewhere_keeps_nothing_open(table: ScannedTable, source: pa.Table, steps: list[int]) -> None:
    """What is fetched from a storage comes while the query runs, not before."""
    given: Any = _Elsewhere(table.folder)
    frame = TableScan(given, table.files, table.key_of, table.schema, memory=OpenedMemory()).frame("table")
    assert frame.collect().equals(pl.DataFrame(source))
    assert sum(steps) == ROWS


def test_a_table_without_rows_has_its_columns(tmp_path: Path, source: pa.Table) -> None:
    empty = ScannedTable(tmp_path / "empty", source.slice(0, 0), kept=True)
    for found in (empty.frame().collect(), empty.frame().select("text", "id").collect()):
        assert found.height == 0
    assert empty.frame().collect().schema == pl.DataFrame(source).schema


def test_a_chunk_that_is_longer_than_its_place_is_refused_and_reaches_no_other_place(
    table: ScannedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that were opened are shorter than they were; whatever made them longer, the column behind them is not overwritten."""
    scan = table.scan()
    opened = scan.opened({"small"}, [])
    assert opened is not None
    kept = bytes(bytearray(opened.file))

    def longer(file: PinnedFile, place: tuple[int, int], room: Room, _fetched: Fetched) -> int:
        group, leaf = place
        room.put(b"x" * (file.pinned.footer.groups[group].chunks[leaf].length + 1))
        return 0

    monkeypatch.setattr(PinnedFile, "open_chunk", longer)
    with pytest.raises(IntegrityError, match="does not open"):
        scan.opened({"id"}, [])
    places = [places[1] for places in opened._places]
    lengths = [group.chunks[1].length for group in opened.footer.footer.groups]
    for place, length in zip(places, lengths, strict=True):
        assert opened.file[place : place + length] == kept[place : place + length]


def test_a_table_in_folders_keeps_nothing_open(tmp_path: Path, steps: list[int]) -> None:
    key = SecretBytes.random()
    manifest = partitioned(tmp_path, DATASET, key)
    files = [TableFile(entry.path, entry.size, entry.rows or 0) for entry in manifest.files]
    assert manifest.schema is not None
    frame = TableScan(tmp_path, files, access_under(key), manifest.schema, memory=OpenedMemory()).frame("flights")
    assert frame.collect().height == sum(entry.rows for entry in files)
    assert sum(steps) == sum(entry.rows for entry in files)


def test_queries_on_several_threads_open_each_column_once(
    table: ScannedTable, source: pa.Table, opened: list[tuple[int, int]]
) -> None:
    frame, whole = table.frame(), pl.DataFrame(source)
    names = source.schema.names * 4
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda name: frame.select("id", pl.col(name).alias("value")).collect(), names)]
    for name, one in zip(names, found, strict=True):
        assert one["value"].equals(whole[name])
    assert len(opened) == (len(source.schema) + 1) * GROUPS


def test_polars_asks_for_the_columns_before_a_second_thread_has_the_frame(table: ScannedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a lock meanwhile, and a thread that waits for that with Python's own lock would never let it be answered."""
    asked: list[bool] = []
    schema = parquet_scan.EncryptedTable.schema

    def noting(self: parquet_scan.EncryptedTable) -> pl.Schema:
        asked.append(True)
        return schema(self)

    monkeypatch.setattr(parquet_scan.EncryptedTable, "schema", noting)
    frame = table.frame()
    assert asked == [True]
    frame.collect_schema()
    frame.filter(pl.col("id") > 3).collect_schema()
    frame.select("id").collect()
    assert asked == [True]


def test_what_is_opened_is_told_once_and_rows_with_each_query(table: ScannedTable) -> None:
    told: list[Json] = []
    frame = table.frame(totals=Totals(told.append))
    for _ in range(2):
        frame.select("id").collect()
    assert [(one["tasks"], one["rows_read"]) for one in told] == [(1, ROWS), (2, 2 * ROWS)]
    assert told[0]["bytes_read"] == told[1]["bytes_read"] > 0
    assert told[0]["open_us"] == told[1]["open_us"] > 0
    frame.select("text").head(2).collect()
    assert [(one["tasks"]) for one in told] == [1, 2, 3]


def test_neither_opened_columns_nor_who_gives_them_out_are_pickled(table: ScannedTable) -> None:
    scan = table.scan()
    opened = scan.opened({"id"}, [])
    for secret in (opened, parquet_scan.EncryptedTable(scan, scan.frame("t")), OpenedTable.__new__(OpenedTable)):
        with pytest.raises(SecretLeakError):
            pickle.dumps(secret)
