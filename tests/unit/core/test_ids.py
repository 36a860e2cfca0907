"""Names and references."""

from __future__ import annotations

import pytest

from confide.errors import UsageError
from confide.ids import KeyRef, Role, check_name, new_dataset_id, new_run_id


@pytest.mark.parametrize(("text", "ref"), [("a/b", KeyRef("a", "b")), ("air-line/flights.2013@7", KeyRef("air-line", "flights.2013", 7))])
def test_key_reference_round_trip(text: str, ref: KeyRef) -> None:
    assert KeyRef.parse(text) == ref
    assert str(ref) == text
    assert ref.id == text.partition("@")[0]


WRONG = ["", "a", "a/", "/b", "a/b@", "a/b@x", "a/b/c", "A/b", "a/b@-1", "../b", "a/b\n", "a/b@\u0663", "a/b@" + "9" * 5000]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_key_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        KeyRef.parse(text)


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a-", "a b", "a/b", "a\x00", "x" * 65, "é"])
def test_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name, "name")


def test_role_bytes_are_distinct_and_pinned() -> None:
    assert {role: role.byte for role in Role} == {
        Role.DRIVER: b"\x01",
        Role.WORKER: b"\x02",
        Role.BROKER: b"\x03",
        Role.AGGREGATOR: b"\x04",
    }


def test_new_ids_differ() -> None:
    assert new_dataset_id() != new_dataset_id()
    assert new_run_id("job") != new_run_id("job")
