"""The broker's clock never goes back: not in a process, not over a restart, not between brokers on one store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.databases import Place

from confide.errors import ClockError, UsageError
from confide.keys.audit import new_event
from confide.keys.clock import TOLERANCE, SteadyClock, accept
from confide.keys.custody.local import KeyFile
from confide.keys.records import Owner
from confide.keys.store import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


class Machine:
    """A machine's two clocks, turned by hand."""

    def __init__(self) -> None:
        self.date, self.up = NOW, 1000.0

    def passes(self, time: timedelta) -> None:
        self.date, self.up = self.date + time, self.up + time.total_seconds()

    def clock(self, store: Store) -> SteadyClock:
        return SteadyClock(store, lambda: self.date, elapsed=lambda: self.up)


def append(store: Store, time: datetime) -> datetime:
    store.append_audit(new_event("test", [], time))
    return time


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def unlock(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "master.key")


@pytest.fixture
def store(place: Place, unlock: KeyFile) -> Iterator[Store]:
    made = Store.create(place.location, unlock)
    yield made
    made.close()


def test_clock_that_goes_on_is_believed_however_far_it_goes(store: Store, machine: Machine) -> None:
    clock = machine.clock(store)
    for step in (timedelta(), SECOND, HOUR, 1000 * HOUR):
        machine.date += step
        assert clock() == machine.date


def test_small_step_back_makes_time_stand_still(store: Store, machine: Machine) -> None:
    clock = machine.clock(store)
    clock()
    machine.date -= TOLERANCE
    assert clock() == NOW
    machine.passes(TOLERANCE - SECOND)
    assert clock() == NOW
    machine.passes(2 * SECOND)
    assert clock() == machine.date == NOW + SECOND


def test_clock_that_was_set_back_is_refused_until_it_is_right(store: Store, machine: Machine) -> None:
    clock = machine.clock(store)
    clock()
    machine.passes(HOUR)
    machine.date -= HOUR
    for _ in range(3):
        with pytest.raises(ClockError) as refusal:
            clock()
    assert refusal.value.facts == {"seen": (NOW + HOUR).isoformat(), "got": NOW.isoformat()}
    machine.date += HOUR
    assert clock() == NOW + HOUR


def test_many_small_steps_back_are_found_out(store: Store, machine: Machine) -> None:
    clock = machine.clock(store)
    clock()
    for _ in range(6):
        machine.date -= TOLERANCE / 6
        assert clock() == NOW
    machine.date -= SECOND
    with pytest.raises(ClockError):
        clock()


def test_clock_that_stands_still_is_refused(store: Store, machine: Machine) -> None:
    """Nobody has asked since, so that no later time was seen: the time since the machine's start tells."""
    clock = machine.clock(store)
    clock()
    machine.up += TOLERANCE.total_seconds() + 1
    with pytest.raises(ClockError):
        clock()


def test_restart_does_not_forget_the_latest_time(place: Place, store: Store, unlock: KeyFile, machine: Machine) -> None:
    store.append_audit(new_event("test", [], NOW + HOUR))
    store.append_audit(new_event("test", [], NOW))  # by a thread that was slow
    store.close()
    again = Store.open(place.location, unlock)
    assert again.latest == NOW + HOUR
    with pytest.raises(ClockError):
        machine.clock(again)()
    machine.date = NOW + HOUR - SECOND
    assert machine.clock(again)() == NOW + HOUR
    again.close()


def test_brokers_on_one_store_have_one_time(place: Place, store: Store, unlock: KeyFile, machine: Machine) -> None:
    second = Store.open(place.location, unlock)
    clock = machine.clock(second)
    assert clock() == NOW
    store.append_audit(new_event("test", [], NOW + HOUR))
    second.audit()
    with pytest.raises(ClockError):
        clock()
    second.close()


def test_step_that_fails_does_not_set_the_clock(store: Store) -> None:
    store.append_audit(new_event("test", [], NOW))
    with pytest.raises(UsageError), store.transaction():
        accept(store, "no later time", append(store, NOW + HOUR))
    assert store.latest == NOW


def test_operator_says_in_the_log_that_the_later_time_was_wrong(place: Place, store: Store, unlock: KeyFile, machine: Machine) -> None:
    store.put(Owner("airline", b"key", NOW))
    store.append_audit(new_event("test", [], NOW + 1000 * HOUR))
    with pytest.raises(ClockError):
        machine.clock(store)()
    assert accept(store, "the machine came up in the year 2030", NOW) == NOW + 1000 * HOUR
    store.close()
    again = Store.open(place.location, unlock)
    event = again.audit()[-1].event
    assert event is not None
    assert {"action": "clock-accepted", "owners": ["airline"], "reason": "the machine came up in the year 2030"}.items() <= event.items()
    assert event["seen"] == (NOW + 1000 * HOUR).isoformat()
    assert machine.clock(again)() == NOW
    again.close()


def test_there_is_nothing_to_accept_while_the_clock_is_right(store: Store) -> None:
    with pytest.raises(UsageError):
        accept(store, "why not", NOW)
    store.append_audit(new_event("test", [], NOW))
    with pytest.raises(UsageError):
        accept(store, "why not", NOW)
