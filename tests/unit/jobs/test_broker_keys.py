"""A node's keys with a real broker, over TLS: leases are renewed, a withdrawal ends the node, a broker that is away does not."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.node_services import RUN, node, read
from support.stage import Stage

from confide.errors import BrokerError, ConfideError, GrantError, KeyRevokedError, UnavailableError
from confide.ids import Role
from confide.job import Job
from confide.jobs.broker_keys import BrokerKeys
from confide.jobs.inputs import VerifiedInput, open_inputs
from confide.jobs.outputs import Outputs
from confide.keys.broker import Broker
from confide.keys.server import BrokerServer

SOON_S = 20.0
"""Much longer than anything here takes."""


class ShortLeases(Stage):
    """A stage whose broker gives keys for a few seconds, and can be away for a while."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lease = timedelta(hours=1)
        self.serve()

    def serve(self, port: int = 0) -> None:
        self.broker = Broker(self.broker.store, self.tee.verifier(), lease=self.lease)
        self.server = BrokerServer(self.broker, port=port)

    def restart(self) -> None:
        port = int(self.server.url.rpartition(":")[2])
        self.server.stop()
        self.serve(port)
        self.server.start()
        for client in self.clients.values():
            client.close()  # connects anew when next used


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShortLeases]:
    made = ShortLeases(tmp_path_factory.mktemp("keys"))
    made.open()
    yield made
    made.close()


@pytest.fixture
def stage(running: ShortLeases) -> ShortLeases:
    """The stage with a broker that gives keys for an hour."""
    running.lease = timedelta(hours=1)
    running.restart()
    return running


def granted(stage: Stage) -> Job:
    """A job of its own, granted by both owners."""
    job = stage.job(arguments=(secrets.token_hex(8),))
    stage.grant(job)
    return job


def withdraw(stage: Stage, job: Job) -> None:
    airline = stage.clients["airline"]
    (grant,) = (grant for grant in airline.grants() if grant.job == job.digest)
    airline.revoke(grant.id)


def people(job: Job) -> VerifiedInput:
    return open_inputs(job)["people"]


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_key_is_used_for_its_lease_and_renewed_with_evidence_before_it_ends(stage: ShortLeases) -> None:
    stage.lease = timedelta(seconds=2)
    stage.restart()
    job = granted(stage)
    with node(stage, job) as (there, keys):
        found = people(job)
        keys.open_inputs([found])
        first = read(keys, found)
        until(lambda: read(keys, found) and len(there.told) >= 4)
        assert read(keys, found) == first
        events = [e.event for e in stage.broker.store.audit() if e.event and e.event["action"] == "release"]
        releases = [event for event in events if event["job"] == job.digest]
        assert len(releases) >= 4
        assert all(len(event["evidence"]) == 96 for event in releases)


def test_expired_key_is_refused_while_the_broker_is_away_and_there_again_afterwards(stage: ShortLeases) -> None:
    stage.lease = timedelta(seconds=2)
    stage.restart()
    job = granted(stage)
    with node(stage, job) as (there, keys):
        found = people(job)
        keys.open_inputs([found])
        first = read(keys, found)
        stage.server.stop()

        def refused() -> bool:
            try:
                return read(keys, found) != first
            except BrokerError:
                return True

        until(refused)
        with pytest.raises(BrokerError):
            read(keys, found)
        stage.restart()
        until(lambda: not refused())
        assert there.errors == []


def test_key_that_is_refused_when_it_is_renewed_is_gone(stage: ShortLeases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a push: whatever becomes of that, the lease is the limit."""
    monkeypatch.setattr(BrokerKeys, "_watch", lambda _: None)
    stage.lease = timedelta(seconds=2)
    stage.restart()
    job = granted(stage)
    with node(stage, job) as (_, keys):
        found = people(job)
        keys.open_inputs([found])
        withdraw(stage, job)

        def refused() -> bool:
            try:
                read(keys, found)
            except GrantError:
                return True
            return False

        until(refused)


def test_withdrawal_ends_the_node_and_takes_its_keys(stage: ShortLeases) -> None:
    job = granted(stage)
    with node(stage, job) as (there, keys):
        found = people(job)
        keys.open_inputs([found])
        read(keys, found)
        keys.check_not_revoked()
        withdraw(stage, job)
        assert there.failed.wait(SOON_S), "the node was not ended"
        (error,) = there.errors
        assert isinstance(error, KeyRevokedError)
        assert error.facts["key"] == "airline/people"
        for attempt in (lambda: read(keys, found), keys.check_not_revoked):
            with pytest.raises(KeyRevokedError):
                attempt()


def test_withdrawal_is_heard_after_the_broker_was_away(stage: ShortLeases) -> None:
    job = granted(stage)
    with node(stage, job) as (there, keys):
        found = people(job)
        keys.open_inputs([found])
        first = read(keys, found)
        stage.server.stop()
        assert read(keys, found) == first, "keys are used until their lease ends"
        assert not there.failed.wait(1.5), "a broker that is away ends nothing"
        stage.restart()
        withdraw(stage, job)
        assert there.failed.wait(SOON_S)


def test_nothing_waits_any_more_after_the_node_has_ended(stage: ShortLeases) -> None:
    job = granted(stage)
    with node(stage, job) as (there, keys):
        keys.open_inputs([people(job)])
    until(lambda: not any(thread.name == "confide-withdrawals" for thread in threading.enumerate()))
    assert there.errors == []


def test_output_is_committed_with_a_key_within_its_lease(stage: ShortLeases) -> None:
    """A program may run for longer than a lease before it writes."""
    stage.lease = timedelta(seconds=1)
    stage.restart()
    job = granted(stage)
    with node(stage, job, Role.DRIVER) as (there, keys):
        outputs = Outputs({"summary": Path(job.outputs["summary"].path)}, RUN, there.services.identity.key)
        first, asked = keys.output("summary"), len(there.told)
        outputs.hold("summary", first, lambda: keys.output("summary"))
        assert outputs._current("summary", first) is first
        time.sleep(1.1)
        again = outputs._current("summary", first)
        assert (again.dataset, len(there.told)) == (first.dataset, asked + 1)
        assert again.expires > first.expires
        with pytest.raises(ConfideError):
            first.secret.reveal()
        outputs.close()


def test_who_has_left_asks_the_broker_for_nothing_any_more(stage: ShortLeases) -> None:
    job = granted(stage)
    with node(stage, job) as (there, keys):
        found = people(job)
        keys.close()
        for ask in (lambda: keys.open_inputs([found]), lambda: keys.open_output("summary"), keys.audit_head):
            with pytest.raises(UnavailableError, match="ending"):
                ask()
        assert there.told == []
    events = [entry.event for entry in stage.broker.store.audit() if entry.event]
    assert not [event for event in events if event["action"] == "release" and event.get("job") == job.digest]
