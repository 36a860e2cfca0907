"""What EINIT would refuse is refused, and what is read is what the bytes say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sigstruct import seal, sign, signing_key

from confide.attest.launch.sigstruct import Sigstruct
from confide.errors import EvidenceInvalidError, ParseError

MEASUREMENT = bytes(range(32))
DEBUG = 2


@pytest.fixture(scope="module")
def raw() -> bytes:
    return sign(MEASUREMENT)


def changed(raw: bytes, at: int, data: bytes) -> bytes:
    return raw[:at] + data + raw[at + len(data) :]


def test_values_are_those_that_quotes_will_show(raw: bytes) -> None:
    values = Sigstruct.parse(raw).verified()
    assert values.to_json() == {
        "tee": "sgx", "mrenclave": MEASUREMENT.hex(), "mrsigner": hashlib.sha256(raw[128:512]).hexdigest(), "isv_prod_id": 7, "isv_svn": 3,
    }  # fmt: skip


@pytest.mark.parametrize("raw_of", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b""], ids=["cut", "trailing", "empty"])
def test_another_length_is_refused(raw: bytes, raw_of: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ParseError):
        Sigstruct.parse(raw_of(raw))


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"\7"), (16, b"\1"), (24, b"\2"), (44, b"\1"), (127, b"\1"), (512, b"\1\0\1"), (910, b"\1"), (992, b"\1"),
        (1028, b"\1"), (511, b"\0"),
    ],
    ids=["header", "vendor", "header2", "reserved", "reserved end", "exponent", "reserved2", "reserved3", "reserved4", "short modulus"],
)  # fmt: skip
def test_field_that_is_not_as_the_manual_says_is_refused_with_its_offset(raw: bytes, at: int, data: bytes) -> None:
    with pytest.raises(ParseError) as refused:
        Sigstruct.parse(changed(raw, at, data))
    assert 0 <= int(refused.value.facts["offset"] or 0) <= at


def test_modulus_that_is_even_is_refused_before_it_is_used(raw: bytes) -> None:
    with pytest.raises(ParseError, match="modulus is not one of 3072 bits"):
        Sigstruct.parse(changed(raw, 128, bytes([raw[128] ^ 1])))


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 1807), bit=st.integers(0, 7))
def test_any_bit_changed_is_refused(at: int, bit: int) -> None:
    raw = sign_once()
    with pytest.raises((ParseError, EvidenceInvalidError)):
        Sigstruct.parse(changed(raw, at, bytes([raw[at] ^ 1 << bit]))).verified()


@cache
def sign_once() -> bytes:
    return sign(MEASUREMENT)


@pytest.mark.parametrize(("at", "name"), [(1040, "Q1"), (1424, "Q2")])
def test_quotient_of_another_signature_is_refused(raw: bytes, at: int, name: str) -> None:
    other = sign(bytes(32))
    with pytest.raises(EvidenceInvalidError, match=name):
        Sigstruct.parse(changed(raw, at, other[at : at + 384])).verified()


def test_signature_of_another_enclave_is_refused(raw: bytes) -> None:
    other = sign(bytes(32))
    moved = changed(changed(changed(raw, 516, other[516:900]), 1040, other[1040:1424]), 1424, other[1424:])
    with pytest.raises(EvidenceInvalidError, match="does not verify"):
        Sigstruct.parse(moved).verified()


def test_signature_beyond_the_modulus_is_refused(raw: bytes) -> None:
    modulus = signing_key().public_key().public_numbers().n
    for signature in (modulus, (1 << 3072) - 1):
        with pytest.raises(EvidenceInvalidError, match="larger than its modulus"):
            Sigstruct.parse(changed(raw, 516, signature.to_bytes(384, "little"))).verified()


def test_key_of_a_record_that_was_not_read_is_checked_too(raw: bytes) -> None:
    with pytest.raises(EvidenceInvalidError, match="no RSA key"):
        replace(Sigstruct.parse(raw), exponent=2).verified()


@pytest.mark.parametrize(
    ("attributes", "mask", "debug"), [(4, DEBUG, "forbidden"), (4 | DEBUG, DEBUG, "required"), (4, 0, "allowed"), (4 | DEBUG, 0, "allowed")]
)
def test_debug_is_what_the_mask_leaves_open(attributes: int, mask: int, debug: str) -> None:
    assert Sigstruct.parse(sign(MEASUREMENT, attributes=attributes, mask=mask)).debug == debug


@pytest.mark.parametrize(
    "around", [lambda raw: raw, lambda raw: b"\x7fELF" + raw[:30] + raw + b"more", lambda raw: b"x" + raw, lambda raw: raw + b"more"]
)
def test_the_one_signature_of_an_enclave_is_found(raw: bytes, around: Callable[[bytes], bytes]) -> None:
    assert Sigstruct.find(around(raw)) == Sigstruct.parse(raw)


@pytest.mark.parametrize("around", [lambda raw: b"", lambda raw: raw + raw, lambda raw: b"x" + raw[:-1], lambda raw: b"x" + raw[1:]])
def test_file_without_exactly_one_signature_is_refused(raw: bytes, around: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ParseError):
        Sigstruct.find(around(raw))


def test_date_that_is_no_date_is_kept_as_it_is() -> None:
    date = bytes.fromhex("ea070b1b")
    assert Sigstruct.parse(sign(MEASUREMENT, patch={20: date})).date == date


def test_signed_bytes_are_not_shown_twice(raw: bytes) -> None:
    assert "signed" not in repr(Sigstruct.parse(raw))


def test_intel_is_a_vendor() -> None:
    assert Sigstruct.parse(seal(bytearray(sign(MEASUREMENT, patch={16: b"\x86\x80\0\0"})))).vendor == 0x8086
