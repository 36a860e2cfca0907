"""Polars over encrypted Parquet: what it reads is what was written, no more than a query needs, and nothing that storage made up."""

from __future__ import annotations

import io
import os
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption
from support.partitioned import FOLDERS, partitioned
from support.partitioned import ROWS as FLIGHTS

from confide.crypto.derive import file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.data import files, parquet_scan
from confide.data.files import encrypt_table
from confide.data.parquet_image import Buffers, Image, Room
from confide.data.parquet_modules import Modules, file_unique
from confide.data.parquet_scan import TableScan
from confide.data.pinned_parquet import Fetched, FileAccess, PinnedFile, TableFile
from confide.data.read_counts import Totals
from confide.data.staging import Attempt
from confide.errors import DataError, IntegrityError, ParseError, PlaintextError, SecretLeakError
from confide.ids import DatasetId

if TYPE_CHECKING:
    from confide.canonical import Json

DATASET = DatasetId("5c" * 16)
ROWS = 5000


class Table:
    """An encrypted table in a folder; ``given`` are the keys that scans of it were given."""

    def __init__(self, folder: Path, table: pa.Table) -> None:
        attempt = Attempt(folder)
        self.folder = attempt.files
        self.folder.mkdir(parents=True)
        self.key = SecretBytes.random()
        written = encrypt_table(table, attempt, self.key, dataset=DATASET)
        assert written.schema is not None
        self.schema = written.schema
        self.columns = written.schema["columns"]
        self.files = [TableFile(entry.path, entry.size, entry.rows or 0) for entry in written.files]
        self.given: list[tuple[str, SecretBytes]] = []

    def key_of(self, path: str) -> FileAccess:
        key = file_key(self.key, kind="parquet", dataset=DATASET, path=path)
        self.given.append((path, key))
        return FileAccess(key, parquet_aad_prefix(DATASET, path))

    def scan(self, **changes: Any) -> pl.LazyFrame:
        given: dict[str, Any] = {"files": self.files, "key_of": self.key_of, "columns": self.columns, **changes}
        return TableScan(self.folder, given["files"], given["key_of"], {**self.schema, "columns": given["columns"]}).frame("table")

    @property
    def first(self) -> Path:
        return self.folder / self.files[0].path


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files of several row groups, of few rows."""
    monkeypatch.setattr(files, "ROWS_PER_FILE", 2000)
    monkeypatch.setattr(files, "ROWS_PER_GROUP", 500)


@pytest.fixture
def source() -> pa.Table:
    numbers = list(range(ROWS))
    return pa.table({
        "id": pa.array(numbers, pa.int64()),
        "small": pa.array([n % 100 if n % 7 else None for n in numbers], pa.int8()),
        "real": pa.array([n / 3 if n % 11 else float("nan") for n in numbers], pa.float64()),
        "price": pa.array([Decimal(n) / 100 for n in numbers], pa.decimal128(15, 2)),
        "day": pa.array([date.fromordinal(730_000 + n // 10) for n in numbers], pa.date32()),
        "at": pa.array([datetime(2020, 1, 1, n % 24, tzinfo=UTC) for n in numbers], pa.timestamp("us", tz="UTC")),
        "local": pa.array([datetime(2020, 1, 1, n % 24) for n in numbers], pa.timestamp("us")),  # noqa: DTZ001 - without a zone
        "text": pa.array([f"Zeile {n} \u2713" if n % 5 else None for n in numbers], pa.string()),
        "flag": pa.array([n % 2 == 0 for n in numbers], pa.bool_()),
        "raw": pa.array([n.to_bytes(3, "big") for n in numbers], pa.binary()),
        "many": pa.array([[n, n + 1][: n % 3] for n in numbers], pa.list_(pa.int64())),
        "pair": pa.array([{"a": n, "b": str(n)} for n in numbers], pa.struct([("a", pa.int64()), ("b", pa.string())])),
    })  # fmt: skip


@pytest.fixture
def table(tmp_path: Path, source: pa.Table) -> Table:
    return Table(tmp_path / "table", source)


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


def test_a_scan_reads_every_type_as_it_was_written(table: Table, source: pa.Table) -> None:
    assert len(table.files) == 3
    assert table.scan().collect().equals(pl.DataFrame(source))
    assert list(table.scan().collect_schema()) == source.schema.names


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
        lambda frame: frame.group_by("small").agg(pl.col("id").sum()).sort("small"),
        lambda frame: frame.join(frame.select("id", other="text"), on="id").sort("id").select("other"),
    ],
)
@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_a_query_over_encrypted_files_answers_as_over_plain_ones(table: Table, source: pa.Table, query: Any, engine: Any) -> None:
    plain = pl.DataFrame(source).lazy()
    assert query(table.scan()).collect(engine=engine).equals(query(plain).collect(engine=engine))


def test_only_columns_row_groups_and_files_that_a_query_needs_are_fetched(table: Table, fetched: list[int]) -> None:
    def cost(query: pl.LazyFrame) -> int:
        before = sum(fetched)
        query.collect()
        return sum(fetched) - before

    everything = cost(table.scan())
    assert everything > 0.8 * sum(file.size for file in table.files) - 3 * 16_384
    one_column = cost(table.scan().select(pl.col("id").sum()))
    assert 0 < one_column < everything / 5
    # One row group of ten, of one column, and of one that is only asked about.
    one_group = cost(table.scan().filter(pl.col("id") == 4900).select("flag"))
    assert 0 < one_group < one_column
    assert cost(table.scan().filter(pl.col("id") < 0)) == 0
    before = len(table.given)
    cost(table.scan().head(10))
    assert {path for path, _ in table.given[before:]} == {table.files[0].path}


def test_more_files_than_fit_one_step_are_read_in_their_order(table: Table, source: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_scan, "_FIRST_ROWS", 700)
    monkeypatch.setattr(parquet_scan, "_BATCH_BYTES", 10_000)
    assert table.scan().collect().equals(pl.DataFrame(source))
    assert table.scan().filter(pl.col("id") > 1400).head(600).select("id").collect()["id"].to_list() == list(range(1401, 2001))


@pytest.mark.parametrize("few", [True, False], ids=["few rows are left", "frames are large"])
def test_a_step_has_as_many_rows_as_make_a_frame_of_one_size(table: Table, monkeypatch: pytest.MonkeyPatch, few: bool) -> None:
    """What a step gave is known to the next one, or to the one after that: it is fetched meanwhile."""
    monkeypatch.setattr(parquet_scan, "_FIRST_ROWS", 500)
    monkeypatch.setattr(parquet_scan, "_FRAME_BYTES", 10_000 if few else 10)
    steps, collect = list[int](), parquet_scan._collect

    def noted(parts: Any, *rest: Any) -> pl.DataFrame:
        steps.append(sum(part.rows for part in parts))
        return collect(parts, *rest)

    monkeypatch.setattr(parquet_scan, "_collect", noted)
    frame = table.scan().filter(pl.col("text") == "nobody") if few else table.scan()
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
    access = lambda path: FileAccess(file_key(key, kind="parquet", dataset=DATASET, path=path), parquet_aad_prefix(DATASET, path))  # noqa: E731
    assert manifest.schema is not None
    frame = TableScan(tmp_path, files, access, manifest.schema).frame("flights")
    kinds = {"id": pl.Int64, "year": pl.Int32, "day": pl.Date, "part": pl.String, "price": pl.Decimal(5, 2)}
    order = [number for entry in manifest.files for number in FOLDERS[entry.path.rpartition("/")[0]]]
    plain = pl.DataFrame([FLIGHTS[number] for number in order], schema=kinds).lazy()
    assert query(frame).collect().equals(query(plain).collect())


def test_folders_decide_which_row_groups_are_fetched(tmp_path: Path, fetched: list[int]) -> None:
    key = SecretBytes.random()
    manifest = partitioned(tmp_path, DATASET, key)
    files = [TableFile(entry.path, entry.size, entry.rows or 0) for entry in manifest.files]
    access = lambda path: FileAccess(file_key(key, kind="parquet", dataset=DATASET, path=path), parquet_aad_prefix(DATASET, path))  # noqa: E731
    assert manifest.schema is not None
    frame = TableScan(tmp_path, files, access, manifest.schema).frame("flights")
    costs = []
    for query in (frame, frame.filter(pl.col("part") == "a/b"), frame.filter(pl.col("day") > pl.date(2015, 1, 1))):
        before = sum(fetched)
        query.collect()
        costs.append(sum(fetched) - before)
    assert costs[0] > costs[1] > costs[2] == 0


def test_key_of_a_file_that_does_not_open_is_forgotten(table: Table) -> None:
    table.first.unlink()
    with pytest.raises(IntegrityError):
        table.scan()
    assert [len(key) for _, key in table.given] == [0]


def test_keys_are_forgotten_with_the_file_and_scans_are_not_pickled(table: Table) -> None:
    scan = TableScan(table.folder, table.files, table.key_of, table.schema)
    scan.frame("table").select("id").collect()
    assert len(table.given) == 4  # one for the columns, one for each file
    assert all(len(key) == 0 for _, key in table.given)
    for one in (scan, TableScan.__new__(TableScan)):  # what it holds would not be pickled either
        with pytest.raises(SecretLeakError):
            pickle.dumps(one)
    with pytest.raises(pl.exceptions.ComputeError, match="serialization failed"):  # for a plan that is sent elsewhere
        table.scan().serialize(io.BytesIO())
    with PinnedFile(table.folder, table.files[0], table.key_of(table.files[0].path)) as file:
        assert table.given[-1][1].reveal().hex() not in repr(file)
    assert len(table.given[-1][1]) == 0


def test_an_empty_table_has_its_columns(tmp_path: Path, source: pa.Table) -> None:
    empty = Table(tmp_path / "empty", source.slice(0, 0))
    found = empty.scan().collect()
    assert (found.height, found.columns) == (0, source.schema.names)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_any_changed_byte_is_refused_or_was_not_read(tmp_path: Path) -> None:
    table = Table(tmp_path / "small", pa.table({"text": [f"row {n}" for n in range(20)]}))
    good = table.first.read_bytes()
    expected = table.scan().collect()
    accepted = []
    for place in range(len(good)):
        table.first.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            assert table.scan().collect().equals(expected)
            accepted.append(place)
        except (IntegrityError, PlaintextError):
            pass
    assert accepted == [0, 1, 2, 3]  # not read: the first magic


def test_a_column_chunk_in_the_place_of_another_row_groups_is_refused(tmp_path: Path) -> None:
    table = Table(tmp_path / "small", pa.table({"id": pa.array([*range(500)] * 2, pa.int64())}))
    with PinnedFile(table.folder, table.files[0], table.key_of(table.files[0].path)) as file:
        first, second = (group.chunks[0] for group in file.pinned.footer.groups)
    assert first.length == second.length
    good = table.first.read_bytes()
    one, other = (good[chunk.start : chunk.start + chunk.length] for chunk in (first, second))
    table.first.write_bytes(good.replace(one, b"?" * len(one)).replace(other, one).replace(b"?" * len(one), other))
    with pytest.raises(IntegrityError):
        table.scan().collect()


def test_what_queries_read_is_told(table: Table) -> None:
    told: list[Json] = []
    totals = Totals(told.append)
    frame = TableScan(table.folder, table.files, table.key_of, table.schema, totals=totals).frame("table")
    frame.select("id").collect()
    frame.filter(pl.col("id") >= 4900).select("id").collect()
    assert [(one["tasks"], one["rows_read"]) for one in told] == [(1, ROWS), (2, ROWS + 500)]
    assert told[1]["bytes_read"] > told[0]["bytes_read"] > 0
    assert told[1]["open_us"] > told[0]["open_us"] > 0
    totals.tell_rest()
    assert len(told) == 2


def test_a_query_may_be_left_on_any_thread(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector runs on the thread that fetches, too, which would wait for itself.  It asks no agent: an answer may be due."""
    told: list[Json] = []
    totals = Totals(told.append)
    scan = TableScan(table.folder, table.files, table.key_of, table.schema, totals=totals)
    monkeypatch.setattr(parquet_scan, "_FIRST_ROWS", 1)
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


def test_two_queries_may_come_to_new_files_at_once(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = TableScan(table.folder, table.files, table.key_of, table.schema)
    (pinned, *_), folders = scan._footers.values(), scan._of_folders
    scan._footers["another.parquet"] = pinned

    def meanwhile(path: str, layout: Any) -> pl.DataFrame:
        scan._footers[f"{len(scan._footers)}.parquet"] = pinned
        return folders(path, layout)

    monkeypatch.setattr(scan, "_of_folders", meanwhile)
    assert scan.frame("table").collect().height == ROWS


@pytest.mark.parametrize("wrong", ["swapped", "renamed", "cut", "longer", "missing", "other-key", "fewer-rows"])
def test_a_file_that_is_not_the_manifests_is_refused(table: Table, wrong: str) -> None:
    good, entry = table.first.read_bytes(), table.files[1]
    changes: dict[str, Any] = {}
    match wrong:
        case "swapped":
            other = table.folder / table.files[1].path
            table.first.write_bytes(other.read_bytes())
            changes["files"] = [TableFile(table.files[0].path, entry.size, entry.rows)]
        case "renamed":
            (table.folder / "part-other.parquet").write_bytes(good)
            changes["files"] = [TableFile("part-other.parquet", len(good), 2000)]
        case "cut":
            table.first.write_bytes(good[:-1])
        case "longer":
            table.first.write_bytes(good + b"\0")
        case "missing":
            table.first.unlink()
        case "other-key":
            table.key = SecretBytes.random()
        case _:
            changes["files"] = [TableFile(table.files[0].path, len(good), 1999)]
    with pytest.raises(IntegrityError, match=re.escape(changes.get("files", table.files)[0].path)):
        table.scan(**changes).collect()


def test_a_plaintext_file_in_the_place_of_an_encrypted_one_is_refused(table: Table, source: pa.Table) -> None:
    pq.write_table(source.slice(0, 2000), table.first)
    false = [TableFile(table.files[0].path, table.first.stat().st_size, 2000), *table.files[1:]]
    with pytest.raises(PlaintextError):
        table.scan(files=false)
    # Polars by itself takes it, whatever key it is given: that is why files are pinned.  If this fails, Polars has changed.
    decryption = pl.ParquetDecryptionProperties(footer_key=bytes(32), aad_prefix=bytes(32))
    assert pl.scan_parquet(table.first, decryption=decryption).collect().height == 2000


def test_a_plaintext_file_that_appears_after_the_first_look_is_refused(table: Table, source: pa.Table) -> None:
    frame = table.scan()
    pq.write_table(source.slice(0, 2000), table.first)
    with pytest.raises(IntegrityError):
        frame.collect()


def test_polars_reads_the_footer_that_was_pinned_and_not_what_storage_shows_later(table: Table) -> None:
    entry = table.files[0]
    with PinnedFile(table.folder, entry, table.key_of(entry.path)) as file:
        with table.first.open("r+b") as storage:
            storage.seek(-4000, os.SEEK_END)
            storage.write(b"PAR1" * 1000)
        layout = file.pinned.footer.layout
        columns = [column for column in layout.columns if column.name == "id"]
        image = Image(layout, columns, Buffers())
        file.put_pages(0, columns, image, Fetched())
    assert pl.read_parquet(image.whole())["id"].to_list() == list(range(500))


def test_a_file_that_says_its_pages_have_no_tags_is_refused(table: Table, source: pa.Table) -> None:
    # Made with the key, as nobody else can make it.  Of a file of ours, storage can change this choice alone: AES_GCM_V1.
    entry = table.files[0]
    access = table.key_of(entry.path)
    properties = encryption.create_encryption_properties(
        access.key.reveal(), aad_prefix=access.aad_prefix, store_aad_prefix=False, encryption_algorithm="AES_GCM_CTR_V1"
    )
    pq.write_table(source.slice(0, entry.rows), table.first, encryption_properties=properties)
    with pytest.raises(IntegrityError):
        PinnedFile(table.folder, TableFile(entry.path, table.first.stat().st_size, entry.rows), table.key_of(entry.path))
    # Polars of today reads no such file by itself.
    decryption = pl.ParquetDecryptionProperties(footer_key=access.key.reveal(), aad_prefix=access.aad_prefix)
    with pytest.raises(pl.exceptions.PolarsError):
        pl.scan_parquet(table.first, decryption=decryption).collect()


def test_a_file_with_other_columns_than_the_manifest_says_is_refused(table: Table) -> None:
    for columns in (table.columns[:-1], [*table.columns[1:], table.columns[0]]):
        with pytest.raises(DataError, match="other columns"):
            table.scan(columns=columns)


def test_files_of_one_table_with_other_types_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_scan, "_FIRST_ROWS", 1)  # else Polars refuses to put both into one frame
    # A manifest has one word for both, since Spark stores no nanoseconds.
    moments = [datetime(2020, 1, 1, hour, tzinfo=UTC) for hour in range(10)]
    table = Table(tmp_path / "moments", pa.table({"at": pa.array(moments * 201, pa.timestamp("us", tz="UTC"))}))
    assert len(table.files) == 2
    entry = table.files[1]
    access = table.key_of(entry.path)
    properties = encryption.create_encryption_properties(access.key.reveal(), aad_prefix=access.aad_prefix, store_aad_prefix=False)
    nanoseconds = pa.table({"at": pa.array(moments, pa.timestamp("ns", tz="UTC"))})
    pq.write_table(nanoseconds, table.folder / entry.path, encryption_properties=properties)
    changed = TableFile(entry.path, (table.folder / entry.path).stat().st_size, 10)
    with pytest.raises(DataError, match="other types"):
        table.scan(files=[table.files[0], changed]).collect()


def test_a_footer_is_followed_by_nothing(table: Table) -> None:
    entry = table.files[0]
    access = table.key_of(entry.path)
    data = table.first.read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    unique, start = file_unique(footer)
    modules = Modules(access.key, access.aad_prefix + unique)
    assert modules.footer(footer[start:])
    with pytest.raises(ParseError):
        modules.footer(footer[start:] + b"\0")


def test_pages_end_by_their_size_and_not_by_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is two messages of the cipher.  Here a dictionary and one page of data, where Arrow would make three."""
    monkeypatch.setattr(files, "ROWS_PER_FILE", 60_000)
    monkeypatch.setattr(files, "ROWS_PER_GROUP", 60_000)
    table = Table(tmp_path / "numbers", pa.table({"x": range(60_000)}))
    opened: list[memoryview] = []
    page = Modules._page

    def counted(modules: Modules, data: memoryview, *others: Any) -> int:
        opened.append(data)
        return page(modules, data, *others)

    monkeypatch.setattr(Modules, "_page", counted)
    assert table.scan().collect().height == 60_000
    assert len(opened) == 2


def test_pages_that_end_before_they_should_are_refused(table: Table) -> None:
    """Of a column chunk that is cut anywhere, and of modules that say another length than they have."""
    entry = table.files[0]
    with PinnedFile(table.folder, entry, table.key_of(entry.path)) as file:
        leaf = next(number for number, column in enumerate(file.pinned.footer.layout.columns) if column.name == "id")
        chunk = file.pinned.footer.groups[0].chunks[leaf]
        whole = table.first.read_bytes()[chunk.start : chunk.start + chunk.length]

        def opened(data: bytes) -> int:
            room = Room(memoryview(bytearray(len(whole))), 0)
            return file._modules.pages(data, (0, leaf), room, dictionary=chunk.dictionary)

        opened(whole)
        for end in (*range(1, 80), len(whole) - 1):
            with pytest.raises(ParseError):
                opened(whole[:end])
        for length in (0, 1, 11, 12, 27, 28, len(whole) + 1, 0x7FFFFFFF, 0xFFFFFFFF):
            with pytest.raises(ParseError):
                opened(length.to_bytes(4, "little") + whole[4:])


def test_what_is_read_at_one_time_needs_no_thread(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[object] = []
    submit = ThreadPoolExecutor.submit

    def counted(self: ThreadPoolExecutor, work: Any, *arguments: Any) -> Any:
        submitted.append(work)
        return submit(self, work, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    assert table.scan().collect().height == ROWS
    assert submitted == []
    monkeypatch.setattr(parquet_scan, "_FIRST_ROWS", ROWS // 2)
    assert table.scan().collect().height == ROWS
    assert submitted
