"""Thrift's compact protocol, as far as Parquet's metadata needs it: where the fields of a struct lie in bytes, and how fields are written.

Values stay bytes: who copies a field from one struct into another does not have to know what it means.  Follows Apache Thrift's
"Thrift compact protocol encoding".  Knows nothing of Parquet.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn

from confide.errors import ParseError

BYTE: Final = 3
I16: Final = 4
I32: Final = 5
I64: Final = 6
DOUBLE: Final = 7
BINARY: Final = 8
LIST: Final = 9
SET: Final = 10
STRUCT: Final = 12
STOP: Final = b"\0"
_BOOLEANS: Final = frozenset({1, 2})
_INTEGERS: Final = frozenset({I16, I32, I64})
_FIXED: Final = {1: 1, 2: 1, BYTE: 1, DOUBLE: 8}
"""Bytes of an element or value."""
_DEPTH: Final = 24
"""Structs within structs.  Parquet's metadata has eight or so."""
_VARINT_BYTES: Final = 10
_MORE: Final = 0x80
"""Seven bits a byte; this one says that another byte follows."""
_LONG: Final = 15
"""In a list's first byte: the length follows."""
_NO_FIELDS: Final[Mapping[int, Value]] = MappingProxyType({})


class Value(NamedTuple):
    """Where a field's value, or an element of a list, lies: what kind it is, its first byte and the one after it.

    ``fields``: of a struct, by their numbers.  ``elements``: of a list or set of structs.
    """

    kind: int
    start: int
    end: int
    fields: Mapping[int, Value] = _NO_FIELDS
    elements: tuple[Value, ...] = ()


def parsed_struct(data: bytes, at: int = 0) -> Value:
    """The struct that begins at ``at``.

    Raises:
        ParseError: it is none, its fields are not in ascending order, or it nests deeper than metadata do.
    """
    try:
        found = _struct(data, at, 0)
    except IndexError:
        _refuse(len(data))
    return found if found.end <= len(data) else _refuse(at)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number, and where it ends.

    Raises:
        ParseError: there is none.
    """
    value = shift = 0
    for end in range(at, min(at + _VARINT_BYTES, len(data))):
        value |= (data[end] & 0x7F) << shift
        if data[end] < _MORE:
            return value, end + 1
        shift += 7
    return _refuse(at)


def integer(data: bytes, value: Value) -> int:
    """An ``i16``, ``i32`` or ``i64``.

    Raises:
        ParseError: it is something else.
    """
    if value.kind not in _INTEGERS:
        _refuse(value.start)
    number, _ = varint(data, value.start)
    return (number >> 1) ^ -(number & 1)


def binary(data: bytes, value: Value) -> bytes:
    """A ``binary``.

    Raises:
        ParseError: it is something else.
    """
    if value.kind != BINARY:
        _refuse(value.start)
    _, start = varint(data, value.start)
    return data[start : value.end]


def _struct(data: bytes, at: int, depth: int) -> Value:
    found: dict[int, Value] = {}
    start, number = at, 0
    while head := data[at]:
        at += 1
        kind, before = head & 15, number
        if head >> 4:
            number += head >> 4
        else:
            value, at = varint(data, at)
            number = (value >> 1) ^ -(value & 1)
        if number <= before:
            _refuse(at)
        one = Value(kind, at, at) if kind in _BOOLEANS else _value(data, at, kind, depth)
        found[number] = one
        at = one.end
    return Value(STRUCT, start, at + 1, found)


def _value(data: bytes, at: int, kind: int, depth: int) -> Value:
    """A value; outside of lists, a boolean has none."""
    if kind in _INTEGERS:
        start = at
        while data[at] >= _MORE:
            at += 1
        return Value(kind, start, at + 1)
    if kind == BINARY:
        length, start = varint(data, at)
        return Value(kind, at, start + length)
    if kind == STRUCT and depth < _DEPTH:
        return _struct(data, at, depth + 1)
    if kind in {LIST, SET} and depth < _DEPTH:
        return _list(data, at, kind, depth)
    if kind not in _FIXED:  # maps: Parquet's metadata have none
        _refuse(at)
    return Value(kind, at, at + _FIXED[kind])


def _list(data: bytes, at: int, kind: int, depth: int) -> Value:
    start, head = at, data[at]
    count, at = varint(data, at + 1) if head >> 4 == _LONG else (head >> 4, at + 1)
    inner, elements = head & 15, []
    for _ in range(count):
        one = _value(data, at, inner, depth + 1)
        if inner == STRUCT:
            elements.append(one)
        at = one.end
        if at > len(data):
            _refuse(start)
    return Value(kind, start, at, elements=tuple(elements))


def written_varint(value: int) -> bytes:
    """An unsigned number."""
    out = bytearray()
    while value >= _MORE:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def written(kind: int, step: int, value: bytes) -> bytes:
    """A field whose number is ``step`` (1 to 15) above that of the field before it."""
    return bytes((step << 4 | kind,)) + value


def written_integer(kind: int, step: int, value: int) -> bytes:
    """The field of a number that is not negative."""
    return written(kind, step, written_varint(value << 1))


def written_structs(step: int, values: list[bytes]) -> bytes:
    """The field of a list of structs."""
    count = len(values)
    head = bytes((count << 4 | STRUCT,)) if count < _LONG else bytes((0xF0 | STRUCT,)) + written_varint(count)
    return written(LIST, step, head + b"".join(values))


def _refuse(offset: int) -> NoReturn:
    raise ParseError("Parquet metadata are not in Thrift's compact protocol", offset=offset)
