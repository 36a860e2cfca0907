"""The client of the vendors' services at its limits: sizes, pauses to the second, heads that do not end, what is left of a call's time."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from support.raw_server import RawServer
from support.vendor_server import VendorServer

from confide.attest import vendor_http
from confide.attest.vendor_http import MAX_RETRY_AFTER_S, Http
from confide.crypto import timed_http
from confide.errors import CollateralError

LARGEST = 256 * 1024
NOBODY = "http://127.0.0.1:1"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@dataclass
class Clock:
    """Time that passes only in pauses."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(vendor_http, "time", made)
    monkeypatch.setattr(timed_http, "time", made)
    return made


@pytest.fixture
def server() -> Iterator[VendorServer]:
    made = VendorServer()
    yield made
    made.close()


# --- what is asked, and how large an answer is ------------------------------------------------------------------------


def test_parameters_are_in_the_address_and_not_in_what_is_said_of_it(server: VendorServer) -> None:
    seen: list[str] = []
    server.before = lambda path, _: seen.append(path)  # type: ignore[func-returns-value]
    http = Http(timeout_s=5, retries=0)
    assert http.get(f"{server.url}/a") is None
    assert http.get(f"{server.url}/a", name="x y", number=7) is None
    assert seen == ["/a", "/a?name=x+y&number=7"]
    with pytest.raises(CollateralError) as caught:
        Http(retries=0).get(f"{NOBODY}/a", name="x")
    assert caught.value.facts == {"url": f"{NOBODY}/a", "reason": "NewConnectionError"}


def test_answer_is_as_large_as_it_may_be_and_no_larger(server: VendorServer) -> None:
    http = Http(timeout_s=5, retries=0)
    server.replies["/"] = (200, {"Name": "value"}, b"x" * LARGEST)
    found = http.get(f"{server.url}/")
    assert found is not None
    assert (found.body, found.headers["name"]) == (b"x" * LARGEST, "value")
    server.replies["/"] = (200, {}, b"x" * (LARGEST + 1))
    with pytest.raises(CollateralError, match="too large"):
        http.get(f"{server.url}/")


def test_packed_answer_is_refused_before_it_is_unpacked(server: VendorServer) -> None:
    """A few kilobytes that would be ten megabytes: it is said that it is packed, not that it is large."""
    server.replies["/"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(10 * 2**20)))
    with pytest.raises(CollateralError, match="packed"):
        Http(timeout_s=5, retries=0).get(f"{server.url}/")


def test_connection_of_an_answer_that_is_too_large_is_closed_at_once() -> None:
    """Not when the error and all that it names are forgotten."""
    endless = RawServer([HEAD + b"\r\n", *[b" " * 65536] * 10_000])
    try:
        with pytest.raises(CollateralError, match="too large") as caught:
            Http(timeout_s=5, retries=0).get(endless.url)
        assert endless.cut.wait(10), caught.value
    finally:
        endless.close()


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_pauses_grow_up_to_ten_seconds(clock: Clock) -> None:
    with pytest.raises(CollateralError, match="cannot be reached"):
        Http(retries=6, sleep=clock.sleep).get(NOBODY)
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    clock.pauses = []
    with pytest.raises(CollateralError, match="cannot be reached"):
        Http(sleep=clock.sleep).get(NOBODY)
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0]


def test_service_is_asked_once_if_nothing_is_to_be_repeated(clock: Clock, server: VendorServer) -> None:
    server.before = lambda *_: (503, {}, b"")
    http = Http(retries=0, sleep=clock.sleep)
    for url in (NOBODY, server.url):
        with pytest.raises(CollateralError):
            http.get(f"{url}/")
    assert clock.pauses == []
    assert server.asked == {"/": 1}


@pytest.mark.parametrize(("total_s", "pauses"), [(1.0, []), (1.1, [1.0]), (3.0, [1.0]), (3.1, [1.0, 2.0]), (1e9, [1.0, 2.0, 4.0])])
def test_no_pause_is_begun_that_ends_with_the_calls_time(clock: Clock, server: VendorServer, total_s: float, pauses: list[float]) -> None:
    """Neither when nobody answers nor when who answers is busy."""
    server.before = lambda *_: (503, {}, b"")
    for url in (NOBODY, server.url):
        clock.now, clock.pauses = 1000.0, []
        with pytest.raises(CollateralError):
            Http(retries=3, backoff_s=1.0, total_s=total_s, sleep=clock.sleep).get(url)
        assert clock.pauses == pauses


@pytest.mark.parametrize(
    ("asked", "pauses"),
    [
        ("0", [0.0]),
        (" 7 ", [7.0]),
        ("20", [MAX_RETRY_AFTER_S]),
        ("0000000000000020", [20.0]),
        ("0000000000000021", []),
        ("21", []),
        ("9" * 1000, []),
        ("\u00b2", [0.5]),
        ("1e1", [0.5]),
        ("1_0", [0.5]),
        ("+1", [0.5]),
    ],
)
def test_pause_that_is_asked_for_is_kept_up_to_its_limit(clock: Clock, server: VendorServer, asked: str, pauses: list[float]) -> None:
    server.before = lambda _, count: (429, {"Retry-After": asked}, b"") if count == 1 else None
    server.replies["/"] = (200, {}, b"found")
    http = Http(total_s=1e9, sleep=clock.sleep)
    if pauses:
        found = http.get(f"{server.url}/")
        assert found is not None
        assert found.body == b"found"
    else:
        with pytest.raises(CollateralError, match="refuses to answer"):
            http.get(f"{server.url}/")
    assert clock.pauses == pauses


@pytest.mark.parametrize("zone", [None, UTC, timezone(timedelta(hours=5)), timezone(timedelta(hours=-5))], ids=str)
def test_time_that_is_asked_for_is_of_its_zone(clock: Clock, server: VendorServer, zone: timezone | None) -> None:
    """One that names none (-0000) is UTC."""
    until = datetime.now(UTC) + timedelta(seconds=15)
    asked = format_datetime(until.replace(tzinfo=None) if zone is None else until.astimezone(zone))
    server.before = lambda _, count: (503, {"Retry-After": asked}, b"") if count == 1 else None
    assert Http(sleep=clock.sleep).get(f"{server.url}/") is None
    (pause,) = clock.pauses
    assert 0 < pause <= 15


def test_time_that_has_passed_is_no_pause(clock: Clock, server: VendorServer) -> None:
    asked = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    server.before = lambda _, count: (503, {"Retry-After": asked}, b"") if count == 1 else None
    assert Http(sleep=clock.sleep).get(f"{server.url}/") is None
    assert clock.pauses == [0.0]


def test_only_a_status_that_is_a_sign_of_being_busy_is_asked_again(clock: Clock, server: VendorServer) -> None:
    for status in (403, 428, 430, 499, 501, 505):
        server.replies["/"] = (status, {"Retry-After": "1"}, b"")
        with pytest.raises(CollateralError, match="refuses to answer") as caught:
            Http(sleep=clock.sleep).get(f"{server.url}/")
        assert caught.value.facts["status"] == status
    assert clock.pauses == []
    for status in (429, 500, 502, 503, 504):
        clock.pauses = []
        server.before = lambda *_, status=status: (status, {"Retry-After": "1"}, b"") if not clock.pauses else None  # type: ignore[misc]
        server.replies["/"] = (200, {}, b"found")
        assert Http(sleep=clock.sleep).get(f"{server.url}/") is not None
        assert clock.pauses == [1.0]


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("until", "in_time"), [(1009.0, True), (1010.0, False)])
def test_answer_ends_before_its_time_does(clock: Clock, monkeypatch: pytest.MonkeyPatch, until: float, in_time: bool) -> None:
    """At the very end of a call's time nothing more is read."""
    times = iter([clock.now, clock.now])  # when the call begins, and its one attempt
    monkeypatch.setattr(clock, "monotonic", lambda: next(times, until))
    server = RawServer([HEAD + b"Content-Length: 2\r\n\r\nxx"])
    try:
        if in_time:
            assert Http(total_s=10.0, retries=0).get(server.url) is not None
        else:
            with pytest.raises(CollateralError, match="takes too long"):
                Http(total_s=10.0, retries=0).get(server.url)
    finally:
        server.close()


def test_answer_has_no_more_time_than_is_left_of_the_call() -> None:
    """What comes after three seconds is not waited for if all may take a fifth of one, though an answer alone has a minute."""
    server = RawServer([b"", HEAD + b"Content-Length: 0\r\n\r\n"], pause_s=3)
    try:
        with pytest.raises(CollateralError, match="cannot be reached"):
            Http(timeout_s=60, total_s=0.2, retries=0).get(server.url)
    finally:
        server.close()


def test_head_that_does_not_end_is_no_answer() -> None:
    """When its time is over the connection is cut, which ends the head too: what was there of it by then is not taken for all of it.

    Each line comes in time, and the last one after two seconds.
    """
    server = RawServer([HEAD + b"Content-Length: 0\r\n", *[b"X: x\r\n"] * 40, b"\r\n"], pause_s=0.05)
    try:
        with pytest.raises(CollateralError, match="cannot be reached") as caught:
            Http(timeout_s=0.3, retries=0).get(server.url)
    finally:
        server.close()
    assert caught.value.facts["reason"] == "ReadTimeoutError"


def test_connection_is_used_again() -> None:
    """Of one service several things are asked one after the other."""
    server = RawServer([HEAD + b"Content-Length: 2\r\n\r\nxx"], repeat=True)
    http = Http(timeout_s=5, retries=0)
    try:
        for _ in range(3):
            found = http.get(server.url)
            assert found is not None
            assert found.body == b"xx"
        assert server.asked == 1
    finally:
        server.close()


def test_thread_that_watches_a_head_ends_with_it_and_holds_up_no_program(server: VendorServer) -> None:
    before, during = set(threading.enumerate()), set[threading.Thread]()
    server.before = lambda *_: during.update(threading.enumerate())  # type: ignore[func-returns-value]
    assert Http(timeout_s=60, retries=0).get(f"{server.url}/") is None
    started = during - before
    assert started
    assert all(one.daemon for one in started)
    for one in started:
        one.join(5)
        assert not one.is_alive()


def test_time_is_waited_for_by_default() -> None:
    began = time.monotonic()
    with pytest.raises(CollateralError, match="cannot be reached"):
        Http(retries=1, backoff_s=0.05).get(NOBODY)
    assert time.monotonic() - began >= 0.05
