"""HTTP over channels: the client, the server, and what either may send to the other."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator

import pytest

from confide.crypto.http import MAX_BODY_BYTES, request, serve_connection
from confide.crypto.http_messages import PROBLEM_TYPE, Request, Response, problem
from confide.crypto.tls import Channel, Identity
from confide.errors import (
    AppraisalError,
    BrokerError,
    ChannelError,
    ChannelTimeoutError,
    ConfideError,
    CredentialError,
    GrantError,
    ParseError,
    PolicyError,
    ProtocolError,
    RollbackError,
    RunNotFoundError,
    StoreError,
    UsageError,
)


def show(asked: Request) -> Response:
    """A handler that tells what it saw."""
    if asked.path == "/refuse":
        raise GrantError("no grant covers this job", key="airline/flights")
    if asked.path == "/fail":
        raise RuntimeError("canary-in-the-exception")
    if asked.path == "/unsendable":
        return Response(200, json={"x": float("nan")})
    if asked.path == "/nothing":
        return Response(204)
    seen = {"method": asked.method, "path": asked.path, "query": dict(asked.query), "json": asked.json}
    seen["cookie"] = asked.headers.get("cookie")
    return Response(201, {"Set-Cookie": "kbs-session-id=1"}, seen)


@pytest.fixture
def client(server_of) -> Iterator[Channel]:
    with server_of(lambda channel: serve_connection(channel, show, request_timeout=1)).connect() as channel:
        yield channel


def answer(server_of, data: bytes, *, hold: bool = False) -> Channel:
    """A channel to a server that reads a little and then says ``data``."""
    release = threading.Event()

    def say(channel: Channel) -> None:
        channel.recv(65536)
        channel.send(data)
        if hold:
            release.wait(3)

    return server_of(say).connect()


def exchange(channel: Channel, data: bytes) -> bytes:
    """Send raw bytes, read to the end."""
    with contextlib.suppress(ChannelError):
        channel.send(data)
    out = b""
    with contextlib.suppress(ChannelError):
        while part := channel.recv(65536):
            out += part
    return out


# --- honest ------------------------------------------------------------------------------------------------------------


def test_requests_follow_each_other_on_one_channel(client) -> None:
    for number in range(3):
        got = request(client, "POST", f"/a/b?n={number}&x=%C3%A9", {"number": number}, {"Cookie": "c=1"})
        assert (got.status, got.headers["set-cookie"], got.headers["content-type"]) == (201, "kbs-session-id=1", "application/json")
        expected = {"method": "POST", "path": "/a/b", "query": {"n": str(number), "x": "é"}, "json": {"number": number}, "cookie": "c=1"}
        assert got.json == expected


def test_body_may_be_missing_both_ways(client) -> None:
    assert request(client, "GET", "/x").json["json"] is None
    got = request(client, "DELETE", "/nothing")
    assert (got.status, got.json) == (204, None)


def test_handler_sees_the_channel(server_of) -> None:
    seen = []
    identity = Identity.generate("client")
    server = server_of(lambda channel: serve_connection(channel, lambda asked: seen.append(asked.channel) or Response(200)))
    with server.connect(identity) as channel:
        request(channel, "GET", "/")
        assert seen[0].peer_spki == identity.spki_der
        assert seen[0].exporter() == channel.exporter()


def test_large_body_passes(client) -> None:
    body = {"x": "y" * 3_000_000}
    assert request(client, "POST", "/", body).json["json"] == body


def test_client_that_waits_for_permission_gets_it(client) -> None:
    head = HEAD + b"content-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    client.send(head)
    assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
    assert exchange(client, b"{}").startswith(b"HTTP/1.1 201 ")


def test_requests_sent_at_once_are_answered_in_order(client) -> None:
    two = b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    out = exchange(client, two)
    assert out.index(b'"/1"') < out.index(b'"/2"')


# --- problems ----------------------------------------------------------------------------------------------------------


def test_error_of_a_handler_arrives_as_a_problem_object(client) -> None:
    got = request(client, "GET", "/refuse")
    assert (got.status, got.headers["content-type"]) == (403, PROBLEM_TYPE)
    assert got.json["type"] == "urn:confide:error:grant-missing"
    assert {k: got.json[k] for k in ("code", "detail", "status", "facts", "exit_status")} == {
        "code": "grant-missing",
        "detail": "no grant covers this job",
        "status": 403,
        "facts": {"key": "airline/flights"},
        "exit_status": 4,
    }
    assert request(client, "GET", "/x").status == 201


@pytest.mark.parametrize("path", ["/fail", "/unsendable"])
def test_failure_of_a_handler_tells_nothing_to_peer_or_log(client, caplog, path: str) -> None:
    with caplog.at_level(logging.DEBUG):
        got = request(client, "GET", path)
    assert (got.status, got.json["detail"]) == (500, "the server failed")
    assert "canary-in-the-exception" not in json.dumps(got.json)
    assert "a handler failed" in caplog.text
    assert "canary-in-the-exception" not in "\n".join(record.getMessage().split("raise RuntimeError")[0] for record in caplog.records)
    assert request(client, "GET", "/x").status == 201


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x"), 400),
        (ParseError("x"), 400),
        (ProtocolError("x"), 400),
        (PolicyError("x"), 400),
        (AppraisalError("x"), 401),
        (CredentialError("x"), 401),
        (GrantError("x"), 403),
        (RunNotFoundError("x"), 404),
        (RollbackError("x"), 409),
        (StoreError("x"), 503),
        (BrokerError("x"), 503),
        (ConfideError("x"), 500),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_status_follows_from_the_error(error: ConfideError, status: int) -> None:
    assert problem(error).status == status
    assert problem(error, 418).json["status"] == 418


# --- hostile clients ---------------------------------------------------------------------------------------------------


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD + b"content-type: application/json\r\ncontent-length: 2\r\n\r\n[]",
        HEAD + b"content-type: application/json\r\ncontent-length: 1\r\n\r\n{",
        HEAD + b"content-type: application/json\r\ncontent-length: 5005\r\n\r\n" + b'{"a":' + b"1" * 4999 + b"}",
        HEAD + b"content-type: text/plain\r\ncontent-length: 2\r\n\r\n{}",
        HEAD + b"content-length: 2\r\n\r\n{}",
        HEAD + b"cookie: a\r\ncookie: b\r\n\r\n",
        HEAD + b"x: " + b"y" * 40000 + b"\r\n\r\n",
        HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"x: \x00\r\n\r\n",
        b"GET /?a=1&a=2 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /?a HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /?a=%FF HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /?" + b"&".join(b"a%d=1" % i for i in range(40)) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=[
        "not http",
        "no host",
        "array",
        "cut json",
        "long number",
        "text",
        "no type",
        "header twice",
        "long head",
        "two lengths",
        "control character",
        "query twice",
        "query without value",
        "query not utf-8",
        "query long",
    ],
)
def test_request_outside_the_rules_is_refused_and_ends_the_channel(client, data: bytes) -> None:
    out = exchange(client, data)
    assert out.startswith(b"HTTP/1.1 4")
    assert PROBLEM_TYPE.encode() in out
    assert b"\r\nconnection: close\r\n" in out.lower()


def test_body_above_the_cap_is_refused_before_it_is_read_whole(server_of) -> None:
    head = HEAD + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1800000\r\n"
    with server_of(lambda channel: serve_connection(channel, show, request_timeout=60)).connect() as client:
        assert b"too large" in exchange(client, head + b" " * (MAX_BODY_BYTES + 70000))


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "CONNECT"])
def test_method_that_is_not_served_is_refused(client, method: str) -> None:
    assert exchange(client, f"{method} /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()).startswith(b"HTTP/1.1 405 ")


def test_head_gets_no_body(client) -> None:
    out = exchange(client, b"HEAD /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert out.startswith(b"HTTP/1.1 405 ")
    assert out.endswith(b"\r\n\r\n")


def test_request_that_trickles_in_runs_out_of_time(client) -> None:
    before = time.monotonic()
    client.send(HEAD)
    for _ in range(40):
        try:
            client.send(b"x: y\r\n")
        except ChannelError:
            break
        time.sleep(0.05)
    assert exchange(client, b"") == b""
    assert time.monotonic() - before < 3


def test_idle_connection_is_ended(server_of) -> None:
    with server_of(lambda channel: serve_connection(channel, show, idle_timeout=0.1)).connect() as channel:
        assert channel.recv(1, timeout=2) == b""


def test_server_side_close_ends_the_loop(server_of) -> None:
    channels = []

    def serve(channel: Channel) -> None:
        channels.append(channel)
        serve_connection(channel, show)

    server = server_of(serve)
    with server.connect() as channel:
        request(channel, "GET", "/")
        channels[0].close()
        server.wait()
        assert server.failures == []


# --- hostile servers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nOK",
        b"HTTP/1.1 500 Oops\r\ncontent-length: 32\r\n\r\n" + b"k" * 32,
        b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40000 + b"\r\n\r\n",
    ],
    ids=["not http", "cut", "array", "html", "an error page as key", "header twice", "long head"],
)
def test_answer_outside_the_rules_is_an_error_and_ends_the_channel(server_of, data: bytes) -> None:
    with answer(server_of, data) as channel:
        with pytest.raises(ProtocolError):
            request(channel, "GET", "/")
        assert channel.closed


def test_end_without_an_answer_is_told_from_a_wrong_answer(server_of) -> None:
    """A client may ask again then: the server has ended, or took no further request on this connection."""
    with answer(server_of, b"") as channel:
        with pytest.raises(ChannelError, match="without an answer"):
            request(channel, "GET", "/")
        assert channel.closed


def test_answer_above_the_cap_is_an_error(server_of) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30000000\r\n\r\n"
    with answer(server_of, head + b" " * (MAX_BODY_BYTES + 100000), hold=True) as channel, pytest.raises(ProtocolError, match="too large"):
        request(channel, "GET", "/")


def test_late_answer_is_never_taken_for_the_next(server_of) -> None:
    with answer(server_of, b"", hold=True) as channel:
        with pytest.raises(ChannelTimeoutError):
            request(channel, "GET", "/", timeout=0.1)
        assert channel.closed


def test_unasked_second_answer_ends_the_channel(server_of) -> None:
    with answer(server_of, b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", hold=True) as channel:
        assert request(channel, "GET", "/").status == 204
        assert channel.closed


def test_announcements_before_the_answer_are_passed_over(server_of) -> None:
    with answer(server_of, b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 204 No\r\n\r\n") as channel:
        assert request(channel, "GET", "/").status == 204


def test_endless_announcements_run_out_of_time(server_of) -> None:
    def announce(channel: Channel) -> None:
        while True:
            channel.send(b"HTTP/1.1 103 Hints\r\n\r\n" * 100)

    with server_of(announce).connect() as channel, pytest.raises(ChannelTimeoutError):
        request(channel, "GET", "/", timeout=0.3)


@pytest.mark.parametrize(("path", "headers"), [("/a b", {}), ("/a\r\nx: y", {}), ("/", {"x": "a\r\nb: c"})])
def test_request_that_would_inject_lines_is_not_sent(client, path: str, headers: dict) -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        request(client, "GET", path, headers=headers)
