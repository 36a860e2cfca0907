"""Canonical forms and strict readers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.canonical import MAX_DEPTH, b64url, canonical, digest_of, from_b64url, parse_object
from confide.errors import ParseError


def test_field_order_does_not_change_the_digest() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert canonical({"b": 2, "a": "é"}) == '{"a":"é","b":2}'.encode()


@given(st.binary(max_size=200))
def test_base64url_round_trip(data: bytes) -> None:
    assert from_b64url(b64url(data)) == data


@pytest.mark.parametrize("text", ["A", "AA==", "A+/A", "AB", "AA A", "é"])
def test_loose_base64url_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        from_b64url(text)


REFUSED = [
    '{"a":1,"a":2}', "[1]", "1", '{"a":NaN}', '{"a":1} x', "", '{"a":{"b":1,"b":2}}', b"\xff{}",
    '{"a":1e999}', '{"a":"\\ud800"}', '{"a":' + "9" * 5000 + "}", "[" * 100_000,
    '{"a":9007199254740992}', '{"a":-9007199254740992}',
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_anything_but_one_plain_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(ParseError):
        parse_object(text)


def test_plain_object_is_read() -> None:
    assert parse_object(b'{"a":[1,{"b":null}]}') == {"a": [1, {"b": None}]}


def nested(depth: int) -> str:
    """An object that is ``depth`` deep, itself included: lists and objects in turn."""
    return '{"a":[' * (depth // 2) + '{"a":1}' * (depth % 2) + "]}" * (depth // 2)


def test_what_is_read_is_nested_so_that_it_can_be_written() -> None:
    canonical(parse_object(nested(MAX_DEPTH)))
    for deeper in (MAX_DEPTH + 1, MAX_DEPTH + 2, 400):
        with pytest.raises(ParseError, match="nested"):
            parse_object(nested(deeper))


@given(st.integers(1 - 2**53, 2**53 - 1))
def test_numbers_that_are_read_have_a_canonical_form(number: int) -> None:
    text = b'{"a":%d}' % number
    assert canonical(parse_object(text)) == text
