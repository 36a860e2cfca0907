"""The table and the metadata of a firmware image are read to their last byte, or refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.firmware import PAGE, RESET_BLOCK, SEV, TDX, Image, for_snp, for_tdx

from confide.attest.launch.firmware import Firmware
from confide.errors import ParseError

OTHER = UUID("00000000-1111-2222-3333-444444444444")


def tdx(image: Image) -> None:
    Firmware.parse(image.build()).tdx_sections()


def sev(image: Image) -> None:
    Firmware.parse(image.build()).sev_sections()


def test_sections_are_read_in_the_order_of_the_image() -> None:
    sections = Firmware.parse(for_tdx().build()).tdx_sections()
    assert [section.kind for section in sections] == [0, 1, 3, 2, 4]
    assert [section.measured for section in sections] == [True, False, False, False, False]
    assert [section.added for section in sections] == [True, True, True, True, False]
    assert sections[0].data == for_tdx().build()[2 * PAGE : 4 * PAGE]
    assert [s.kind for s in Firmware.parse(for_snp(kernel=True).build()).sev_sections()] == [1, 2, 3, 0x10]


@pytest.mark.parametrize(
    "image", [b"", b"x" * PAGE, bytes(PAGE), for_tdx().build()[:-1], for_tdx().build() + bytes(PAGE)],
    ids=["empty", "no table", "zeros", "cut", "moved table"],
)  # fmt: skip
def test_bytes_that_are_no_image_are_refused(image: bytes) -> None:
    with pytest.raises(ParseError):
        Firmware.parse(image)


def test_image_that_is_too_large_is_refused() -> None:
    with pytest.raises(ParseError, match="too large"):
        Firmware.parse(bytes((64 << 20) + PAGE))


def test_entry_twice_is_refused() -> None:
    with pytest.raises(ParseError, match="twice"):
        Firmware.parse(Image(extra=[(OTHER, b"1"), (OTHER, b"2")]).build())


@pytest.mark.parametrize("length", [0, 17, 4000])
def test_entry_that_is_not_inside_the_table_is_refused(length: int) -> None:
    raw = bytearray(Image(reset=None, extra=[(OTHER, b"data")]).build())
    struct.pack_into("<H", raw, len(raw) - 32 - 18 - 18, length)
    with pytest.raises(ParseError, match="table"):
        Firmware.parse(bytes(raw))


def test_image_for_neither_says_for_what_it_is_not() -> None:
    for read, vendor in ((tdx, "TDX"), (sev, "SEV")):
        with pytest.raises(ParseError, match=f"no {vendor} metadata"):
            read(Image())


@pytest.mark.parametrize("guid", [TDX, SEV])
@pytest.mark.parametrize("place", [b"", b"\0\0\0\0", b"\xff" * 4, struct.pack("<I", 8), struct.pack("<I", 3 * PAGE), b"\0\x10\0\0\0"])
def test_metadata_that_is_not_where_the_table_says_is_refused(guid: UUID, place: bytes) -> None:
    with pytest.raises(ParseError):
        (tdx if guid == TDX else sev)(Image(extra=[(guid, place)]))


def change(index: int, **values: int) -> Callable[[], Image]:
    names = ("data_at", "data_size", "address", "size", "kind", "attributes")

    def made() -> Image:
        image = for_tdx()
        assert image.tdx is not None
        section = dict(zip(names, image.tdx[index], strict=True)) | values
        image.tdx[index] = tuple(section[name] for name in names)  # type: ignore[assignment]
        return image

    return made


@pytest.mark.parametrize(
    "image",
    [
        change(0, kind=9), change(0, attributes=4), change(0, attributes=3), change(0, address=1), change(0, size=0),
        change(0, size=PAGE + 1),
        change(0, data_size=PAGE), change(0, data_at=3 * PAGE), change(2, data_at=PAGE), change(2, attributes=1), change(0, attributes=0),
        change(2, address=0xFFFFE000), change(2, address=1 << 60), change(2, size=1 << 40), change(3, address=0x810000),
    ],
    ids=[
        "unknown kind", "unknown attribute", "measured and not added", "address in a page", "no size", "half a page",
        "less data than memory",
        "data outside", "memory with data", "memory that is measured", "nothing measured", "overlap", "address too high", "too large",
        "same place",
    ],
)  # fmt: skip
def test_tdx_section_without_a_published_meaning_is_refused(image: Callable[[], Image]) -> None:
    with pytest.raises(ParseError):
        tdx(image())


@pytest.mark.parametrize(
    "section", [(0x900000, PAGE, 7), (0x900001, PAGE, 1), (0x900000, 0, 1), (0x900000, 2 * PAGE, 2), (0x800000, PAGE, 1)],
    ids=["unknown kind", "address in a page", "no size", "secrets of two pages", "overlap"],
)  # fmt: skip
def test_sev_section_without_a_published_meaning_is_refused(section: tuple[int, int, int]) -> None:
    image = for_snp()
    assert image.sev is not None
    image.sev.append(section)
    with pytest.raises(ParseError):
        sev(image)


@pytest.mark.parametrize(("at", "value"), [(0, b"TDVX"), (4, b"\0"), (8, b"\2"), (12, b"\0"), (12, b"\6")])
def test_head_of_the_metadata_that_is_off_is_refused(at: int, value: bytes) -> None:
    raw = bytearray(for_tdx().build())
    raw[PAGE + at : PAGE + at + len(value)] = value
    with pytest.raises(ParseError):
        Firmware.parse(bytes(raw)).tdx_sections()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_change_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    raw = bytearray(Image(tdx=for_tdx().tdx, sev=for_snp().sev).build())
    spots = [*range(PAGE, PAGE + 1200), *range(len(raw) - 200, len(raw))]
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.sampled_from(spots))] = data.draw(st.integers(0, 255))
    for read in (Firmware.tdx_sections, Firmware.sev_sections):
        try:
            read(Firmware.parse(bytes(raw)))
        except ParseError:
            continue


def test_table_names_its_entries() -> None:
    assert Firmware.parse(Image().build()).table == {RESET_BLOCK: struct.pack("<I", 0x80B004)}
