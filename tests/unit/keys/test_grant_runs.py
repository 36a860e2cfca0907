"""Grants for so many runs and for a time, over TLS against real brokers: what is counted, and who wins the last run."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from support.broker_world import JOB, Node, World, policy
from support.databases import Place

from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.errors import GrantError
from confide.ids import Purpose, Role, RunId
from confide.keys.approvals import GrantRun
from confide.keys.client import OwnerClient
from confide.keys.standing import Standings

FIRST, SECOND, THIRD = RunId("delays-1"), RunId("delays-2"), RunId("delays-3")


def granted(world: World, **terms: object) -> tuple[OwnerClient, Json]:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy(), **terms)  # type: ignore[arg-type]
    return airline, envelope


def test_grant_for_two_runs_gives_keys_to_two_and_any_number_of_times_to_each(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    airline, envelope = granted(world, max_runs=2)
    for run in (FIRST, SECOND, FIRST, SECOND):
        world.client(world.node(run=run)).release(envelope)
    with pytest.raises(GrantError, match="all the runs that it is for: 2"):
        world.client(world.node(run=THIRD)).release(envelope)
    world.client(world.node(run=FIRST, name="worker-2")).release(envelope)
    assert ("release", "grant-missing") in world.refusals()
    (view,) = airline.grant_list().grants
    assert (view.standing.runs, view.grant.max_runs) == (2, 2)
    monkeypatch.setattr(Standings, "runs", lambda *_: 0)
    world.client(world.node(run=THIRD)).release(envelope)


def test_decision_reads_no_other_run_of_its_grant_however_many_there_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    airline, envelope = granted(world, max_runs=3001)
    (made,) = airline.grants()
    world.store.put_all(GrantRun(made.id, JOB, RunId(f"run-{number:04}")) for number in range(3000))
    world.restart()
    read: list[str] = []
    from_json = GrantRun.from_json
    monkeypatch.setattr(GrantRun, "from_json", lambda data: read.append(data["run"]) or from_json(data))
    for run in (RunId("run-0007"), FIRST, FIRST):
        world.client(world.node(run=run)).release(envelope)
    with pytest.raises(GrantError, match="all the runs that it is for: 3001"):
        world.client(world.node(run=SECOND)).release(envelope)
    world.client(world.node(run=RunId("run-2999"))).release(envelope)
    assert set(read) <= {"run-0007", FIRST, "run-2999"}
    (view,) = world.stranger(world.credential("airline")).grant_list().grants
    assert view.standing.runs == 3001
    assert set(read) <= {"run-0007", FIRST, "run-2999"}


def test_run_that_is_refused_is_not_counted(world: World) -> None:
    airline, envelope = granted(world, max_runs=1)
    bad = world.node(run=FIRST, attester=world.attester(measurement="cd" * 32))
    with pytest.raises(Exception, match="measurement"):
        world.client(bad).release(envelope)
    assert airline.grant_list().grants[0].standing.runs == 0
    world.client(world.node(run=SECOND)).release(envelope)


def test_runs_are_counted_by_outputs_as_well(world: World) -> None:
    airline = world.owner("airline")
    minted, _ = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy(), purposes=[Purpose.WRITE], max_runs=1)
    world.client(world.node(Role.DRIVER, run=FIRST)).output("result", inputs=[minted.dataset], recipients=[])
    with pytest.raises(GrantError, match="all the runs"):
        world.client(world.node(Role.DRIVER, run=SECOND)).output("result", inputs=[minted.dataset], recipients=[])


def test_count_survives_a_restart(world: World) -> None:
    _, envelope = granted(world, max_runs=1)
    world.client(world.node(run=FIRST)).release(envelope)
    world.restart()
    with pytest.raises(GrantError, match="all the runs"):
        world.client(world.node(run=SECOND)).release(envelope)


def test_one_of_many_that_race_for_the_last_run_at_two_brokers_wins(tmp_path: Path, installation: Installation, place: Place) -> None:
    world = World(tmp_path, installation, place=place.location)
    try:
        _race(world)
    finally:
        world.close()


def _race(world: World) -> None:
    airline, envelope = granted(world, max_runs=1)
    second = world.second()
    runs = [RunId(f"race-{number}") for number in range(8)]
    clients = [world.client(world.node(run=run), at=second if number % 2 else None) for number, run in enumerate(runs)]
    begin, won, refused = threading.Barrier(len(runs)), [], []

    def ask(number: int) -> None:
        begin.wait()
        try:
            clients[number].release(envelope)
            won.append(number)
        except GrantError:
            refused.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    assert len(world.store.find(GrantRun, airline.grants()[0].id)) == 1


def test_a_second_driver_under_the_name_of_a_counted_run_is_refused(world: World) -> None:
    _, envelope = granted(world, max_runs=1)
    world.client(world.node(run=FIRST)).release(envelope)
    driver: Node = world.node(Role.DRIVER, run=FIRST)
    world.client(driver).release(envelope)
    world.client(driver).release(envelope)
    with pytest.raises(GrantError, match="another driver"):
        world.client(world.node(Role.DRIVER, run=FIRST)).release(envelope)


def test_grant_begins_when_it_says(world: World) -> None:
    _, envelope = granted(world, not_before=world.now() + timedelta(minutes=5), not_after=world.now() + timedelta(minutes=10))
    with pytest.raises(GrantError, match="not begun yet"):
        world.client(world.node()).release(envelope)
    world.ahead = timedelta(minutes=6)
    world.client(world.node()).release(envelope)
    world.ahead = timedelta(minutes=11)
    with pytest.raises(GrantError, match="has ended"):
        world.client(world.node()).release(envelope)


def test_run_that_goes_on_does_not_use_up_a_newer_grant(world: World) -> None:
    airline, envelope = granted(world, max_runs=1)
    first = world.client(world.node(run=FIRST))
    first.release(envelope)
    world.ahead = timedelta(seconds=5)
    airline.grant("flights", job=JOB, policy=policy(), max_runs=1)
    first.release(envelope)
    world.client(world.node(run=SECOND)).release(envelope)
