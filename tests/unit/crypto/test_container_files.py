"""Rules of reading and writing containers that vectors cannot state."""

from __future__ import annotations

import contextlib
import gc
import io
import os

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from confide.crypto import container
from confide.crypto.container import (
    CHUNK_BYTES,
    HEADER_BYTES,
    MAX_CHUNKS,
    SEALED_BYTES,
    ContainerReader,
    container_size,
    plaintext_size,
    seal_stream,
)
from confide.crypto.derive import container_keys, file_key
from confide.crypto.secret import SecretBytes
from confide.errors import IntegrityError, KeyAccessError, ParseError
from confide.ids import DatasetId

DATASET = DatasetId("0123456789abcdef" * 2)
KEY = SecretBytes(bytes(range(32)))


def sealed(plaintext: bytes, path: str = "a/b.csv") -> bytes:
    out = io.BytesIO()
    assert seal_stream(io.BytesIO(plaintext), out, KEY, DATASET, path) == len(plaintext)
    return out.getvalue()


def reader_of(data: bytes, path: str = "a/b.csv") -> ContainerReader:
    return ContainerReader(io.BytesIO(data), KEY, DATASET, path)


class Trickle:
    """Gives 1000 bytes at a time, whatever is asked for: a socket's file, which can only ``read``."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(min(size, 1000))


class TrickleInto(io.RawIOBase):
    """As Trickle, into the caller's memory: a pipe."""

    def __init__(self, data: bytes) -> None:
        self._inner = Trickle(data)

    def readinto(self, buffer: memoryview) -> int:
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("kind", [Trickle, TrickleInto])
def test_source_that_gives_short_reads_is_sealed_whole(kind: type) -> None:
    plaintext = os.urandom(2 * CHUNK_BYTES + 5)
    out = io.BytesIO()
    seal_stream(kind(plaintext), out, KEY, DATASET, "a/b.csv")
    assert reader_of(out.getvalue()).read() == plaintext


@pytest.mark.parametrize("offset", [0, 9, 10, 11, 15])
def test_header_of_another_version_is_refused_even_if_it_was_sealed_so(monkeypatch, offset: int) -> None:
    fixed = bytearray(container._FIXED)
    fixed[offset] ^= 1
    with monkeypatch.context() as patch:
        patch.setattr(container, "_FIXED", bytes(fixed))
        data = sealed(b"x")
    with pytest.raises(IntegrityError, match="not a container of this version"):
        reader_of(data)


def test_same_file_sealed_twice_has_another_salt_and_no_equal_bytes() -> None:
    first, second = sealed(bytes(1000)), sealed(bytes(1000))
    assert first[16:HEADER_BYTES] != second[16:HEADER_BYTES]
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]


def test_any_offset_reads_the_right_bytes() -> None:
    plaintext = os.urandom(3 * CHUNK_BYTES + 77)
    reader = io.BufferedReader(reader_of(sealed(plaintext)))
    for offset in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 9, len(plaintext) - 1, len(plaintext), len(plaintext) + 5):
        reader.seek(offset)
        assert reader.read(CHUNK_BYTES + 3) == plaintext[offset : offset + CHUNK_BYTES + 3]
    reader.seek(-5, os.SEEK_END)
    reader.seek(2, os.SEEK_CUR)
    assert reader.read() == plaintext[-3:]


def test_position_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="before the start"):
        reader_of(sealed(b"x")).seek(-1)


def test_reader_is_a_readable_seekable_file_that_closes_what_it_reads() -> None:
    inner = io.BytesIO(sealed(b"hello"))
    with ContainerReader(inner, KEY, DATASET, "a/b.csv") as reader:
        assert (reader.readable(), reader.seekable(), reader.writable(), reader.size, reader.tell()) == (True, True, False, 5, 0)
    assert inner.closed
    reader.close()


def test_file_that_is_no_container_is_closed_with_what_refused_it() -> None:
    inner = io.BytesIO(b"short")
    with contextlib.suppress(IntegrityError):
        ContainerReader(inner, KEY, DATASET, "a/b.csv")
    gc.collect()
    assert inner.closed


def test_container_cut_at_a_chunk_is_refused_before_any_byte_is_read() -> None:
    data = sealed(bytes(3 * CHUNK_BYTES))
    with pytest.raises(IntegrityError):
        reader_of(data[: HEADER_BYTES + 2 * SEALED_BYTES])


def test_after_one_refused_chunk_nothing_more_is_read() -> None:
    data = bytearray(sealed(bytes(3 * CHUNK_BYTES)))
    data[HEADER_BYTES + SEALED_BYTES + 10] ^= 1
    reader = reader_of(bytes(data))
    assert reader.read(10) == bytes(10)
    reader.seek(CHUNK_BYTES)
    with pytest.raises(IntegrityError) as refusal:
        reader.read(1)
    assert refusal.value.facts == {"path": "a/b.csv", "chunk": 1}
    reader.seek(0)
    with pytest.raises(IntegrityError):
        reader.read(1)


def test_file_that_shrinks_while_it_is_read_is_refused() -> None:
    inner = io.BytesIO(sealed(bytes(3 * CHUNK_BYTES)))
    reader = ContainerReader(inner, KEY, DATASET, "a/b.csv")
    inner.truncate(HEADER_BYTES + 100)
    with pytest.raises(IntegrityError, match="ends inside"):
        reader.read()


def test_refused_buffer_stays_as_it_was() -> None:
    data = bytearray(sealed(b"secret plaintext" * 10000))
    data[HEADER_BYTES + 3] ^= 1
    reader, buffer = reader_of(bytes(data)), bytearray(b"\xaa" * 100)
    with pytest.raises(IntegrityError):
        reader.readinto(buffer)
    assert buffer == b"\xaa" * 100


def test_large_buffer_is_filled_over_many_chunks_and_nothing_of_a_refused_one_stays_in_it() -> None:
    plaintext = os.urandom(3 * CHUNK_BYTES + 77)
    data, buffer = bytearray(sealed(plaintext)), bytearray(len(plaintext) + 10)
    assert reader_of(bytes(data)).readinto(buffer) == len(plaintext)
    assert buffer == plaintext + bytes(10)
    data[HEADER_BYTES + 2 * SEALED_BYTES + 9] ^= 1
    reader, buffer = reader_of(bytes(data)), bytearray(b"\xaa" * len(plaintext))
    with pytest.raises(IntegrityError):
        reader.readinto(buffer)
    assert buffer == plaintext[: 2 * CHUNK_BYTES] + bytes(CHUNK_BYTES) + b"\xaa" * 77


def test_nothing_of_a_refused_chunk_stays_in_the_readers_memory() -> None:
    data = bytearray(sealed(b"secret plaintext" * 10000))
    data[HEADER_BYTES + 3] ^= 1
    reader = reader_of(bytes(data))
    with pytest.raises(IntegrityError):
        reader.read(1)
    assert reader._chunk == bytes(CHUNK_BYTES)


def test_one_read_gives_no_more_than_one_chunk_and_nothing_behind_the_end() -> None:
    reader = reader_of(sealed(bytes(CHUNK_BYTES + 5)))
    assert [len(reader.read(1 << 20)) for _ in range(3)] == [CHUNK_BYTES, 5, 0]
    assert (reader.read(), reader.read(0)) == (b"", b"")
    reader.seek(3)
    assert len(reader.read(None)) == CHUNK_BYTES + 2


def test_source_that_has_nothing_yet_is_not_taken_for_one_that_ends() -> None:
    class NotYet(io.RawIOBase):
        def readinto(self, buffer: object) -> None:
            return None

    class NotYetEither(Trickle):
        def read(self, size: int = -1) -> None:
            return None

    for source in (NotYet(), NotYetEither(b"")):
        with pytest.raises(BlockingIOError):
            seal_stream(source, io.BytesIO(), KEY, DATASET, "a/b.csv")


@pytest.mark.parametrize("size", [-1, 0, 79, 80, 95, HEADER_BYTES + SEALED_BYTES + 1, HEADER_BYTES + SEALED_BYTES + 16])
def test_file_size_of_no_container_is_refused(size: int) -> None:
    with pytest.raises(IntegrityError):
        plaintext_size(size)


def test_more_chunks_than_nonces_are_refused() -> None:
    most = MAX_CHUNKS * CHUNK_BYTES
    assert plaintext_size(container_size(most)) == most
    with pytest.raises(IntegrityError):
        plaintext_size(container_size(most + 1))


@pytest.mark.parametrize("key", [b"", b"x" * 31, b'{"error": "internal server error"}'], ids=["none", "short", "an error page"])
def test_bytes_that_are_no_dataset_key_never_become_one(key: bytes) -> None:
    with pytest.raises(KeyAccessError):
        file_key(SecretBytes(key), kind="parquet", dataset=DATASET, path="a")


@pytest.mark.parametrize("salt", [b"", bytes(31), bytes(33)])
def test_salt_of_another_length_is_refused(salt: bytes) -> None:
    with pytest.raises(ParseError):
        container_keys(KEY, dataset=DATASET, path="a", salt=salt)


def test_kind_of_file_without_keys_of_its_own_is_refused() -> None:
    with pytest.raises(ParseError):
        file_key(KEY, kind="orc", dataset=DATASET, path="a")


@pytest.mark.parametrize("dataset", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 31 + "\0"])
def test_malformed_dataset_id_is_refused(dataset: str) -> None:
    with pytest.raises(ParseError):
        file_key(KEY, kind="parquet", dataset=DatasetId(dataset), path="a")


def test_path_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ParseError):
        file_key(KEY, kind="parquet", dataset=DATASET, path="a\udcff")


def test_kind_dataset_path_and_salt_each_make_another_key_and_commitment() -> None:
    other = DatasetId("f" * 32)
    containers = [
        container_keys(KEY, dataset=DATASET, path="a", salt=bytes(32)),
        container_keys(KEY, dataset=DATASET, path="a", salt=b"\1" * 32),
        container_keys(KEY, dataset=DATASET, path="b", salt=bytes(32)),
        container_keys(KEY, dataset=other, path="a", salt=bytes(32)),
        container_keys(SecretBytes(b"k" * 32), dataset=DATASET, path="a", salt=bytes(32)),
    ]
    made = {
        file_key(KEY, kind="parquet", dataset=DATASET, path="a").reveal(),
        file_key(KEY, kind="parquet", dataset=DATASET, path="b").reveal(),
        file_key(KEY, kind="parquet", dataset=other, path="a").reveal(),
        *(keys.key.reveal() for keys in containers),
        *(keys.commitment for keys in containers),
        KEY.reveal(),
    }
    assert len(made) == 14


def test_key_of_a_container_is_no_beginning_of_version_1() -> None:
    """A label of its own: else 64 bytes of HKDF would begin with version 1's 32, and one key would stand in two formats."""
    old = HKDF(SHA256(), 32, bytes(32), b"\0".join([b"confide-file-v1", b"container", DATASET.encode(), b"a"])).derive(KEY.reveal())
    assert container_keys(KEY, dataset=DATASET, path="a", salt=bytes(32)).key.reveal() != old
