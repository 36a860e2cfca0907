"""JSON Lines that are written column by column are what a call for each value makes of them, byte for byte."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from confide.data import json_lines as module
from confide.data.json_lines import json_lines
from confide.errors import DataError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(['50% "a"', "%s", "\\", "null"])
ODD = '\\"\x00\x1f\n\r\t\b\f\x7f\u2028/ux'
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(st.sampled_from(ODD), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FLOATS = (
    st.floats()
    | st.integers(-(10**17), 10**17).map(float)
    | st.builds(lambda digits, power: float(f"{digits}e{power}"), st.integers(-99999, 99999), st.integers(-12, 25))
    | st.sampled_from([0.0, -0.0, 1e-5, 9.999e-5, 1e-4, 9999999999.5, 1e10, 1e16, 5e-324, math.nan, math.inf, -math.inf])
)
FIRST, LAST = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)  # noqa: DTZ001 -- of no zone
TIMES = st.datetimes(FIRST, LAST) | st.datetimes(FIRST, LAST).map(lambda time: time.replace(microsecond=0))
NEARER = st.datetimes(dt.datetime(1901, 1, 1), dt.datetime(2100, 1, 1))  # noqa: DTZ001
RECORD = pa.struct([pa.field("a", pa.list_(pa.date32())), pa.field('"', pa.decimal128(5, 2)), pa.field("x", pa.float64())])
RECORDS = st.fixed_dictionaries({
    "a": st.none() | st.lists(st.none() | st.dates()),
    '"': st.none() | st.decimals(-999, 999, places=2),
    "x": st.none() | NUMBERS,
})


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    return (st.integers(-most, most) | st.integers(-9, 9)).map(lambda digits: Decimal(digits).scaleb(-scale, context=None))


def _kinds() -> list[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    signed = [(kind, st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)) for bits, kind in (
        (8, pa.int8()), (16, pa.int16()), (32, pa.int32()), (64, pa.int64()))]  # fmt: skip
    unsigned = [(kind, st.integers(0, 2**bits - 1)) for bits, kind in ((8, pa.uint8()), (32, pa.uint32()), (64, pa.uint64()))]
    exact = [(pa.decimal128(precision, scale), decimals(precision, scale)) for precision, scale in ((5, 0), (10, 2), (18, 18), (25, 7))]
    return [
        *signed, *unsigned, *exact,
        (pa.bool_(), st.booleans()), (pa.null(), st.none()),
        (pa.float64(), FLOATS), (pa.float32(), st.floats(width=32) | st.sampled_from([0.1, 1e10, 16777216.0])),
        (pa.string(), TEXTS), (pa.large_string(), TEXTS), (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(['"', "a"])),
        (pa.binary(), st.binary(max_size=9)),
        (pa.date32(), st.dates()), (pa.time64("us"), st.times()),
        (pa.timestamp("us"), TIMES), (pa.timestamp("us", "UTC"), TIMES.map(lambda time: time.replace(tzinfo=dt.UTC))),
        (pa.timestamp("us", "Asia/Kolkata"), NEARER.map(lambda time: time.replace(tzinfo=ZoneInfo("Asia/Kolkata")))),
        (pa.timestamp("ms"), NEARER),
        (RECORD, RECORDS), (pa.list_(RECORD), st.lists(RECORDS, max_size=3)),
        (pa.map_(pa.string(), pa.int64()), st.dictionaries(TEXTS, st.none() | st.integers(0, 9), max_size=3).map(lambda of: [*of.items()])),
    ]  # fmt: skip


KINDS = _kinds()


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """A few rows of a few kinds, with and without nulls, at times out of the middle of a longer batch."""
    rows, names = draw(st.integers(0, 9)), draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    columns = []
    for _ in names:
        kind, values = draw(st.sampled_from(KINDS))
        values = st.none() | values if draw(st.booleans()) else values
        columns.append(pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind))
    start = draw(st.integers(0, rows))
    return pa.RecordBatch.from_arrays(columns, names).slice(start, draw(st.integers(0, rows - start)))


def defined(batch: pa.RecordBatch) -> bytes:
    """What JSON Lines are, said as simply as can be: a line a row, of Python's own encoder."""

    def whole(value: object, kind: pa.DataType) -> object:
        return str(value) if pa.types.is_floating(kind) and isinstance(value, float) and not math.isfinite(value) else value

    def other(value: object) -> object:
        match value:
            case dt.date() | dt.time():
                return value.isoformat()
            case Decimal():
                return str(value)
            case bytes():
                return base64.b64encode(value).decode()
        raise AssertionError(type(value))

    columns = [[whole(value, column.type) for value in column.to_pylist()] for column in batch.columns]
    lines = (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))
    return "".join(
        json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=other) + "\n" for line in lines
    ).encode()  # fmt: skip


def written(batch: pa.RecordBatch) -> bytes:
    return b"".join(map(bytes, json_lines(batch)))


@settings(max_examples=300, deadline=None)
@given(batches())
@example(pa.RecordBatch.from_pydict({"f": [0.0, -0.0, 1e-5, 1e-4, 1e10, 1e16, 5e-324, math.nan, math.inf, -math.inf, None, 9999999999.5]}))
@example(pa.RecordBatch.from_pydict({"t": ["".join(map(chr, range(0x90))), None, "\u2028\U0001f600"]}))
def test_each_kind_is_written_as_it_is_defined(batch: pa.RecordBatch) -> None:
    assert written(batch) == defined(batch)


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=[str(kind) for kind, _ in KINDS])
def test_a_column_of_each_kind_is_written_as_it_is_defined(kind: pa.DataType, values: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(st.none() | values, max_size=40))
    def check(column: list[object]) -> None:
        batch = pa.RecordBatch.from_arrays([pa.array(column, kind)], ["c"])
        assert written(batch) == defined(batch)

    check()


def test_large_batches_are_written_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pa.RecordBatch.from_pydict({"n": range(1000), "t": [str(n) * 3 for n in range(1000)]})
    monkeypatch.setattr(module, "_MOST", 1000)
    pieces = json_lines(batch)
    assert len(pieces) > 9
    assert b"".join(map(bytes, pieces)) == defined(batch)


def test_rows_of_no_columns_are_written() -> None:
    batch = pa.RecordBatch.from_pydict({"x": [1, 2, 3]}).select([])
    assert written(batch) == b"{}\n" * batch.num_rows


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.list_(pa.string())])
def test_a_text_that_is_not_utf_8_is_refused(kind: pa.DataType) -> None:
    bad = pa.array([b"\xff\xfe"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, bad.buffers())
    column = pa.ListArray.from_arrays([0, 1], text) if pa.types.is_list(kind) else text.cast(kind, safe=False)
    with pytest.raises(DataError, match="UTF-8"):
        json_lines(pa.RecordBatch.from_arrays([column], ["t"]))


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.date32()])
def test_a_time_that_python_does_not_have_is_refused(kind: pa.DataType) -> None:
    days = 2_932_897
    column = pa.array([days], pa.int32()).view(kind) if kind == pa.date32() else pa.array([days * 86_400_000_000]).view(kind)
    with pytest.raises(DataError, match="years 1 to 9999"):
        json_lines(pa.RecordBatch.from_arrays([column], ["t"]))
