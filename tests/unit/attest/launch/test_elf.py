"""Segments of an ELF file are read as a loader maps them, and files that none could map are refused."""

from __future__ import annotations

import struct

import pytest
from support.gramine import PAGE, RW, RX, SEGMENTS, R, libpal

from confide.attest.launch.elf import Segment, SharedObject
from confide.errors import ParseError


def patched(at: int, layout: str, value: int, raw: bytes | None = None) -> bytes:
    changed = bytearray(libpal() if raw is None else raw)
    struct.pack_into(layout, changed, at, value)
    return bytes(changed)


def with_last(offset: int, address: int, size: int, memory: int, rights: int) -> bytes:
    """The usual segments, but for the last one."""
    return libpal([*SEGMENTS[:2], (offset, address, size, memory, rights)])


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not an ELF file"), (libpal()[:63], "not an ELF file"), (b"\x7fELG" + libpal()[4:], "64-bit x86"),
        (patched(4, "<B", 1), "64-bit x86"), (patched(5, "<B", 2), "64-bit x86"), (libpal(machine=183), "64-bit x86"),
        (libpal(kind=2), "not position-independent"), (patched(54, "<H", 57), "program headers"),
        (patched(54, "<H", 55), "program headers"),
        (patched(56, "<H", 65), "program headers"), (libpal()[:100], "program headers"), (libpal()[: 64 + 4 * 56 - 1], "program headers"),
        (patched(32, "<Q", 1 << 63), "program headers"),
        (libpal()[:0x2F00], "not inside it"), (with_last(0x2E00, 0x3E00, 0x401, 0x900, RW), "not inside it"),
        (libpal([(0, 0, 0x300, 0x2FF, RX)], entry=0x10), "not inside it"), (with_last(0x2E00, 0x3E00, 0, 0, RW), "not inside it"),
        (with_last(0x2E10, 0x3E00, 0x10, 0x900, RW), "cannot be mapped"),
        (with_last(0x2E00, 0x3E00, 0x10, (1 << 30) - 0x3DFF, RW), "cannot be mapped"),
        (with_last(0x2E00, 1 << 63 | 0x3E00, 0x10, 0x10, RW), "cannot be mapped"),
        (libpal([]), "do not begin at address 0"), (patched(56, "<H", 0), "do not begin at address 0"),
        (patched(56, "<H", 0)[:64], "do not begin at address 0"),
        (libpal([(0, 0x1000, 0x300, 0x300, RX)], entry=0x1010), "do not begin at address 0"),
        (libpal([SEGMENTS[1], SEGMENTS[0]]), "do not begin at address 0"), (libpal([SEGMENTS[0], *reversed(SEGMENTS[1:])]), "out of order"),
        (libpal([(0, 0, 0x1800, 0x1800, RX), (0x1900, 0x1900, 0x10, 0x10, RW)], entry=0x10), "share a page"),
        (libpal([(0, 0, 0x1001, 0x1001, RX), (0x1FFF, 0x1FFF, 0x10, 0x10, RW)], entry=0x10), "share a page"),
        (libpal(entry=0x3E00), "outside of its code"), (libpal(entry=0x9000), "outside of its code"),
        (libpal(entry=0xFFF), "outside of its code"),
        (libpal(entry=0x2200), "outside of its code"), (libpal([(0, 0, 0x300, 0x300, R)], entry=0x10), "outside of its code"),
    ],
)  # fmt: skip
def test_file_that_cannot_be_loaded_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(ParseError, match=says):
        SharedObject.parse(raw)


def test_what_is_loaded_is_read() -> None:
    raw = libpal()
    found = SharedObject.parse(raw)
    assert found.segments == (
        Segment(0, 0x300, R, raw[:0x300]), Segment(0x1000, 0x1200, RX, raw[0x1000:0x2200]), Segment(0x3E00, 0x900, RW, raw[0x2E00:0x3100]),
    )  # fmt: skip
    assert (found.entry, found.size) == (0x1010, 0x5000)


@pytest.mark.parametrize("entry", [0x1000, 0x21FF])
def test_file_may_be_entered_at_the_first_and_the_last_byte_of_its_code(entry: int) -> None:
    assert SharedObject.parse(libpal(entry=entry)).entry == entry


def test_limits_themselves_are_loaded() -> None:
    usual = [segment.pages for segment in SharedObject.parse(libpal()).segments]
    more = SharedObject.parse(patched(56, "<H", 64))  # 60 headers of kinds that are not loaded
    assert [segment.pages for segment in more.segments] == usual
    # Program headers that end with the file.
    moved = patched(32, "<Q", len(libpal())) + libpal()[64 : 64 + 4 * 56]
    assert [segment.pages for segment in SharedObject.parse(moved).segments] == usual
    with pytest.raises(ParseError, match="program headers"):
        SharedObject.parse(moved[:-1])
    assert SharedObject.parse(with_last(0x2E00, 0x3E00, 0x400, 0x400, RW)).segments[2].data == libpal()[0x2E00:0x3200]
    assert SharedObject.parse(with_last(0x2E00, 0x3E00, 0x10, (1 << 30) - 0x3E00, RW)).size == 1 << 30
    neighbours = libpal([(0, 0, 0x1000, 0x1000, RX), (0x1000, 0x1000, 0x10, 0x10, RW)], entry=0x10)
    assert [segment.pages.stop for segment in SharedObject.parse(neighbours).segments] == [0x1000, 0x2000]


def test_rights_beyond_the_three_are_nothing() -> None:
    assert SharedObject.parse(with_last(0x2E00, 0x3E00, 0x300, 0x900, 0xFFFFFFF6)).segments[2].rights == RW


def test_page_is_the_files_bytes_with_zeros_around_them() -> None:
    segment = Segment(0x3E00, 0x2300, RW, b"\xaa" * 0x300)
    assert list(segment.pages) == [0x3000, 0x4000, 0x5000, 0x6000]
    assert segment.page(0x3000) == bytes(0xE00) + b"\xaa" * 0x200
    assert segment.page(0x4000) == b"\xaa" * 0x100 + bytes(0xF00)
    assert segment.page(0x5000) == segment.page(0x6000) == bytes(PAGE)
    whole = Segment(0x1000, PAGE, RX, b"\xbb" * PAGE)
    assert (list(whole.pages), whole.page(0x1000)) == ([0x1000], b"\xbb" * PAGE)
    assert list(Segment(0x1000, PAGE + 1, RX, b"").pages) == [0x1000, 0x2000]
    assert "data" not in repr(whole)
