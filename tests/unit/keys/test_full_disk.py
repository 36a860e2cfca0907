"""The disk under a broker's store is full: no key leaves, nothing is half written, and it goes on when there is room again."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker_attacks import Granted
from support.broker_world import World

from confide.attest.insecure import Installation
from confide.errors import BrokerError, StoreError
from confide.ids import RunId
from confide.keys.approvals import GrantRun
from confide.keys.audit import new_event
from confide.keys.health import hindrance


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """No file of this process grows beyond that many bytes: writes fail as on a disk that is full (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def log_of(world: World) -> int:
    """How long SQLite's write-ahead log is."""
    return (world.folder / "store" / "broker.db-wal").stat().st_size


@pytest.mark.parametrize("room", [0, 1, 4096, 3 * 4096, 5 * 4096 + 24, 8 * 4096])
def test_no_key_leaves_while_the_disk_is_full(world: World, room: int) -> None:
    """Whichever page of the step is the first that does not fit."""
    granted = Granted(world, max_runs=1000)
    world.client(world.node()).release(granted.manifest)
    client = world.client(world.node(run=RunId("fuller")))
    client.audit_head()
    given = 0
    with no_file_beyond(log_of(world) + room), contextlib.suppress(BrokerError):
        for _ in range(100):
            client.release(granted.manifest)
            given += 1
    assert given < 100, "the disk was full"
    assert len(world.events("release")) == 1 + given
    assert {run.run for run in world.store.find(GrantRun, granted.grant.id)} == {"delays-0123456789ab", *(["fuller"] if given else [])}
    assert world.store.check() > 0
    assert client.release(granted.manifest).secret.reveal() == granted.minted.secret.reveal()
    world.restart()
    assert len(world.events("release")) == 2 + given


def test_broker_is_not_ready_while_its_disk_is_full_and_is_again_by_itself(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Everything can be read all the while, and nothing but the question itself is asked meanwhile."""
    granted = Granted(world, max_runs=1000)
    client = world.client(world.node())
    client.release(granted.manifest)
    before = (world.store.check(), len(world.store.audit()))
    assert hindrance(world.store, stopping=False) is None
    with no_file_beyond(log_of(world)):
        with pytest.raises(BrokerError) as refused:
            client.release(granted.manifest)
        assert "the key store cannot be used" in refused.value.message
        assert [hindrance(world.store, stopping=False) for _ in range(3)] == ["store"] * 3
    assert hindrance(world.store, stopping=False) is None
    assert (world.store.check(), len(world.store.audit())) == (before[0] + 1, before[1])
    said = [record.getMessage() for record in caplog.records if record.name.endswith("storage.steps")]
    assert [text.partition(":")[0] for text in said] == ["the key store cannot keep a step", "the key store keeps steps again"]


def test_everybody_who_waits_for_a_full_disk_is_told(world: World) -> None:
    before = len(world.store.audit())
    world.store.append_audit(new_event("test", [], world.now()))
    told: list[str] = []

    def append(number: int) -> None:
        try:
            for _ in range(30):
                world.store.append_audit(new_event("test", [], world.now(), number=f"{number}", much="x" * 1000))
                told.append("kept")
        except StoreError as cause:
            told.append(cause.code)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
    with no_file_beyond(log_of(world) + 20 * 4096):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told.count("store-unavailable") == 4
    assert len(world.store.audit()) == before + 1 + told.count("kept")
    assert world.store.check() >= 0


def test_store_is_not_made_on_a_full_disk(tmp_path: Path, installation: Installation) -> None:
    with no_file_beyond(8192), pytest.raises(StoreError):
        World(tmp_path, installation)
    assert list((tmp_path / "store").iterdir()) == []
