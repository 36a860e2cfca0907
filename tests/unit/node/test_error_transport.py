from __future__ import annotations

import pytest

from confide.errors import ConfideError, GrantError, ProtocolError, error_from_json, leaf_of


def test_error_crosses_a_channel_as_the_same_leaf() -> None:
    sent = GrantError("no grant", hint="ask", key="a/b", version=3)
    got = error_from_json(sent.to_json())
    assert (type(got), got.to_json()) == (GrantError, sent.to_json())


def test_exit_status_is_the_leafs_own() -> None:
    assert error_from_json({**GrantError("x").to_json(), "exit_status": 0}).exit_status == 4


@pytest.mark.parametrize(
    "data", [None, [], "x", {}, {"code": "no-such"}, {"code": "grant-missing"}, {"code": "parse", "message": "x", "hint": 1}]
)
def test_anything_else_is_a_violation(data: object) -> None:
    assert type(error_from_json(data)) is ProtocolError


def test_facts_that_are_no_facts_are_left_out() -> None:
    error = error_from_json({"code": "parse", "message": "m" * 5000, "facts": {"a": 1, "b": [1], "c" * 200: "x"}})
    assert error.facts == {"a": 1, "c" * 80: "x"}
    assert len(error.message) == 2000
    assert error_from_json({"code": "parse", "message": "m", "facts": 3}).facts == {}


def test_codes_name_one_class() -> None:
    assert leaf_of("confide") is ConfideError
    assert leaf_of("no-such") is None
