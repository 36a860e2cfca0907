"""The database is lost, or somebody presses Ctrl-C, in the middle of a commit: what is told of it is true."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support.broker_attacks import Granted
from support.broker_world import World
from support.cut_proxy import Cut, CutProxy, cut_proxy
from support.databases import Place, PostgresServer

from confide.attest.insecure import Installation
from confide.errors import BrokerError, StepUnknownError, StoreError
from confide.keys.audit import new_event
from confide.keys.custody.local import KeyFile
from confide.keys.records import Owner
from confide.keys.storage import database as database_module
from confide.keys.storage.database import Database
from confide.keys.storage.rows import Rows
from confide.keys.storage.steps import Steps
from confide.keys.store import Store

# From Python 3.13 on Python says so when a driver's connection that was cut has something left to send as it goes.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored .*BufferedRWPair:pytest.PytestUnraisableExceptionWarning")

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REF = Owner("", b"same", NOW).ref


@pytest.fixture
def unlock(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "master.key")


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[CutProxy]:
    postgres_server.new()
    with cut_proxy(postgres_server) as made:
        yield made


@pytest.fixture
def store(proxy: CutProxy, unlock: KeyFile) -> Iterator[Store]:
    made = Store.create(proxy.location, unlock)
    step(made, "first")
    yield made
    made.close()


def step(store: Store, name: str) -> None:
    with store.transaction():
        store.put(Owner(name, b"same", NOW))
        store.append_audit(new_event(name, [], NOW))


def names(store: Store) -> list[str]:
    """Owners in the store; each must have its entry in the log."""
    found = [owner.name for owner in store.find(Owner, REF)]
    assert sorted(found) == sorted(str(entry.event["action"]) for entry in store.audit() if entry.event)
    return found


# --- the answer of a commit is lost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["answer", "late request"])
def test_step_whose_commits_answer_was_lost_has_happened_and_is_told_so(store: Store, proxy: CutProxy, unlock: KeyFile, cut: Cut) -> None:
    """Also if the server has not even begun with it when the broker loses its connection."""
    proxy.cut = cut
    step(store, "second")
    assert proxy.commits_cut == 1
    assert names(store) == ["first", "second"]
    step(store, "third")
    assert store.check() == 3
    again = Store.open(proxy.location, unlock)
    assert names(again) == ["first", "second", "third"]
    again.close()


def test_step_whose_commit_never_arrived_has_not_happened_and_is_told_so(store: Store, proxy: CutProxy) -> None:
    proxy.cut = "request"
    with pytest.raises(StoreError) as refusal:
        step(store, "second")
    assert refusal.value.code == "store-unavailable"
    assert proxy.commits_cut == 1
    assert names(store) == ["first"]
    step(store, "second")
    assert store.check() == 2


def test_step_is_unknown_while_the_server_cannot_be_asked(store: Store, proxy: CutProxy) -> None:
    proxy.cut = "answer and server"
    with pytest.raises(StepUnknownError, match="before it said"):
        step(store, "second")
    with pytest.raises(StoreError, match=r"reached|used"):
        step(store, "third")
    proxy.away.clear()
    assert names(store) == ["first", "second"], "it has happened; the store takes note when it can"
    step(store, "third")
    assert store.check() == 3


@pytest.mark.parametrize(("cut", "happened"), [("answer", True), ("request", False)])
def test_step_is_found_among_what_others_wrote_since(
    store: Store, proxy: CutProxy, unlock: KeyFile, monkeypatch: pytest.MonkeyPatch, cut: Cut, *, happened: bool
) -> None:
    second = Store.open(proxy.location, unlock)
    ask_again = store._steps._database.ask_again

    def later() -> None:
        store._steps._database._drop()
        for number in range(5):
            step(second, f"other-{number}")
        ask_again()

    monkeypatch.setattr(store._steps._database, "ask_again", later)
    proxy.cut = cut
    if happened:
        step(store, "mine")
    else:
        with pytest.raises(StoreError) as refusal:
            step(store, "mine")
        assert refusal.value.code == "store-unavailable"
    assert ("mine" in names(store)) is happened
    assert names(store) == names(second)
    second.close()


@pytest.mark.parametrize("cut", ["answer", "request"])
def test_step_without_an_entry_in_the_log_is_unknown_once_others_wrote(
    store: Store, proxy: CutProxy, unlock: KeyFile, monkeypatch: pytest.MonkeyPatch, cut: Cut
) -> None:
    second = Store.open(proxy.location, unlock)
    ask_again = store._steps._database.ask_again

    def later() -> None:
        store._steps._database._drop()
        step(second, "other")
        step(second, "another")
        ask_again()

    monkeypatch.setattr(store._steps._database, "ask_again", later)
    proxy.cut = cut
    with pytest.raises(StepUnknownError):
        store.put(Owner("mine", b"another", NOW))
    assert store.check() == (4 if cut == "answer" else 3)
    second.close()


def test_commit_that_hangs_in_the_server_is_waited_for_no_longer_than_writers_wait(
    store: Store, proxy: CutProxy, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else holds the lock of writers, as a server does that is still at it."""
    monkeypatch.setattr(database_module, "BUSY_S", 1.0)
    ask_again = store._steps._database.ask_again
    holder = postgres_server.connect()

    def held() -> None:
        store._steps._database._drop()
        holder.cursor().execute(database_module._LOCK)
        ask_again()

    monkeypatch.setattr(store._steps._database, "ask_again", held)
    proxy.cut = "answer"
    with pytest.raises(StepUnknownError):
        step(store, "second")
    holder.close()
    assert names(store) == ["first", "second"]


def test_no_key_is_given_and_no_run_lost_when_a_release_is_unknown(
    tmp_path: Path, proxy: CutProxy, tee_installation: Installation
) -> None:
    """The broker with PostgreSQL: what the node gets is either a key with its entry in the log, or none."""
    world = World(tmp_path, tee_installation, place=proxy.location)
    try:
        granted = Granted(world, max_runs=1)
        node = world.client(world.node())
        node.audit_head()
        proxy.cut = "answer"
        assert node.release(granted.manifest).secret.reveal() == granted.minted.secret.reveal()
        assert len(world.events("release")) == 1
        proxy.cut = "answer and server"
        with pytest.raises(BrokerError) as refusal:
            node.release(granted.manifest)
        assert "audit export" in str(refusal.value.hint)
        assert refusal.value.facts["status"] == 503
        proxy.away.clear()
        assert len(world.events("release")) == 2, "in the log although no key was given: never the other way round"
        assert node.release(granted.manifest).secret.reveal() == granted.minted.secret.reveal()  # the same run counts once
        world.store.check()
    finally:
        proxy.away.clear()
        world.close()


@pytest.fixture(scope="module")
def tee_installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


# --- Ctrl-C inside a commit ---------------------------------------------------------------------------------------------


@pytest.fixture
def either(place: Place, unlock: KeyFile) -> Iterator[Store]:
    made = Store.create(place.location, unlock)
    step(made, "first")
    yield made
    made.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupt_inside_a_commit_is_no_failure_of_the_step(either: Store, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Who pressed Ctrl-C is told nothing but that; who waits for the same commit is told what has become of it."""
    commit = either._steps._database.commit
    told: list[str] = []
    joined = threading.Event()

    def interrupted() -> None:
        monkeypatch.setattr(either._steps._database, "commit", commit)
        if when == "after":
            commit()
        raise KeyboardInterrupt

    def other() -> None:
        try:
            with either.transaction():
                either.put(Owner("other", b"same", NOW))
                either.append_audit(new_event("other", [], NOW))
                joined.set()
                while either._steps._waiting == 0:  # until the other one waits, so that both are of one commit
                    pass
            told.append("kept")
        except StoreError as cause:
            told.append(cause.message)

    monkeypatch.setattr(either._steps._database, "commit", interrupted)
    waiter = threading.Thread(target=other)
    waiter.start()
    assert joined.wait(10)
    with pytest.raises(KeyboardInterrupt):
        step(either, "mine")
    waiter.join(10)
    kept = when == "after"
    assert told == (["kept"] if kept else ["the key store could not keep this step: nothing of it has happened"])
    assert names(either) == (["first", "mine", "other"] if kept else ["first"])
    step(either, "next")
    assert either.check() == (4 if kept else 2)


def test_interrupt_at_any_line_of_a_commit_leaves_a_store_that_goes_on(either: Store) -> None:
    """Whatever line it hits: the step has happened as a whole or not at all, the store knows which, and holds nobody up."""
    watched = {Steps._commit.__code__, Database.commit.__code__, Database.end.__code__, Rows.keep.__code__}
    seen, kept, number = 0, 0, 0
    while True:
        left = [number]

        def at_line(_frame: FrameType, event: str, _arg: object, left: list[int] = left) -> Any:
            if event == "line":
                left[0] -= 1
                if left[0] < 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return at_line

        before = names(either)
        sys.settrace(lambda frame, *_: at_line if frame.f_code in watched else None)
        try:
            step(either, f"step-{number}")
        except KeyboardInterrupt:
            seen += 1
        else:
            break
        finally:
            sys.settrace(None)
        after = names(either)
        kept += after != before
        assert after in (before, sorted([*before, f"step-{number}"]))
        other = threading.Thread(target=step, args=(either, f"other-{number}"))
        other.start()
        other.join(10)
        assert not other.is_alive(), "an interrupted commit holds up everybody else"
        number += 1
    assert seen > 8
    assert 0 < kept < seen, "the interrupts hit before and after the commit"
    either.check()
