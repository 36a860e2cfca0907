"""The store's databases: their tables, how they are reached, and what happens when they go away."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from support.databases import Place, PostgresPlace, PostgresServer, certificate, postgres

from confide.errors import StoreError, UsageError
from confide.keys.audit import new_event
from confide.keys.custody.local import KeyFile
from confide.keys.records import Owner
from confide.keys.storage.database import Database
from confide.keys.storage.locations import Postgres, SqliteFile
from confide.keys.storage.schema import METADATA
from confide.keys.store import Store

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


@pytest.fixture
def unlock(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "master.key")


@pytest.fixture
def server_place(postgres_server: PostgresServer) -> PostgresPlace:
    return postgres_server.new()


def test_migrations_make_the_tables_that_the_code_works_with(place: Place, unlock: KeyFile) -> None:
    Store.create(place.location, unlock).close()
    with place.location.engine().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_upgrade_of_a_store_of_this_version_changes_nothing(place: Place, unlock: KeyFile) -> None:
    store = Store.create(place.location, unlock)
    store.put(Owner("airline", b"one", NOW))
    store.close()
    Store.upgrade(place.location)
    again = Store.open(place.location, unlock)
    assert again.get(Owner, "airline") is not None
    again.close()


def test_upgrade_of_what_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(StoreError):
        Store.upgrade(SqliteFile(path))


@pytest.mark.parametrize(
    "url", ["", "store.sqlite", "mysql://a@b/c", "postgresql://host/name", "postgresql://a@host", "postgresql://a@host/n?sslmode=disable"]
)
def test_address_that_is_no_postgresql_database_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Postgres(url)


def test_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as refusal:
        Postgres("postgresql://confide:canary-5521@host/name")
    assert "canary" not in str(refusal.value)


def test_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("secret")
    path.chmod(0o644)
    with pytest.raises(StoreError):
        Postgres("postgresql://a@host/name", password_file=path).engine()


def test_server_that_is_not_there_is_an_error_of_the_store(tmp_path: Path, unlock: KeyFile) -> None:
    with pytest.raises(StoreError):
        Store.open(Postgres(f"postgresql://confide@localhost/name?socket={tmp_path}/none"), unlock)


def test_connection_that_the_server_ends_fails_one_step_and_no_more(server_place: PostgresPlace, unlock: KeyFile) -> None:
    store = Store.create(server_place.location, unlock)
    store.put(Owner("airline", b"one", NOW))

    def ended() -> None:
        with store.transaction():
            store.put(Owner("harbour", b"one", NOW))
            others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state LIKE 'idle in%'"
            server_place.run(f"SELECT pg_terminate_backend(pid) {others}")
            store.put(Owner("weather", b"one", NOW))

    with pytest.raises(StoreError):
        ended()
    assert [owner.name for owner in store.find(Owner, Owner("", b"one", NOW).ref)] == ["airline"]
    store.put(Owner("harbour", b"one", NOW))
    assert store.check() == 2
    store.close()


@pytest.mark.parametrize("how", ["reading", "transaction"])
def test_query_that_fails_undoes_no_other_step_of_its_batch(place: Place, unlock: KeyFile, how: str) -> None:
    store = Store.create(place.location, unlock)
    steps, inside = store._steps, threading.Event()
    refused: list[StoreError] = []

    def waits_for(count: int) -> None:
        while steps._waiting < count:
            time.sleep(0.001)

    def first() -> None:
        with store.transaction():
            store.put(Owner("airline", b"one", NOW))
            inside.set()
            waits_for(2)  # both others will be of the same batch

    def fails() -> None:
        try:
            with getattr(steps, how)():
                steps._database.rows(text("SELECT * FROM no_such_table"))
        except StoreError as error:
            refused.append(error)

    def last() -> None:
        waits_for(1)
        store.put(Owner("weather", b"one", NOW))

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(first)]
        inside.wait()
        done += [pool.submit(fails), pool.submit(last)]
        for one in done:
            one.result(timeout=60)
    assert len(refused) == 1
    assert {owner.name for owner in store.find(Owner, Owner("", b"one", NOW).ref)} == {"airline", "weather"}
    assert store.check() == 2
    store.close()


def test_store_outlives_a_restart_of_its_server(unlock: KeyFile) -> None:
    with postgres("-c fsync=off") as server:
        store = Store.create(server.new().location, unlock)
        store.append_audit(new_event("one", [], NOW))
        server.stop()
        for _ in range(2):
            with pytest.raises(StoreError):
                store.append_audit(new_event("lost", [], NOW))
        server.start()
        store.append_audit(new_event("two", [], NOW))
        assert [entry.event and entry.event["action"] for entry in store.audit()] == ["one", "two"]
        store.close()


def test_refusal_of_the_database_names_no_value(place: Place, unlock: KeyFile) -> None:
    store = Store.create(place.location, unlock)
    place.run("DROP TABLE records")
    with pytest.raises(StoreError) as refusal:
        store.put(Owner("canary-7731", b"one", NOW))
    assert "canary" not in str(refusal.value)
    store.close()


def test_closed_database_is_not_opened_again(place: Place, unlock: KeyFile) -> None:
    Store.create(place.location, unlock).close()
    database = Database.open(place.location)
    database.close()
    with pytest.raises(StoreError):
        database.begin_read()


# --- over the network ------------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[tuple[int, Path]]:
    """A server on loopback with TLS as ``localhost`` and a password for its one user: its port and its certificate."""
    folder = Path(tempfile.mkdtemp(prefix="confide-tls-"))
    folder.chmod(0o755)  # the server is another user
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        trusted = certificate(folder, "localhost")
        if os.geteuid() == 0:
            shutil.chown(folder / "tls.key", "postgres")
        tls = (f"-c ssl=on -c ssl_cert_file={trusted} -c ssl_key_file={folder / 'tls.key'}",)
        with postgres("-c fsync=off", *tls, f"-c listen_addresses=127.0.0.1 -c port={port}"):
            yield port, trusted
    finally:
        shutil.rmtree(folder)


def test_store_over_the_network_needs_the_servers_certificate(tmp_path: Path, network: tuple[int, Path], unlock: KeyFile) -> None:
    port, trusted = network
    for host, ca in (("localhost", None), ("127.0.0.1", trusted)):
        with pytest.raises(StoreError):
            Store.create(Postgres(f"postgresql://confide@{host}:{port}/postgres", ca=ca), unlock)
    with contextlib.closing(Store.create(Postgres(f"postgresql://confide@localhost:{port}/postgres", ca=trusted), unlock)) as store:
        store.put(Owner("airline", b"one", NOW))
        assert store.check() == 1
