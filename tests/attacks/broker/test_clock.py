"""The clock of the broker's machine jumps: nothing that has expired opens anything again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from support.broker_attacks import Granted, Raw
from support.broker_world import JOB, World, policy
from support.kbs_world import NAME, Kbs

from confide.cli.storage import open_for_service
from confide.errors import ClockError, ConfideError, GrantError
from confide.ids import RunId
from confide.keys.audit import new_event
from confide.keys.clock import SteadyClock

DAYS = timedelta(hours=30)


def clock_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence taken out: whatever the machine's clock says is the time."""
    monkeypatch.setattr(SteadyClock, "__call__", lambda self: self._clock())


@dataclass
class Expired:
    """Something that has a time, and what is tried with it: an error's code, or ``ok``."""

    attempt: Callable[[], str]
    refused: str


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except ConfideError as refusal:
        return refusal.code
    return "ok"


def grant(world: World) -> Expired:
    granted = Granted(world, not_after=world.now() + timedelta(hours=1))
    return Expired(lambda: attempt(lambda: world.client(world.node()).release(granted.manifest)), "grant-missing")


def session(world: World) -> Expired:
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    return Expired(lambda: raw.release(granted.manifest), "binding-mismatch")


def nonce(world: World) -> Expired:
    raw = Raw(world)
    message = raw.message(raw.auth())
    return Expired(lambda: raw.attest(message), "binding-mismatch")  # the session that it was given to is over, too


def enrolment(world: World) -> Expired:
    token, stranger = world.broker.owners.create_enrolment("harbour"), world.stranger(world.credential("harbour"))
    return Expired(lambda: attempt(lambda: stranger.enrol(token)), "credential-refused")


def guest(world: World) -> Expired:
    kbs = Kbs(world)
    ready = kbs.guest().ready()

    def get() -> str:
        answer = ready.get(NAME)
        return "ok" if answer.status == 200 else str(answer.json["code"])

    return Expired(get, "binding-mismatch")


KINDS = [grant, session, nonce, enrolment, guest]


def somebody_else_asks(world: World) -> None:
    """Some other node, so that the broker acts at this time."""
    world.client(world.node(name="other")).audit_head()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", [True, False], ids=["asked while over", "not asked"])
def test_what_has_expired_is_not_revived_by_a_clock_set_back(world: World, kind: Callable[[World], Expired], *, asked: bool) -> None:
    """Also if nobody has asked for it while it was over, but somebody for something else."""
    expired = kind(world)
    world.ahead = DAYS
    if asked:
        assert expired.attempt() == expired.refused
    somebody_else_asks(world)
    world.ahead = timedelta()
    assert expired.attempt() == "clock-set-back"
    world.ahead = DAYS - timedelta(seconds=50)
    assert expired.attempt() == expired.refused


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not nonce])  # the book of nonces forgets by itself
def test_clock_that_is_believed_revives_what_has_expired(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: Callable[[World], Expired]
) -> None:
    """The control: without the broker's own clock, each of these is open again."""
    clock_believed(monkeypatch)
    expired = kind(world)
    world.ahead = DAYS
    somebody_else_asks(world)
    world.ahead = timedelta()
    assert expired.attempt() == "ok"


def test_restarted_broker_remembers_what_time_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    expired = grant(world)
    world.ahead = DAYS
    somebody_else_asks(world)
    world.ahead = timedelta()
    world.restart()
    assert expired.attempt() == "clock-set-back"
    second = world.second()
    with pytest.raises(ClockError):
        world.client(world.node(), at=second).audit_head()
    clock_believed(monkeypatch)
    assert expired.attempt() == "ok"


def test_guests_and_owners_of_a_key_broker_service_hear_of_the_clock(world: World) -> None:
    kbs = Kbs(world)
    world.ahead = DAYS
    kbs.guest().ready()
    world.ahead = timedelta()
    for answer in (kbs.guest().auth(), kbs.post("airline", f"resource/{NAME}", b"x")):
        assert (answer.status, (answer.json or {})["code"]) == (423, "clock-set-back")


def test_jumps_count_no_run_twice_and_give_none_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world, max_runs=1)
    world.client(world.node()).release(granted.manifest)
    for ahead in (DAYS, timedelta(), DAYS):
        world.ahead = ahead
        with pytest.raises((ClockError, GrantError)):
            world.client(world.node(run=RunId("another-run"))).release(granted.manifest)
    world.client(world.node()).release(granted.manifest)
    clock_believed(monkeypatch)
    world.ahead = timedelta()
    with pytest.raises(GrantError, match="used by all the runs"):
        world.client(world.node(run=RunId("another-run"))).release(granted.manifest)


def test_times_in_the_audit_log_never_go_back(world: World) -> None:
    granted = Granted(world)
    for seconds in (0, 3, -20, 40, 3600, 3590, -3600, 7200):
        world.ahead = timedelta(seconds=seconds)
        attempt(lambda: world.client(world.node()).release(granted.manifest))
        attempt(granted.airline.keys)
    times = [datetime.fromisoformat(entry.event["time"]) for entry in world.store.audit() if entry.event]
    assert len(times) > 15
    assert all(before <= after for before, after in pairwise(times))


def test_owners_cannot_grant_and_the_operator_cannot_serve_while_the_clock_is_behind(world: World) -> None:
    granted = Granted(world)
    world.ahead = DAYS
    somebody_else_asks(world)
    world.ahead = timedelta()
    with pytest.raises(ClockError):
        granted.airline.grant("flights", job=JOB, policy=policy())
    with pytest.raises(ClockError):
        world.owner("harbour")
    world.ahead = DAYS
    world.store.append_audit(new_event("test", [], world.now() + DAYS))
    with pytest.raises(ClockError):
        open_for_service(world.store, [])
