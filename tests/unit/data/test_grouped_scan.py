"""Polars over tables with column groups: the columns that the job may read, as they were written, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.polars_agent import PolarsAgent
from support.tables import OwnedTable

from confide.data import table_files
from confide.data.folder import AES_GCM_V1
from confide.data.grouped_scan import GroupedScan
from confide.data.parquet_keys import TABLE, FileKeys, TableKeys
from confide.data.pinned_parquet import TableFile
from confide.data.read_counts import Totals
from confide.errors import DataError, IntegrityError, KeyAccessError, PlaintextError, SecretLeakError

if TYPE_CHECKING:
    from confide.canonical import Json

GROUPS = {"diagnoses": ("diagnosis", "parts"), "names": ("name",)}


def rows(count: int = 500) -> pa.Table:
    numbers = list(range(count))
    return pa.table({
        "name": [f"n{i}" for i in numbers],
        "age": numbers,
        "diagnosis": [f"d{i}" for i in numbers],
        "parts": [{"low": i % 2, "high": i} for i in numbers],
    })  # fmt: skip


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnedTable:
    """Several files of several row groups."""
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 200)
    monkeypatch.setattr(table_files, "ROWS_PER_GROUP", 50)
    return OwnedTable(tmp_path / "visits", rows(), grouped=GROUPS)


@pytest.fixture
def agent(tmp_path: Path, table: OwnedTable) -> Iterator[PolarsAgent]:
    made = PolarsAgent(tmp_path)
    made.add_grouped("all", table, *GROUPS)
    yield made
    made.close()


def grouped(table: OwnedTable, *read: str, **changes: Any) -> GroupedScan:
    """A scan without an agent."""
    manifest = table.manifest
    keys = TableKeys(manifest.dataset, table.key, table.keys(*read))
    hidden = {column: name for name, columns in GROUPS.items() if name not in read for column in columns}
    given: dict[str, Any] = {
        "files": [TableFile(entry.path, entry.size, entry.rows or 0) for entry in manifest.files],
        "keys_of": keys.of_file,
        "columns": (manifest.schema or {})["columns"],
        "hidden": hidden,
        **changes,
    }
    return GroupedScan(table.place, **given)


def scan(table: OwnedTable, *read: str, **changes: Any) -> pl.LazyFrame:
    """Its frame."""
    return grouped(table, *read, **changes).frame("visits")


def test_a_job_with_all_groups_reads_what_was_written(agent: PolarsAgent) -> None:
    frame = agent.context().read("all")
    assert frame.collect().to_arrow().cast(rows().schema).to_pydict() == rows().to_pydict()
    assert frame.filter(pl.col("age") >= 490).select("name").collect()["name"].to_list() == [f"n{i}" for i in range(490, 500)]
    assert frame.head(203).select("age").collect()["age"].to_list() == list(range(203))
    assert frame.select(pl.len()).collect().item() == 500
    assert frame.with_row_index("row").select("row").collect()["row"].to_list() == list(range(500))
    assert frame.with_row_index("row").head(203).select("row").collect()["row"].to_list() == list(range(203))
    assert agent.context().sql("SELECT max(age) AS most FROM all_rows", all_rows=frame).collect().item() == 499


def test_a_job_reads_the_groups_that_it_names_and_no_others(tmp_path: Path, table: OwnedTable) -> None:
    agent = PolarsAgent(tmp_path)
    try:
        agent.add_grouped("some", table, "diagnoses")
        frame = agent.context().read("some")
        assert frame.select("age", "diagnosis").collect().to_dict(as_series=False) == rows().select(["age", "diagnosis"]).to_pydict()
        for query in (frame, frame.select("name"), frame.filter(pl.col("name") == "n1").select("age")):
            with pytest.raises(KeyAccessError, match="column 'name' is in the column group 'names'"):
                query.collect()
        agent.add_grouped("none", table)  # another input of the same table shares its keys
        with pytest.raises(KeyAccessError, match="'diagnoses'"):
            agent.context().read("none").select("diagnosis").collect()
    finally:
        agent.close()


def test_a_query_that_is_left_asks_nobody_and_is_told_with_the_next(table: OwnedTable) -> None:
    told: list[Json] = []
    source = grouped(table, *GROUPS, totals=Totals(told.append))
    frames: Any = source._batches(["age"], None, None, None)
    next(frames)
    del frames
    assert told == []
    for _ in source._batches(["age"], None, None, None):
        pass
    (both,) = told
    assert (both["tasks"], both["rows_read"]) == (2, 550)


def test_who_was_not_told_what_is_hidden_has_no_key_for_it_either(table: OwnedTable) -> None:
    with pytest.raises(KeyAccessError, match="'names'"):
        scan(table, "diagnoses", hidden={}).select("name").collect()


def test_rows_are_written_as_an_output(agent: PolarsAgent) -> None:
    context = agent.context()
    context.write(context.read("all").select("name", "age").filter(pl.col("age") < 3), "result")
    assert agent.written("result").to_pydict() == {"name": ["n0", "n1", "n2"], "age": [0, 1, 2]}


@pytest.mark.parametrize("count", [0, 1])
def test_small_tables(tmp_path: Path, count: int) -> None:
    table = OwnedTable(tmp_path / "few", rows(count), grouped=GROUPS)
    found = scan(table, *GROUPS).collect()
    assert (found.height, found.columns) == (count, rows().column_names)


def test_any_byte_of_a_file_that_is_changed_is_noticed(table: OwnedTable) -> None:
    whole = table.file.read_bytes()
    for at in range(4, len(whole), max(1, len(whole) // 97)):
        table.file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((IntegrityError, PlaintextError)):
            scan(table, *GROUPS).collect()


def test_files_in_each_others_place_are_refused(table: OwnedTable) -> None:
    one, other = (table.place / entry.path for entry in table.manifest.files[:2])
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    sizes = [TableFile(e.path, (table.place / e.path).stat().st_size, e.rows or 0) for e in table.manifest.files]
    with pytest.raises(IntegrityError):
        scan(table, *GROUPS, files=sizes).collect()


@pytest.mark.parametrize("hidden", [{}, {"name": "names"}])
def test_a_plaintext_file_is_refused(table: OwnedTable, hidden: dict[str, str]) -> None:
    pq.write_table(rows().slice(0, 200), table.file)
    entries = [TableFile(e.path, (table.place / e.path).stat().st_size, e.rows or 0) for e in table.manifest.files]
    with pytest.raises(PlaintextError):
        scan(table, *GROUPS, files=entries, hidden=hidden).collect()


def test_pages_without_tags_are_refused(table: OwnedTable) -> None:
    data = bytearray(table.file.read_bytes())
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert data[at : at + 2] == AES_GCM_V1
    data[at] = 0x2C
    table.file.write_bytes(data)
    with pytest.raises(IntegrityError, match="no tags"):
        scan(table, *GROUPS).collect()


@pytest.mark.parametrize(
    ("change", "error"),
    [("size", IntegrityError), ("rows", IntegrityError), ("columns", DataError), ("missing", IntegrityError)],
)
def test_a_file_that_is_not_what_the_manifest_says_is_refused(table: OwnedTable, change: str, error: type[Exception]) -> None:
    entry = table.manifest.files[0]
    path = "part-none.parquet" if change == "missing" else entry.path
    file = TableFile(path, entry.size + (change == "size"), (entry.rows or 0) + (change == "rows"))
    columns = (table.manifest.schema or {})["columns"]
    with pytest.raises(error):
        scan(table, *GROUPS, files=[file], columns=columns[1:] if change == "columns" else columns).collect()


def test_keys_of_a_file_are_forgotten_with_it_whether_it_opens_or_not(table: OwnedTable) -> None:
    given: list[FileKeys] = []

    def keys_of(path: str) -> FileKeys:
        given.append(TableKeys(table.manifest.dataset, table.key, table.keys(*GROUPS)).of_file(path))
        return given[-1]

    frame = scan(table, *GROUPS, keys_of=keys_of)
    frame.collect()
    table.file.write_bytes(bytes(reversed(table.file.read_bytes()[4:-4])).join([b"PARE", b"PARE"]))
    with pytest.raises(IntegrityError):
        frame.collect()
    assert len(given) >= len(table.manifest.files) + 1
    for keys in given:
        with pytest.raises(KeyAccessError):
            keys.wrap_key(bytes(32), TABLE)


def test_a_scan_is_not_pickled() -> None:
    with pytest.raises(SecretLeakError):
        pickle.dumps(GroupedScan.__new__(GroupedScan))
