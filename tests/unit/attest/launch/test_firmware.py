"""The table and the metadata of a firmware image are read to their last byte, or refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.firmware import FOOTER, PAGE, RESET_BLOCK, SEV, TDX, Image, for_snp, for_tdx, put

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


def test_image_of_64_mib_is_not_too_large() -> None:
    with pytest.raises(ParseError, match="no table"):
        Firmware.parse(bytes(64 << 20))


def test_image_is_whole_pages() -> None:
    for image in (b"", b"\0" + for_tdx().build(), for_tdx().build()[1:]):
        with pytest.raises(ParseError, match="whole pages"):
            Firmware.parse(image)


def one_page(table: bytes, told: int | None = None) -> bytes:
    """An image of one page with these entries before the footer, which tells the size ``told`` of the whole table."""
    size = len(table) + 18 if told is None else told
    return (table + struct.pack("<H16s", size, FOOTER.bytes_le) + bytes(32)).rjust(PAGE, b"\xff")


def entry(data: bytes, length: int | None = None, guid: UUID = OTHER) -> bytes:
    return data + struct.pack("<H16s", len(data) + 18 if length is None else length, guid.bytes_le)


def test_table_may_be_empty_and_may_fill_the_image() -> None:
    assert Firmware.parse(one_page(b"")).table == {}
    assert Firmware.parse(one_page(entry(b""))).table == {OTHER: b""}
    filling = bytes(range(256)) * 16
    most = PAGE - 32 - 18 - 18
    assert Firmware.parse(one_page(entry(filling[:most]))).table == {OTHER: filling[:most]}
    two = entry(filling[: most - 18]) + entry(b"", guid=RESET_BLOCK)
    assert Firmware.parse(one_page(two)).table == {OTHER: filling[: most - 18], RESET_BLOCK: b""}


@pytest.mark.parametrize(
    ("image", "says", "offset"),
    [
        (bytes(PAGE), "no table", 4048), (one_page(b"", 17), "not inside the image", 4046),
        (one_page(b"", 0), "not inside the image", 4046),
        (one_page(b"", PAGE - 31), "not inside the image", 4046), (one_page(b"", 0xFFFF), "not inside the image", 4046),
        (one_page(b"\0" + entry(b"")), "bytes before", 4027), (one_page(bytes(17) + entry(b"")), "bytes before", 4011),
        (one_page(entry(b"ab", 21)), "is not inside it", 4028), (one_page(entry(b"ab", 17)), "is not inside it", 4028),
        (one_page(entry(b"ab", 0)), "is not inside it", 4028), (one_page(entry(b"a") + entry(b"b")), "twice", 4009),
    ],
)  # fmt: skip
def test_table_that_is_not_well_formed_is_refused_where_it_is_not(image: bytes, says: str, offset: int) -> None:
    with pytest.raises(ParseError, match=says) as refused:
        Firmware.parse(image)
    assert refused.value.facts["offset"] == offset


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


def test_metadata_may_be_at_either_end_of_the_image() -> None:
    for at in (0, PAGE - 512):
        Firmware.parse(replace(for_tdx(), tdx_at=at).build()).tdx_sections()
    # Right below the end: behind the table, over the reset vector.
    raw = bytearray(Image(extra=[(SEV, struct.pack("<I", 28))]).build())
    put(raw, len(raw) - 28, struct.pack("<4sIIIIII", b"ASEV", 28, 1, 1, 0x800000, PAGE, 1))
    assert [section.address for section in Firmware.parse(bytes(raw)).sev_sections()] == [0x800000]


@pytest.mark.parametrize(
    ("place", "head", "says"),
    [
        (b"\x1c\0\0", (), "has 4 bytes"), (b"\x1c\0\0\0\0", (), "has 4 bytes"), (struct.pack("<I", 15), (), "is not inside the image"),
        (struct.pack("<I", 4 * PAGE + 1), (), "is not inside the image"), (struct.pack("<I", 16), (16, 1, 0), "not that of its sections"),
        (struct.pack("<I", 27), (28, 1, 1), "not that of its sections"), (struct.pack("<I", 28), (27, 1, 1), "not that of its sections"),
        (struct.pack("<I", 16), (28, 1, 1), "not that of its sections"), (struct.pack("<I", 28), (28, 2, 1), "version 1"),
        (struct.pack("<I", 28), (28, 0, 1), "version 1"), (struct.pack("<I", 28), (16, 1, 0), "not that of its sections"),
    ],
)  # fmt: skip
def test_metadata_that_is_not_whole_is_refused(place: bytes, head: tuple[int, ...], says: str) -> None:
    raw = bytearray(Image(extra=[(SEV, place)]).build())
    if head:
        put(raw, len(raw) - struct.unpack("<I", place)[0], struct.pack("<4sIII", b"ASEV", *head))
        del raw[4 * PAGE :]
    with pytest.raises(ParseError, match=says):
        Firmware.parse(bytes(raw)).sev_sections()


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (change(4, kind=5), "unknown kind"), (change(4, attributes=4), "attributes that mean nothing"),
        (change(4, attributes=6), "attributes that mean nothing"), (change(2, data_size=PAGE), "names a piece"),
        (change(2, data_at=1), "names a piece"), (change(2, size=PAGE + 1), "whole pages"), (change(2, size=1), "whole pages"),
        (change(2, size=0), "whole pages"), (change(2, address=1), "whole pages"),
        (change(2, address=(1 << 52) - PAGE), "whole pages"), (change(2, size=(64 << 20) + PAGE), "larger than any firmware"),
        (change(0, data_size=3 * PAGE, size=3 * PAGE, address=0xFFFFD000), "piece of the image"), (change(0, attributes=0), "no measured"),
        (lambda: Image(tdx=[(0, PAGE, 0xFFFFC000, PAGE, 1, 1)]), "no measured"), (change(2, address=0x808000), "overlap"),
        (change(3, address=0x811000), "overlap"),
    ],
)  # fmt: skip
def test_tdx_section_is_refused_for_what_is_wrong_with_it(image: Callable[[], Image], says: str) -> None:
    with pytest.raises(ParseError, match=says):
        tdx(image())


@pytest.mark.parametrize("values", [{"address": (1 << 52) - 2 * PAGE}, {"size": 64 << 20, "address": 1 << 32}, {"address": 0}])
def test_tdx_memory_may_be_as_large_and_as_high_as_the_limits(values: dict[str, int]) -> None:
    section = Firmware.parse(change(2, **values)().build()).tdx_sections()[2]
    assert {name: getattr(section, name) for name in values} == values


def test_variables_may_be_measured_beside_a_volume() -> None:
    sections = Firmware.parse(change(1, attributes=1)().build()).tdx_sections()
    assert [section.measured for section in sections] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ((0x900000, PAGE, 7), "unknown kind"), ((0x900001, PAGE, 1), "whole pages"), ((0x900000, 0, 1), "whole pages"),
        ((0x900000, 2 * PAGE, 2), "another size"), ((0x900000, 2 * PAGE, 3), "another size"), ((0x900000, 2 * PAGE, 16), "another size"),
        ((0x800000, PAGE, 1), "overlap"), ((0x7FF000, 2 * PAGE, 1), "overlap"),
    ],
    ids=["unknown kind", "address in a page", "no size", "secrets", "CPUID", "kernel's hashes", "overlap", "overlap from below"],
)  # fmt: skip
def test_sev_section_without_a_published_meaning_is_refused(section: tuple[int, int, int], says: str) -> None:
    image = for_snp()
    assert image.sev is not None
    image.sev.append(section)
    with pytest.raises(ParseError, match=says):
        sev(image)


def test_sev_memory_may_be_of_many_pages_and_the_calling_area_too() -> None:
    image = for_snp()
    assert image.sev is not None
    image.sev += [(0x802000, 3 * PAGE, 1), (0x900000, 2 * PAGE, 4)]
    found = Firmware.parse(image.build()).sev_sections()
    assert [(section.address, section.size, section.kind) for section in found] == image.sev


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
