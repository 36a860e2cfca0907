"""Many records in one step, and some of many: as if one by one, and as hard to deceive."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.databases import Place

from confide.errors import StoreError
from confide.keys.custody.local import KeyFile
from confide.keys.records import Owner
from confide.keys.storage import rows
from confide.keys.store import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REF, OTHER = Owner("", b"same", NOW).ref, Owner("", b"other", NOW).ref


@pytest.fixture
def unlock(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "master.key")


@pytest.fixture
def store(place: Place, unlock: KeyFile) -> Iterator[Store]:
    made = Store.create(place.location, unlock)
    made.put_all([Owner(f"n{number}", b"same", NOW) for number in range(20)])
    yield made
    made.close()


def test_records_that_are_put_together_are_as_if_put_one_by_one(
    store: Store, place: Place, unlock: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They move to another ref, come anew, stay as they are, and one is there twice: the last one counts."""
    monkeypatch.setattr(rows, "_WRITTEN_AT_ONCE", 3)
    moved = [Owner(f"n{number}", b"other", NOW) for number in range(5, 12)]
    store.put_all([*moved, Owner("n0", b"same", NOW), Owner("new", b"other", NOW), Owner("new", b"same", NOW)])
    assert store.check() == 21
    for opened in (store, Store.open(place.location, unlock)):
        assert {owner.name for owner in opened.find(Owner, OTHER)} == {owner.name for owner in moved}
        assert (opened.count(Owner, REF), opened.count(Owner, OTHER)) == (14, 7)
    opened.close()


def test_step_that_fails_among_many_leaves_nothing(store: Store) -> None:
    def coming() -> Iterator[Owner]:
        yield Owner("a", b"other", NOW)
        raise KeyError("halfway")

    with pytest.raises(KeyError):
        store.put_all(coming())
    assert store.get(Owner, "a") is None
    assert store.count(Owner, OTHER) == 0
    assert store.check() == 20


def test_some_of_many_are_of_that_ref_and_at_most_so_many(store: Store) -> None:
    found = store.some_under(Owner, REF, 7)
    assert len({owner.name for owner in found}) == 7
    assert {owner.ref for owner in found} == {REF}
    assert len(store.some_under(Owner, REF, 100)) == 20
    assert store.some_under(Owner, OTHER, 7) == []


@pytest.mark.parametrize("how", ["hidden", "another's"])
def test_some_of_many_are_refused_if_the_database_names_others(store: Store, place: Place, unlock: KeyFile, how: str) -> None:
    """What lies under the ref is moved away behind the broker's back; or one that is under another ref is shown there."""
    store.put(Owner("stranger", b"other", NOW))
    place.run("UPDATE records SET ref = ? WHERE kind = 'owner' AND ref = ?", *(("x", REF) if how == "hidden" else (REF, OTHER)))
    fresh = Store.open(place.location, unlock)
    for one in (store, fresh):
        with pytest.raises(StoreError):
            one.some_under(Owner, REF, 100)
    fresh.close()
