"""Metadata of a Parquet file that somebody made up end with an error of ours, in no time, wherever nobody looks into them."""

from __future__ import annotations

import pytest

from confide.data.parquet_modules import file_unique
from confide.data.thrift_spans import NOTHING_INSIDE, parsed_struct
from confide.errors import ParseError

STRUCT, LIST, STRING = b"\x1c", b"\x19", b"\x18"
"""The first byte of a field one above the one before it."""
LONG = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
"""A length of nine bytes of seven bits."""


@pytest.mark.parametrize(
    "data",
    [
        STRUCT * 100_000,
        LIST + b"\x19" * 100_000,  # each a list of one list
        LIST + b"\xf1" + LONG,  # booleans, a byte each, that are not there
        LIST + b"\xfc" + LONG + b"\0" * 50,  # empty structs
        STRING + LONG,
        b"\x15" + b"\x80" * 50,  # a number without an end
        b"\x15\x02\x05\x02\x02\0",  # field 1, and field 1 again
        b"\x1b\x01\x55\x02\x02\0",  # a map, which Parquet's metadata have not
        STRUCT + b"\x1b\0\0",
    ],
)
def test_what_nobody_looks_into_is_bounded_all_the_same(data: bytes) -> None:
    with pytest.raises(ParseError):
        parsed_struct(data, NOTHING_INSIDE)
    with pytest.raises(ParseError):  # of which nothing is authenticated
        file_unique(data)


def test_fields_are_found_behind_what_is_passed_over() -> None:
    inner = b"\x15\x02\x19\x25\x02\x04\x18\x01x\0"  # a number, a list of two numbers, a text
    data = STRUCT + inner + LIST + b"\x2c" + inner * 2 + b"\x11\x12\x15\x54\0rest"
    found = parsed_struct(data, NOTHING_INSIDE)
    assert data[found.end :] == b"rest"
    assert data[found.fields[1].start : found.fields[1].end] == inner
    assert data[found.fields[5].start : found.fields[5].end] == b"\x54"
    assert found.fields[1].fields == {}
    looked_into = parsed_struct(data, {1: NOTHING_INSIDE, 2: NOTHING_INSIDE})
    assert looked_into.end == found.end
    assert sorted(looked_into.fields[1].fields) == [1, 2, 3]
    assert [data[one.start : one.end] for one in looked_into.fields[2].elements] == [inner, inner]
