"""MRENCLAVE's records are those of the manual, and pages that no processor would take are refused."""

from __future__ import annotations

import hashlib

import pytest

from confide.attest.launch.sgx import PAGE, EnclaveMeasurement, PageFlags
from confide.errors import ParseError

R, RX = PageFlags.R | PageFlags.REG, PageFlags.R | PageFlags.X | PageFlags.REG


def test_records_are_64_bytes_each_with_the_measured_bytes_behind_them() -> None:
    content = bytes(number % 256 for number in range(PAGE))
    text = b"ECREATE\0" + (1).to_bytes(4, "little") + (0x10000).to_bytes(8, "little") + bytes(44)
    text += b"EADD\0\0\0\0" + (0x1000).to_bytes(8, "little") + (0x205).to_bytes(8, "little") + bytes(40)
    for at in range(0, PAGE, 256):
        text += b"EEXTEND\0" + (0x1000 + at).to_bytes(8, "little") + bytes(48) + content[at : at + 256]
    text += b"EADD\0\0\0\0" + (0x2000).to_bytes(8, "little") + (0x100).to_bytes(8, "little") + bytes(40)
    text += b"EADD\0\0\0\0" + (0x3000).to_bytes(8, "little") + (0x100).to_bytes(8, "little") + bytes(40)

    enclave = EnclaveMeasurement(0x10000, 1)
    enclave.add(0x1000, RX, content)
    enclave.add_unmeasured(0x2000, PageFlags.TCS, 2)
    assert enclave.mr_enclave() == hashlib.sha256(text).digest()


@pytest.mark.parametrize(("name", "bit"), [("R", 0), ("W", 1), ("X", 2), ("TCS", 8), ("REG", 9)])
def test_each_right_and_type_is_its_bit_of_the_record(name: str, bit: int) -> None:
    enclave = EnclaveMeasurement(2 * PAGE, 1)
    enclave.add_unmeasured(PAGE, PageFlags[name])
    created = b"ECREATE\0" + (1).to_bytes(4, "little") + (2 * PAGE).to_bytes(8, "little") + bytes(44)
    added = b"EADD\0\0\0\0" + PAGE.to_bytes(8, "little") + (1 << bit).to_bytes(8, "little") + bytes(40)
    assert enclave.mr_enclave() == hashlib.sha256(created + added).digest()


@pytest.mark.parametrize("size", [0, PAGE, 3 * PAGE, -PAGE, 1 << 48])
def test_size_that_ecreate_refuses_is_refused(size: int) -> None:
    with pytest.raises(ParseError):
        EnclaveMeasurement(size, 1)


@pytest.mark.parametrize("size", [2 * PAGE, 1 << 47])
def test_size_may_be_two_pages_or_all_of_user_space(size: int) -> None:
    record = b"ECREATE\0" + (7).to_bytes(4, "little") + size.to_bytes(8, "little") + bytes(44)
    assert EnclaveMeasurement(size, 7).mr_enclave() == hashlib.sha256(record).digest()


def test_pages_may_be_added_from_the_first_to_the_last() -> None:
    enclave = EnclaveMeasurement(2 * PAGE, 1)
    enclave.add_unmeasured(0, R, 2)
    with pytest.raises(ParseError, match="outside of the enclave"):
        enclave.add_unmeasured(2 * PAGE, R)
    one, other = EnclaveMeasurement(2 * PAGE, 1), EnclaveMeasurement(2 * PAGE, 1)
    one.add_unmeasured(0, R)
    other.add_unmeasured(0, R, 1)
    assert one.mr_enclave() == other.mr_enclave()


@pytest.mark.parametrize(("offset", "content"), [(1, PAGE), (0x10000, PAGE), (-PAGE, PAGE), (0, PAGE - 1), (0, PAGE + 1)])
def test_page_that_cannot_be_added_is_refused(offset: int, content: int) -> None:
    with pytest.raises(ParseError):
        EnclaveMeasurement(0x10000, 1).add(offset, R, bytes(content))
