"""SQLite undoes a whole transaction after some failures, even of a query: steps that waited in it have not happened, and are told so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from confide.errors import StoreError
from confide.keys.audit import new_event
from confide.keys.custody.local import KeyFile
from confide.keys.records import Owner
from confide.keys.storage import steps
from confide.keys.store import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REF = Owner("", b"same", NOW).ref


def step(store: Store, name: str) -> None:
    with store.transaction():
        store.put(Owner(name, b"same", NOW))
        store.append_audit(new_event(name, [], NOW))


def undone(store: Store) -> None:
    """What an I/O error in a query comes to (``sqlite3VdbeHalt``)."""
    store._database._sql("ROLLBACK")
    raise StoreError("the key store cannot be used: disk I/O error")


def query_in_a_step(store: Store) -> None:
    with store.transaction():
        store._steps._turn.waiting -= 1
        undone(store)


def query_outside(store: Store) -> None:
    with store._steps.reading():
        store._steps._turn.waiting -= 1
        undone(store)


def write_after_it(store: Store) -> None:
    with pytest.raises(StoreError), store.transaction():
        undone(store)
    store._steps._turn.waiting -= 1
    step(store, "third")


@pytest.mark.parametrize("fails", [query_in_a_step, query_outside, write_after_it])
def test_nothing_of_a_transaction_that_sqlite_undid_is_kept_or_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[[Store], None]
) -> None:
    monkeypatch.setattr(steps, "_PATIENCE_S", 60.0)
    unlock = KeyFile.create(tmp_path / "master.key")
    store = Store.create(tmp_path / "store.db", unlock)
    step(store, "first")
    told: list[BaseException | None] = []

    def waits_for_its_commit() -> None:
        try:
            step(store, "second")
        except StoreError as error:
            told.append(error)
        else:
            told.append(None)

    store._steps._turn.waiting += 1  # somebody who has not come yet
    thread = threading.Thread(target=waits_for_its_commit)
    thread.start()
    until = time.monotonic() + 30.0
    while (batch := store._steps._batch) is None or batch.steps == 0:
        assert time.monotonic() < until
        time.sleep(0.001)
    with pytest.raises(StoreError):
        fails(store)
    thread.join(30.0)
    assert isinstance(told[0], StoreError)
    step(store, "fourth")
    for one in (store, Store.open(tmp_path / "store.db", unlock)):
        assert [owner.name for owner in one.find(Owner, REF)] == ["first", "fourth"]
        assert [entry.event["action"] for entry in one.audit() if entry.event] == ["first", "fourth"]
        assert one.check() >= 2
        one.close()
