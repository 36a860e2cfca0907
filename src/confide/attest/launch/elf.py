"""The loadable segments of a 64-bit x86 ELF file.

Layout: System V ABI, "ELF header" and "Program header", and its AMD64 supplement.  Integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

from confide.errors import ParseError

PAGE = 4096
_HEADER = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SHARED_OBJECT, _X86_64, _LOAD = 3, 62, 1
_MAX_SEGMENTS = 64
_MAX_MEMORY = 1 << 30
PF_X, PF_W, PF_R = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a file and where it goes in memory; memory behind the ``data`` starts as zeros."""

    address: int
    size: int
    rights: int
    data: bytes = field(repr=False)

    @property
    def pages(self) -> range:
        """The addresses of all pages that it touches."""
        return range(self.address - self.address % PAGE, -(-(self.address + self.size) // PAGE) * PAGE, PAGE)

    def page(self, at: int) -> bytes:
        """What is in the page at ``at``, one of ``pages``: the file's bytes that belong to the segment, and zeros around them."""
        start, end = max(at, self.address), min(at + PAGE, self.address + len(self.data))
        return (bytes(start - at) + self.data[start - self.address : end - self.address]).ljust(PAGE, b"\0")


@dataclass(frozen=True, slots=True)
class SharedObject:
    """What of a position-independent file is loaded: its segments by address, which begin at 0, and where it is entered."""

    segments: tuple[Segment, ...]
    entry: int

    @property
    def size(self) -> int:
        """How much memory it takes, in bytes: whole pages."""
        return self.segments[-1].pages.stop

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the headers and all loadable segments.

        Raises:
            ParseError: it is no such file, or its segments cannot be loaded; ``facts`` hold the offset.
        """
        if len(raw) < _HEADER.size:
            raise ParseError("not an ELF file", length=len(raw))
        magic, width, order, _, _, kind, machine, _, entry, at, _, _, _, size, count, *_ = _HEADER.unpack_from(raw)
        if magic != b"\x7fELF" or (width, order) != (2, 1) or machine != _X86_64:
            raise ParseError("not an ELF file for 64-bit x86", offset=0)
        if kind != _SHARED_OBJECT:
            raise ParseError("the ELF file is not position-independent", offset=16, got=kind)
        if size != _SEGMENT.size or not count <= _MAX_SEGMENTS or at + count * size > len(raw):
            raise ParseError("the ELF file's program headers are not inside it", offset=at)
        headers = (_segment(raw, at + number * size) for number in range(count))
        segments = tuple(segment for segment in headers if segment is not None)
        _check(segments, entry)
        return cls(segments, entry)


def _segment(raw: bytes, at: int) -> Segment | None:
    kind, rights, offset, address, _, file_size, memory_size, _ = _SEGMENT.unpack_from(raw, at)
    if kind != _LOAD:
        return None
    if offset + file_size > len(raw) or file_size > memory_size or not memory_size:
        raise ParseError("a segment of the ELF file is not inside it", offset=at)
    if address + memory_size > _MAX_MEMORY or offset % PAGE != address % PAGE:
        raise ParseError("a segment of the ELF file cannot be mapped", offset=at)
    return Segment(address, memory_size, rights & (PF_R | PF_W | PF_X), raw[offset : offset + file_size])


def _check(segments: tuple[Segment, ...], entry: int) -> None:
    if not segments or segments[0].pages.start:
        raise ParseError("the ELF file has no segments, or they do not begin at address 0")
    for first, second in pairwise(segments):
        if first.pages.stop > second.pages.start:
            raise ParseError("two segments of the ELF file share a page, or are out of order", address=second.address)
    if not any(s.rights & PF_X and s.address <= entry < s.address + s.size for s in segments):
        raise ParseError("the ELF file is entered outside of its code", offset=24, entry=entry)
