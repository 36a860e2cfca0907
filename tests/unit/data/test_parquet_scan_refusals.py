"""Polars over encrypted Parquet gets nothing that storage made up, swapped or changed."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption
from support.scanned_table import ScannedTable, all_types, make_small_files

from confide.crypto.secret import SecretBytes
from confide.data import scan_steps
from confide.data.parquet_footer import Footer
from confide.data.parquet_image import Buffers, Image, Room
from confide.data.parquet_modules import Modules, file_unique
from confide.data.pinned_parquet import Fetched, PinnedFile, TableFile
from confide.errors import DataError, IntegrityError, ParseError, PlaintextError


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_files(monkeypatch)


@pytest.fixture(scope="module")
def source() -> pa.Table:
    return all_types()


@pytest.fixture(params=["streamed", "kept"])
def table(tmp_path: Path, source: pa.Table, request: pytest.FixtureRequest) -> ScannedTable:
    return ScannedTable(tmp_path / "table", source, kept=request.param == "kept")


@pytest.mark.parametrize("kept", [False, True])
def test_any_changed_byte_is_refused_or_was_not_read(tmp_path: Path, kept: bool) -> None:
    table = ScannedTable(tmp_path / "small", pa.table({"text": [f"row {n}" for n in range(20)]}), kept=kept)
    good = table.first.read_bytes()
    expected = table.frame().collect()
    accepted = []
    for place in range(len(good)):
        table.first.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            assert table.frame().collect().equals(expected)
            accepted.append(place)
        except (IntegrityError, PlaintextError):
            pass
    assert accepted == [0, 1, 2, 3]  # not read: the first magic


@pytest.mark.parametrize("kept", [False, True])
def test_a_column_chunk_in_the_place_of_another_row_groups_is_refused(tmp_path: Path, kept: bool) -> None:
    table = ScannedTable(tmp_path / "small", pa.table({"id": pa.array([*range(500)] * 2, pa.int64())}), kept=kept)
    with PinnedFile(table.folder, table.files[0], table.key_of(table.files[0].path)) as file:
        first, second = (group.chunks[0] for group in file.pinned.footer.groups)
    assert first.length == second.length
    good = table.first.read_bytes()
    one, other = (good[chunk.start : chunk.start + chunk.length] for chunk in (first, second))
    table.first.write_bytes(good.replace(one, b"?" * len(one)).replace(other, one).replace(b"?" * len(one), other))
    with pytest.raises(IntegrityError):
        table.frame().collect()


@pytest.mark.parametrize("wrong", ["swapped", "renamed", "cut", "longer", "missing", "other-key", "fewer-rows"])
def test_a_file_that_is_not_the_manifests_is_refused(table: ScannedTable, wrong: str) -> None:
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
        table.frame(**changes).collect()


def test_a_plaintext_file_in_the_place_of_an_encrypted_one_is_refused(table: ScannedTable, source: pa.Table) -> None:
    pq.write_table(source.slice(0, 2000), table.first)
    false = [TableFile(table.files[0].path, table.first.stat().st_size, 2000), *table.files[1:]]
    with pytest.raises(PlaintextError):
        table.frame(files=false)
    # Polars by itself takes it, whatever key it is given: that is why files are pinned.  If this fails, Polars has changed.
    decryption = pl.ParquetDecryptionProperties(footer_key=bytes(32), aad_prefix=bytes(32))
    assert pl.scan_parquet(table.first, decryption=decryption).collect().height == 2000


def test_a_plaintext_file_that_appears_after_the_first_look_is_refused(table: ScannedTable, source: pa.Table) -> None:
    frame = table.frame()
    pq.write_table(source.slice(0, 2000), table.first)
    with pytest.raises(IntegrityError):
        frame.collect()


def test_polars_reads_the_footer_that_was_pinned_and_not_what_storage_shows_later(table: ScannedTable) -> None:
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


def test_a_file_that_says_its_pages_have_no_tags_is_refused(table: ScannedTable, source: pa.Table) -> None:
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


def test_a_file_with_other_columns_than_the_manifest_says_is_refused(table: ScannedTable) -> None:
    for columns in (table.columns[:-1], [*table.columns[1:], table.columns[0]]):
        with pytest.raises(DataError, match="other columns"):
            table.frame(columns=columns)


@pytest.mark.parametrize("kept", [False, True])
def test_files_of_one_table_with_other_types_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    monkeypatch.setattr(scan_steps, "_FIRST_ROWS", 1)  # else Polars refuses to put both into one frame
    # A manifest has one word for both, since Spark stores no nanoseconds.
    moments = [datetime(2020, 1, 1, hour, tzinfo=UTC) for hour in range(10)]
    table = ScannedTable(tmp_path / "moments", pa.table({"at": pa.array(moments * 201, pa.timestamp("us", tz="UTC"))}), kept=kept)
    assert len(table.files) == 2
    entry = table.files[1]
    access = table.key_of(entry.path)
    properties = encryption.create_encryption_properties(access.key.reveal(), aad_prefix=access.aad_prefix, store_aad_prefix=False)
    nanoseconds = pa.table({"at": pa.array(moments, pa.timestamp("ns", tz="UTC"))})
    pq.write_table(nanoseconds, table.folder / entry.path, encryption_properties=properties)
    changed = TableFile(entry.path, (table.folder / entry.path).stat().st_size, 10)
    with pytest.raises(DataError, match="other types"):
        table.frame(files=[table.files[0], changed]).collect()


def test_a_footer_is_whole_and_followed_by_nothing(table: ScannedTable) -> None:
    entry = table.files[0]
    access = table.key_of(entry.path)
    data = table.first.read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    unique, start = file_unique(footer)
    modules = Modules(access.key, access.aad_prefix + unique)
    opened = modules.footer(footer[start:])
    layout = Footer.parse(opened).layout
    assert opened.startswith(layout.head)
    for like in (None, layout):  # rows and row groups are behind the schema
        with pytest.raises(ParseError):
            Footer.parse(layout.head + b"\0", like)
    with pytest.raises(ParseError):
        modules.footer(footer[start:] + b"\0")


def test_pages_that_end_before_they_should_are_refused(table: ScannedTable) -> None:
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
