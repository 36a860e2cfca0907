"""Thrift's compact protocol, as far as Parquet's metadata needs it: where the fields of a struct lie in bytes, and how fields are written.

Values stay bytes: who copies a field from one struct into another does not have to know what it means.  What nobody looks into is passed
over.  Follows Apache Thrift's "Thrift compact protocol encoding".  Knows nothing of Parquet.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn, TypeAlias

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
_LISTS: Final = frozenset({LIST, SET})
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


Shape: TypeAlias = "Mapping[int, Shape]"
"""Which fields of a struct, themselves structs or lists of structs, are looked into, and what of those."""
NOTHING_INSIDE: Final[Shape] = MappingProxyType({})
"""Of a struct whose own fields are all that is asked for."""


class Value(NamedTuple):
    """Where a field's value, or an element of a list, lies: what kind it is, its first byte and the one after it.

    Of what was looked into, ``fields`` are those of a struct, by their numbers, and ``elements`` those of a list or set of structs.
    """

    kind: int
    start: int
    end: int
    fields: Mapping[int, Value] = _NO_FIELDS
    elements: tuple[Value, ...] = ()


def parsed_struct(data: bytes, shape: Shape, *, at: int = 0, after: int = 0) -> Value:
    """The struct at the beginning of ``data``; or what is left of one at ``at``, behind its field number ``after``.

    Raises:
        ParseError: it is none, fields that are looked at are not in ascending order, or it nests deeper than metadata do.
    """
    try:
        return _struct(data, at, shape, after)
    except IndexError:  # a struct's last byte is always looked at
        _refuse(len(data))


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


def _struct(data: bytes, at: int, shape: Shape, number: int = 0) -> Value:
    found: dict[int, Value] = {}
    start = at
    while head := data[at]:
        kind, before = head & 15, number
        number, at = _number(data, at, before)
        if number <= before:
            _refuse(at)
        if number in shape and kind == STRUCT:
            one = _struct(data, at, shape[number])
        elif number in shape and kind in _LISTS:
            one = _list(data, at, kind, shape[number])
        else:
            one = Value(kind, at, at if kind in _BOOLEANS else _end(data, at, kind, 0))
        found[number] = one
        at = one.end
    return Value(STRUCT, start, at + 1, found)


def _number(data: bytes, at: int, before: int) -> tuple[int, int]:
    """A field's number, from its first byte on, and where its value begins."""
    step = data[at] >> 4
    if step:
        return before + step, at + 1
    value, at = varint(data, at + 1)
    return (value >> 1) ^ -(value & 1), at


def _list(data: bytes, at: int, kind: int, shape: Shape) -> Value:
    """A list, whose elements are looked into if they are structs."""
    start = at
    count, inner, at = _elements(data, at)
    if inner != STRUCT:
        return Value(kind, start, _end(data, start, kind, 0))
    elements = []
    for _ in range(count):
        one = _struct(data, at, shape)
        elements.append(one)
        at = one.end
    return Value(kind, start, at, elements=tuple(elements))


def _elements(data: bytes, at: int) -> tuple[int, int, int]:
    """How many elements a list has, of which kind, and where they begin."""
    head = data[at]
    count, first = varint(data, at + 1) if head >> 4 == _LONG else (head >> 4, at + 1)
    return count, head & 15, first


def _end(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value that begins at ``at`` ends; outside of lists, a boolean has none."""
    if kind in _INTEGERS:
        while data[at] >= _MORE:
            at += 1
        return at + 1
    if kind == BINARY:
        if data[at] < _MORE:
            return at + 1 + data[at]
        length, start = varint(data, at)
        return start + length
    if kind in _FIXED:
        return at + _FIXED[kind]
    if depth >= _DEPTH or kind not in {STRUCT, *_LISTS}:  # maps: Parquet's metadata have none
        _refuse(at)
    return _end_of_struct(data, at, depth + 1) if kind == STRUCT else _end_of_list(data, at, depth + 1)


def _end_of_struct(data: bytes, at: int, depth: int) -> int:
    while head := data[at]:
        at = at + 1 if head >> 4 else varint(data, at + 1)[1]
        kind = head & 15
        if kind not in _BOOLEANS:
            at = _end(data, at, kind, depth)
    return at + 1


def _end_of_list(data: bytes, at: int, depth: int) -> int:
    start = at
    count, inner, at = _elements(data, at)
    for _ in range(count):
        at = _end(data, at, inner, depth)
        if at > len(data):
            _refuse(start)
    return at


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
