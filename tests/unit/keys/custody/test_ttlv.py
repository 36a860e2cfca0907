"""TTLV: what is written reads back, against PyKMIP's reading of it too, and nothing but one whole item is read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kmip.core.enums import Tags
from kmip.core.primitives import ByteString, Integer, TextString
from kmip.core.utils import BytearrayStream

from confide.errors import ParseError
from confide.keys.custody import ttlv

TAG = Tags.DATA.value


# PyKMIP counts characters of texts where the standard counts bytes: it writes ASCII only.
@given(st.binary(max_size=100), st.integers(-(2**31), 2**31 - 1), st.text(st.characters(max_codepoint=127), max_size=40))
def test_items_are_written_as_pykmip_writes_them(data: bytes, number: int, text: str) -> None:
    for ours, theirs in (
        (ttlv.byte_string(TAG, data), ByteString(data, Tags.DATA)),
        (ttlv.integer(TAG, number), Integer(number, Tags.DATA)),
        (ttlv.text(TAG, text), TextString(text, Tags.DATA)),
    ):
        stream = BytearrayStream()
        theirs.write(stream)
        assert ours == bytes(stream.buffer)


@given(st.binary(max_size=100), st.integers(0, 2**31 - 1))
def test_what_is_written_reads_back(data: bytes, number: int) -> None:
    whole = ttlv.structure(0x420078, ttlv.byte_string(TAG, data), ttlv.structure(0x420079, ttlv.enumeration(0x42005C, number)))
    item = ttlv.parse(whole)
    assert item.child(TAG).as_bytes() == data
    assert item.child(0x420079).child(0x42005C).as_number() == number


MESSAGE = ttlv.structure(0x420078, ttlv.byte_string(TAG, b"abc"), ttlv.structure(0x420079, ttlv.integer(0x42000D, 1)))


@given(st.integers(0, len(MESSAGE) - 1))
def test_a_cut_message_is_refused(end: int) -> None:
    with pytest.raises(ParseError):
        ttlv.parse(MESSAGE[:end])


@given(st.binary(max_size=64))
def test_anything_else_is_an_item_or_a_parse_error(data: bytes) -> None:
    with contextlib.suppress(ParseError):
        ttlv.parse(data)


@pytest.mark.parametrize(
    "data",
    [
        MESSAGE + b"\0",
        bytes.fromhex("4200c2080000000361626300000000ff"),  # padding that is not zero
        bytes.fromhex("42000d020000000800000000000000 01"),  # an Integer of eight bytes
        b"".join(ttlv.structure(0x420078) for _ in range(2)),
        bytes.fromhex("42007801ffffffff"),
    ],
    ids=["bytes after the end", "padding", "a long integer", "two items", "a length beyond the end"],
)
def test_what_is_not_exactly_one_item_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        ttlv.parse(data)


def test_nesting_is_bounded() -> None:
    nested = b""
    for _ in range(30):
        nested = ttlv.structure(0x420078, nested)
    with pytest.raises(ParseError, match="nested"):
        ttlv.parse(nested)


def test_an_item_that_is_missing_or_there_twice_or_of_another_type_is_refused() -> None:
    item = ttlv.parse(ttlv.structure(0x420078, *[ttlv.integer(TAG, 1)] * 2, ttlv.text(0x420094, "x")))
    for ask in (lambda: item.child(TAG), lambda: item.child(1), lambda: item.child(0x420094).as_bytes(), item.as_number,
                lambda: item.child(0x420094).child(1)):  # fmt: skip
        with pytest.raises(ParseError):
            ask()
