"""Text files that are read in pieces: the same rows as in one piece, whatever the options, and never more of them in memory."""

from __future__ import annotations

import csv
import gzip
import io
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from support.text_frames import scan

from confide.data import text_scan
from confide.data.read_counts import Totals
from confide.data.text_scan import TextScan
from confide.errors import DataError, UsageError

ROWS = 'n,s\n1,one\n2,"two\nlines"\n3,"a ""quoted"" word"\n4,\n5,"ünï\n\n\n"\n6,six\n7,"a,b"\n8,end\n'


def noticed(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[int]:
    """The lengths of what the reader is given from now on."""
    reader, lengths = text_scan._READERS[kind], list[int]()

    def noticing(piece: bytes, **options: Any) -> pl.DataFrame:
        lengths.append(len(piece))
        return reader(piece, **options)

    monkeypatch.setattr(text_scan, "_READERS", {kind: noticing})
    return lengths


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"has_header": False},
        {"has_header": False, "new_columns": ["x", "y"]},
        {"skip_rows": 2},
        {"skip_rows_after_header": 3},
        {"columns": ["s"]},
        {"columns": [1]},
        {"schema_overrides": {"n": pl.Float64}},
        {"schema": {"n": pl.Int8, "s": pl.String}},
        {"n_rows": 5},
        {"row_index_name": "row", "row_index_offset": 10},
        {"null_values": "six"},
        {"encoding": "latin1"},
        {"infer_schema": False},
        {"with_column_names": lambda names: [name.upper() for name in names]},
    ],
    ids=lambda options: "+".join(options) or "none",
)
def test_options_mean_the_same_in_every_piece(options: dict[str, Any]) -> None:
    assert_frame_equal(scan({"a": ROWS.encode()}, **options).collect(), pl.read_csv(io.BytesIO(ROWS.encode()), **options))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("text", "options"),
    [
        (ROWS.replace("\n", "\r\n"), {}),
        ('n;s\n# an odd " quote\n' + '1;"x\ny"\n' * 20, {"comment_prefix": "#", "separator": ";"}),
        ('an odd " quote\n' + ROWS, {"skip_lines": 1}),
        ("n|s~" + "1|it's 5\" wide\nor so~2|x~" * 20, {"separator": "|", "eol_char": "~", "quote_char": None}),
        ("n,s\n" + "1,'x\n'\n" * 20, {"quote_char": "'"}),
        ("n\n" + "\n1\n\n2\n" * 10, {}),
        ("n,s\n1,without an end of line", {}),
        ("n,s\n" + "1,a line that is longer than one piece\n" * 3, {}),
        ("\ufeff" + ROWS, {}),
        ("x\ny\nn,s\n" + "1,2\n" * 20, {"skip_rows": 2, "columns": ["s"]}),
    ],
    ids=[
        "crlf", "comments", "skipped-lines", "own-ends", "own-quotes",
        "empty-lines", "cut", "long-lines", "byte-order-mark", "late-header",
    ],
)
def test_files_of_any_shape_have_the_rows_that_polars_finds_in_one_piece(text: str, options: dict[str, Any]) -> None:
    assert_frame_equal(scan({"a": text.encode()}, **options).collect(), pl.read_csv(io.BytesIO(text.encode()), **options))


texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 99), texts, texts), min_size=1, max_size=30), size=st.integers(1, 60))
def test_every_file_that_csv_writes_is_read_as_in_one_piece(rows: list[tuple[int, str, str]], size: int) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(("n", "s", "t"))
    writer.writerows(rows)
    written = out.getvalue().encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_scan, "PIECE_BYTES", size)
        found = scan({"a": written}, empty_string_is_null=False, schema={"n": pl.Int64, "s": pl.String, "t": pl.String}).collect()
    assert found.rows() == rows


def test_rows_that_are_skipped_end_at_the_same_place_whatever_follows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are the first file's: those that the second one's beginning seems to have would not fit its end."""
    monkeypatch.setattr(text_scan, "PIECE_BYTES", 5000)
    skipped = b"n\n" + b"skip me\n" * 300
    files = {"a": skipped + b"1.5\n", "b": skipped + b"1\n" * 150 + b"2.5\n" * 2000}
    found = scan(files, skip_rows_after_header=300).collect().to_series()
    assert found.to_list() == [1.5] + [1.0] * 150 + [2.5] * 2000


@pytest.mark.usefixtures("small_pieces")
def test_characters_of_two_bytes_are_not_cut() -> None:
    text = "n,s\n" + "1,ünï\n" * 50
    stored = text.encode("utf-16")
    assert_frame_equal(scan({"a": stored}, encoding="utf-16").collect(), pl.read_csv(io.BytesIO(text.encode())))


@pytest.mark.usefixtures("small_pieces")
def test_json_lines_are_cut_between_lines() -> None:
    lines = b"".join(b'{"n": %d, "s": "a \\n \\" b"}\n' % number for number in range(50))
    found = scan({"a": lines, "b": b"", "c": lines.rstrip(b"\n")}, "ndjson")
    assert found.collect().rows() == [(number, 'a \n " b') for number in range(50)] * 2


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "text",
    [b"one\r\n\n \n" * 30, b"\n" * 90, b'"\n' * 31, b"x" * 90, b"\n" * 40 + b"end", "ünï\n".encode() * 30],
    ids=["blank", "blank-alone", "quotes", "one", "no-end", "unicode"],
)
def test_lines_of_any_text_are_rows(text: bytes) -> None:
    expected = pl.concat([pl.read_lines(text, name="text")] * 2)
    for stored in (text, gzip.compress(text), pa.compress(text, "zstd", asbytes=True)):
        found = scan({"a": b"", "b": stored, "c": stored}, "lines", name="text")
        assert_frame_equal(found.collect(), expected)
        assert_frame_equal(found.head(3).collect(), expected.head(3))
    numbers = scan({"a": text, "b": text}, "lines", row_index_name="row").select("row").collect().to_series()
    assert numbers.to_list() == list(range(expected.height))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("start", ["x^2", "x\x01", "\ufeffmark", "x^2\nx^3", "\x1f"])
@pytest.mark.parametrize("options", [{}, {"n_rows": 5}], ids=["all", "few"])
def test_what_compressed_files_begin_with_is_text_inside_of_a_file(start: str, options: dict[str, Any]) -> None:
    text = ("of 16 byte each\n" + f"{start}\n" * 4).encode() * 3
    for stored in (text, gzip.compress(text)):
        assert_frame_equal(scan({"a": stored}, "lines", **options).collect(), pl.read_lines(text, **options))
        csv_options = {"has_header": False, **options}
        assert_frame_equal(scan({"a": stored}, **csv_options).collect(), pl.read_csv(text, **csv_options))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("start", [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\xef\xbb\xbf"])
def test_it_is_text_also_where_no_text_has_such_bytes(start: bytes) -> None:
    text = (b"of 16 byte each\n" + start + b"1\n") * 3
    options: dict[str, Any] = {"has_header": False, "encoding": "utf8-lossy"}
    found = scan({"a": text}, **options).collect().to_series().to_list()
    assert found == ["of 16 byte each", f"{start.decode(errors='replace')}1"] * 3


@pytest.mark.usefixtures("small_pieces")
def test_the_sample_is_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = noticed(monkeypatch, "csv")
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 100)
    text = b"n\n" + b"1\n" * 10_000
    scan({"a": text}, infer_schema_length=9000)
    assert sum(lengths) < 5 * len(text)


@pytest.mark.usefixtures("small_pieces")
def test_reads_that_give_less_than_was_asked_for_lose_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 16)

    class Short(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size if size is None or size < 0 else min(size, 7))

    frame = TextScan(["a"], lambda _: Short(ROWS.encode()), "csv", {}, Totals()).frame("rows")
    assert_frame_equal(frame.collect(), pl.read_csv(ROWS.encode()))
    assert [len(piece) for piece in text_scan._records(Short(b"x\n" * 500), "a", 100, b"\n", None)] == [100] * 10


def test_looking_for_the_end_of_a_record_looks_at_no_byte_often() -> None:
    looked: list[int] = []

    class Noticing(bytearray):
        def rfind(self, sought: Any, start: Any = 0, end: Any = None) -> int:
            looked.append(end - start)
            return super().rfind(sought, start, end)

        def count(self, sought: Any, start: Any = 0, end: Any = None) -> int:
            looked.append((len(self) if end is None else end) - start)
            return super().count(sought, start, end)

    never = io.BytesIO(b'n\n"' + b"x\n" * 10_000)  # a quote that nothing ends
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_scan, "bytearray", Noticing, raising=False)
        assert b"".join(text_scan._records(never, "never", 100, b"\n", b'"')) == never.getvalue()
    assert len(looked) < 3 * 10_000
    assert max(looked) <= 100


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("csv", b'n\n1\n"2\n' + b"3\n" * 90, "(?s)a record is longer than 100 bytes.*quote_char"),
        ("ndjson", b'{"n": "a"}\n{"n": "' + b"x" * 180 + b'"}\n', "a record is longer than 100 bytes"),
    ],
    ids=["open-quote", "long-line"],
)
def test_a_record_that_would_take_the_memory_ends_the_query(monkeypatch: pytest.MonkeyPatch, kind: str, text: bytes, words: str) -> None:
    monkeypatch.setattr(text_scan, "_LONGEST_RECORD", 100)
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 16)
    with pytest.raises(DataError, match=words) as refused:
        scan({"a": text}, kind, infer_schema_length=1).collect()
    assert refused.value.facts["path"] == "a"


def test_no_reader_gets_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = noticed(monkeypatch, "csv")
    monkeypatch.setattr(text_scan, "PIECE_BYTES", 1000)
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 100)
    long = b"n,s\n" + b"".join(b'%d,"x\n"\n' % number for number in range(2000))
    named: dict[str, Any] = {"infer_schema_length": None, "schema": {"n": pl.Int64, "s": pl.String}}
    for stored, options in ((long, {"infer_schema_length": 10}), (gzip.compress(long), {"infer_schema_length": 10}), (long, named)):
        found = scan({"a": stored}, **options)
        assert found.select(pl.len(), pl.col("n").sum()).collect().row(0) == (2000, sum(range(2000)))
    assert max(lengths) <= 1004
    assert len(lengths) > 2 * len(long) // 1000


def test_what_stands_before_the_rows_is_found_once_a_file_and_in_few_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = noticed(monkeypatch, "csv")
    monkeypatch.setattr(text_scan, "PIECE_BYTES", 20_000)
    text = b"n\n" + b"skip me\n" * 1000 + b"1\n" * 100_000
    assert scan({"a": text}, skip_rows_after_header=1000).collect().height == 100_000
    assert len(lengths) < len(text) // 20_000 + 30


def test_bytes_are_counted_as_they_are_stored() -> None:
    stored = gzip.compress(b"n\n" + b"1\n" * 3000)
    told: list[dict[str, int]] = []
    assert scan({"a": stored}, totals=Totals(told.append)).collect().height == 3000
    assert told[-1]["bytes_read"] == len(stored)


@pytest.mark.parametrize(
    ("kind", "options", "start", "record"),
    [
        ("csv", {"encoding": "utf8-lossy"}, b"s\n", b"\xff\n"),
        ("csv", {"quote_char": None}, b's\nan odd "\n', b"x\n"),
        ("ndjson", {"infer_schema_length": 10}, b'{"s": "an odd \\""}\n', b'{"s": "x"}\n'),
    ],
    ids=["lossy", "no-quotes", "json-lines"],
)
def test_what_needs_no_other_pieces_is_read_in_small_ones(
    monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any], start: bytes, record: bytes
) -> None:
    reader, lengths = text_scan._READERS[kind], noticed(monkeypatch, kind)
    monkeypatch.setattr(text_scan, "PIECE_BYTES", 1000)
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 1000)
    text = start + record * 2000
    assert_frame_equal(scan({"a": text}, kind, **options).collect(), reader(text, **options))
    assert max(lengths) <= 1000 + len(start)


def test_compressed_files_longer_than_the_sample_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 64)
    rows = pl.DataFrame({"n": range(3000), "s": [f"{number * 7919:x}" for number in range(3000)]})
    plain = rows.write_csv().encode()
    for stored in (gzip.compress(plain), gzip.compress(plain[:5000]) + gzip.compress(plain[5000:])):
        assert_frame_equal(scan({"a": stored}).collect(), rows)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("level", range(10))
def test_files_of_zlib_are_read_as_a_whole_whatever_their_level(monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 16)
    rows = pl.DataFrame({"n": range(3000), "s": [f"{number * 7919:x}" for number in range(3000)]})
    assert_frame_equal(scan({"a": zlib.compress(rows.write_csv().encode(), level)}).collect(), rows)


@pytest.mark.usefixtures("small_pieces")
def test_files_of_zstd_are_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 16)
    rows = pl.DataFrame({"n": range(3000), "s": [f"{number * 7919:x}" for number in range(3000)]})
    assert_frame_equal(scan({"a": pa.compress(rows.write_csv().encode(), "zstd", asbytes=True)}).collect(), rows)


@pytest.mark.parametrize("fault", ["cut", "changed", "other-checksum"])
def test_a_file_that_does_not_decompress_is_named(fault: str) -> None:
    whole = gzip.compress(b"n\n" + b"1\n" * 3000)
    faulty = {"cut": whole[:-20], "changed": whole[:10] + b"\xff" + whole[11:], "other-checksum": whole[:-8] + bytes(8)}[fault]
    with pytest.raises(DataError, match="is compressed with gzip") as refused:
        scan({"a": whole, "b": faulty}).collect()
    assert refused.value.facts["path"] == "b"


@pytest.mark.usefixtures("small_pieces")
def test_a_query_that_is_left_reads_no_further_and_counts_what_it_read() -> None:
    told: list[dict[str, int]] = []
    totals = Totals(told.append)
    long = b"n\n" + b"1\n" * 5000
    read: list[int] = []

    class Noticing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            block = super().read(size)
            read.append(len(block))
            return block

    def opened(_path: str) -> BinaryIO:
        return Noticing(long)

    frame = TextScan(["a", "b"], opened, "csv", {}, totals).frame("rows")
    read.clear()
    assert frame.head(3).collect().height == 3
    assert sum(read) < 200
    assert frame.collect().height == 10_000
    totals.tell_rest()
    assert told[-1]["tasks"] == 2
    assert 10_003 <= told[-1]["rows_read"] < 10_100
    assert 2 * len(long) < told[-1]["bytes_read"] < 2 * len(long) + 200


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(DataError, match="no file"):
        scan({})
    with pytest.raises(UsageError, match="no reader"):
        scan({"a": b""}, "xml")
    for option in ("use_pyarrow", "include_file_paths"):
        with pytest.raises(UsageError, match=option):
            scan({"a": b"n\n1\n"}, "csv", None, **{option: True})


LONG = """
import sys
from pathlib import Path
import polars as pl
from confide.data.read_counts import Totals
from confide.data.text_scan import TextScan
frame = TextScan(["a"], lambda _: open(sys.argv[1], "rb"), "csv", {}, Totals()).frame("rows")
lengths = frame.select(pl.len(), pl.col("s").str.len_bytes().sum()).collect().row(0)
status = Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's
print(*lengths, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
"""


@pytest.mark.unmeasured
@pytest.mark.slow
def test_a_file_larger_than_the_memory_used_is_read(tmp_path: Path) -> None:
    row, times = b"1," + b"x" * 197 + b"\n", 4_500_000
    with (tmp_path / "long.csv").open("wb") as file:
        file.write(b"n,s\n")
        for _ in range(times // 50_000):
            file.write(row * 50_000)
    assert (tmp_path / "long.csv").stat().st_size > 900_000_000
    done = subprocess.run([sys.executable, "-c", LONG, str(tmp_path / "long.csv")], capture_output=True, text=True, check=True)
    rows, size, most_kib = map(int, done.stdout.split())
    assert (rows, size) == (times, 197 * times)
    assert most_kib < 600_000
