"""Canonical forms and strict readers."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from confide.canonical import MAX_DEPTH, b64url, canonical, digest_of, from_b64url, json_writer, parse_object, parse_toml
from confide.errors import ParseError


def test_field_order_does_not_change_the_digest() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert canonical({"b": 2, "a": "é"}) == '{"a":"é","b":2}'.encode()


class Word(StrEnum):
    """A text that is not exactly ``str``."""

    ONE = "one"


TEXTS = st.text(st.characters()) | st.sampled_from(["\ud800", '\x7f\x1f\\"/\u2028', "\ue000", "\U0001f600", Word.ONE])
NUMBERS = st.integers() | st.integers(2**53 - 2, 2**53 + 2) | st.integers(-(2**53) - 2, -(2**53) + 2) | st.floats()
VALUES = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.none() | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(TEXTS | st.integers(), inner, max_size=4),
    max_leaves=20,
)


def _form(write: Any, value: object) -> bytes | type[Exception]:
    try:
        return bytes(write(value))
    except ValueError as error:
        return type(error)


@given(VALUES)
@example({"\ue000": 1, "\U0001f600": 2})  # UTF-16 and code points order these differently
@example({"a": {"b": 2**53}})
@example({"a": [1.0]})
@example({"a": "\udfff"})
@example({1: "a"})
@example([Word.ONE, (True, None)])
def test_every_value_has_the_form_that_the_reference_gives_it(value: object) -> None:
    assert _form(canonical, value) == _form(rfc8785.dumps, value)


@given(st.binary(max_size=200))
def test_base64url_round_trip(data: bytes) -> None:
    assert from_b64url(b64url(data)) == data


@pytest.mark.parametrize("text", ["A", "AA==", "A+/A", "AB", "AA A", "é", "AA\n", "AAA=", "AA/A", "A-_", "AAAAA"])
def test_loose_base64url_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        from_b64url(text)


REFUSED = [
    '{"a":1,"a":2}', "[1]", "1", '{"a":NaN}', '{"a":1} x', "", '{"a":{"b":1,"b":2}}', b"\xff{}",
    '{"a":1e999}', '{"a":"\\ud800"}', '{"a":' + "9" * 5000 + "}", "[" * 100_000,
    '{"a":9007199254740992}', '{"a":-9007199254740992}',
    b'{"a":"\xed\xa0\x80"}', b'{"\xed\xb0\x80":1}', '{"a":"\ud800"}', '{"\\uDC00":1}', '{"a":"\\ud800\\u0041"}', '{"a":"\\ude00\\ud83d"}',
    '{"a":"\\ud800"}'.encode("utf-16"), b'{"a":"\xc0\xaf"}', "\ufeff{}",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_anything_but_one_plain_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(ParseError):
        parse_object(text)


def test_a_field_that_is_there_twice_is_named() -> None:
    with pytest.raises(ParseError) as refusal:
        parse_object('{"a":1,"b":2,"c":3,"b":2}')
    assert refusal.value.facts["field"] == "b"


@given(st.dictionaries(st.text(), st.text() | st.integers(-(10**9), 10**9), max_size=5), st.booleans())
def test_what_python_writes_is_read_back(value: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_object(text) == parse_object(text.encode()) == value


def test_plain_object_is_read() -> None:
    assert parse_object('{"a":"\\ud83d\\ude00"}') == parse_object('{"a":"\U0001f600"}'.encode()) == {"a": "\U0001f600"}
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


@pytest.mark.parametrize("text", ["a = ", "a = " + "9" * 5000, "a = " + "[" * 5000, "a = 1\na = 2"], ids=["cut", "long", "deep", "twice"])
def test_anything_but_toml_is_refused(text: str) -> None:
    """Guests send TOML (init-data).  Python's own reader lets the errors of a long number and of deep nesting through."""
    with pytest.raises(ParseError):
        parse_toml(text)


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("sort_keys", [True, False])
def test_writer_writes_what_the_standard_library_does_with_and_without_its_part_in_c(
    ensure_ascii: bool, sort_keys: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"b": [1, 2.5, None, True, {"ä": "\u2028\x7f"}], "a": {}, "c": "x"}
    expected = json.dumps(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=(",", ":"))
    for _ in range(2):
        write = json_writer(ensure_ascii=ensure_ascii, sort_keys=sort_keys)
        assert write(value) == expected
        for refused in (float("nan"), {1: object()}, [float("inf")]):
            with pytest.raises((ValueError, TypeError)):
                write(refused)
        monkeypatch.setattr(json.encoder, "c_make_encoder", None)
