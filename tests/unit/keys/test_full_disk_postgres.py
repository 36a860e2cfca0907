"""The disk under a PostgreSQL server is full: the broker refuses, loses nothing acknowledged, and goes on when there is room."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.broker_attacks import Granted
from support.broker_world import World
from support.databases import PostgresServer, postgres
from support.machine import SmallDisk, small_disk

from confide.attest.insecure import Installation
from confide.crypto.secret import SecretBytes
from confide.errors import BrokerError, StepUnknownError, StoreError
from confide.ids import RunId
from confide.keys.audit import new_event
from confide.keys.custody.local import Passphrase
from confide.keys.store import Store

MANY = 4000
"""More steps than fit on a disk of a test."""


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with small_disk(48, "postgres") as made:
        yield made


def test_no_key_leaves_while_the_databases_disk_is_full(tmp_path: Path, installation: Installation, disk: SmallDisk) -> None:
    """The tables' disk: the server refuses steps one by one, and serves what is there."""
    space = disk.folder / "space"
    space.mkdir()
    shutil.chown(space, "postgres")
    with postgres() as server, contextlib.closing(server.connect()) as operator:
        operator.autocommit = True
        operator.cursor().execute(f"CREATE TABLESPACE small LOCATION '{space}'")
        operator.cursor().execute("CREATE DATABASE small TABLESPACE small")
        world = World(tmp_path, installation, place=server.location("small"))
        try:
            _fill_and_make_room(world, disk)
        finally:
            world.close()


def _fill_and_make_room(world: World, disk: SmallDisk) -> None:
    granted = Granted(world, max_runs=1000)
    client = world.client(world.node(run=RunId("fuller")))
    secret = client.release(granted.manifest).secret.reveal()
    given = 1
    with disk.full():
        with contextlib.suppress(BrokerError):
            for _ in range(MANY):
                client.release(granted.manifest)
                given += 1
        assert given < MANY, "the disk was full"
        with pytest.raises(BrokerError) as refused:
            client.release(granted.manifest)
        assert refused.value.facts["status"] == 503
        assert len(world.events("release")) == given, "the log can be read, and has what was given"
        with pytest.raises(BrokerError):
            world.client(world.node(run=RunId("later"))).release(granted.manifest)
        assert len(world.events("release")) == given
    assert client.release(granted.manifest).secret.reveal() == secret
    assert len(world.events("release")) == given + 1
    assert world.store.check() > 0
    world.restart()
    assert len(world.events("release")) == given + 1


@pytest.fixture
def server(disk: SmallDisk) -> Iterator[PostgresServer]:
    """A server whose write-ahead log is on the disk, in segments of a megabyte."""
    log = ["--waldir", str(disk.folder / "wal"), "--wal-segsize=1"]
    with postgres("-c max_wal_size=8MB -c min_wal_size=2MB -c checkpoint_timeout=1h", made_with=log) as made:
        yield made


def test_what_was_acknowledged_outlives_a_server_that_its_full_log_ends(server: PostgresServer, disk: SmallDisk) -> None:
    """The log's disk: PostgreSQL ends rather than forget ("PANIC"), and comes up by its log once there is room."""
    store = Store.create(server.new().location, Passphrase(SecretBytes(b"correct horse")))
    kept: set[str] = set()
    asked = 0
    with disk.full(), contextlib.suppress(StoreError, StepUnknownError):
        for number in range(MANY):
            asked = number
            store.append_audit(new_event("test", [], datetime.now(UTC), number=f"{number}", much=f"{number:05}" * 400))
            kept.add(f"{number}")
    assert 0 < len(kept) < MANY, "the disk was full, and not before the first step"
    with contextlib.suppress(RuntimeError):  # it may have ended by itself, or still try to come up
        server.stop("immediate")
    server.start()
    found = {str(entry.event["number"]) for entry in store.audit() if entry.event and "number" in entry.event}
    assert kept <= found, "a step that was acknowledged is lost"
    assert found <= kept | {f"{asked}"}, "nothing but the step whose outcome nobody knew has come"
    store.append_audit(new_event("test", [], datetime.now(UTC), number="after"))
    assert store.check() >= 0
    store.close()
    again = Store.open(server.location("postgres"), Passphrase(SecretBytes(b"correct horse")))
    assert again.check() >= 0
    again.close()
