"""Which columns and types text files have: those of the first rows, in all files and pieces, or the query ends."""

from __future__ import annotations

import gzip
import traceback
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.text_frames import scan

from confide.data import text_scan
from confide.errors import DataError

OBJECTS = [
    b'{"a": 1, "b": 2}\n',  # the columns
    b'{"b": 4, "a": 3}\n',
    b'{"a": 5}\n',
    b"\n \n\r\n",
    b'{"c": 0, "b": 7, "a": 6}\n',
]
FOUND = [(1, 2)] * 4 + [(3, 4)] * 4 + [(5, None)] * 4 + [(6, 7)] * 4


@pytest.mark.usefixtures("small_pieces")
def test_values_of_json_lines_are_in_the_column_of_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 16)
    lines = [4 * one for one in OBJECTS]
    first = scan({"a": b"\n" * 40 + b"".join(lines)}, "ndjson", infer_schema_length=4)
    assert first.collect().rows() == FOUND
    assert scan({str(at): line for at, line in enumerate(lines)}, "ndjson").collect().rows() == FOUND
    typed = scan({"a": b"".join(lines)}, "ndjson", schema_overrides={"a": pl.Float64}, infer_schema_length=4)
    assert typed.collect_schema() == {"a": pl.Float64, "b": pl.Int64}
    assert typed.collect().rows() == FOUND


@pytest.mark.parametrize(
    ("second", "options"),
    [
        (b"b,a\n3,4\n", {}),
        (b"c,d\n3,4\n", {}),
        (b"a,b,c\n3,4,5\n", {}),
        (b"a\n3\n", {}),
        (b"a\n3\n", {"missing_columns": "insert"}),
        (b"3\n", {"has_header": False}),
        (b"3,4,5\n", {"has_header": False}),
    ],
    ids=["other-order", "other-names", "more", "fewer", "fewer-inserted", "fewer-without-header", "more-without-header"],
)
def test_a_file_with_other_columns_is_refused_and_not_taken_by_their_places(second: bytes, options: dict[str, Any]) -> None:
    found = scan({"first": b"a,b\n1,2\n", "second": second}, **options)
    for query in (found, found.filter(pl.nth(0).is_not_null()), found.select(pl.nth(0))):
        with pytest.raises(DataError, match="same columns"):
            query.collect()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("header", [b"", b"a,b\n"])
def test_columns_that_are_all_named_may_be_missing(header: bytes) -> None:
    rows = b"1,2\n" * 9 + b"3\n" * 9
    schema = {"a": pl.Int64, "b": pl.Int64}
    files = {"a": header + rows, "b": header[:1] + header[3:] + b"4\n"}
    found = scan(files, has_header=bool(header), schema=schema, missing_columns="insert")
    assert found.collect().rows() == [(1, 2)] * 9 + [(3, None)] * 9 + [(4, None)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("csv", "n\n" + "1\n" * 200 + "row-5f21\n"),
        ("csv", 'n\n1\n"row-5f21\n' + "row-5f21\n" * 9),
        ("ndjson", '{"n": 1}\n' * 200 + '{"n": "row-5f21"}\n'),
    ],
    ids=["other-type", "open-quote", "other-json-type"],
)
def test_no_value_is_in_the_error_of_text_that_cannot_be_read(kind: str, text: str) -> None:
    with pytest.raises(DataError, match="ComputeError") as refused:
        scan({"a": text.encode()}, kind).collect()
    assert "row-5f21" not in "".join(traceback.format_exception(refused.value))
    assert "row-5f21" in str(refused.value.__context__)


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_options_that_count_rows_count_those_of_all_files(kind: str) -> None:
    one = b"n\n" + b"7\n" * 5 if kind == "csv" else b'{"n": 7}\n' * 5
    files = {"a": one, "b": one}
    assert scan(files, kind, row_index_name="row", row_index_offset=3).collect()["row"].to_list() == list(range(3, 13))
    assert scan(files, kind, n_rows=7).collect().height == 7
    assert scan(files, kind, n_rows=0).collect().height == 0
    assert scan(files, kind, n_rows=6, row_index_name="row").filter(pl.col("row") > 4).collect().rows() == [(5, 7)]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("x\n" * 90 + "n\n" + "1\n" * 9, {"skip_rows": 90}),
        ("n\n" + "x\n" * 90 + "1\n" * 9, {"skip_rows_after_header": 90}),
        ("x\n" * 90 + "n\n" + "1\n" * 9, {"skip_rows": 90, "infer_schema_length": 0}),
        ("n\n" + "1,x\n" * 90, {"truncate_ragged_lines": True}),
        (f'n,s\n1,"{"long" * 90}"\n', {}),
        ("n\n" + "1\n" * 90 + "1.5\n", {}),
        ("n\n" + "1\n" * 200 + "1.5\n", {"infer_schema_length": 300}),
        ("n\n" + "1\n" * 200 + "1.5\n", {"infer_schema_length": None}),
    ],
    ids=["skipped", "skipped-after-header", "none", "ragged", "long-record", "usual", "longer", "all"],
)
def test_types_are_inferred_from_the_rows_that_were_asked_for(monkeypatch: pytest.MonkeyPatch, text: str, options: dict[str, Any]) -> None:
    monkeypatch.setattr(text_scan, "_SAMPLE_BYTES", 16)
    assert_frame_equal(scan({"a": text.encode()}, **options).collect(), pl.read_csv(text.encode(), **options))


@pytest.mark.parametrize("empty", [b"", gzip.compress(b"")], ids=["empty", "compressed"])
@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_empty_files_have_no_rows_and_name_no_columns(kind: str, empty: bytes) -> None:
    text = b"n\n1\n" if kind == "csv" else b'{"n": 1}\n'
    found = scan({"a": empty, "b": text, "c": empty}, kind).collect()
    assert_frame_equal(found, pl.DataFrame({"n": [1]}))
    with pytest.raises(DataError, match="only empty ones"):
        scan({"a": empty, "b": empty}, kind)


def test_a_file_with_a_header_alone_names_no_types() -> None:
    found = scan({"a": b"n\n", "b": b"n\n1\n", "c": b"n\n"})
    assert_frame_equal(found.collect(), pl.DataFrame({"n": [1]}))
    assert scan({"a": b"", "b": b"n\n"}).collect_schema() == {"n": pl.String}
