"""Thrift's compact protocol, as far as Parquet's metadata needs it: where the fields of a struct lie in bytes, and how fields are written.

Values stay bytes: who copies a field from one struct into another does not have to know what it means.  What nobody looks into is passed
over.  Structs that come by the thousand can be matched by a regular expression, made of the parts here: that is several times as fast.
Follows Apache Thrift's "Thrift compact protocol encoding".  Knows nothing of Parquet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn, TypeAlias

from confide.errors import ParseError

TRUE: Final = 1
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
_NEVER: Final = re.compile(rb"(?!)")


class Usual(NamedTuple):
    """Structs of a list that nearly always match ``pattern``, which is quicker than to look into them.

    Those that do not are looked into, as ``otherwise`` says.  Whoever reads them must find the same both ways.
    """

    pattern: re.Pattern[bytes]
    otherwise: Shape


Shape: TypeAlias = "Mapping[int, Shape | Usual]"
"""Which fields of a struct, themselves structs or lists of structs, are looked into, and what of those."""
NOTHING_INSIDE: Final[Shape] = MappingProxyType({})
"""Of a struct whose own fields are all that is asked for."""

# Parts of patterns, for ``re.DOTALL``.  Each value's first byte says what comes, so that nothing is ever tried twice.
A_NUMBER: Final = rb"(?:[\x80-\xff]{0,9}+[\0-\x7f])"
A_TEXT: Final = b"(?:%b)" % b"|".join(re.escape(bytes((length,))) + b".{%d}" % length for length in range(_MORE))
"""A ``binary`` of less than 128 bytes."""


def a_list(kind: int, element: bytes) -> bytes:
    """A pattern: a list of less than 15 elements of a kind, each of which matches ``element``."""
    return b"(?:%b)" % b"|".join(re.escape(bytes((count << 4 | kind,))) + b"(?:%b){%d}" % (element, count) for count in range(_LONG))


def a_field(*kinds: int) -> bytes:
    """A pattern: the first byte of a field of one of these kinds."""
    return b"[%b]" % b"".join(b"\\x%02x" % (step << 4 | kind) for step in range(1, _LONG + 1) for kind in kinds)


A_STRUCT_OF_VALUES: Final = b"(?:(?:%b|%b%b|%b%b)*+\\0)" % (a_field(*_BOOLEANS), a_field(*_INTEGERS), A_NUMBER, a_field(BINARY), A_TEXT)
"""A struct of booleans, integers and ``binary`` fields."""


class Value(NamedTuple):
    """Where a field's value, or an element of a list, lies: what kind it is, its first byte and the one after it.

    Of what was looked into, ``fields`` are those of a struct, by their numbers, and ``elements`` those of a list or set of structs.
    ``matched``: of a struct that is a :class:`Usual` one.
    """

    kind: int
    start: int
    end: int
    fields: Mapping[int, Value] = _NO_FIELDS
    elements: tuple[Value, ...] = ()
    matched: re.Match[bytes] | None = None


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
    return whole_integer(data[value.start : varint(data, value.start)[1]]) if value.kind in _INTEGERS else _refuse(value.start)


def whole_integer(value: bytes) -> int:
    """An ``i16``, ``i32`` or ``i64`` that these bytes are, as :data:`A_NUMBER` matches them."""
    number = 0
    for byte in reversed(value):
        number = number << 7 | byte & 0x7F
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
        inner = shape.get(number)
        if inner is not None and kind in _LISTS:
            one = _list(data, at, kind, inner)
        elif inner is not None and kind == STRUCT:
            one = _struct(data, at, inner.otherwise if isinstance(inner, Usual) else inner)
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
    _, end = varint(data, at + 1)
    return whole_integer(data[at + 1 : end]), end


def _list(data: bytes, at: int, kind: int, shape: Shape | Usual) -> Value:
    """A list, whose elements are looked into if they are structs."""
    usual, shape = (shape.pattern, shape.otherwise) if isinstance(shape, Usual) else (_NEVER, shape)
    start = at
    count, inner, at = _elements(data, at)
    if inner != STRUCT:
        return Value(kind, start, _end(data, start, kind, 0))
    elements = []
    for _ in range(count):
        matched = usual.match(data, at)
        one = _struct(data, at, shape) if matched is None else Value(STRUCT, at, matched.end(), matched=matched)
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
