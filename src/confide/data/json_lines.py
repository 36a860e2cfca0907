"""Writes rows as JSON Lines, column by column.  Pure; knows nothing of files or keys.

JSON has no form for some values, which become texts: dates, times, decimals, bytes (base64), and floats that are no numbers (``"nan"``,
``"inf"``).  Arrow's kernels write the kinds of columns that most tables are made of, without the interpreter's lock; a call for each value
writes the rest.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from confide.errors import DataError

_TEXT: Final = pa.large_string()
_MOST: Final = 32 << 20
"""Bytes of rows that are written at one time: what is made of them is several times as large."""
_quoted: Final[Callable[[str], str]] = json.encoder.encode_basestring
"""A text as JSON has it, whatever is in it."""
_ESCAPED: Final = (ord("\\"), *sorted({*range(0x20), ord('"')}))
"""Characters that JSON does not have as they are (RFC 8259, section 7).  The one that escapes them comes first."""
_PLAIN_FLOATS: Final = (1e-4, 1e10)
"""From the first on and below the second, Arrow and Python write a number's shortest decimal digits alike, without an exponent."""
_DAYS: Final = (-719_162, 2_932_896)
"""0001-01-01 and 9999-12-31, in days since 1970: the dates that Python has."""
_DAY_US: Final = 86_400_000_000

_Part: TypeAlias = str | pa.Array
"""Of each line: the same text, or a text for each row, which is the word ``null`` where it is null."""


def json_lines(batch: pa.RecordBatch) -> list[pa.Buffer]:
    """A line a row, as UTF-8, in pieces.

    Raises:
        DataError: a value has no form in JSON, or a text is not UTF-8.
    """
    if batch.num_rows > 1 and batch.nbytes > _MOST:
        half = batch.num_rows // 2
        return json_lines(batch.slice(0, half)) + json_lines(batch.slice(half))
    parts: list[_Part] = []
    for at, (field, column) in enumerate(zip(batch.schema, batch.columns, strict=True)):
        parts += ["{" if at == 0 else ",", f"{_quoted(field.name)}:", *_written(column)]
    if not parts:
        return [pa.py_buffer(b"{}\n" * batch.num_rows)]
    return [_characters(_joined([*parts, "}\n"]))]


def _joined(parts: Sequence[_Part], *, nulls: str = "replace") -> pa.Array:
    """Parts of each row as one text."""
    merged: list[_Part] = []
    for part in parts:
        if merged and isinstance(part, str) and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    texts = [pa.scalar(part, _TEXT) if isinstance(part, str) else part for part in merged]
    return pc.binary_join_element_wise(*texts, pa.scalar("", _TEXT), null_handling=nulls, null_replacement="null")


def _characters(texts: pa.Array) -> pa.Buffer:
    """What all texts of an array are made of, one after the other."""
    if len(texts) == 0:
        return pa.py_buffer(b"")
    _, offsets, characters = texts.buffers()
    ends = pa.Array.from_buffers(pa.int64(), len(texts) + 1, [None, offsets], offset=texts.offset)
    start = ends[0].as_py()
    return characters.slice(start, ends[-1].as_py() - start)


# --- kinds of columns -------------------------------------------------------------------------------------------------


def _written(column: pa.Array) -> list[_Part]:
    """The JSON form of each value."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return [pc.cast(column, _TEXT)]
    if pa.types.is_float64(kind) or pa.types.is_float32(kind):
        return [_floats(pc.cast(column, pa.float64()))]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _in_quotes(_escaped(column))
    if pa.types.is_decimal128(kind) and kind.scale >= 0:
        return _in_quotes(pc.cast(column, _TEXT))
    if pa.types.is_date32(kind) and _within(column.view(pa.int32()), *_DAYS):
        return _in_quotes(pc.cast(column, _TEXT))
    if kind in {pa.timestamp("us"), pa.timestamp("us", "UTC")}:
        us = column.view(pa.int64())
        if _within(us, _DAYS[0] * _DAY_US, (_DAYS[1] + 1) * _DAY_US - 1):
            return _in_quotes(_times(us.view(pa.timestamp("us"))), "+00:00" if kind.tz else "")
    return [_one_by_one(column)]


def _within(values: pa.Array, least: int, most: int) -> bool:
    """Whether all values are in a range; nulls are."""
    found = pc.min_max(values).as_py()
    return found["min"] is None or (least <= found["min"] and found["max"] <= most)


def _in_quotes(texts: pa.Array, last: str = "") -> list[_Part]:
    parts: list[_Part] = ['"', texts, f'{last}"']
    return [_joined(parts, nulls="emit_null")] if texts.null_count else parts


def _escaped(column: pa.Array) -> pa.Array:
    """Texts without what JSON does not have as it is."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as cause:
        raise DataError("a text is not UTF-8", hint="write .parquet") from cause
    texts = pc.cast(column, _TEXT)
    characters = _characters(texts)
    there = set(pc.unique(pa.Array.from_buffers(pa.uint8(), characters.size, [None, characters])).to_pylist())
    for code in _ESCAPED:
        if code in there:
            texts = pc.replace_substring(texts, chr(code), _quoted(chr(code))[1:-1])
    return texts


def _floats(values: pa.Array) -> pa.Array:
    """Numbers in the shortest form that is read as the same number again."""
    texts = pc.cast(values, _TEXT)
    whole = pc.equal(pc.trunc(values), values)
    if pc.any(whole).as_py():
        texts = _joined([texts, pc.if_else(whole, pa.scalar(".0", _TEXT), pa.scalar("", _TEXT))], nulls="emit_null")
    size = pc.abs(values)
    alike = pc.or_(pc.and_(pc.greater_equal(size, _PLAIN_FLOATS[0]), pc.less(size, _PLAIN_FLOATS[1])), pc.equal(size, 0.0))
    odd = pc.fill_null(pc.invert(alike), False)  # noqa: FBT003 -- what nulls become
    if pc.any(odd).as_py():
        texts = pc.replace_with_mask(texts, odd, _one_by_one(values.filter(odd)))
    return texts


def _times(column: pa.Array) -> pa.Array:
    """Times as ISO 8601 has them, with a fraction only where there is one."""
    texts = pc.replace_substring(pc.cast(column, _TEXT), " ", "T")
    whole = pc.ends_with(texts, ".000000")
    if not pc.any(whole).as_py():
        return texts
    seconds = pc.binary_slice(pc.cast(texts, pa.large_binary()), 0, len("0001-01-01T00:00:00"))
    return pc.if_else(whole, pc.cast(seconds, _TEXT), texts)


# --- all other kinds --------------------------------------------------------------------------------------------------


def _one_by_one(column: pa.Array) -> pa.Array:
    """The JSON form of each value, by a call for each."""
    write = _writer(column.type)
    try:
        return pa.array([None if value is None else write(value) for value in column.to_pylist()], _TEXT)
    except UnicodeDecodeError as cause:
        raise DataError("a text is not UTF-8", hint="write .parquet") from cause
    except ValueError as cause:
        raise DataError("a number within a list or structure is none that JSON has a form for", hint="write .parquet") from cause
    except OverflowError as cause:
        raise DataError("a date or time is outside of the years 1 to 9999", hint="write .parquet") from cause


def _writer(kind: pa.DataType) -> Callable[[Any], str]:
    if pa.types.is_floating(kind):
        return lambda value: float.__repr__(value) if math.isfinite(value) else f'"{value}"'
    return _ENCODER.encode


def _json(value: object) -> object:
    """JSON has no form for these: decimals keep every digit as text, times are ISO 8601, bytes base64."""
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise DataError(f"a value of a kind that JSON has no form for: {type(value).__name__}", hint="write .csv or .parquet")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json)
