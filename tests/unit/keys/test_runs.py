"""What is kept of runs and of grants ends with them, and never while it could still decide over anything."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.broker_world import JOB, OTHER_JOB, Node, World, manifest, policy

from confide.errors import GrantError, KeyRevokedError
from confide.ids import Purpose, Role, RunId
from confide.keys import runs, standing
from confide.keys.approvals import GrantRun, Vote
from confide.keys.records import CutOff, Release, run_ref
from confide.keys.released_keys import OutputKey
from confide.keys.runs import RunSeen

HOUR = timedelta(hours=1)
SILENCE, NAME_KEPT, CLOCKS, ENDED_KEPT = 7 * HOUR, 400 * HOUR, HOUR, 30 * HOUR
"""An hour stands for a day: what the simulated vendor says of its machines ends after some weeks."""
LATE = SILENCE + timedelta(minutes=1)


class Reader:
    """A run that was given the airline's data, and then asks for an output that says that it derives from the weather service's alone."""

    def __init__(self, world: World, run: str = "reader-0123456789ab") -> None:
        self.world = world
        self.airline, self.weather = world.owner("airline"), world.owner("weather")
        _, self.flights = world.dataset(self.airline, "airline", "flights")
        self.hours, _ = world.dataset(self.weather, "weather", "hours")
        for client, key in ((self.airline, "flights"), (self.weather, "hours")):
            client.grant(key, job=JOB, policy=policy())
        self.driver, self.worker = world.node(Role.DRIVER, run=RunId(run)), world.node(run=RunId(run))
        world.client(self.worker).release(self.flights)

    def output(self, name: str = "result") -> OutputKey:
        with self.world.client(self.driver) as client:
            return client.output(name, inputs=[self.hours.dataset], recipients=[])

    def watch(self, node: Node) -> None:
        with self.world.client(node) as client:
            client.watch()

    def kept(self) -> int:
        return len(self.world.store.find(Release, run_ref(self.driver.run)))

    def pass_time(self, time: timedelta) -> None:
        self.world.ahead += time
        self.world.store.sweep(self.world.now())


@pytest.fixture
def quick(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for module, name, value in (
        (runs, "RUN_SILENCE", SILENCE),
        (runs, "NAME_KEPT", NAME_KEPT),
        (runs, "CLOCKS", CLOCKS),
        (standing, "ENDED_KEPT", ENDED_KEPT),
    ):
        assert getattr(module, name) == value * 24
        monkeypatch.setattr(module, name, value)
    world.broker._watch_s = 0.0
    return world


def test_what_a_run_read_is_inherited_as_long_as_the_run_goes_on(quick: World) -> None:
    """For fifty times as long, of waiting for withdrawals and nothing else, swept all the while."""
    run = Reader(quick)
    for _ in range(70):
        run.pass_time(SILENCE * 3 / 4)
        run.watch(run.worker)
    assert run.kept() == 1
    assert run.output().inherits == ("airline/flights", "weather/hours")


@pytest.mark.parametrize("swept", [False, True])
def test_run_that_was_silent_for_too_long_makes_no_output_that_forgets_what_it_read(quick: World, swept: bool) -> None:
    """Before its releases are gone, and after."""
    run = Reader(quick)
    quick.ahead = LATE
    if swept:
        run.pass_time(CLOCKS)
        assert run.kept() == 0
    for attempt in (run.output, lambda: quick.client(run.worker).release(run.flights)):
        with pytest.raises(GrantError, match="silent for too long"):
            attempt()
    for node in (run.worker, run.driver):
        with pytest.raises(KeyRevokedError, match="silent"):
            run.watch(node)
    run.pass_time(NAME_KEPT - CLOCKS - timedelta(minutes=10))
    with pytest.raises(GrantError, match="silent for too long"):
        run.output()


def test_output_that_was_made_in_time_is_not_registered_by_a_run_that_is_over(quick: World) -> None:
    run = Reader(quick)
    made = run.output()
    envelope = manifest(made, run.driver.identity.key)
    quick.ahead = LATE
    with pytest.raises(GrantError, match="silent"), quick.client(run.driver) as client:
        client.register_manifest(envelope)


def test_node_that_was_cut_off_stays_cut_off_as_long_as_its_run_goes_on(quick: World) -> None:
    run = Reader(quick)
    quick.client(run.driver).cut_off(run.worker.name)
    for _ in range(3):
        run.pass_time(SILENCE * 3 / 4)
        run.watch(run.driver)
        with pytest.raises(GrantError, match="does not accept"):
            quick.client(run.worker).release(run.flights)
    assert len(quick.store.find(CutOff, run_ref(run.driver.run))) == 1
    run.pass_time(LATE + CLOCKS)
    assert quick.store.find(CutOff, run_ref(run.driver.run)) == []
    with pytest.raises(GrantError, match="silent"):
        quick.client(run.worker).release(run.flights)


def test_another_runs_silence_is_its_own(quick: World) -> None:
    run = Reader(quick)
    quick.ahead = LATE
    other = quick.node(Role.DRIVER, run=RunId("fresh-0123456789ab"))
    assert quick.client(other).output("result", inputs=[run.hours.dataset], recipients=[]).inherits == ("weather/hours",)
    run.airline.grant("flights", job=OTHER_JOB, policy=policy())
    quick.client(quick.node(job=OTHER_JOB, run=run.driver.run)).release(run.flights)


def test_run_is_written_of_at_half_of_its_time_and_not_at_each_request(quick: World) -> None:
    run = Reader(quick)
    (seen,) = quick.store.find(RunSeen, run_ref(run.driver.run))
    quick.ahead = SILENCE / 2 - timedelta(minutes=1)
    quick.client(run.worker).release(run.flights)
    run.watch(run.worker)
    assert quick.store.find(RunSeen, run_ref(run.driver.run)) == [seen]
    quick.ahead = SILENCE / 2 + timedelta(minutes=1)
    run.watch(run.worker)
    (later,) = quick.store.find(RunSeen, run_ref(run.driver.run))
    assert later.until - seen.until > SILENCE / 2


def test_runs_that_begin_clear_what_others_have_left(quick: World) -> None:
    """Nobody else sweeps: many short runs, each a day after the one before, leave no more than those of the last days, and their names."""
    first = Reader(quick)
    sizes = []
    for number in range(40):
        quick.ahead += HOUR
        quick.client(quick.node(run=RunId(f"daily-{number:012x}"))).release(first.flights)
        sizes.append(sum(len(part) for _, part in quick.store.walk(Release)))
    assert max(sizes) <= 10
    assert abs(sizes[-1] - sizes[15]) <= 1  # the end of one's time may fall just before a step or just after it
    assert sum(len(part) for _, part in quick.store.walk(RunSeen)) == 41


class Counted:
    """A grant that counts runs and was approved, used by one run."""

    def __init__(self, world: World, **changes: object) -> None:
        self.world = world
        self.airline, self.ada = world.owner("airline"), world.owner("ada")
        _, self.flights = world.dataset(self.airline, "airline", "flights")
        self.airline.set_approvers("flights", 1, ["ada"])
        self.grant = self.airline.grant("flights", job=JOB, policy=policy(), max_runs=2, **changes)  # type: ignore[arg-type]
        self.ada.vote(self.grant.id, "approve")
        self.use("first-0123456789ab")

    def use(self, run: str) -> None:
        with self.world.client(self.world.node(run=RunId(run))) as client:
            client.release(self.flights, Purpose.READ)

    def kept(self) -> tuple[int, int]:
        self.world.store.sweep(self.world.now())
        return len(self.world.store.find(Vote, self.grant.id)), len(self.world.store.find(GrantRun, self.grant.id))


def test_approvals_and_counted_runs_stay_while_their_grant_can_be_used(quick: World) -> None:
    counted = Counted(quick)
    quick.ahead = 10 * ENDED_KEPT
    assert counted.kept() == (1, 1)
    counted.use("second-0123456789ab")
    with pytest.raises(GrantError, match="runs"):
        counted.use("third-0123456789ab")


@pytest.mark.parametrize("revoked", [False, True])
def test_approvals_and_counted_runs_go_with_their_grant(quick: World, revoked: bool) -> None:
    end = None if revoked else quick.now() + HOUR
    counted = Counted(quick, not_after=end)
    if revoked:
        counted.airline.revoke(counted.grant.id)
    else:
        quick.ahead = HOUR
    quick.ahead += ENDED_KEPT - timedelta(minutes=10)
    assert counted.kept() == (1, 1)
    (view,) = counted.airline.grant_list().grants
    assert (view.standing.approved, view.standing.runs) == (("ada",), 1)
    quick.ahead += timedelta(minutes=20)
    assert counted.kept() == (0, 0)
    with pytest.raises(GrantError, match="revoked" if revoked else "ended"):
        counted.use("second-0123456789ab")
