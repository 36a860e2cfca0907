"""Nodes that wait for withdrawals hear of each that concerns what their run was given, and of no other; over TLS, real brokers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.broker_world import JOB, MEASUREMENT, OTHER_JOB, Node, World, manifest, policy
from support.databases import Place

from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.errors import BindingError, BrokerError, ConfideError, KeyRevokedError
from confide.ids import NodeId, Purpose, Role, RunId, Tee
from confide.keys.broker import Broker
from confide.keys.client import NodeBrokerClient, OwnerClient
from confide.keys.custody.local import KeyFile
from confide.keys.server import BrokerServer
from confide.keys.store import Store
from confide.keys.withdrawals import Bell, Withdrawals, withdrawn

HEARD_S = 5.0
"""What is promised: a node is told of a withdrawal within five seconds.  Shorter than the question stays open in these tests."""


@pytest.fixture
def world(tmp_path: Path, installation: Installation) -> Iterator[World]:
    made = World(tmp_path, installation, watch_s=60.0)
    yield made
    made.close()


@pytest.fixture
def quick(tmp_path: Path, installation: Installation) -> Iterator[World]:
    """A world where a question for withdrawals is answered after a moment if there are none."""
    made = World(tmp_path, installation, watch_s=0.1)
    yield made
    made.close()


class Waiting:
    """A node's question for withdrawals, under way."""

    def __init__(self, client: NodeBrokerClient) -> None:
        self.error: ConfideError | None = None
        self._thread = threading.Thread(target=self._ask, args=(client,), daemon=True)
        client._connection._timeout = 90.0
        self._thread.start()

    def _ask(self, client: NodeBrokerClient) -> None:
        try:
            client.watch()
        except ConfideError as error:
            self.error = error

    def heard(self) -> KeyRevokedError:
        self._thread.join(HEARD_S)
        assert not self._thread.is_alive(), "nothing was heard"
        assert isinstance(self.error, KeyRevokedError)
        return self.error

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()


def waiting(world: World, *nodes: Node) -> list[Waiting]:
    """Have nodes ask, each on a connection of its own, and return when all questions are open."""
    before = len(world.events("attest"))
    made = [Waiting(world.client(node)) for node in nodes]
    while len(world.events("attest")) < before + len(nodes):
        time.sleep(0.02)
    return made


class Running:
    """A run: the airline's dataset was released to a worker, and the driver has made an output."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.airline: OwnerClient = world.owner("airline")
        self.minted, self.manifest = world.dataset(self.airline, "airline", "flights")
        self.grant = self.airline.grant("flights", job=JOB, policy=policy())
        self.driver, self.worker = world.node(Role.DRIVER), world.node()
        self.output = world.client(self.driver).output("result", inputs=[self.minted.dataset], recipients=[])
        world.client(self.worker).release(self.manifest)

    def quiet(self, node: Node) -> None:
        """The node hears of nothing."""
        with self.world.client(node) as client:
            client.watch()


def test_revoked_grant_is_heard_by_driver_and_worker(world: World) -> None:
    run = Running(world)
    driver, worker = waiting(world, run.driver, run.worker)
    run.airline.revoke(run.grant.id)
    for node in (driver, worker):
        error = node.heard()
        assert "revoked" in error.message
        assert {"key": "airline/flights", "job": JOB, "reason": "grant-missing"}.items() <= error.facts.items()
    told = world.events("withdrawn")
    assert {event["node"] for event in told} == {"driver-1", "worker-1"}
    assert all(event["owners"] == ["airline"] for event in told)


def test_destroyed_key_version_is_heard(world: World) -> None:
    run = Running(world)
    (worker,) = waiting(world, run.worker)
    run.airline.rotate_key("flights")
    run.airline.destroy_key("flights", 1, lose_datasets=True)
    assert worker.heard().facts["reason"] == "key-destroyed"


def test_node_that_is_cut_off_hears_it_and_the_others_do_not(world: World) -> None:
    run = Running(world)
    other = world.node(name="worker-2")
    world.client(other).release(run.manifest)
    driver, cut, kept = waiting(world, run.driver, run.worker, other)
    world.client(run.driver).cut_off(NodeId("worker-1"))
    assert "does not accept this node" in cut.heard().message
    assert driver.waits
    assert kept.waits


def test_withdrawal_before_the_question_is_heard_at_once(world: World) -> None:
    run = Running(world)
    run.airline.revoke(run.grant.id)
    (worker,) = waiting(world, run.worker)
    worker.heard()


def test_withdrawal_at_one_broker_is_heard_at_another_on_the_same_store(world: World) -> None:
    run = Running(world)
    second = Store.open(world.folder / "store" / "broker.db", world.unlock)
    with BrokerServer(Broker(second, world.verifier, world.now, watch_s=60.0)) as server:
        first, world.server = world.server, server
        (worker,) = waiting(world, run.worker)
        run.airline.revoke(run.grant.id)
        worker.heard()
        world.server = first
    second.close()


def test_number_that_one_broker_counts_up_is_seen_by_another_in_either_database(place: Place, tmp_path: Path) -> None:
    unlock = KeyFile.create(tmp_path / "master.key")
    one, other = Store.create(place.location, unlock), Store.open(place.location, unlock)
    bell = Bell(other)
    before = bell.number()
    threading.Timer(0.2, withdrawn, (one,)).start()
    began = time.monotonic()
    bell.wait(before, HEARD_S, lambda: True)
    assert bell.number() == before + 1
    assert time.monotonic() - began < HEARD_S
    one.close()
    other.close()


@pytest.mark.parametrize(
    "harmless",
    [
        lambda run: run.airline.revoke(run.airline.grant("flights", job=OTHER_JOB, policy=policy()).id),
        lambda run: run.airline.rotate_key("flights"),
        lambda run: (run.airline.rotate_key("flights"), list(run.airline.rewrap("flights")), run.airline.destroy_key("flights", 1)),
        lambda run: (run.airline.grant("flights", job=JOB, policy=policy("again")), run.airline.revoke(run.grant.id)),
    ],
    ids=["another job's grant", "rotation", "a version that is not needed any more", "a grant that another one stands in for"],
)
def test_what_does_not_concern_the_run_is_not_heard(quick: World, harmless: Callable[[Running], object]) -> None:
    run = Running(quick)
    harmless(run)
    run.quiet(run.driver)
    run.quiet(run.worker)
    run.quiet(quick.node(run=RunId("another-0123456789ab")))
    assert quick.events("withdrawn") == []


def test_grant_that_stands_in_counts_only_if_its_policy_accepts_the_node(quick: World) -> None:
    run = Running(quick)
    run.airline.grant("flights", job=JOB, policy=policy("stricter", measurements={Tee.SGX: ("cd" * 32,)}))
    run.quiet(run.worker)
    run.airline.revoke(run.grant.id)
    with pytest.raises(KeyRevokedError) as caught:
        run.quiet(run.worker)
    assert caught.value.facts["reason"] == "appraisal-refused"
    assert caught.value.facts["got"] == MEASUREMENT


def test_driver_is_not_told_for_what_only_workers_may_read(quick: World) -> None:
    airline = quick.owner("airline")
    minted, envelope = quick.dataset(airline, "airline", "flights")
    reading = airline.grant("flights", job=JOB, policy=policy(), roles=[Role.WORKER], purposes=[Purpose.READ])
    airline.grant("flights", job=JOB, policy=policy(), roles=[Role.DRIVER], purposes=[Purpose.WRITE])
    driver = quick.node(Role.DRIVER)
    quick.client(driver).output("result", inputs=[minted.dataset], recipients=[])
    quick.client(quick.node()).release(envelope)
    quick.client(driver).watch()
    airline.revoke(reading.id)
    with pytest.raises(KeyRevokedError):
        quick.client(driver).watch()


def test_grant_that_ends_is_heard_when_its_time_is_over(quick: World) -> None:
    airline = quick.owner("airline")
    _, envelope = quick.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy(), not_after=quick.now() + timedelta(minutes=5))
    worker = quick.node()
    quick.client(worker).release(envelope)
    quick.client(worker).watch()
    quick.ahead = timedelta(minutes=6)
    with pytest.raises(KeyRevokedError, match="ended"):
        quick.client(worker).watch()


def test_output_that_another_run_reads_is_withdrawn_with_its_inputs_grants(quick: World) -> None:
    """What derives from the airline's data is the airline's to withdraw, whoever reads it."""
    run = Running(quick)
    envelope = manifest(run.output, run.driver.identity.key)
    further = run.airline.grant("flights", job=OTHER_JOB, policy=policy())
    reader = quick.node(job=OTHER_JOB, run=RunId("next-0123456789ab"))
    quick.client(reader).release(envelope)
    quick.client(reader).watch()
    run.airline.revoke(further.id)
    with pytest.raises(KeyRevokedError):
        quick.client(reader).watch()
    run.quiet(run.worker)


def test_only_an_attested_node_may_wait(world: World) -> None:
    airline = world.owner("airline")
    with pytest.raises(BindingError):
        airline._call("POST", "watch", {})


def test_broker_that_ends_leaves_nobody_waiting(world: World) -> None:
    run = Running(world)
    (worker,) = waiting(world, run.worker)
    world.server.stop()
    worker._thread.join(4 * HEARD_S)  # it looks for the broker for a while
    assert not worker.waits
    assert isinstance(worker.error, BrokerError | None)


@pytest.mark.parametrize("answer", [{}, {"withdrawn": None}, {"withdrawn": [1]}, {"withdrawn": True}], ids=str)
def test_answer_of_another_form_is_a_broker_error_and_no_withdrawal(quick: World, monkeypatch: pytest.MonkeyPatch, answer: Json) -> None:
    run = Running(quick)
    monkeypatch.setattr(quick.broker, "watch", lambda *_, **__: answer)
    with pytest.raises(BrokerError):
        run.quiet(run.worker)


PEOPLE = ("ada", "bob")


class Committee:
    """A grant that one of two people must approve, approved by one, under which a worker was given a key and its driver was not."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.airline = world.owner("airline")
        self.people = {name: world.owner(name) for name in PEOPLE}
        _, envelope = world.dataset(self.airline, "airline", "flights")
        self.airline.set_approvers("flights", 1, PEOPLE)
        self.grant = self.airline.grant("flights", job=JOB, policy=policy())
        self.people["ada"].vote(self.grant.id, "approve")
        self.nodes = (world.node(Role.DRIVER), world.node())
        world.client(self.nodes[1]).release(envelope)

    @property
    def counted(self) -> int:
        found = self.world.store.get(Withdrawals, "all")
        return 0 if found is None else found.number

    def reject(self) -> None:
        self.people["ada"].vote(self.grant.id, "reject")

    def take_back(self) -> None:
        self.people["ada"].take_back(self.grant.id)

    def end(self) -> None:
        self.people["bob"].revoke(self.grant.id)

    def need_more(self) -> None:
        """A new rule, by the rule in force: both must approve."""
        self.airline.set_approvers("flights", 2, PEOPLE)
        (view,) = self.people["ada"].grant_list().changes
        self.people["ada"].vote(view.change.id, "approve")


@pytest.mark.parametrize("step", ["reject", "take_back", "end", "need_more"])
def test_lost_approval_is_a_withdrawal(quick: World, step: str) -> None:
    """Counted, so that other brokers look; and heard by the node that has the key, and by one of the other role in its run."""
    committee = Committee(quick)
    before = committee.counted
    for node in committee.nodes:
        with quick.client(node) as client:
            client.watch()
    committee.people["bob"].vote(committee.grant.id, "approve")
    committee.people["bob"].take_back(committee.grant.id)
    assert committee.counted == before + 1, "an approval withdraws nothing, one that is taken back may"
    getattr(committee, step)()
    assert committee.counted == before + 2
    for node in committee.nodes:
        with quick.client(node) as client, pytest.raises(KeyRevokedError):
            client.watch()
