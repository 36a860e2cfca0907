"""Connections are served at once, each in a thread of its own while it lasts, and threads are kept for a while and not longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from confide.keys.serving_threads import ServingThreads


class Served:
    """Notes which thread serves what, for as long as it is told to."""

    def __init__(self) -> None:
        self.by: dict[str, int] = {}
        self.going: dict[str, threading.Event] = {}

    def begin(self, name: str) -> str:
        self.going[name] = threading.Event()
        return name

    def __call__(self, channel: Any, _last_call: Any) -> None:
        self.by[channel] = threading.get_ident()
        assert self.going[channel].wait(10)
        if channel == "broken":
            raise RuntimeError(channel)


@pytest.fixture
def served() -> Iterator[Served]:
    found = Served()
    yield found
    for event in found.going.values():
        event.set()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def waiting(threads: ServingThreads) -> int:
    return threads._free


def take(threads: ServingThreads, served: Served, name: str) -> None:
    threads.take(served.begin(name), None)  # type: ignore[arg-type]
    until(lambda: name in served.by)


def alive(ident: int) -> bool:
    return any(thread.ident == ident for thread in threading.enumerate())


def test_connections_at_once_have_threads_of_their_own_and_later_ones_theirs(served: Served) -> None:
    threads = ServingThreads(served)
    take(threads, served, "a")
    take(threads, served, "b")
    assert served.by["a"] != served.by["b"]
    served.going["a"].set()
    until(lambda: waiting(threads) == 1)
    take(threads, served, "c")
    assert served.by["c"] == served.by["a"]
    take(threads, served, "d")
    assert served.by["d"] not in {served.by["b"], served.by["c"]}
    threads.end()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_in_which_serving_failed_ends_and_the_next_connection_is_served(served: Served) -> None:
    threads = ServingThreads(served)
    take(threads, served, "broken")
    served.going["broken"].set()
    until(lambda: not alive(served.by["broken"]))
    assert waiting(threads) == 0
    take(threads, served, "a")
    threads.end()


def test_thread_that_nobody_needs_ends_and_is_not_counted_on(served: Served) -> None:
    threads = ServingThreads(served, kept_s=0.05)
    take(threads, served, "a")
    served.going["a"].set()
    until(lambda: not alive(served.by["a"]))
    assert waiting(threads) == 0
    take(threads, served, "b")
    threads.end()


def test_connection_that_comes_as_a_thread_gives_up_waiting_is_served(served: Served) -> None:
    threads = ServingThreads(served, kept_s=0.001)
    for number in range(200):
        take(threads, served, str(number))
        served.going[str(number)].set()
        time.sleep(0.001)
    threads.end()


def test_after_the_end_no_thread_waits(served: Served) -> None:
    threads = ServingThreads(served, kept_s=60)
    take(threads, served, "a")
    take(threads, served, "b")
    served.going["a"].set()
    until(lambda: waiting(threads) == 1)
    threads.end()
    until(lambda: not alive(served.by["a"]))
    served.going["b"].set()
    until(lambda: not alive(served.by["b"]))
