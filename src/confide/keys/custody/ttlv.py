"""TTLV, the encoding of KMIP messages: tag (3 bytes), type (1), length (4), value padded to 8 bytes (KMIP 1.4, section 9.1).

Only what ``kmip`` needs.  Reads totally: lengths exact, padding of zeros, nesting bounded.  Knows nothing of networks or keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from confide.errors import ParseError

HEADER_BYTES: Final = 8
STRUCTURE: Final = 0x01
INTEGER: Final = 0x02
ENUMERATION: Final = 0x05
TEXT: Final = 0x07
BYTES: Final = 0x08
_ROUND: Final = 8
_FIXED: Final = {INTEGER: 4, ENUMERATION: 4, 0x03: 8, 0x06: 8, 0x09: 8, 0x0A: 4}
"""Types of one length: Integer and Enumeration, Long Integer, Boolean, Date-Time, Interval."""
_MAX_DEPTH: Final = 8


@dataclass(frozen=True, slots=True, repr=False)
class Item:
    """One item.  ``value`` holds the items of a structure, or the bytes of anything else."""

    tag: int
    kind: int
    value: tuple[Item, ...] | bytes

    def child(self, tag: int) -> Item:
        """The one item with ``tag`` inside this structure.

        Raises:
            ParseError: it is not there, is there twice, or this is no structure.
        """
        found = [item for item in self.value if isinstance(item, Item) and item.tag == tag]
        if len(found) != 1:
            raise ParseError("a KMIP message has not exactly one item of a kind", tag=f"{tag:06x}", found=len(found))
        return found[0]

    def has(self, tag: int) -> bool:
        """Whether there is an item with ``tag`` inside this structure."""
        return any(isinstance(item, Item) and item.tag == tag for item in self.value)

    def as_bytes(self) -> bytes:
        """The value of a byte string."""
        if self.kind != BYTES or not isinstance(self.value, bytes):
            raise ParseError("an item of a KMIP message is no byte string", tag=f"{self.tag:06x}")
        return self.value

    def as_number(self) -> int:
        """The value of an integer or enumeration."""
        if self.kind not in {INTEGER, ENUMERATION} or not isinstance(self.value, bytes):
            raise ParseError("an item of a KMIP message is no number", tag=f"{self.tag:06x}")
        return int.from_bytes(self.value, "big")


def structure(tag: int, *items: bytes) -> bytes:
    """A structure of encoded items."""
    return _encode(tag, STRUCTURE, b"".join(items))


def integer(tag: int, value: int) -> bytes:
    """An Integer."""
    return _encode(tag, INTEGER, value.to_bytes(4, "big", signed=True))


def enumeration(tag: int, value: int) -> bytes:
    """An Enumeration."""
    return _encode(tag, ENUMERATION, value.to_bytes(4, "big"))


def text(tag: int, value: str) -> bytes:
    """A Text String."""
    return _encode(tag, TEXT, value.encode())


def byte_string(tag: int, value: bytes) -> bytes:
    """A Byte String."""
    return _encode(tag, BYTES, value)


def _encode(tag: int, kind: int, value: bytes) -> bytes:
    return tag.to_bytes(3, "big") + bytes([kind]) + len(value).to_bytes(4, "big") + value + bytes(-len(value) % _ROUND)


def parse(data: bytes) -> Item:
    """The one item that ``data`` is.

    Raises:
        ParseError: it is not exactly one item.
    """
    item, end = _read(data, 0, len(data), 0)
    if end != len(data):
        raise ParseError("bytes after the end of a KMIP message", offset=end)
    return item


def _read(data: bytes, start: int, limit: int, depth: int) -> tuple[Item, int]:
    body = start + HEADER_BYTES
    if body > limit or depth > _MAX_DEPTH:
        raise ParseError("a KMIP message is cut, or nested too deeply", offset=start)
    tag, kind = int.from_bytes(data[start : start + 3], "big"), data[start + 3]
    length = int.from_bytes(data[start + 4 : body], "big")
    end = body + length
    padded = end + -length % _ROUND
    if padded > limit or any(data[end:padded]) or length != _FIXED.get(kind, length):
        raise ParseError("an item of a KMIP message has a wrong length", offset=start)
    if kind != STRUCTURE:
        return Item(tag, kind, data[body:end]), padded
    items: list[Item] = []
    while body < end:
        item, body = _read(data, body, end, depth + 1)
        items.append(item)
    return Item(tag, kind, tuple(items)), padded
