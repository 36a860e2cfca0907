"""Files that are put together from row groups say what Arrow's own encryption of the same rows says, and hold many parts in their order."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.arrow_writer import write_by_arrow
from support.parquet_parts import parts
from support.scanned_table import ROWS, access_under, all_types
from support.tables import OwnedTable, new_key

from confide.crypto.secret import SecretBytes
from confide.data import files, parquet_keys, table_files
from confide.data.column_groups import ColumnGroup, NewGroup
from confide.data.parallel import Tell
from confide.data.parquet_footer import Footer
from confide.data.parquet_keys import WRITTEN
from confide.data.parquet_modules import Modules, file_unique
from confide.data.sealed_parquet import SealedParquet
from confide.data.staging import Attempt
from confide.data.thrift_spans import NOTHING_INSIDE, parsed_struct
from confide.errors import DataError, ParseError
from confide.ids import new_dataset_id

KEY, DATASET, PATH = SecretBytes.random(), new_dataset_id(), "part-0.parquet"
CANARY = "canary"


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**WRITTEN, "data_page_size": 1000, "max_rows_per_page": 300}
    monkeypatch.setattr("support.arrow_writer.WRITTEN", options)
    monkeypatch.setattr(f"{__name__}.WRITTEN", options)


def table() -> pa.Table:
    """Every type, text that nobody may find, columns of nothing, and metadata of the schema's own."""
    more = {CANARY: [f"{CANARY} {at}" for at in range(ROWS)], "none": pa.nulls(ROWS, pa.int32()), "empty": [""] * ROWS}
    rows = all_types().drop_columns(["real"])  # NaN, which equals nothing
    for name, values in more.items():
        rows = rows.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    return rows.replace_schema_metadata({"made by": "somebody"})


def encoded(rows: pa.Table, group: int | None = None) -> bytes:
    out = io.BytesIO()
    with pq.ParquetWriter(out, rows.schema, **WRITTEN) as writer:
        writer.write_table(rows, row_group_size=group)
    return out.getvalue()


def seal(place: Path, *plain: bytes) -> None:
    access = access_under(KEY, DATASET)(PATH)
    with place.open("xb") as raw:
        file = SealedParquet(raw, access.key, access.aad_prefix)
        for one in plain:
            file.add(one)
        file.finish()
    assert file.size == place.stat().st_size


def footer_of(place: Path) -> tuple[Footer, list[dict[int, bytes]], bytes]:
    """A file's footer; what it says of each row group beside rows, columns and their size without compression; the algorithm."""
    data = place.read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    unique, start = file_unique(footer)
    access = access_under(KEY, DATASET)(PATH)
    plain = Modules(access.key, access.aad_prefix + unique).footer(footer[start:])
    found = [group.fields for group in parsed_struct(plain, {4: NOTHING_INSIDE}).fields[4].elements]
    said = [{number: plain[one.start : one.end] for number, one in group.items() if number > 3} for group in found]
    return Footer.parse(plain), said, footer[:start].replace(unique, b"")


def up_to_field_6(head: bytes) -> bytes:
    """Of a column's metadata: type, encodings, path, codec, number of values.  Arrow counts the cipher's bytes in the size that follows."""
    last = parsed_struct(head + b"\0", NOTHING_INSIDE).fields[6]
    return head[: last.start]


@pytest.mark.usefixtures("small_pages")
def test_a_file_says_what_arrows_own_encryption_says(tmp_path: Path) -> None:
    for folder in ("ours", "arrow's"):
        (tmp_path / folder).mkdir()
    ours, theirs = tmp_path / "ours" / PATH, tmp_path / "arrow's" / PATH
    seal(ours, encoded(table().slice(0, 4000), group=2000), encoded(table().slice(4000)))
    write_by_arrow(theirs, table(), KEY, DATASET, PATH, group=2000)
    (one, *said), (other, *expected) = footer_of(ours), footer_of(theirs)
    assert said == expected
    assert (one.rows, one.layout) == (other.rows, other.layout)
    for group, same in zip(one.groups, other.groups, strict=True):
        assert group.rows == same.rows
        for chunk, like in zip(group.chunks, same.chunks, strict=True):
            assert (chunk.start, chunk.length, chunk.dictionary, chunk.tail) == (like.start, like.length, like.dictionary, like.tail)
            assert up_to_field_6(chunk.head) == up_to_field_6(like.head)
    found, arrows = (files.open_parquet(place.parent, PATH, KEY, DATASET) for place in (ours, theirs))
    assert found.read().equals(table())
    assert found.schema_arrow.equals(arrows.schema_arrow, check_metadata=True)
    for number in range(3):
        assert found.metadata.row_group(number).column(0).statistics == arrows.metadata.row_group(number).column(0).statistics
    assert parts(ours.read_bytes()) == parts(theirs.read_bytes())


@pytest.mark.usefixtures("small_pages")
def test_nothing_is_in_the_clear_and_no_nonce_comes_twice(tmp_path: Path) -> None:
    place = tmp_path / PATH
    seal(place, encoded(table(), group=1000))
    data = place.read_bytes()
    assert not any(word in data for word in (CANARY.encode(), b"somebody", b"parquet-cpp", b"Zeile"))
    nonces = [part.of(data)[4:16] for part in parts(data)]
    assert len({*nonces}) == len(nonces) > 500


def test_a_page_of_one_writing_of_a_file_is_none_of_the_next(tmp_path: Path) -> None:
    """A task that is tried again may write a file of the same path: under the same key, with the same prefix."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        seal(tmp_path / folder / PATH, encoded(pa.table({"a": [1, 2, 3]})))
    one, other = ((tmp_path / folder / PATH).read_bytes() for folder in ("first", "second"))
    first, *_ = parts(one)
    (tmp_path / "first" / PATH).write_bytes(one[: first.start] + first.of(other) + one[first.end :])
    with pytest.raises(OSError, match="decryption"):
        files.open_parquet(tmp_path / "first", PATH, KEY, DATASET).read()


def test_a_file_without_rows_has_the_schema(tmp_path: Path) -> None:
    seal(tmp_path / PATH, encoded(table().slice(0, 0)))
    found = files.open_parquet(tmp_path, PATH, KEY, DATASET)
    assert (found.num_row_groups, found.read()) == (0, table().slice(0, 0))


def test_row_groups_of_no_rows_are_left_out(tmp_path: Path) -> None:
    seal(tmp_path / PATH, *(encoded(table().slice(*span)) for span in ((0, 0), (0, 10), (3, 0), (10, ROWS))))
    found = files.open_parquet(tmp_path, PATH, KEY, DATASET)
    assert found.num_row_groups == 2
    assert found.read().equals(table())


def test_row_groups_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another schema"):
        seal(tmp_path / PATH, encoded(pa.table({"a": [1]})), encoded(pa.table({"a": ["1"]})))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 40 + b"PAR1", b"\xff" * 200])
def test_what_is_no_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ParseError):
        seal(tmp_path / PATH, data)


def test_pages_that_do_not_fill_their_chunk_are_refused() -> None:
    modules = Modules(KEY, b"aad")
    header = bytes.fromhex("15001504150415004c0000")  # a page of data of two bytes
    assert len(modules.sealed_pages(header + b"ab", (0, 0), dictionary=False)[0]) == 2
    without_length, back_to_itself = bytes.fromhex("1500150400"), bytes.fromhex("15001504150d00")
    for chunk in (header + b"a", header + b"ab" + header, header[:-1], without_length, back_to_itself + b"ab"):
        with pytest.raises(ParseError):
            modules.sealed_pages(chunk, (0, 0), dictionary=False)


def test_what_the_format_cannot_number_is_no_file() -> None:
    modules = Modules(KEY, b"aad")
    page = bytes.fromhex("15001500150000")
    assert len(modules.sealed_pages(page * 0x8000, (0x7FFF, 0x7FFF), dictionary=False)[0]) == 2 * 0x8000
    with pytest.raises(OverflowError):
        modules.sealed_pages(page * 0x8001, (0, 0), dictionary=False)
    for place in ((0x8000, 0), (0, 0x8000)):
        with pytest.raises(OverflowError):
            modules.sealed_pages(page, place, dictionary=False)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (files, table_files):
        monkeypatch.setattr(module, "ROWS_PER_GROUP", 500)
    monkeypatch.setattr(table_files, "IN_FLIGHT", 100_000)


def groups_of(owned: OwnedTable) -> list[list[int]]:
    found = []
    for entry in owned.manifest.files:
        file = files.open_parquet(owned.place, entry.path, owned.key, owned.manifest.dataset)
        found.append([file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)])
    return found


@pytest.mark.usefixtures("small_parts")
def test_a_file_holds_many_parts_in_the_order_of_the_rows(tmp_path: Path) -> None:
    owned = OwnedTable(tmp_path / "d", table())
    (groups,) = groups_of(owned)
    assert len(groups) > 5
    assert files.read_table(owned.place, owned.manifest, owned.key).equals(table().cast(files.storable(table().schema)))


@pytest.mark.usefixtures("small_parts")
def test_a_file_is_full_when_it_has_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "BYTES_PER_FILE", 40_000)
    owned = OwnedTable(tmp_path / "d", table())
    assert len(owned.manifest.files) > 2
    assert all(40_000 <= entry.size < 80_000 for entry in owned.manifest.files[:-1])
    assert [entry.rows for entry in owned.manifest.files] == [sum(groups) for groups in groups_of(owned)]
    assert [entry.path[:11] for entry in owned.manifest.files] == [f"part-{at:05d}-" for at in range(len(owned.manifest.files))]
    assert files.read_table(owned.place, owned.manifest, owned.key).column("id").to_pylist() == list(range(ROWS))


@pytest.mark.usefixtures("small_parts")
def test_a_file_is_full_when_it_has_so_many_columns_of_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "CHUNKS_PER_FILE", 3 * len(table().schema) - 3)  # three row groups, without "pair"
    assert [len(groups) for groups in groups_of(OwnedTable(tmp_path / "d", table().drop_columns(["pair"])))] == [3, 3, 3, 1]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("grouped", [(), ("text",)])
def test_progress_comes_to_all_bytes_and_rows(tmp_path: Path, grouped: tuple[str, ...]) -> None:
    told: list[tuple[int, int | None]] = []
    totals: list[int | None] = []

    def progress(_what: str, total: int | None) -> contextlib.AbstractContextManager[Tell]:
        totals.append(total)
        return contextlib.nullcontext(lambda size, rows: told.append((size, rows)))

    attempt = Attempt(tmp_path / "d")
    attempt.files.mkdir(parents=True)
    secret, wrapped = new_key("clinic/k")
    protected = [NewGroup(ColumnGroup("g", grouped, wrapped), secret)] if grouped else []
    files.encrypt_table(table(), attempt, KEY, dataset=DATASET, protected=protected, progress=progress)
    assert len(told) > 5
    assert (sum(size for size, _ in told), sum(rows or 0 for _, rows in told)) == (totals[0], ROWS)


@pytest.mark.usefixtures("small_parts")
def test_a_full_file_is_kept_when_the_rows_after_it_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 1000)

    def batches() -> Iterator[tuple[pa.RecordBatch, int]]:
        for batch in table().to_batches(max_chunksize=500)[:5]:
            yield batch, 0
        raise DataError("the rest is gone")

    (tmp_path / "d").mkdir()
    stored = files.storable(table().schema)
    new = table_files.TableFiles(tmp_path / "d", stored, parquet_keys.TableKeys(DATASET, KEY, {}), (), 0)
    kept = []
    with pytest.raises(DataError, match="the rest is gone"):
        kept.extend(entry.rows for entry in new.write(batches(), table().schema, lambda _size, _rows: None, needed=True))
    assert kept == [1000, 1000]


@pytest.mark.usefixtures("small_parts")
def test_a_finished_file_comes_before_the_next_one_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 1000)
    finishing: list[Future[Any]] = []
    order: list[int | str | None] = []

    class Noted(ThreadPoolExecutor):
        def submit(self, *words: Any, **named: Any) -> Future[Any]:
            finishing.append(super().submit(*words, **named))
            return finishing[-1]

    def tell(_size: int, rows: int | None) -> None:
        wait(finishing, 30)
        order.append(rows)

    monkeypatch.setattr(table_files, "ThreadPoolExecutor", Noted)
    (tmp_path / "d").mkdir()
    new = table_files.TableFiles(tmp_path / "d", files.storable(table().schema), parquet_keys.TableKeys(DATASET, KEY, {}), (), 0)
    batches = ((batch, 0) for batch in table().to_batches(max_chunksize=500))
    for entry in new.write(batches, table().schema, tell, needed=True):
        order += [entry.path[:10]]
    assert order[:4] == [500, 500, 500, "part-00000"]


@pytest.mark.usefixtures("small_parts")
def test_no_thread_is_at_work_when_rows_do_not_fit(tmp_path: Path) -> None:
    late = pa.table({"at": pa.array([0] * 200_000 + [1 << 62], pa.timestamp("s"))})  # too late for microseconds
    with pytest.raises(DataError, match="does not fit"):
        OwnedTable(tmp_path / "d", late)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("confide-data")]
    assert not (tmp_path / "d").exists()
