"""MRTD is computed as the TDX module does, page by page; held against a second computation written from the specification alone."""

from __future__ import annotations

import hashlib

import pytest
from support.firmware import OVMF, PAGE, Image, for_tdx
from support.machine import need_file

from confide.attest.launch.firmware import Firmware
from confide.attest.launch.tdx import PageOrder, mrtd


def by_the_specification(image: Image, raw: bytes) -> bytes:
    """All records as one long text: TDH.MEM.PAGE.ADD and TDH.MR.EXTEND, page by page."""
    text = bytearray()
    for data_at, _, address, size, _, attributes in image.tdx or []:
        for page in range(size // PAGE) if attributes != 2 else ():
            text += b"MEM.PAGE.ADD".ljust(16, b"\0") + (address + page * PAGE).to_bytes(8, "little") + bytes(104)
            for chunk in range(16) if attributes == 1 else ():
                at = page * PAGE + chunk * 256
                text += b"MR.EXTEND".ljust(16, b"\0") + (address + at).to_bytes(8, "little") + bytes(104) + raw[data_at + at :][:256]
    return hashlib.sha384(text).digest()


def of(image: Image, order: PageOrder = PageOrder.PAGE) -> bytes:
    return mrtd(Firmware.parse(image.build()), order)


def test_every_page_and_every_measured_chunk_is_one_record() -> None:
    image = for_tdx()
    assert of(image) == by_the_specification(image, image.build())


def test_order_of_the_host_matters() -> None:
    assert of(for_tdx(), PageOrder.SECTION) != of(for_tdx(), PageOrder.PAGE)
    # One page leaves no choice.
    single = Image(tdx=[(3 * PAGE, PAGE, 0xFFFFF000, PAGE, 0, 1)])
    assert of(single, PageOrder.SECTION) == of(single, PageOrder.PAGE)


def test_a_changed_byte_of_the_firmware_changes_it() -> None:
    raw = bytearray(for_tdx().build())
    raw[2 * PAGE + 100] ^= 1
    assert mrtd(Firmware.parse(bytes(raw))) != of(for_tdx())


def test_variables_that_are_not_measured_do_not_change_it() -> None:
    raw = bytearray(for_tdx().build())
    raw[100] ^= 1
    assert mrtd(Firmware.parse(bytes(raw))) == of(for_tdx())


def test_place_of_memory_is_measured_though_its_contents_are_not() -> None:
    moved = for_tdx()
    assert moved.tdx is not None
    moved.tdx[2] = (0, 0, 0x820000, 2 * PAGE, 3, 0)
    assert of(moved) != of(for_tdx())


def test_memory_that_is_accepted_later_is_not_measured() -> None:
    without = for_tdx()
    assert without.tdx is not None
    expected = by_the_specification(without, without.build())
    assert of(without) == expected
    without.tdx.pop()
    without_raw = for_tdx().build()
    assert by_the_specification(without, without_raw) == expected


def test_image_that_debian_ships_is_measured() -> None:
    raw = need_file(OVMF, "scripts/install_ovmf.sh").read_bytes()
    firmware = Firmware.parse(raw)
    sections = [
        # What is in the image lies at the end of 32-bit memory, as all of it does.
        (max(0, s.address + len(raw) - (1 << 32)), len(s.data), s.address, s.size, s.kind, s.attributes)
        for s in firmware.tdx_sections()
    ]
    assert {section.kind for section in firmware.tdx_sections()} == {0, 1, 2, 3}
    assert mrtd(firmware) == by_the_specification(Image(tdx=sections), raw)


@pytest.mark.parametrize("order", list(PageOrder))
def test_it_is_48_bytes(order: PageOrder) -> None:
    assert len(of(for_tdx(), order)) == 48
