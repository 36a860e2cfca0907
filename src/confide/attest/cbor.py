"""The part of CBOR (RFC 8949) that evidence in certificates uses, read totally: definite lengths, shortest form, no trailing bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from confide.errors import ParseError

_MAX_DEPTH: Final = 8
_MAX_ITEMS: Final = 64


@dataclass(frozen=True, slots=True)
class Tagged:
    """A tagged item (major type 6)."""

    tag: int
    value: Item


Item = int | bytes | str | list["Item"] | dict["Item", "Item"] | Tagged


def decode(data: bytes) -> Item:
    """Read one item: an unsigned integer, byte or text string, array, map, or one of these with a tag.

    Raises:
        ParseError: it is anything else, not in its shortest form, nested too deeply, or followed by other bytes.
    """
    item, at = _item(data, 0, _MAX_DEPTH)
    if at != len(data):
        raise ParseError("bytes follow a CBOR item", offset=at)
    return item


def _item(data: bytes, at: int, depth: int) -> tuple[Item, int]:
    if not depth:
        raise ParseError("CBOR is nested too deeply", offset=at)
    start = at
    major, argument, at = _head(data, at)
    match major:
        case 0:
            return argument, at
        case 2 | 3:
            return _string(data, at, argument, text=major == 3), at + argument
        case 4:
            items, at = _items(data, at, argument, depth)
            return items, at
        case 5:
            items, at = _items(data, at, 2 * argument, depth)
            names = items[::2]
            if not all(isinstance(name, int | bytes | str) for name in names) or len(set(names)) != len(names):
                raise ParseError("a CBOR map has a key twice, or one that is no plain value", offset=start)
            return dict(zip(names, items[1::2], strict=True)), at
        case 6:
            value, at = _item(data, at, depth - 1)
            return Tagged(argument, value), at
        case _:
            raise ParseError("a CBOR item of a kind that is not read here", offset=start)


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument, and where the item goes on (section 3)."""
    if at >= len(data):
        raise ParseError("CBOR ends inside an item", offset=at)
    major, short = data[at] >> 5, data[at] & 0x1F
    if short < 24:
        return major, short, at + 1
    if short > 27:
        raise ParseError("CBOR of indefinite length is not read here", offset=at)
    size = 1 << (short - 24)
    argument = int.from_bytes(data[at + 1 : at + 1 + size], "big")
    least = 24 if size == 1 else 1 << (4 * size)
    if at + 1 + size > len(data) or argument < least:
        raise ParseError("a CBOR length is cut off or not in its shortest form", offset=at)
    return major, argument, at + 1 + size


def _string(data: bytes, at: int, length: int, *, text: bool) -> bytes | str:
    if length > len(data) - at:
        raise ParseError("CBOR ends inside a string", offset=at)
    value = data[at : at + length]
    if not text:
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise ParseError("CBOR text is not UTF-8", offset=at) from cause


def _items(data: bytes, at: int, count: int, depth: int) -> tuple[list[Item], int]:
    if count > _MAX_ITEMS:
        raise ParseError("a CBOR array or map has too many items", offset=at, limit=_MAX_ITEMS)
    items: list[Item] = []
    for _ in range(count):
        item, at = _item(data, at, depth - 1)
        items.append(item)
    return items, at
