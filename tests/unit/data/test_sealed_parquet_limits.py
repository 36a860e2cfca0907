"""Encrypted tables of odd shapes: files end before their footers are large, and threads get no more rows than they can hold."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.scanned_table import DATASET, ScannedTable
from support.tables import OwnedTable

from confide.crypto.secret import SecretBytes
from confide.data import files, table_files
from confide.data.parquet_keys import WRITTEN
from confide.data.sealed_parquet import SealedParquet
from confide.errors import DataError


def row_groups(table: ScannedTable) -> list[list[int]]:
    """How many rows each row group of each file has."""
    opened = [files.open_parquet(table.folder, file.path, table.key, DATASET).metadata for file in table.files]
    return [[one.row_group(at).num_rows for at in range(one.num_row_groups)] for one in opened]


def test_a_file_of_many_columns_ends_before_its_footer_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "CHUNKS_PER_FILE", 25)
    monkeypatch.setattr(table_files, "ROWS_PER_GROUP", 10)
    wide = pa.table({f"c{number}": range(50) for number in range(10)})
    table = ScannedTable(tmp_path / "d", wide)
    assert row_groups(table) == [[10, 10, 10], [10, 10]]
    assert table.frame().collect().to_arrow().cast(wide.schema).equals(wide)


def test_more_columns_than_the_format_can_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The format's limit, which takes seconds to come to, is two bits here."""
    monkeypatch.setattr("confide.data.parquet_modules._ordinal", lambda number: (number << 14).to_bytes(2, "little", signed=True))
    ScannedTable(tmp_path / "two", pa.table({"a": [1], "b": [2]}))
    with pytest.raises(DataError, match="32,768 columns"):
        ScannedTable(tmp_path / "three", pa.table({"a": [1], "b": [2], "c": [3]}))


@pytest.mark.parametrize(
    "column",
    [pa.nulls(200_000), pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int8()), pa.array(["x" * 1000]))],
    ids=["nulls", "dictionary"],
)
def test_values_that_take_more_memory_as_they_are_stored_are_encoded_by_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: pa.Array
) -> None:
    encoded = []
    stored = table_files.TableFiles._stored

    def seen(new: table_files.TableFiles, rows: pa.Table) -> pa.Table:
        encoded.append(rows.num_rows)
        return stored(new, rows)

    monkeypatch.setattr(table_files.TableFiles, "_stored", seen)
    table = ScannedTable(tmp_path / "d", pa.table({"a": column}))
    assert sorted(encoded) == [200_000 % table_files.ROWS_PER_GROUP, *[table_files.ROWS_PER_GROUP] * 3]
    assert row_groups(table) == [[table_files.ROWS_PER_GROUP] * 3 + [200_000 % table_files.ROWS_PER_GROUP]]


def test_with_column_groups_a_thread_gets_no_more_rows_however_small_they_seem(tmp_path: Path) -> None:
    table = OwnedTable(tmp_path / "d", pa.table({"a": pa.nulls(300_000), "b": pa.nulls(300_000)}), grouped={"g": ("a",)})
    assert [entry.rows for entry in table.manifest.files] == [262_144, 300_000 - 262_144]


def test_a_long_value_is_in_memory_three_times_at_most_while_it_is_sealed(tmp_path: Path) -> None:
    """Beside Arrow's file: as what is taken from it, encrypted, and as the module that goes to the file."""
    plain, size = io.BytesIO(), 10 << 20
    with pq.ParquetWriter(plain, pa.schema([("a", pa.binary())]), **WRITTEN) as writer:
        writer.write_table(pa.table({"a": [os.urandom(size)]}))
    with (tmp_path / "sealed").open("xb") as out:
        file = SealedParquet(out, SecretBytes.random(), b"prefix")
        tracemalloc.start()
        try:
            file.add(plain.getbuffer())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size < peak < 3.1 * size


@pytest.mark.parametrize(("large", "times"), [(1 << 30, 1), (4000, 4)])
def test_what_long_values_leave_is_given_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, times: int) -> None:
    """And what others leave, once a file."""
    monkeypatch.setattr(table_files, "LARGE_PART", large)
    monkeypatch.setattr(table_files, "ROWS_PER_GROUP", 1)
    given_back = []

    class Pool:
        def release_unused(self) -> None:
            given_back.append(1)

    monkeypatch.setattr(pa, "default_memory_pool", Pool)
    ScannedTable(tmp_path / "d", pa.table({"a": ["x" * 5000, "y", "z" * 5000, "x" * 5000]}))
    assert len(given_back) == times
