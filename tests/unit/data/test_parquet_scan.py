"""Polars over encrypted Parquet: what it reads is what was written, and no more than a query needs."""

from __future__ import annotations

import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
from support.partitioned import FOLDERS, partitioned
from support.partitioned import ROWS as FLIGHTS
from support.scanned_table import DATASET, ROWS, ScannedTable, access_under, all_types, make_small_files

from confide.crypto.secret import SecretBytes
from confide.data import parquet_scan, scan_steps, table_files
from confide.data.parquet_image import Image, Room
from confide.data.parquet_modules import Modules
from confide.data.parquet_scan import TableScan
from confide.data.pinned_parquet import Fetched, PinnedFile, TableFile
from confide.data.read_counts import Totals
from confide.errors import IntegrityError, SecretLeakError

if TYPE_CHECKING:
    from confide.canonical import Json


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_files(monkeypatch)


@pytest.fixture(scope="module")
def source() -> pa.Table:
    return all_types()


@pytest.fixture
def table(tmp_path: Path, source: pa.Table) -> ScannedTable:
    """Each query opens what it reads."""
    return ScannedTable(tmp_path / "table", source)


@pytest.fixture(params=["streamed", "kept"])
def either(tmp_path: Path, source: pa.Table, request: pytest.FixtureRequest) -> ScannedTable:
    return ScannedTable(tmp_path / "table", source, kept=request.param == "kept")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what was fetched of column chunks."""
    lengths: list[int] = []
    put_pages = PinnedFile.put_pages

    def noting(file: PinnedFile, group: int, columns: Any, image: Image, told: Fetched) -> None:
        before = told.size
        put_pages(file, group, columns, image, told)
        lengths.append(told.size - before)

    monkeypatch.setattr(PinnedFile, "put_pages", noting)
    return lengths


def test_a_scan_reads_every_type_as_it_was_written(either: ScannedTable, source: pa.Table) -> None:
    assert len(either.files) == 3
    assert either.frame().collect().equals(pl.DataFrame(source))
    assert list(either.frame().collect_schema()) == source.schema.names


@pytest.mark.parametrize(
    "query",
    [
        lambda frame: frame.select(pl.len()),
        lambda frame: frame.filter(pl.col("id") >= 4321).select("text", "id"),
        lambda frame: frame.filter((pl.col("day") == date.fromordinal(730_150)) & pl.col("flag")).select("price"),
        lambda frame: frame.filter(pl.col("price").is_between(Decimal("10.00"), Decimal("11.00"))),
        lambda frame: frame.filter(pl.col("real") > 1e9),  # NaN is greater than every number, and no statistics tell of it
        lambda frame: frame.filter(pl.col("real").is_nan()).select(pl.len()),
        lambda frame: frame.filter(pl.col("small").is_null()).select(pl.col("id").sum()),
        lambda frame: frame.filter(pl.col("text") == "Zeile 4999 \u2713"),
        lambda frame: frame.filter(pl.col("id") < 0),
        lambda frame: frame.filter(pl.col("pair").struct.field("a") == 77).select("many"),
        lambda frame: frame.head(2345).select(pl.col("id").max(), pl.len()),
        lambda frame: frame.filter(pl.col("id") % 2 == 1).head(7),
        lambda frame: frame.tail(3),
        lambda frame: frame.slice(1990, 20).select("id"),
        lambda frame: frame.slice(1990),
        lambda frame: frame.slice(9).filter(pl.col("flag")).slice(1990).select("id", "text"),
        lambda frame: frame.group_by("small").agg(pl.col("id").sum()).sort("small"),
        lambda frame: frame.join(frame.select("id", other="text"), on="id").sort("id").select("other"),
    ],
)
@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_a_query_over_encrypted_files_answers_as_over_plain_ones(either: ScannedTable, source: pa.Table, query: Any, engine: Any) -> None:
    plain = pl.DataFrame(source).lazy()
    assert query(either.frame()).collect(engine=engine).equals(query(plain).collect(engine=engine))


def test_only_columns_row_groups_and_files_that_a_query_needs_are_fetched(table: ScannedTable, fetched: list[int]) -> None:
    def cost(query: pl.LazyFrame) -> int:
        before = sum(fetched)
        query.collect()
        return sum(fetched) - before

    everything = cost(table.frame())
    assert everything > 0.8 * sum(file.size for file in table.files) - 3 * 16_384
    one_column = cost(table.frame().select(pl.col("id").sum()))
    assert 0 < one_column < everything / 5
    # One row group of ten, of one column, and of one that is only asked about.
    one_group = cost(table.frame().filter(pl.col("id") == 4900).select("flag"))
    assert 0 < one_group < one_column
    assert cost(table.frame().filter(pl.col("id") < 0)) == 0
    before = len(table.given)
    cost(table.frame().head(10))
    assert {path for path, _ in table.given[before:]} == {table.files[0].path}


def test_more_files_than_fit_one_step_are_read_in_their_order(
    table: ScannedTable, source: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_steps, "_FIRST_ROWS", 700)
    monkeypatch.setattr(scan_steps, "_BATCH_BYTES", 10_000)
    assert table.frame().collect().equals(pl.DataFrame(source))
    assert table.frame().filter(pl.col("id") > 1400).head(600).select("id").collect()["id"].to_list() == list(range(1401, 2001))


@pytest.mark.parametrize("few", [True, False], ids=["few rows are left", "frames are large"])
def test_a_step_has_as_many_rows_as_make_a_frame_of_one_size(table: ScannedTable, monkeypatch: pytest.MonkeyPatch, few: bool) -> None:
    """What a step gave is known to the next one, or to the one after that: it is fetched meanwhile."""
    monkeypatch.setattr(scan_steps, "_FIRST_ROWS", 500)
    monkeypatch.setattr(scan_steps, "_FRAME_BYTES", 10_000 if few else 10)
    steps, collect = list[int](), parquet_scan.collect

    def noted(parts: Any, *rest: Any) -> pl.DataFrame:
        steps.append(sum(part.rows for part in parts))
        return collect(parts, *rest)

    monkeypatch.setattr(parquet_scan, "collect", noted)
    frame = table.frame().filter(pl.col("text") == "nobody") if few else table.frame()
    assert frame.select("id").collect().height == (0 if few else ROWS)
    assert sum(steps) == ROWS
    if few:
        assert steps[0] == 500
        assert steps[2] >= 1000
        assert len(steps) in {4, 5}
    else:
        assert steps == [500] * 10


@pytest.mark.parametrize(
    "query",
    [
        lambda frame: frame,
        lambda frame: frame.select("year", "id"),
        lambda frame: frame.select("part"),
        lambda frame: frame.filter(pl.col("year") == 2013).select("id"),
        lambda frame: frame.filter(pl.col("year").is_null()),
        lambda frame: frame.filter((pl.col("part") == "c") & (pl.col("id") > 3)),
        lambda frame: frame.filter(pl.col("day") > pl.date(2013, 1, 5)).group_by("day").agg(pl.col("id").sum(), pl.len()).sort("day"),
        lambda frame: frame.filter(pl.col("price") >= 2).select(pl.col("price").sum()),
        lambda frame: frame.head(4),
        lambda frame: frame.tail(3).select("price", "id"),
        lambda frame: frame.select(pl.len()),
    ],
)
def test_columns_that_are_names_of_folders_are_columns(tmp_path: Path, query: Any) -> None:
    key = SecretBytes.random()
    manifest = partitioned(tmp_path, DATASET, key)
    files = [TableFile(entry.path, entry.size, entry.rows or 0) for entry in manifest.files]
    assert manifest.schema is not None
    frame = TableScan(tmp_path, files, access_under(key), manifest.schema).frame("flights")
    kinds = {"id": pl.Int64, "year": pl.Int32, "day": pl.Date, "part": pl.String, "price": pl.Decimal(5, 2)}
    order = [number for entry in manifest.files for number in FOLDERS[entry.path.rpartition("/")[0]]]
    plain = pl.DataFrame([FLIGHTS[number] for number in order], schema=kinds).lazy()
    assert query(frame).collect().equals(query(plain).collect())


def test_folders_decide_which_row_groups_are_fetched(tmp_path: Path, fetched: list[int]) -> None:
    key = SecretBytes.random()
    manifest = partitioned(tmp_path, DATASET, key)
    files = [TableFile(entry.path, entry.size, entry.rows or 0) for entry in manifest.files]
    assert manifest.schema is not None
    frame = TableScan(tmp_path, files, access_under(key), manifest.schema).frame("flights")
    costs = []
    for query in (frame, frame.filter(pl.col("part") == "a/b"), frame.filter(pl.col("day") > pl.date(2015, 1, 1))):
        before = sum(fetched)
        query.collect()
        costs.append(sum(fetched) - before)
    assert costs[0] > costs[1] > costs[2] == 0


def test_key_of_a_file_that_does_not_open_is_forgotten(table: ScannedTable) -> None:
    table.first.unlink()
    with pytest.raises(IntegrityError):
        table.frame()
    assert [len(key) for _, key in table.given] == [0]


def test_keys_are_forgotten_with_the_file_and_scans_are_not_pickled(table: ScannedTable) -> None:
    scan = table.scan()
    scan.frame("table").select("id").collect()
    assert len(table.given) == 4  # one for the columns, one for each file
    assert all(len(key) == 0 for _, key in table.given)
    for one in (scan, TableScan.__new__(TableScan)):  # what it holds would not be pickled either
        with pytest.raises(SecretLeakError):
            pickle.dumps(one)
    with pytest.raises(pl.exceptions.ComputeError, match="serialization failed"):  # for a plan that is sent elsewhere
        table.frame().serialize(io.BytesIO())
    with PinnedFile(table.folder, table.files[0], table.key_of(table.files[0].path)) as file:
        assert table.given[-1][1].reveal().hex() not in repr(file)
    assert len(table.given[-1][1]) == 0


def test_an_empty_table_has_its_columns(tmp_path: Path, source: pa.Table) -> None:
    empty = ScannedTable(tmp_path / "empty", source.slice(0, 0))
    found = empty.frame().collect()
    assert (found.height, found.columns) == (0, source.schema.names)


def test_what_queries_read_is_told(table: ScannedTable) -> None:
    told: list[Json] = []
    totals = Totals(told.append)
    frame = table.frame(totals=totals)
    frame.select("id").collect()
    frame.filter(pl.col("id") >= 4900).select("id").collect()
    assert [(one["tasks"], one["rows_read"]) for one in told] == [(1, ROWS), (2, ROWS + 500)]
    assert told[1]["bytes_read"] > told[0]["bytes_read"] > 0
    assert told[1]["open_us"] > told[0]["open_us"] > 0
    totals.tell_rest()
    assert len(told) == 2


def test_a_query_may_be_left_on_any_thread(table: ScannedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector runs on the thread that fetches, too, which would wait for itself.  It asks no agent: an answer may be due."""
    told: list[Json] = []
    totals = Totals(told.append)
    scan = table.scan(totals=totals)
    monkeypatch.setattr(scan_steps, "_FIRST_ROWS", 1)
    frames: list[Any] = [scan._batches(None, None, None, None)]
    put_pages, got, left = PinnedFile.put_pages, threading.Event(), threading.Event()

    def leave(*arguments: Any) -> None:
        if threading.current_thread() is not threading.main_thread() and got.wait(60):
            frames.clear()
            left.set()
        put_pages(*arguments)

    monkeypatch.setattr(PinnedFile, "put_pages", leave)
    next(frames[0])
    got.set()
    assert left.wait(60)
    fetching = [thread for thread in threading.enumerate() if thread.name.startswith("confide-fetch")]
    for thread in fetching:
        thread.join(60)
    assert not any(thread.is_alive() for thread in fetching)
    assert told == []
    totals.tell_rest()
    assert [(one["tasks"], one["rows_read"]) for one in told] == [(1, 1000)]
    totals.tell_rest()
    assert len(told) == 1


def test_two_queries_may_come_to_new_files_at_once(table: ScannedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = table.scan()
    (pinned, *_), folders = scan._footers.values(), scan._of_folders
    scan._footers["another.parquet"] = pinned

    def meanwhile(path: str, layout: Any) -> pl.DataFrame:
        scan._footers[f"{len(scan._footers)}.parquet"] = pinned
        return folders(path, layout)

    monkeypatch.setattr(scan, "_of_folders", meanwhile)
    assert scan.frame("table").collect().height == ROWS


def test_pages_end_by_their_size_and_not_by_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is two messages of the cipher.  Here a dictionary and one page of data, where Arrow would make three."""
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 60_000)
    monkeypatch.setattr(table_files, "ROWS_PER_GROUP", 60_000)
    table = ScannedTable(tmp_path / "numbers", pa.table({"x": range(60_000)}))
    opened: list[memoryview] = []
    page = Modules._page

    def counted(modules: Modules, data: memoryview, *others: Any) -> int:
        opened.append(data)
        return page(modules, data, *others)

    monkeypatch.setattr(Modules, "_page", counted)
    assert table.frame().collect().height == 60_000
    assert len(opened) == 2


@pytest.mark.parametrize("zeros", [0, 1, 2, 77])
def test_zeros_that_were_encrypted_behind_a_header_of_a_page_are_no_part_of_the_page(table: ScannedTable, zeros: int) -> None:
    """Parquet's Java, and so Spark, encrypts a buffer of 100 bytes with a shorter header at its beginning."""
    entry = table.files[0]
    with PinnedFile(table.folder, entry, table.key_of(entry.path)) as file:
        names = [column.name for column in file.pinned.footer.layout.columns]
        for leaf in (names.index("id"), names.index("text")):
            chunk = file.pinned.footer.groups[0].chunks[leaf]
            sealed = table.first.read_bytes()[chunk.start : chunk.start + chunk.length]
            padded = _with_zeros_behind_headers(sealed, file._modules, (0, leaf), zeros, dictionary=chunk.dictionary)
            rooms = [Room(memoryview(bytearray(len(data))), 0) for data in (sealed, padded)]
            for data, room in zip((sealed, padded), rooms, strict=True):
                file._modules.pages(data, (0, leaf), room, dictionary=chunk.dictionary)
            ours, theirs = (bytes(room.view[: room.at]) for room in rooms)
            assert theirs == ours


def _with_zeros_behind_headers(sealed: bytes, modules: Modules, place: tuple[int, int], zeros: int, *, dictionary: bool) -> bytes:
    """A column chunk whose headers are encrypted anew, each with ``zeros`` behind it (Parquet Modular Encryption, "AAD suffix")."""
    ordinals = b"".join(number.to_bytes(2, "little") for number in place)
    made, at, number = b"", 0, -1 if dictionary else 0
    while at < len(sealed):
        aad = modules._aad + (b"\5" + ordinals if number < 0 else b"\4" + ordinals + number.to_bytes(2, "little"))
        end = at + 4 + int.from_bytes(sealed[at : at + 4], "little")
        nonce = sealed[at + 4 : at + 16]
        header = modules._cipher.encrypt(nonce, modules._cipher.decrypt(nonce, sealed[at + 16 : end], aad) + bytes(zeros), aad)
        page_end = end + 4 + int.from_bytes(sealed[end : end + 4], "little")
        made += (len(nonce) + len(header)).to_bytes(4, "little") + nonce + header + sealed[end:page_end]
        at, number = page_end, number + 1
    return made


def test_what_is_read_at_one_time_needs_no_thread(table: ScannedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[object] = []
    submit = ThreadPoolExecutor.submit

    def counted(self: ThreadPoolExecutor, work: Any, *arguments: Any) -> Any:
        submitted.append(work)
        return submit(self, work, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    assert table.frame().collect().height == ROWS
    assert submitted == []
    monkeypatch.setattr(scan_steps, "_FIRST_ROWS", ROWS // 2)
    assert table.frame().collect().height == ROWS
    assert submitted
