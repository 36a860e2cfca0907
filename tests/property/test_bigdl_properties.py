"""Files of BigDL PPML: what its document's encoder wrote comes out, and whatever else does not, or only as the document says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bigdl_encoder import DIGITS, STRONG, Encoded, simple_pair

from confide.data.bigdl import Header, check_file
from confide.data.bigdl_keys import DataKey, PrimaryKey
from confide.errors import ConfideError, IntegrityError, ParseError

KEY = DataKey.parse(STRONG.encode())
IV = bytes(range(16))


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def opened(folder: Path, data: bytes) -> bytes:
    path = folder / "a.bin.cbc"
    path.write_bytes(data)
    return check_file(path, "a.bin", lambda _: KEY).open().read()


@given(st.binary(max_size=200), st.binary(min_size=16, max_size=16))
@settings(max_examples=100, deadline=None)
def test_plaintext_comes_back_under_any_iv(folder: Path, plaintext: bytes, iv: bytes) -> None:
    assert opened(folder, bytes(Encoded(plaintext, iv=iv))) == plaintext


@given(st.binary(max_size=80), st.integers(0, 2**32), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_any_byte_changed_is_refused_or_changes_the_first_block_alone(folder: Path, plaintext: bytes, position: int, mask: int) -> None:
    """The header's wrapped key has no effect under a given data key; the IV changes the first block; nothing else opens."""
    encoded = Encoded(plaintext, iv=IV)
    data = bytearray(bytes(encoded))
    position %= len(data)
    data[position] ^= mask
    first_iv_byte = 8 + len(encoded.wrapped)
    if first_iv_byte <= position < first_iv_byte + 16 or 8 <= position < first_iv_byte:
        try:
            assert opened(folder, bytes(data))[16:] == plaintext[16:]
        except (IntegrityError, ParseError):
            return
    else:
        with pytest.raises((IntegrityError, ParseError)):
            opened(folder, bytes(data))


@given(st.binary(max_size=80), st.data())
@settings(max_examples=200, deadline=None)
def test_bytes_cut_out_or_put_in_behind_the_header_are_refused(folder: Path, plaintext: bytes, data: st.DataObject) -> None:
    whole = bytes(Encoded(plaintext, iv=IV))
    start = data.draw(st.integers(400, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    other = whole[:start] + data.draw(st.binary(max_size=64)) + whole[end:]
    if other != whole:
        with pytest.raises(IntegrityError):
            opened(folder, other)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.binary(min_size=392, max_size=392))
@settings(max_examples=300)
def test_header_of_any_lengths_is_refused_or_read_whole(wrapped: int, iv: int, rest: bytes) -> None:
    raw = wrapped.to_bytes(4, "big", signed=True) + iv.to_bytes(4, "big", signed=True) + rest
    try:
        header = Header.parse(raw)
    except ParseError:
        return
    assert Encoded(b"", wrapped=header.wrapped, iv=header.iv).header == raw


@given(st.text("0123456789", min_size=16, max_size=16), st.text("0123456789", min_size=16, max_size=16))
@settings(max_examples=100)
def test_simple_services_key_is_the_encoders_under_any_digits(digits: str, primary: str) -> None:
    wrapped, key = simple_pair(digits, primary)
    found, expected = PrimaryKey.parse(primary.encode()).unwrap(wrapped), DataKey.parse(key.encode())
    assert (found.mac.reveal(), found.cipher.reveal()) == (expected.mac.reveal(), expected.cipher.reveal())
    assert found.weakness is not None


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_bytes_as_a_key_file_are_a_key_or_refused(data: bytes) -> None:
    for read in (DataKey.parse, PrimaryKey.parse):
        try:
            read(data)
        except ConfideError:
            continue


@given(st.text(max_size=80))
@settings(max_examples=300)
def test_text_as_a_wrapped_key_is_a_key_or_refused(wrapped: str) -> None:
    try:
        PrimaryKey.parse(DIGITS.encode()).unwrap(wrapped)
    except ConfideError:
        return
