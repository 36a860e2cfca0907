"""A dataset's plaintext as files of several formats, as a stream, and as a folder: whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import errno
import io
import json
import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from support.partitioned import ROWS as FLIGHTS
from support.partitioned import partitioned
from support.volumes import BROKER

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import decrypting, files, table_files
from confide.data.commit import Input, create_dataset
from confide.data.decrypting import decrypt, write_stream
from confide.data.finding import find_sources
from confide.data.manifest import Manifest
from confide.data.parallel import Tell, in_order
from confide.data.sources import Source, plain_sources
from confide.data.tables import Format, TableInput
from confide.errors import DataError, IntegrityError, OutputExistsError, PlaintextError, UnavailableError, UsageError
from confide.ids import DatasetId, new_dataset_id

KEY = SecretBytes.random()
TABLE = pa.table({
    "n": pa.array([1, None, 3]), "r": [0.5, float("inf"), None], "t": ["a", 'b"\n', "\u00e9"],
    "d": pa.array([Decimal("1.20"), None, Decimal("-3.00")], pa.decimal128(10, 2)), "y": [dt.date(2026, 1, 2), None, dt.date(1, 1, 1)],
    "w": pa.array([0, None, 1], pa.timestamp("us", tz="UTC")), "b": pa.array([b"\xff", None, b""]), "f": [True, False, None],
})  # fmt: skip


def made(source: Input, folder: Path) -> Manifest:
    dataset = new_dataset_id()
    wrapped = wrap(BROKER, KEY, key="o/k", version=1, dataset=dataset)
    now, signer = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), SigningKey.generate()
    return create_dataset(
        source, folder, name="d", owner="o", dataset=dataset, dataset_key=KEY, wrapped=wrapped, signer=signer, now=now
    ).unverified  # fmt: skip


def test_json_lines_keep_what_json_has_no_form_for_as_text(tmp_path: Path) -> None:
    manifest = made(TABLE, tmp_path / "d")
    decrypt(tmp_path / "d", manifest, KEY, tmp_path / "out.jsonl")
    first, second, third = map(json.loads, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())
    assert first == {"n": 1, "r": 0.5, "t": "a", "d": "1.20", "y": "2026-01-02", "w": "1970-01-01T00:00:00+00:00", "b": "/w==", "f": True}
    assert (second["r"], second["t"], second["d"]) == ("inf", 'b"\n', None)
    assert (third["t"], third["y"], third["b"]) == ("\u00e9", "0001-01-01", "")


def test_json_lines_have_any_name_and_what_is_nested(tmp_path: Path) -> None:
    name = '50% "a"'
    rows = [{name: "\x00\u2028%s", "list": [1, None], "of": {"day": dt.date(1, 1, 1), "x": 0.5}}, {name: None, "list": None, "of": None}]
    manifest = made(pa.Table.from_pylist(rows), tmp_path / "d")
    decrypt(tmp_path / "d", manifest, KEY, tmp_path / "out.jsonl")
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_bytes().splitlines())
    assert first == {**rows[0], "of": {"day": "0001-01-01", "x": 0.5}}
    assert second == rows[1]


def test_a_number_in_a_list_that_json_cannot_write_is_told(tmp_path: Path) -> None:
    manifest = made(pa.table({"list": [[0.5, math.inf]]}), tmp_path / "d")
    with pytest.raises(DataError, match="none that JSON has a form for"):
        decrypt(tmp_path / "d", manifest, KEY, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_columns_that_are_names_of_folders_are_written_too(tmp_path: Path, form: decrypting.Form) -> None:
    manifest = partitioned(tmp_path / "d", DatasetId("5c" * 16), KEY)
    sink = io.BytesIO()
    write_stream(tmp_path / "d", manifest, KEY, sink, form=form)
    if form == "parquet":
        found = pq.read_table(pa.BufferReader(sink.getvalue())).to_pylist()
    elif form == "csv":
        kinds = {"price": pa.decimal128(5, 2), "part": pa.string(), "day": pa.date32()}
        options = pa.csv.ConvertOptions(column_types=kinds, strings_can_be_null=True, null_values=[""])
        found = pa.csv.read_csv(io.BytesIO(sink.getvalue()), convert_options=options).to_pylist()
    else:
        lines = map(json.loads, sink.getvalue().splitlines())
        found = [{**row, "day": dt.date.fromisoformat(row["day"]), "price": row["price"] and Decimal(row["price"])} for row in lines]
    assert sorted(found, key=lambda row: row["id"]) == FLIGHTS


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_batches_come_in_order_whatever_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: decrypting.Form) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 70)
    monkeypatch.setattr(decrypting, "rows_at_once", lambda *_: 9)
    manifest = made(pa.table({"x": range(500)}), tmp_path / "d")
    sink = io.BytesIO()
    write_stream(tmp_path / "d", manifest, KEY, sink, form=form)
    if form == "parquet":
        assert pq.read_table(pa.BufferReader(sink.getvalue())).column("x").to_pylist() == list(range(500))
    elif form == "csv":
        assert sink.getvalue().decode().split() == ['"x"', *map(str, range(500))]
    else:
        assert [json.loads(line)["x"] for line in sink.getvalue().splitlines()] == list(range(500))


@pytest.mark.parametrize("form", ["csv", "jsonl", "orc", "parquet"])
def test_every_format_of_table_comes_back(tmp_path: Path, form: Format) -> None:
    source, table = tmp_path / f"in.{form}", pa.table({"x": [1, 2, 3], "t": ["a", None, "c"]})
    if form == "orc":
        pa.orc.write_table(table, source)
    else:
        decrypt(tmp_path / "d0", made(table, tmp_path / "d0"), KEY, source)
    manifest = made(TableInput(tuple(plain_sources(source)), form), tmp_path / "d")
    found = files.read_table(tmp_path / "d", manifest, KEY)
    assert found.column("x").to_pylist() == [1, 2, 3]
    assert found.column("t").to_pylist() == ["a", "" if form == "csv" else None, "c"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_pipe_becomes_a_table_and_no_plaintext_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format) -> None:
    source = tmp_path / f"in.{form}"
    decrypt(tmp_path / "d0", made(pa.table({"x": [1, 2], "t": ["CANARY", "b"]}), tmp_path / "d0"), KEY, source)
    spooled = []
    real = files._spooled

    def looked_at(one: Source, attempt: files.Attempt) -> Source:
        made = real(one, attempt)
        spooled.append((attempt.root / "spool").read_bytes())
        return made

    monkeypatch.setattr(files, "_spooled", looked_at)
    manifest = made(TableInput((Source("stdin", lambda: source.open("rb"), once=True),), form), tmp_path / "d")
    assert files.read_table(tmp_path / "d", manifest, KEY).column("t").to_pylist() == ["CANARY", "b"]
    assert len(spooled) == 1
    assert b"CANARY" not in spooled[0]
    assert [path.name for path in (tmp_path / "d").iterdir() if "part" not in path.name] == ["_confide.json"]


def test_lists_are_refused_as_csv_and_nothing_is_left(tmp_path: Path) -> None:
    manifest = made(pa.table({"x": [[1], [2]]}), tmp_path / "d")
    with pytest.raises(DataError, match="CSV") as caught:
        decrypt(tmp_path / "d", manifest, KEY, tmp_path / "out.csv")
    assert "jsonl" in (caught.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_stream_takes_one_file_and_a_table_by_its_format(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    one, two = made(tmp_path / "in" / "a", tmp_path / "one"), made(tmp_path / "in", tmp_path / "two")
    sink = io.BytesIO()
    write_stream(tmp_path / "one", one, KEY, sink)
    assert sink.getvalue() == b"a"
    for folder, manifest, form in (("two", two, None), ("one", one, "csv")):
        with pytest.raises(UsageError):
            write_stream(tmp_path / folder, manifest, KEY, sink, form=form)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        write_stream(tmp_path / "t", made(TABLE, tmp_path / "t"), KEY, sink)
    with pytest.raises(UsageError):
        decrypt(tmp_path / "one", one, KEY, tmp_path / "out", form="csv")


def test_encrypted_parquet_is_not_encrypted_again(tmp_path: Path) -> None:
    manifest = made(TABLE, tmp_path / "d")
    with pytest.raises(PlaintextError, match="already"):
        made(tmp_path / "d" / manifest.files[0].path, tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("target", ["out.csv", "out"])
def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("a")
    manifest = made(TABLE if target == "out.csv" else tmp_path / "in", tmp_path / "d")
    before = sorted(tmp_path.iterdir())

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decrypting, "sync_file", full)
    with pytest.raises(UnavailableError, match="No space left"):
        decrypt(tmp_path / "d", manifest, KEY, tmp_path / target, form="jsonl" if target == "out.csv" else None)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("named", [False, True])
def test_a_file_that_appears_meanwhile_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, named: bool) -> None:
    if named:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # as if there were none: a folder is not opened for writing

    def write() -> None:
        with decrypting.new_file(tmp_path / "out") as file:
            file.write(b"mine")
            (tmp_path / "out").write_bytes(b"theirs")

    with pytest.raises(OutputExistsError):
        write()
    assert (tmp_path / "out").read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with decrypting.new_file(tmp_path / "other") as file:
        file.write(b"mine")
    assert (tmp_path / "other").read_bytes() == b"mine"


def test_a_kill_leaves_no_plaintext_file(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from confide.data.decrypting import new_file
with new_file(Path(sys.argv[1])) as file:
    file.write(b"CANARY" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_command_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("a")
    manifest = made(tmp_path / "in", tmp_path / "d")
    names = (f"out.plain-{'0' * 16}", f"out.plain-{'1' * 16}", f"o.plain-{'0' * 16}", f"out.plain-{'0' * 17}")
    left, used, others, longer = (tmp_path / f".{name}" for name in names)
    for folder in (left, used, others, longer):
        folder.mkdir()
        (folder / "a").write_text("plain")
    (tmp_path / f".out.plain-{'2' * 16}").symlink_to(others)
    with decrypting._in_use(used):
        decrypt(tmp_path / "d", manifest, KEY, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "a"
    assert not left.exists()
    assert all((folder / "a").exists() for folder in (used, others, longer))


def test_a_folder_is_its_commands_while_it_is_written_and_nobody_elses_to_read(tmp_path: Path) -> None:
    with decrypting._new_folder(tmp_path / "out") as staged:
        (staged / "a").write_text("plain")
        decrypting._remove_left(tmp_path / "out")
        assert (staged / "a").exists()
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def write() -> None:
        with decrypting._new_folder(tmp_path / "out") as staged:
            (staged / "a").write_text("plain")
            (tmp_path / "out").mkdir()

    with pytest.raises(OutputExistsError):
        write()
    assert list((tmp_path / "out").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_changed_file_is_refused_while_it_is_streamed(tmp_path: Path) -> None:
    manifest = made(TABLE, tmp_path / "d")
    place = tmp_path / "d" / manifest.files[0].path
    data = bytearray(place.read_bytes())
    data[10] ^= 1
    place.write_bytes(data)
    sink = io.BytesIO()
    with pytest.raises(IntegrityError):
        write_stream(tmp_path / "d", manifest, KEY, sink, form="jsonl")
    assert sink.getvalue() == b""


def test_patterns_find_files_and_keep_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("t/2025/a.csv", "t/2025/b.csv", "t/2026/a.csv", "t/[x].csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x\n1\n")
    monkeypatch.chdir(tmp_path)

    def names(*words: str) -> list[str]:
        return [source.name for source in find_sources(words).sources]

    assert names("t/2025/*.csv") == ["a.csv", "b.csv"]
    assert names("t/*/a.csv") == names(str(tmp_path / "t/**/a.csv")) == ["2025/a.csv", "2026/a.csv"]
    assert names("t/[x].csv", "t/2025/a.csv") == ["[x].csv", "a.csv"]
    assert names("t") == ["2025/a.csv", "2025/b.csv", "2026/a.csv", "[x].csv"]
    assert find_sources(["t/*/a.csv"]).plain
    assert not find_sources(["t"]).plain
    for words in (["t/none*"], ["t/2025/a.csv", "t/2026/a.csv"], ["none"]):
        with pytest.raises(DataError):
            find_sources(words)
    with pytest.raises(UsageError):
        find_sources(["-", "t/2025/a.csv"])


@pytest.mark.unmeasured
@pytest.mark.slow
def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    """As much as a machine of CI does in a few seconds; larger ones: ``python -m benchmarks.encrypting``."""
    from benchmarks.encrypting import measure

    for row in measure(["bin"], megabytes=600, folder=tmp_path) + measure(["csv"], megabytes=100, folder=tmp_path):
        for step in ("encrypt", "decrypt"):
            assert float(str(row[f"{step}_peak_mb"])) <= 300, row


@pytest.mark.parametrize("form", decrypting.FORMS)
def test_a_table_without_files_has_its_columns(tmp_path: Path, form: decrypting.Form) -> None:
    table = made(pa.table({"x": [1], "t": ["a"]}), tmp_path / "d")
    manifest, sink = dataclasses.replace(table, files=()), io.BytesIO()
    write_stream(tmp_path / "d", manifest, KEY, sink, form=form, columns=["t"])
    if form == "parquet":
        assert pq.read_table(pa.BufferReader(sink.getvalue())).equals(pa.table({"t": pa.array([], pa.string())}))
    else:
        assert sink.getvalue() == {"csv": b'"t"\n', "jsonl": b""}[form]
    with pytest.raises(DataError, match="no column"):
        write_stream(tmp_path / "d", manifest, KEY, io.BytesIO(), form=form, columns=["z"])


def test_small_batches_become_large_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 70)
    monkeypatch.setattr(decrypting, "_ROW_GROUP", 8 * 200)
    manifest = made(pa.table({"x": range(500)}), tmp_path / "d")
    sink, told = io.BytesIO(), list[tuple[int, int | None]]()

    def progress(_what: str, _total: int | None) -> contextlib.AbstractContextManager[Tell]:
        return contextlib.nullcontext(lambda size, rows: told.append((size, rows)))

    write_stream(tmp_path / "d", manifest, KEY, sink, form="parquet", progress=progress)
    written = pq.ParquetFile(pa.BufferReader(sink.getvalue()))
    assert [written.metadata.row_group(at).num_rows for at in range(written.num_row_groups)] == [rows for _, rows in told]
    assert sum(rows or 0 for _, rows in told) == 500
    assert sum(size for size, _ in told) == pytest.approx(manifest.size, abs=8)
    assert written.num_row_groups == 3


def test_no_more_is_taken_than_is_at_hand_and_ahead() -> None:
    begun = list[int]()

    def items() -> Iterator[int]:
        for at in range(9):
            begun.append(at)
            yield at

    for at in in_order(lambda item: item, items(), threads=1, ahead=1):
        assert len(begun) == min(9, at + 2)
