"""The store: whole steps or none, rows that only the master key's holder can write, files that only the user can read."""

from __future__ import annotations

import json
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from confide.errors import AuditError, StoreError
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
    again.put(Owner("harbour", b"two", NOW))
    assert [owner.name for owner in again.find(Owner, other.ref)] == ["harbour", "weather"]


def test_step_that_fails_leaves_nothing_behind(store: Store) -> None:
    def fails() -> None:
        with store.transaction():
            store.put(Owner("airline", b"one", NOW))
            store.append_audit(new_event("enrol", ["airline"], NOW))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert store.get(Owner, "airline") is None
    assert store.audit() == ()


def test_inner_step_is_undone_with_the_outer_one(store: Store) -> None:
    def fails() -> None:
        with store.transaction():
            with store.transaction():
                store.put(Owner("airline", b"one", NOW))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert store.get(Owner, "airline") is None


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
def test_row_with_any_changed_column_is_never_read(tmp_path: Path, store: Store, unlock: KeyFile, column: str) -> None:
    store.put(Owner("airline", b"one", NOW))
    value = {"kind": "enrolment", "id": "weather", "ref": "x", "body": '{"name": "airline"}', "mac": bytes(32)}[column]
    with sqlite3.connect(tmp_path / "s" / "broker.db") as database:
        database.execute(f"UPDATE records SET {column} = ? WHERE id = 'airline'", (value,))
    database.close()

    with pytest.raises(StoreError, match="taken out" if column in {"kind", "id"} else "changed by somebody else"):
        store.get(Owner, "airline")
    with pytest.raises(StoreError, match="changed by somebody else"):
        Store.open(tmp_path / "s" / "broker.db", unlock)


class File:
    """The store's file in the hands of somebody without the master key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, sql: str, *values: object) -> list[Any]:
        with sqlite3.connect(self.path) as database:
            found = database.execute(sql, values).fetchall()
        database.close()
        return found


def grown(store: Store) -> None:
    for name in ("airline", "harbour", "weather"):
        store.put(Owner(name, b"same", NOW))


@pytest.mark.parametrize("reopen", [False, True], ids=["in service", "at the start"])
@pytest.mark.parametrize("how", ["older", "taken out", "brought back"])
def test_row_that_is_not_the_latest_is_never_read(tmp_path: Path, store: Store, unlock: KeyFile, how: str, *, reopen: bool) -> None:
    """Each row is genuine: the broker wrote it, once."""
    file = File(tmp_path / "s" / "broker.db")
    grown(store)
    rows = file.run("SELECT * FROM records WHERE id = 'harbour'")
    store.put(Owner("harbour", b"same", NOW + timedelta(days=1)))
    if how == "older":
        file.run("UPDATE records SET body = ?, mac = ? WHERE id = 'harbour'", *rows[0][3:])
    else:
        file.run("DELETE FROM records WHERE id = 'harbour'")
    if how == "brought back":
        file.run("INSERT INTO records VALUES (?, ?, ?, ?, ?)", *rows[0])
    if reopen:
        store.close()
        with pytest.raises(StoreError, match="put back"):
            Store.open(file.path, unlock)
        return
    with pytest.raises(StoreError, match="put back"):
        store.get(Owner, "harbour")
    with pytest.raises(StoreError, match="put back"):
        store.find(Owner, Owner("", b"same", NOW).ref)
    assert store.get(Owner, "airline") is not None


def test_two_rows_that_change_places_in_time_do_not_cancel_out(tmp_path: Path, store: Store, unlock: KeyFile) -> None:
    """Head and rows of one moment with rows of another: whatever is mixed, the total is another."""
    file = File(tmp_path / "s" / "broker.db")
    grown(store)
    first = file.run("SELECT * FROM records")
    for name in ("airline", "harbour"):
        store.put(Owner(name, b"same", NOW + timedelta(days=1)))
    store.close()
    for row in first:
        if row[1] != "airline":
            file.run("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", *row)
    with pytest.raises(StoreError, match="put back"):
        Store.open(file.path, unlock)


def test_older_copy_of_the_whole_file_is_noticed_by_a_store_in_service(tmp_path: Path, store: Store) -> None:
    file = File(tmp_path / "s" / "broker.db")
    grown(store)
    store.append_audit(new_event("one", [], NOW))
    rows = file.run("SELECT * FROM records")
    store.put(Owner("airline", b"same", NOW + timedelta(days=1)))
    store.append_audit(new_event("two", [], NOW))
    for row in rows:
        file.run("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", *row)
    file.run("DELETE FROM audit WHERE seq = 2")
    for _ in range(2):
        with pytest.raises(AuditError, match="cut"):
            store.get(Owner, "airline")


def test_what_another_process_wrote_is_taken_note_of(tmp_path: Path, store: Store, unlock: KeyFile) -> None:
    second = Store.open(tmp_path / "s" / "broker.db", unlock)
    grown(second)
    assert store.get(Owner, "airline") == second.get(Owner, "airline")
    store.put(Owner("airline", b"same", NOW + timedelta(days=1)))
    assert second.find(Owner, Owner("", b"same", NOW).ref) == store.find(Owner, Owner("", b"same", NOW).ref)
    File(tmp_path / "s" / "broker.db").run("DELETE FROM records WHERE id = 'harbour'")
    for one in (store, second):
        with pytest.raises(StoreError, match="put back"):
            one.get(Owner, "harbour")


def test_total_in_the_file_is_another_each_time(tmp_path: Path, store: Store) -> None:
    """Who could see the same total twice could add and subtract rows."""
    file = File(tmp_path / "s" / "broker.db")
    grown(store)
    seen = set()
    for _ in range(3):
        store.append_audit(new_event("one", [], NOW))
        seen.add(json.loads(file.run("SELECT body FROM records WHERE kind = 'audit-head'")[0][0])["rows"])
    assert len(seen) == 3


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
