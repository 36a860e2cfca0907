"""Where records end: told from their headers, however the bytes are cut; no piece that begins within a record passes for one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.crypto.records import RecordBounds


def record(body: bytes, kind: bytes = b"\x17") -> bytes:
    return kind + b"\x03\x03" + len(body).to_bytes(2) + body


@given(
    st.lists(st.tuples(st.sampled_from([b"\x16", b"\x17"]), st.binary(max_size=40)), min_size=1, max_size=8),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_a_piece_is_one_record_exactly_if_it_is_cut_where_records_end(made: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    whole = [record(body, kind) for kind, body in made]
    stream = b"".join(whole)
    ends = [0]
    for one in whole:
        ends.append(ends[-1] + len(one))
    bounds = RecordBounds()
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in pairwise(places):
        is_one = (start, end) in pairwise(ends) and stream[start : start + 1] == b"\x17"
        assert bounds.take(stream[start:end]) == is_one


@pytest.mark.parametrize("cut", range(1, 30))
def test_the_rest_of_a_record_does_not_pass_for_one_whatever_its_bytes_say(cut: int) -> None:
    """An attacker on the wire chooses where the bytes are cut, and a peer what they are."""
    bounds = RecordBounds()
    inner = record(b"x" * (40 - cut))
    first = record(b"p" * (cut - 1) + inner)
    second = record(b"next")
    assert not bounds.take(first[: 5 + cut - 1])
    forged = first[5 + cut - 1 :]
    assert forged[:1] == b"\x17"
    assert not bounds.take(forged)
    assert bounds.take(second)


def test_nothing_is_no_record() -> None:
    bounds = RecordBounds()
    assert not bounds.take(b"")
    assert bounds.take(record(b"data"))
