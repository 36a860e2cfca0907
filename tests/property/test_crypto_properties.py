"""Formats of the crypto layer: what goes in comes out, and any one byte changed is refused."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.canonical import b64url
from confide.crypto.container import CHUNK_BYTES, ContainerReader, container_size, plaintext_size, seal_stream
from confide.crypto.derive import check_data_path, file_key
from confide.crypto.envelope import WrappedKey, unwrap, wrap
from confide.crypto.seal import SealKey, seal
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey, dsse_sign, dsse_verify
from confide.errors import ConfideError, IntegrityError, ParseError, UnwrapError
from confide.ids import DatasetId

KEY = SecretBytes(bytes(range(32)))
DATASET = DatasetId("0123456789abcdef" * 2)
NODE = SealKey.generate()
SIGNER = SigningKey.generate()
CONTEXT = {"dataset": DATASET, "purpose": "read"}

# Lengths around every boundary of the chunking, and a few between.
lengths = st.one_of(
    st.sampled_from([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1]),
    st.integers(0, 3 * CHUNK_BYTES),
)
changes = st.tuples(st.integers(0, 2**32), st.integers(1, 255))
ascii_characters = st.characters(codec="ascii")
noise = os.urandom(3 * CHUNK_BYTES)


def sealed(length: int, path: str = "a.csv") -> bytes:
    out = io.BytesIO()
    seal_stream(io.BytesIO(noise[:length]), out, KEY, DATASET, path)
    return out.getvalue()


def changed(data: bytes, change: tuple[int, int]) -> bytes:
    position, mask = change[0] % len(data), change[1]
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


@given(lengths)
@settings(max_examples=60, deadline=None)
def test_container_gives_back_its_plaintext_and_its_size_tells_the_length(length: int) -> None:
    data = sealed(length)
    assert (plaintext_size(len(data)), container_size(length)) == (length, len(data))
    assert ContainerReader(io.BytesIO(data), KEY, DATASET, "a.csv").read() == noise[:length]


@given(lengths, changes)
@settings(max_examples=150, deadline=None)
def test_container_with_any_one_byte_changed_is_refused(length: int, change: tuple[int, int]) -> None:
    data = changed(sealed(length), change)
    with pytest.raises(IntegrityError):
        ContainerReader(io.BytesIO(data), KEY, DATASET, "a.csv").read()


@given(lengths, st.data())
@settings(max_examples=100, deadline=None)
def test_container_with_bytes_cut_out_or_put_in_is_refused(length: int, data: st.DataObject) -> None:
    whole = sealed(length)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    extra = data.draw(st.binary(max_size=40))
    other = whole[:start] + extra + whole[end:]
    if other != whole:
        with pytest.raises(IntegrityError):
            ContainerReader(io.BytesIO(other), KEY, DATASET, "a.csv").read()


@given(lengths, st.lists(st.tuples(st.integers(0, 3 * CHUNK_BYTES), st.integers(0, CHUNK_BYTES + 9)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_container_reads_the_same_from_any_offset(length: int, reads: list[tuple[int, int]]) -> None:
    reader, plain = io.BufferedReader(ContainerReader(io.BytesIO(sealed(length)), KEY, DATASET, "a.csv")), io.BytesIO(noise[:length])
    for offset, count in reads:
        reader.seek(offset)
        plain.seek(offset)
        assert reader.read(count) == plain.read(count)


@given(st.integers(-100, 4 * CHUNK_BYTES))
@settings(max_examples=300)
def test_every_file_size_has_one_plaintext_length_or_none(size: int) -> None:
    try:
        length = plaintext_size(size)
    except IntegrityError:
        return
    assert container_size(length) == size


@given(st.text(max_size=30))
@settings(max_examples=300)
def test_accepted_path_stays_inside_its_folder(path: str) -> None:
    try:
        check_data_path(path)
    except ParseError:
        return
    assert os.path.normpath(os.path.join("/data", path)) == f"/data/{path}"  # noqa: PTH118 - the string rule is what is tested
    assert "\0" not in path


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
@settings(max_examples=200)
def test_two_paths_never_share_a_key(first: str, second: str) -> None:
    try:
        keys = [file_key(KEY, kind="parquet", dataset=DATASET, path=path).reveal() for path in (first, second)]
    except ParseError:
        return
    assert (keys[0] == keys[1]) == (first == second)


@given(st.binary(min_size=1, max_size=64), st.integers(1, 2**40), changes)
@settings(max_examples=150, deadline=None)
def test_wrapped_key_round_trip_and_any_one_byte_changed_is_refused(secret: bytes, version: int, change: tuple[int, int]) -> None:
    wrapped = wrap(KEY, SecretBytes(secret), key="a/b", version=version, dataset=DATASET)
    assert unwrap(KEY, WrappedKey.from_json(wrapped.to_json())).reveal() == secret
    whole = changed(wrapped.nonce + wrapped.ciphertext, change)
    broken = wrapped.to_json() | {"nonce": b64url(whole[:12]), "ciphertext": b64url(whole[12:])}
    with pytest.raises(UnwrapError):
        unwrap(KEY, WrappedKey.from_json(broken))


@given(st.binary(min_size=1, max_size=64), st.integers(0, 2**32), st.characters(min_codepoint=33, max_codepoint=126))
@settings(max_examples=150, deadline=None)
def test_sealed_key_round_trip_and_any_one_character_changed_is_refused(secret: bytes, position: int, other: str) -> None:
    text = seal(SecretBytes(secret), NODE.public_jwk(), context=CONTEXT)
    assert NODE.open(text, context=CONTEXT).reveal() == secret
    position %= len(text)
    if text[position] != other:
        with pytest.raises(UnwrapError):
            NODE.open(text[:position] + other + text[position + 1 :], context=CONTEXT)


@given(st.binary(max_size=200), st.text(max_size=40), st.sampled_from(["payload", "sig"]), st.integers(0, 2**32), ascii_characters)
@settings(max_examples=150, deadline=None)
def test_envelope_round_trip_and_any_one_character_changed_is_refused(payload: bytes, kind: str, where: str, at: int, other: str) -> None:
    envelope = dsse_sign(SIGNER, kind, payload)
    assert dsse_verify(envelope, SIGNER.public, kind) == payload
    holder = envelope if where == "payload" else envelope["signatures"][0]
    text = holder[where]
    if not text:
        return
    at %= len(text)
    if text[at] != other:
        holder[where] = text[:at] + other + text[at + 1 :]
        with pytest.raises(ConfideError):
            dsse_verify(envelope, SIGNER.public, kind)
