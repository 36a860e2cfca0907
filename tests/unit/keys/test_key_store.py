"""The store: whole steps or none, rows that only the master key's holder can write and that are the latest, in both kinds of database."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.databases import Place

from confide.errors import AuditError, ConfideError, StoreError, UsageError
from confide.keys.audit import AuditHead, new_event
from confide.keys.custody.local import KeyFile
from confide.keys.records import Enrolment, Owner
from confide.keys.store import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
REF = Owner("", b"same", NOW).ref


@pytest.fixture
def unlock(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "master.key")


@pytest.fixture
def store(place: Place, unlock: KeyFile) -> Iterator[Store]:
    made = Store.create(place.location, unlock)
    yield made
    made.close()


@pytest.fixture
def second(place: Place, store: Store, unlock: KeyFile) -> Iterator[Store]:
    """Another process at the same database.  It has read nothing but the head."""
    made = Store.open(place.location, unlock)
    yield made
    made.close()


def grown(store: Store) -> None:
    for name in ("airline", "harbour", "weather"):
        store.put(Owner(name, b"same", NOW))


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_store_is_made_readable_by_its_user_only(tmp_path: Path, unlock: KeyFile) -> None:
    Store.create(tmp_path / "s" / "broker.db", unlock).put(Owner("airline", b"spki", NOW))
    folder = tmp_path / "s"
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ("broker.db", "broker.db-wal", "broker.db-shm"), 0o600
    )


def test_store_is_made_once(place: Place, store: Store, unlock: KeyFile) -> None:
    with pytest.raises(StoreError):
        Store.create(place.location, unlock)
    Store.open_or_create(place.location, unlock).close()


def test_a_key_that_cannot_be_used_leaves_nothing_where_a_store_was_to_be(tmp_path: Path, unlock: KeyFile) -> None:
    (tmp_path / "bad.key").write_bytes(b"no key")
    (tmp_path / "bad.key").chmod(0o600)
    place = tmp_path / "broker.db"
    with pytest.raises(ConfideError):
        Store.open_or_create(place, KeyFile(tmp_path / "bad.key"))
    assert not place.exists()
    Store.open_or_create(place, unlock).close()


def test_records_are_found_by_id_and_ref_after_reopening(place: Place, store: Store, unlock: KeyFile) -> None:
    airline, other = Owner("airline", b"one", NOW), Owner("weather", b"two", NOW)
    store.put(airline)
    store.put(other)
    store.close()
    again = Store.open(place.location, unlock)
    assert again.get(Owner, "airline") == airline
    assert again.get(Owner, "nobody") is None
    assert again.get(Enrolment, "airline") is None
    assert again.find(Owner, other.ref) == [other]
    again.put(Owner("harbour", b"two", NOW))
    assert [owner.name for owner in again.find(Owner, other.ref)] == ["harbour", "weather"]
    assert again.count(Owner, other.ref) == 2
    assert again.check() == 3
    again.close()


def test_record_that_moves_to_another_ref_is_found_there_only(store: Store) -> None:
    grown(store)
    moved = Owner("harbour", b"other", NOW)
    store.put(moved)
    assert [owner.name for owner in store.find(Owner, REF)] == ["airline", "weather"]
    assert store.find(Owner, moved.ref) == [moved]
    assert store.check() == 3


def test_removed_record_is_gone_by_id_and_ref(store: Store, second: Store) -> None:
    grown(store)
    assert store.delete(Owner, "harbour")
    assert not store.delete(Owner, "harbour")
    for one in (store, second):
        assert one.get(Owner, "harbour") is None
        assert [owner.name for owner in one.find(Owner, REF)] == ["airline", "weather"]
    for name in ("airline", "weather"):
        store.delete(Owner, name)
    assert second.find(Owner, REF) == []
    assert second.check() == 0


def test_expired_records_are_swept_and_no_others(store: Store) -> None:
    store.put(Owner("airline", b"same", NOW), expires=NOW)
    store.put(Owner("harbour", b"same", NOW), expires=LATER)
    store.put(Owner("weather", b"same", NOW))
    assert store.sweep(NOW + timedelta(hours=1)) == 1
    assert [owner.name for owner in store.find(Owner, REF)] == ["harbour", "weather"]
    store.put(Owner("harbour", b"same", NOW))
    assert store.sweep(LATER + timedelta(days=9)) == 0


def test_walk_meets_each_record_once_and_goes_on_where_it_stopped(store: Store) -> None:
    owners = {Owner(f"owner-{number}", b"same", NOW) for number in range(250)}
    with store.transaction():
        for owner in owners:
            store.put(owner)
        store.put(Enrolment("00", "owner-1", NOW))
    walk, seen = store.walk(Owner), []
    start, part = next(walk)
    seen += part
    assert len(seen) < 250
    for _, part in store.walk(Owner, start=start):
        seen += part
    assert len(seen) == 250
    assert set(seen) == owners


# --- steps -----------------------------------------------------------------------------------------------------------


def test_step_that_fails_leaves_nothing_behind(store: Store, second: Store) -> None:
    def fails() -> None:
        with store.transaction():
            store.put(Owner("airline", b"one", NOW))
            store.append_audit(new_event("enrol", ["airline"], NOW))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    for one in (store, second):
        assert one.get(Owner, "airline") is None
        assert one.find(Owner, Owner("", b"one", NOW).ref) == []
        assert one.audit() == ()
    assert store.check() == 0


def test_inner_step_is_undone_with_the_outer_one(store: Store) -> None:
    def fails() -> None:
        with store.transaction():
            with store.transaction():
                store.put(Owner("airline", b"one", NOW))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert store.get(Owner, "airline") is None


def test_steps_that_fail_among_steps_that_wait_together_take_only_themselves_back(store: Store, second: Store) -> None:
    """Threads whose steps are committed in one batch: every third step fails."""
    count, failed = 40, []

    def work(thread: int) -> None:
        for number in range(count):
            try:
                with store.transaction():
                    store.put(Owner(f"owner-{thread}-{number}", b"same", NOW))
                    store.append_audit(new_event("test", [], NOW, number=number))
                    if number % 3 == 0:
                        raise RuntimeError
            except RuntimeError:
                failed.append(number)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = 6 * count - len(failed)
    for one in (store, second):
        assert one.count(Owner, REF) == len(one.find(Owner, REF)) == kept
        assert len(one.audit()) == kept
        assert one.check() == kept
    assert store.head(NOW).epoch <= kept


def test_threads_and_a_second_opener_append_to_one_log(store: Store, second: Store) -> None:
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


def test_batch_that_cannot_be_committed_has_not_happened_for_anybody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database refuses the commit: each of those who waited for it is told, and the store goes on as before."""
    grown(store)
    refusals: list[str] = []
    commit = store._steps._database.commit

    def full() -> None:
        raise StoreError("the key store cannot be used: database or disk is full")

    def work(number: int) -> None:
        try:
            store.put(Owner(f"lost-{number}", b"same", NOW))
        except StoreError as cause:
            refusals.append(cause.message)

    monkeypatch.setattr(store._steps._database, "commit", full)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(store._steps._database, "commit", commit)
    assert refusals == ["the key store cannot be used: database or disk is full"] * 5
    assert store.count(Owner, REF) == 3
    store.put(Owner("zoo", b"same", NOW))
    assert store.check() == 4


def test_head_that_is_signed_is_on_the_disk(store: Store) -> None:
    """Inside a step, the signed head is the one before it: a failure must not make it untrue."""
    store.append_audit(new_event("one", [], NOW))
    with store.transaction():
        store.append_audit(new_event("two", [], NOW))
        assert store.head(NOW).size == 1
    assert store.head(NOW).size == 2


def test_what_another_process_wrote_is_taken_note_of(store: Store, second: Store) -> None:
    grown(second)
    assert store.get(Owner, "airline") == second.get(Owner, "airline")
    store.put(Owner("airline", b"same", LATER))
    assert second.find(Owner, REF) == store.find(Owner, REF)
    assert second.get(Owner, "airline") == Owner("airline", b"same", LATER)


# --- somebody without the master key changes the database -----------------------------------------------------------


@pytest.mark.parametrize("column", ["kind", "id", "ref", "body", "mac", "bucket", "expires"])
def test_row_with_any_changed_column_is_never_read(place: Place, store: Store, second: Store, unlock: KeyFile, column: str) -> None:
    store.put(Owner("airline", b"one", NOW))
    body = '{"name": "airline"}'
    values = {"kind": "enrolment", "id": "weather", "ref": "x", "body": body, "mac": bytes(32), "bucket": 70000, "expires": 1}
    place.run(f"UPDATE records SET {column} = ? WHERE id = 'airline'", values[column])
    fresh = Store.open(place.location, unlock)
    for one in (second, fresh):
        with pytest.raises(StoreError, match="taken out" if column == "bucket" else "changed by somebody else"):
            one.get(Owner, "airline")
        with pytest.raises(StoreError):
            one.check()
    assert store.get(Owner, "airline") == Owner("airline", b"one", NOW), "what it has in memory is what it wrote"
    fresh.close()


@pytest.mark.parametrize("how", ["older", "taken out", "brought back"])
def test_row_that_is_not_the_latest_is_never_read(place: Place, store: Store, second: Store, unlock: KeyFile, how: str) -> None:
    """Each row is genuine: the broker wrote it, once."""
    grown(store)
    rows = place.run("SELECT body, mac, kind, id, ref, bucket FROM records WHERE id = 'harbour'")
    store.put(Owner("harbour", b"same", LATER))
    if how == "older":
        place.run("UPDATE records SET body = ?, mac = ? WHERE id = 'harbour'", *rows[0][:2])
    else:
        place.run("DELETE FROM records WHERE id = 'harbour'")
    if how == "brought back":
        place.run("INSERT INTO records (body, mac, kind, id, ref, bucket) VALUES (?, ?, ?, ?, ?, ?)", *rows[0])
    fresh = Store.open(place.location, unlock)
    for one in (second, fresh):
        with pytest.raises(StoreError, match="put back"):
            one.get(Owner, "harbour")
        with pytest.raises(StoreError, match="put back"):
            one.find(Owner, REF)
        with pytest.raises(StoreError, match="put back"):
            one.check()
        assert one.get(Owner, "airline") is not None
    fresh.close()


@pytest.mark.parametrize("how", ["index too", "tags too"])
def test_older_rows_with_all_that_belongs_to_them_are_refused(place: Place, store: Store, second: Store, unlock: KeyFile, how: str) -> None:
    """Rows, their ref's index and their buckets' tags of one moment under the head of another: something does not fit."""
    grown(store)
    rows = place.run("SELECT kind, id, ref, body, mac, bucket FROM records")
    tags = place.run("SELECT bucket, tag, epoch FROM buckets")
    for name in ("airline", "harbour"):
        store.put(Owner(name, b"same", LATER))
    for row in rows:
        place.run("DELETE FROM records WHERE kind = ? AND id = ?", *row[:2])
        place.run("INSERT INTO records (kind, id, ref, body, mac, bucket) VALUES (?, ?, ?, ?, ?, ?)", *row)
    if how == "tags too":
        for bucket, tag, epoch in tags:
            place.run("UPDATE buckets SET tag = ?, epoch = ? WHERE bucket = ?", tag, epoch, bucket)
        with pytest.raises(StoreError, match="put back"):
            Store.open(place.location, unlock)
    with pytest.raises(StoreError, match="put back"):
        second.get(Owner, "harbour")


def test_genuine_row_in_a_bucket_that_must_be_empty_is_found_by_a_check(place: Place, store: Store, second: Store) -> None:
    grown(store)
    rows = place.run("SELECT kind, id, ref, body, mac, bucket FROM records WHERE id = 'harbour'")
    store.delete(Owner, "harbour")
    place.run("INSERT INTO records (kind, id, ref, body, mac, bucket) VALUES (?, ?, ?, ?, ?, ?)", *rows[0])
    assert second.get(Owner, "harbour") is None
    with pytest.raises(StoreError, match="put back"):
        second.check()


def test_older_copy_of_the_whole_database_is_noticed_by_a_store_in_service(place: Place, store: Store) -> None:
    grown(store)
    store.append_audit(new_event("one", [], NOW))
    head, tags = place.run("SELECT body, mac FROM head")[0], place.run("SELECT tag, epoch, bucket FROM buckets")
    rows = place.run("SELECT body, mac, kind, id FROM records")
    store.put(Owner("airline", b"same", LATER))
    store.append_audit(new_event("two", [], NOW))
    for row in rows:
        place.run("UPDATE records SET body = ?, mac = ? WHERE kind = ? AND id = ?", *row)
    for tag in tags:
        place.run("UPDATE buckets SET tag = ?, epoch = ? WHERE bucket = ?", *tag)
    place.run("UPDATE head SET body = ?, mac = ?", *head)
    place.run("DELETE FROM audit WHERE seq = 2")
    for _ in range(2):
        with pytest.raises(AuditError, match="earlier state"):
            store.get(Owner, "airline")


def test_log_that_was_forked_is_noticed_by_a_store_in_service(place: Place, store: Store, second: Store, unlock: KeyFile) -> None:
    """Two genuine histories from one copy: a longer one does not pass for the continuation of the other."""
    store.append_audit(new_event("one", [], NOW))
    second.head(NOW)
    state = {name: place.run(f"SELECT * FROM {name}") for name in ("head", "audit", "audit_nodes")}
    second.append_audit(new_event("two", [], NOW))
    for name, rows in state.items():
        place.run(f"DELETE FROM {name}")
        for row in rows:
            place.run(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", *row)
    other = Store.open(place.location, unlock)
    for name in ("another two", "three"):
        other.append_audit(new_event(name, [], NOW))
    other.close()
    with pytest.raises(AuditError, match="continue"):
        second.head(NOW)


@pytest.mark.parametrize("change", ["body", "mac", "gone"])
def test_head_that_was_changed_or_taken_out_stops_the_store(place: Place, store: Store, unlock: KeyFile, change: str) -> None:
    grown(store)
    if change == "gone":
        place.run("DELETE FROM head")
    elif change == "mac":
        place.run("UPDATE head SET mac = ?", bytes(32))
    else:
        body = json.loads(place.run("SELECT body FROM head")[0][0])
        place.run("UPDATE head SET body = ?", json.dumps({**body, "epoch": 99}))
    with pytest.raises((StoreError, AuditError)):
        Store.open(place.location, unlock)
    if change != "body":
        with pytest.raises((StoreError, AuditError)):
            store.get(Owner, "airline")


@pytest.mark.parametrize("change", ["event", "cut", "gap", "more"])
def test_audit_log_that_was_changed_is_never_read(place: Place, store: Store, second: Store, change: str) -> None:
    for number in range(6):
        store.append_audit(new_event("test", [], NOW, number=number))
    match change:
        case "event":
            place.run("UPDATE audit SET event = '{}' WHERE seq = 3")
        case "cut":
            place.run("DELETE FROM audit WHERE seq = 6")
        case "gap":
            place.run("DELETE FROM audit WHERE seq = 3")
        case _:
            place.run("INSERT INTO audit VALUES (7, '{}', ?)", bytes(32))
    for one in (store, second):
        with pytest.raises(AuditError):
            one.audit()
        with pytest.raises(AuditError):
            one.check()
        if change in {"event", "gap"}:
            with pytest.raises(AuditError):
                one.audit_page(3, 1, NOW)
            with pytest.raises(AuditError):
                one.prove(3, NOW)


def test_tree_whose_inner_nodes_were_changed_proves_nothing(place: Place, store: Store) -> None:
    for number in range(8):
        store.append_audit(new_event("test", [], NOW, number=number))
    place.run("UPDATE audit_nodes SET hash = ?", bytes(32))
    assert len(store.audit()) == 8
    with pytest.raises(AuditError):
        store.audit_page(2, 1, NOW)
    with pytest.raises(AuditError, match="proof of an audit entry does not hold"):
        store.prove(2, NOW)


def test_log_shows_a_step_what_it_has_appended(store: Store) -> None:
    store.append_audit(new_event("test", [], NOW))
    with store.transaction():
        store.append_audit(new_event("test", [], NOW))
        inside = store.audit()
    assert inside == store.audit()
    assert len(inside) == 2


def test_pages_and_proofs_are_of_the_signed_log(store: Store) -> None:
    for number in range(11):
        store.append_audit(new_event("test", [], NOW, number=number))
    whole = store.audit()
    for first, limit in ((1, 4), (4, 4), (9, 99), (12, 1)):
        page, head = store.audit_page(first, limit, NOW)
        assert page == whole[first - 1 : first - 1 + limit]
        assert head.size == 11
    for seq in (1, 6, 11):
        assert store.prove(seq, NOW).verify(store.signing_key.public).size == 11
    early = AuditHead(4, "00" * 32, 0, "")
    assert store.head(NOW).size == 11
    with pytest.raises(AuditError):
        store.head(NOW).continues(early, store.consistency(4, 11))
    for wrong in ((0, 12), (5, 4), (-1, 3)):
        with pytest.raises(AuditError):
            store.consistency(*wrong)
    for none in (12, 0, -1):
        with pytest.raises(UsageError, match="no such entry"):
            store.prove(none, NOW)


def test_nothing_in_the_database_tells_two_equal_contents_apart_or_together(place: Place, store: Store) -> None:
    """Who could see the same sums twice could add and subtract rows."""
    grown(store)
    seen = set()
    for name in ("x", "y", "x"):
        store.put(Owner("airline", name.encode(), NOW))
        store.put(Owner("airline", b"same", NOW))
        seen.add(place.run("SELECT body FROM records WHERE kind = '#ref' AND id LIKE ?", f"%{REF}")[0][0])
        seen.add(json.loads(place.run("SELECT body FROM head")[0][0])["contents"])
    assert len(seen) == 6


# --- what is no store ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + bytes(4096)])
def test_file_that_is_no_store_is_refused(tmp_path: Path, unlock: KeyFile, content: bytes) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(content)
    with pytest.raises(StoreError):
        Store.open(path, unlock)


def test_store_that_is_not_there_is_refused(place: Place, unlock: KeyFile) -> None:
    with pytest.raises(StoreError, match="no key store"):
        Store.open(place.location, unlock)


def test_store_with_tables_of_another_version_is_refused_with_the_way_out(place: Place, store: Store, unlock: KeyFile) -> None:
    store.close()
    place.run("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(StoreError) as refusal:
        Store.open(place.location, unlock)
    assert "upgrade" in (refusal.value.hint or "")


def test_store_that_is_closed_says_so(store: Store) -> None:
    store.close()
    with pytest.raises(StoreError):
        store.put(Owner("airline", b"one", NOW))
