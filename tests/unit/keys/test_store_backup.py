"""Backups: all of a store or an error, from one kind of database to the other, and nothing half made."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.databases import Place, PostgresServer, SqlitePlace

from confide.errors import StoreError
from confide.keys.audit import new_event
from confide.keys.custody.local import KeyFile
from confide.keys.records import Owner
from confide.keys.storage.backup import backup, restore
from confide.keys.store import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def unlock(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "master.key")


@pytest.fixture
def store(place: Place, unlock: KeyFile) -> Iterator[Store]:
    made = Store.create(place.location, unlock)
    with made.transaction():
        for number in range(30):
            made.put(Owner(f"owner-{number}", b"same", NOW), expires=NOW if number == 3 else None)
            made.append_audit(new_event("enrol", [f"owner-{number}"], NOW))
    yield made
    made.close()


def test_restored_store_is_the_same_in_either_database(
    tmp_path: Path, place: Place, store: Store, unlock: KeyFile, postgres_server: PostgresServer
) -> None:
    told: list[int] = []
    rows = backup(place.location, tmp_path / "backup", told.append)
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    assert told[-1] == rows
    head = store.head(NOW)
    store.close()
    for target in (SqlitePlace(tmp_path / "restored.db"), postgres_server.new()):
        assert restore(tmp_path / "backup", target.location) == rows
        again = Store.open(target.location, unlock)
        assert again.check() == 30
        assert again.head(NOW) == head
        again.put(Owner("new", b"other", NOW))
        again.close()


def test_backup_is_of_one_moment_while_the_broker_writes(tmp_path: Path, place: Place, store: Store, unlock: KeyFile) -> None:
    """Rows that come while it is written are in it with all that belongs to them, or not at all."""
    with store._steps.reading():  # a reader does not stop it, nor it a reader
        backup(place.location, tmp_path / "backup")
    store.put(Owner("later", b"same", NOW))
    restore(tmp_path / "backup", SqlitePlace(tmp_path / "restored.db").location)
    again = Store.open(tmp_path / "restored.db", unlock)
    assert again.get(Owner, "later") is None
    assert again.check() == 30
    again.close()


def test_nothing_is_overwritten(tmp_path: Path, place: Place, store: Store) -> None:
    target = tmp_path / "backup"
    target.write_text("precious")
    with pytest.raises(StoreError):
        backup(place.location, target)
    assert target.read_text() == "precious"
    target.unlink()
    backup(place.location, target)
    with pytest.raises(StoreError):
        restore(target, place.location)
    assert store.check() == 30


@pytest.mark.parametrize("where", ["/dev/full/x", "/nowhere/backup"])
def test_backup_that_cannot_be_written_leaves_nothing(tmp_path: Path, place: Place, store: Store, where: str) -> None:
    with pytest.raises(StoreError):
        backup(place.location, Path(where))
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("how", ["cut", "row", "order", "more", "version", "no gzip", "empty", "other table", "nested", "value"])
def test_damaged_backup_is_refused_and_leaves_no_store(tmp_path: Path, how: str, unlock: KeyFile) -> None:
    made = Store.create(tmp_path / "broker.db", unlock)
    made.put(Owner("airline", b"one", NOW))
    made.close()
    target = tmp_path / "backup"
    backup(SqlitePlace(tmp_path / "broker.db").location, target)
    lines = gzip.decompress(target.read_bytes()).splitlines(keepends=True)
    match how:
        case "cut":
            lines = lines[:-1]
        case "row":
            lines[2] = lines[2].replace(b"airline", b"harbour") if b"airline" in lines[2] else lines[2].replace(b"[", b"[ ", 1)
        case "order":
            lines[1], lines[2] = lines[2], lines[1]
        case "more":
            lines.append(lines[-1])
        case "version":
            lines[0] = b'{"format":"confide-backup-v0","revision":"0001"}\n'
        case "other table":
            lines[1] = b'["sqlite_master",[]]\n'
        case "value":
            lines[1] = b'["head",[0,"x",{"hex":"zz"}]]\n'
        case "nested":
            lines[1] = b"[" * 100_000 + b"\n"
        case _:
            lines = []
    target.write_bytes(b"plain" if how == "no gzip" else gzip.compress(b"".join(lines)))
    with pytest.raises(StoreError):
        restore(target, SqlitePlace(tmp_path / "restored.db").location)
    assert not (tmp_path / "restored.db").exists()


def test_backup_holds_no_key_in_the_clear(tmp_path: Path, place: Place, store: Store) -> None:
    backup(place.location, tmp_path / "backup")
    content = gzip.decompress((tmp_path / "backup").read_bytes())
    secret = store.signing_key.private_pem().reveal()
    assert secret[40:80] not in content
    assert json.loads(content.splitlines()[0])["format"] == "confide-backup-v1"


def test_backup_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no key store"):
        backup(SqlitePlace(tmp_path / "none.db").location, tmp_path / "backup")
