"""CBOR that evidence in certificates uses: what is read, what is refused, and where each limit is."""

from __future__ import annotations

import pytest

from confide.attest.cbor import Item, Tagged, decode
from confide.errors import ParseError


@pytest.mark.parametrize("text", [
    "", "5f4100ff", "9f00ff", "1800", "190017", "f6", "20", "42", "6180", "0000", "a200000000", "a18000",
    "81" * 9 + "00", "9841", "1c", "fb0000000000000000",
])  # fmt: skip
def test_cbor_has_one_encoding_for_one_value(text: str) -> None:
    with pytest.raises(ParseError):
        decode(bytes.fromhex(text))


def test_cbor_is_read() -> None:
    assert decode(bytes.fromhex("d9ea60821818a1616101")) == Tagged(60000, [24, {"a": 1}])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("00", 0), ("17", 23), ("1818", 24), ("18ff", 255), ("190100", 256), ("19ffff", 65535), ("1a00010000", 65536),
        ("1affffffff", 2**32 - 1), ("1b0000000100000000", 2**32), ("1bffffffffffffffff", 2**64 - 1),
        ("40", b""), ("4200ff", b"\0\xff"), ("60", ""), ("62c3a4", "\xe4"), ("80", []), ("820041aa", [0, b"\xaa"]), ("a0", {}),
        ("a3000141aa02616103", {0: 1, b"\xaa": 2, "a": 3}), ("c640", Tagged(6, b"")), ("db000000010000000000", Tagged(2**32, 0)),
        ("d81847" + "00" * 7, Tagged(24, bytes(7))), ("5818" + "aa" * 24, b"\xaa" * 24),
    ],
)  # fmt: skip
def test_value_is_read_in_its_shortest_form(text: str, value: Item) -> None:
    found = decode(bytes.fromhex(text))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "1817",
        "18",
        "1affffff",
        "1bffffffffff",
        "1900ff",
        "1901",
        "1a0000ffff",
        "1a000100",
        "1b00000000ffffffff",
        "1b00000001000000",
        "5817" + "aa" * 23,
    ],
)
def test_number_that_is_longer_than_it_must_be_or_cut_off_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="cut off or not in its shortest form") as refused:
        decode(bytes.fromhex(text))
    assert refused.value.facts["offset"] == 0


@pytest.mark.parametrize("short", [28, 29, 30, 31])
@pytest.mark.parametrize("major", [0, 2, 3, 4, 5, 6])
def test_length_that_is_reserved_or_indefinite_is_refused(major: int, short: int) -> None:
    with pytest.raises(ParseError, match="indefinite length"):
        decode(bytes([major << 5 | short]) + b"\0" * 8)


@pytest.mark.parametrize("text", ["20", "3903e7", "f4", "f6", "f97e00"])
def test_kind_that_evidence_does_not_use_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="kind that is not read"):
        decode(bytes.fromhex(text))


@pytest.mark.parametrize(
    ("text", "says", "offset"),
    [
        ("", "inside an item", 0), ("82", "inside an item", 1), ("8200", "inside an item", 2), ("a100", "inside an item", 2),
        ("41", "inside a string", 1), ("42aa", "inside a string", 1), ("62c3", "inside a string", 1), ("0000", "bytes follow", 1),
        ("80ff", "bytes follow", 1), ("61ff", "not UTF-8", 1), ("61c3", "not UTF-8", 1), ("8200a20000", "inside an item", 5),
        ("8200f6", "not read here", 2),
    ],
)  # fmt: skip
def test_bytes_that_are_no_item_are_refused_where_they_end(text: str, says: str, offset: int) -> None:
    with pytest.raises(ParseError, match=says) as refused:
        decode(bytes.fromhex(text))
    assert refused.value.facts["offset"] == offset


@pytest.mark.parametrize("around", ["81", "c6", "a100"], ids=["array", "tag", "map"])
def test_eight_items_may_be_in_each_other_and_no_ninth(around: str) -> None:
    decode(bytes.fromhex(around * 7 + "00"))
    with pytest.raises(ParseError, match="nested too deeply"):
        decode(bytes.fromhex(around * 8 + "00"))


def test_array_has_at_most_64_items_and_a_map_32() -> None:
    assert decode(bytes.fromhex("9840" + "00" * 64)) == [0] * 64
    pairs = b"".join(bytes([0x18, key, 0]) for key in range(24, 57))
    assert decode(b"\xb8\x20" + pairs[: 32 * 3]) == dict.fromkeys(range(24, 56), 0)
    for many in (bytes.fromhex("9841" + "00" * 65), b"\xb8\x21" + pairs, bytes.fromhex("bbffffffffffffffff")):
        with pytest.raises(ParseError, match="too many items"):
            decode(many)


@pytest.mark.parametrize(
    "text", ["a200010001", "a2616100616100", "a18000", "a1c00000", "a200018000", "a1a000"],
    ids=["number twice", "text twice", "array", "tag", "array after a number", "map"],
)  # fmt: skip
def test_map_with_a_key_twice_or_one_that_is_no_plain_value_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="key twice, or one that is no plain value"):
        decode(bytes.fromhex(text))
