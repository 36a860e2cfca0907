"""The HTTPS server around the broker: what it does not serve, and how it ends."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from support.broker_world import World

from confide.crypto.http import request
from confide.crypto.http_messages import PROBLEM_TYPE, Response
from confide.crypto.tls import Channel, Identity, PinnedSpki, connect
from confide.errors import ChannelError, ProtocolError, StoreError
from confide.keys import open_connections, server
from confide.keys.server import BrokerServer


def _open(server: BrokerServer) -> Channel:
    host, port = server.url.removeprefix("https://").split(":")
    return connect(host, int(port), Identity.generate("x"), trust=PinnedSpki(server.spki))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/kbs/v0/auth"),
        ("POST", "/confide/v0/"),
        ("GET", "/confide/v0/audit"),
        ("PUT", "/confide/v0/datasets/../manifest"),
        ("DELETE", "/confide/v0/grants/0123456789abcdef/manifest"),
        ("GET", "/confide/v0/keys/../keys"),
    ],
)
def test_what_is_no_endpoint_is_not_found(world: World, method: str, path: str) -> None:
    answer = request(_open(world.server), method, path)
    assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM_TYPE)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/kbs/v0/auth", None),
        ("/kbs/v0/auth", {"version": "0.4.0"}),
        ("/kbs/v0/attest", {}),
        ("/confide/v0/release", {"manifest": {}, "purpose": "burn"}),
        ("/confide/v0/release", {"manifest": {}, "purpose": "read", "more": 1}),
        ("/confide/v0/outputs", {"name": "x", "inputs": [1], "recipients": []}),
        ("/confide/v0/keys", {"key": 3}),
        ("/confide/v0/open", {"manifest": []}),
        ("/confide/v0/enrol", {"owner": "airline"}),
    ],
)
def test_request_of_another_form_is_refused_with_a_problem(world: World, path: str, body: dict[str, object] | None) -> None:
    answer: Response = request(_open(world.server), "POST", path, body, {"cookie": "kbs-session-id=x"})
    assert answer.status in {400, 401}
    assert answer.headers["content-type"] == PROBLEM_TYPE


def test_stop_ends_open_connections_and_is_idempotent(world: World) -> None:
    channel = _open(world.server)
    assert request(channel, "GET", "/").status == 404
    started = time.monotonic()
    world.server.stop()
    world.server.stop()
    assert time.monotonic() - started < 5
    with pytest.raises((ChannelError, ProtocolError)):
        request(channel, "GET", "/")
    with pytest.raises(ChannelError):
        _open(world.server)


def test_session_is_forgotten_with_its_connection(world: World) -> None:
    with world.client(world.node()) as client:
        client.audit_head()
        assert len(world.broker._sessions._sessions) == 1
    deadline = time.monotonic() + 5
    while world.broker._sessions._sessions and time.monotonic() < deadline:
        time.sleep(0.01)
    assert world.broker._sessions._sessions == {}


def test_connections_beyond_the_cap_are_turned_away_and_others_live_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.server._serving, "_limit", 1)
    first = _open(world.server)
    with pytest.raises((ChannelError, ProtocolError)):
        request(_open(world.server), "GET", "/")
    assert request(first, "GET", "/").status == 404


def test_client_that_speaks_no_tls_holds_up_nobody(world: World) -> None:
    import socket

    host, port = world.server.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert request(_open(world.server), "GET", "/").status == 404


def test_server_that_ends_in_order_answers_what_was_sent_and_closes_what_is_idle(world: World) -> None:
    new, idle = _open(world.server), _open(world.server)  # told in this order that there is no further request
    assert request(idle, "GET", "/livez").status == 200
    cut = threading.Thread(target=lambda: ended.append(world.server.stop(within=10)))
    ended: list[int] = []
    cut.start()
    until_closed = time.monotonic() + 5
    while not idle.stirred:
        assert time.monotonic() < until_closed
        time.sleep(0.01)
    answer = request(new, "GET", "/livez")
    assert (answer.status, answer.headers.get("connection")) == (200, "close")
    cut.join(10)
    assert ended == [0]


@pytest.mark.parametrize(
    ("begin", "rest"),
    [
        (b"GET /livez HTTP/1.1\r\nhost: x\r\n", b"\r\n"),
        (b"POST /livez HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{", b"}"),
    ],
    ids=["head", "body"],
)
def test_request_that_has_begun_is_answered_by_a_server_that_ends(world: World, begin: bytes, rest: bytes) -> None:
    channel = _open(world.server)
    assert request(channel, "GET", "/livez").status == 200
    (last_call,) = world.server._serving._served.values()

    def wait_until(between: bool) -> None:
        end = time.monotonic() + 5
        while last_call._between is not between:
            assert time.monotonic() < end, "a request that has begun is taken for none"
            time.sleep(0.01)

    wait_until(between=True)
    channel.send(begin)
    wait_until(between=False)
    last_call.announce()
    channel.send(rest)
    assert b"connection: close" in channel.recv(65536)
    channel.close()


def _taken_late(world: World, monkeypatch: pytest.MonkeyPatch, end: Callable[[BrokerServer], object]) -> Channel:
    """A connection that was accepted before the server began to end, and is taken after it."""
    take = world.server._take
    monkeypatch.setattr(world.server, "_take", lambda channel: (end(world.server), take(channel)))
    host, port = world.server.url.removeprefix("https://").split(":")
    return connect(host, int(port), Identity.generate("late"), trust=PinnedSpki(world.server.spki), timeout=5)


def test_connection_that_was_accepted_while_the_server_ended_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is closed next: nobody may be served any more, and no thread stays behind."""
    with pytest.raises((ChannelError, ProtocolError)):
        request(_taken_late(world, monkeypatch, lambda server: server.stop()), "GET", "/livez")
    assert len(world.server._serving) == 0


def test_connection_that_was_accepted_while_requests_are_finished_has_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came before the end, so its request is answered; and it does not keep the server until the drain is over."""
    late = _taken_late(world, monkeypatch, lambda server: server._serving.finish(0, lambda: False))
    answer = request(late, "GET", "/livez")
    assert (answer.status, answer.headers.get("connection")) == (200, "close")


def test_connection_whose_thread_has_not_begun_is_cut_off_too(world: World) -> None:
    from confide.crypto.http import LastCall

    channel = _open(world.server)
    world.server._serving.add(channel, LastCall(channel))
    assert world.server.stop() >= 1
    assert channel.closed


def test_second_end_lets_nobody_wait_any_longer(world: World) -> None:
    silent = _open(world.server)
    world.server.end()
    world.server.end()
    before = time.monotonic()
    assert world.server.stop(within=30) == 1
    assert time.monotonic() - before < 10
    silent.close()


@pytest.mark.timeout(20)
def test_signal_at_any_line_of_the_end_is_taken(world: World) -> None:
    """A handler runs on the thread that it interrupts, which may hold any lock that an end takes: here one runs at each of its lines."""
    silent = _open(world.server)
    files, lines = {server.__file__, open_connections.__file__, threading.__file__}, 0

    def signalled(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines += 1
            world.server.end()
        return signalled

    before = sys.gettrace()
    sys.settrace(signalled)
    try:
        cut = world.server.stop(within=0.2)
    finally:
        sys.settrace(before)
    assert (cut, lines > 20) == (1, True)
    silent.close()


def test_connection_that_the_broker_has_ended_while_idle_is_opened_anew(world: World) -> None:
    """Also for requests that must not be done twice: nothing was sent on the old one."""
    airline = world.owner("airline")
    airline.create_key("one")
    for channel, last_call in list(world.server._serving._served.items()):
        last_call.announce()
        while not channel.closed:
            time.sleep(0.01)
    airline.create_key("two")


def test_certificate_of_another_key_is_never_shown(world: World) -> None:
    with pytest.raises(StoreError):
        world.server.renew(Identity.generate("another"))
