"""Chunks of containers, put together in any other way than their writer did, are refused: by the reader and by an independent decoder."""

from __future__ import annotations

import io
import os
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.container_decoder import CHUNK, HEADER, SEALED, RefusedError, decode

from confide.crypto.container import ContainerReader, seal_stream
from confide.crypto.secret import SecretBytes
from confide.errors import IntegrityError
from confide.ids import DatasetId

KEY = SecretBytes(bytes(range(32)))
DATASET = DatasetId("0123456789abcdef" * 2)
PATH = "a.csv"
NOISE = os.urandom(5 * CHUNK)


def sealed(plaintext: bytes) -> bytes:
    out = io.BytesIO()
    seal_stream(io.BytesIO(plaintext), out, KEY, DATASET, PATH)
    return out.getvalue()


def parts(file: bytes) -> tuple[bytes, list[bytes]]:
    """Header and sealed chunks."""
    return file[:HEADER], [file[start : start + SEALED] for start in range(HEADER, len(file), SEALED)]


def opened(file: bytes) -> bytes:
    return ContainerReader(io.BytesIO(file), KEY, DATASET, PATH).read()


def refused(file: bytes) -> None:
    with pytest.raises(IntegrityError):
        opened(file)
    with pytest.raises(RefusedError):
        decode(file, KEY.reveal(), DATASET, PATH)


# Of the same dataset and path, as two attempts of a task or two snapshots would be; the second one has the same plaintext.
FILES = [sealed(NOISE[: 4 * CHUNK + 100]), sealed(NOISE[: 4 * CHUNK + 100]), sealed(NOISE[: 3 * CHUNK])]
HEADERS = [parts(file)[0] for file in FILES]
CHUNKS = [parts(file)[1] for file in FILES]


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 5 * CHUNK])
def test_fresh_container_opens_in_the_independent_decoder(length: int) -> None:
    assert decode(sealed(NOISE[:length]), KEY.reveal(), DATASET, PATH) == NOISE[:length]


@pytest.mark.parametrize("file", FILES, ids=["five", "another", "full chunks only"])
def test_container_cut_at_any_chunk_is_refused(file: bytes) -> None:
    header, chunks = parts(file)
    for kept in range(len(chunks)):
        refused(header + b"".join(chunks[:kept]))


def test_chunks_in_any_other_order_are_refused() -> None:
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            refused(HEADERS[2] + b"".join(CHUNKS[2][index] for index in order))


@pytest.mark.parametrize("index", range(5))
def test_container_with_one_chunk_dropped_or_doubled_is_refused(index: int) -> None:
    chunks = CHUNKS[0]
    refused(HEADERS[0] + b"".join(chunks[:index] + chunks[index + 1 :]))
    refused(HEADERS[0] + b"".join(chunks[: index + 1] + chunks[index:]))


@pytest.mark.parametrize("index", range(5))
def test_chunk_of_another_container_of_the_same_dataset_path_and_plaintext_is_refused(index: int) -> None:
    chunks = [CHUNKS[1][at] if at == index else chunk for at, chunk in enumerate(CHUNKS[0])]
    refused(HEADERS[0] + b"".join(chunks))


def test_header_of_another_container_of_the_same_dataset_path_and_plaintext_is_refused() -> None:
    refused(HEADERS[1] + b"".join(CHUNKS[0]))


pieces = st.tuples(st.integers(0, 2), st.integers(0, 4))


@given(st.integers(0, 2), st.lists(pieces, max_size=6))
@settings(max_examples=150, deadline=None)
def test_what_is_put_together_of_chunks_opens_only_if_it_is_a_whole_container(header: int, chosen: list[tuple[int, int]]) -> None:
    file = HEADERS[header] + b"".join(CHUNKS[of][index % len(CHUNKS[of])] for of, index in chosen)
    if file in FILES:
        assert opened(file) == decode(file, KEY.reveal(), DATASET, PATH)
    else:
        refused(file)


@given(st.integers(0, len(FILES[2])), st.integers(0, len(FILES[2])))
@settings(max_examples=100, deadline=None)
def test_reader_and_independent_decoder_agree_on_any_piece(start: int, end: int) -> None:
    piece = FILES[2][start:end]
    if piece != FILES[2]:
        refused(piece)
