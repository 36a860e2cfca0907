"""The store: whole steps or none, rows that only the master key's holder can write, files that only the user can read."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from confide.errors import StoreError
from confide.keys.audit import new_event
from confide.keys.kms import KeyFile
from confide.keys.records import Enrolment, Owner
from confide.keys.store import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def unlock(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "master.key")


@pytest.fixture
def store(tmp_path: Path, unlock: KeyFile) -> Store:
    return Store.create(tmp_path / "s" / "broker.db", unlock)


def test_store_is_made_readable_by_its_user_only(tmp_path: Path, store: Store) -> None:
    store.put(Owner("airline", b"spki", NOW))
    folder = tmp_path / "s"
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ("broker.db", "broker.db-wal", "broker.db-shm"), 0o600
    )


def test_store_is_made_once(tmp_path: Path, store: Store, unlock: KeyFile) -> None:
    with pytest.raises(StoreError):
        Store.create(tmp_path / "s" / "broker.db", unlock)
    Store.open_or_create(tmp_path / "s" / "broker.db", unlock).close()


def test_records_are_found_by_id_and_ref_after_reopening(tmp_path: Path, store: Store, unlock: KeyFile) -> None:
    airline, other = Owner("airline", b"one", NOW), Owner("weather", b"two", NOW)
    store.put(airline)
    store.put(other)
    store.close()
    again = Store.open(tmp_path / "s" / "broker.db", unlock)
    assert again.get(Owner, "airline") == airline
    assert again.get(Owner, "nobody") is None
    assert again.get(Enrolment, "airline") is None
    assert again.find(Owner, other.ref) == [other]
    assert again.all(Owner) == [airline, other]


def test_step_that_fails_leaves_nothing_behind(store: Store) -> None:
    def fails() -> None:
        with store.transaction():
            store.put(Owner("airline", b"one", NOW))
            store.append_audit(new_event("enrol", ["airline"], NOW))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert store.all(Owner) == []
    assert store.audit() == ()


def test_inner_step_is_undone_with_the_outer_one(store: Store) -> None:
    def fails() -> None:
        with store.transaction():
            with store.transaction():
                store.put(Owner("airline", b"one", NOW))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert store.all(Owner) == []


def test_threads_and_a_second_opener_append_to_one_chain(tmp_path: Path, store: Store, unlock: KeyFile) -> None:
    second = Store.open(tmp_path / "s" / "broker.db", unlock)

    def work(one: Store, name: str) -> None:
        for _ in range(20):
            one.append_audit(new_event("test", [name], NOW))

    threads = [threading.Thread(target=work, args=(s, f"{i}")) for i, s in enumerate((store, store, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.audit()) == 60
    assert second.audit() == store.audit()


@pytest.mark.parametrize("column", ["kind", "id", "ref", "body", "mac"])
def test_row_with_any_changed_column_is_never_read(tmp_path: Path, store: Store, column: str) -> None:
    store.put(Owner("airline", b"one", NOW))
    value = {"kind": "enrolment", "id": "weather", "ref": "x", "body": '{"name": "airline"}', "mac": bytes(32)}[column]
    with sqlite3.connect(tmp_path / "s" / "broker.db") as database:
        database.execute(f"UPDATE records SET {column} = ? WHERE id = 'airline'", (value,))
    database.close()

    def read() -> list[object]:
        found = [*store.all(Owner), *store.all(Enrolment)]
        return [*found, store.get(Owner, "airline"), store.get(Owner, "weather")]

    with pytest.raises(StoreError, match="changed by somebody else"):
        read()


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + bytes(4096)])
def test_file_that_is_no_store_is_refused(tmp_path: Path, unlock: KeyFile, content: bytes) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(content)
    with pytest.raises(StoreError):
        Store.open(path, unlock)


def test_store_that_is_not_there_is_refused(tmp_path: Path, unlock: KeyFile) -> None:
    with pytest.raises(StoreError, match="no key store"):
        Store.open(tmp_path / "none.db", unlock)


def test_store_that_cannot_be_written_says_so(store: Store) -> None:
    store.close()
    with pytest.raises(StoreError):
        store.put(Owner("airline", b"one", NOW))
