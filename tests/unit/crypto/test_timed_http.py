"""HTTP from peers that keep their readers: every part of an answer is made to drip or to flood, and none outlasts its time."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3
from support.databases import certificate
from support.raw_server import RawServer

from confide.crypto.timed_http import end_in_time, read_by

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
DRIP_S = 0.05
SOON_S = 0.5
Serve = Callable[..., RawServer]


def drop_by_drop(data: bytes) -> list[bytes]:
    return [bytes([one]) for one in data]


@pytest.fixture(params=["http", "https"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serve]:
    made: list[RawServer] = []
    context: ssl.SSLContext | None = None
    if request.param == "https":
        certificate(tmp_path, "localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")

    def start(says: list[bytes], *, pause_s: float = 0.0, repeat: bool = False) -> RawServer:
        made.append(RawServer(says, pause_s=pause_s, repeat=repeat, tls=context))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def librarys(tmp_path: Path) -> urllib3.PoolManager:
    """As a library has made it for itself."""
    ca = tmp_path / "tls.crt"
    return urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=60), ca_certs=str(ca) if ca.exists() else None)


@pytest.fixture
def pool(librarys: urllib3.PoolManager) -> urllib3.PoolManager:
    end_in_time(librarys)
    return librarys


def ask(pool: urllib3.PoolManager, url: str, within: float, most: int = 1_000_000) -> bytes:
    answer = pool.request("GET", url, preload_content=False, redirect=False)
    try:
        return read_by(answer, time.monotonic() + within, most)
    finally:
        answer.close()


@pytest.mark.parametrize(
    "says",
    [
        [HEAD + b"Content-Length: 200\r\n\r\n", *[b"x"] * 200],
        [HEAD + b"\r\n", *[b"x"] * 200],
        [CHUNKED, *[b"1\r\nx\r\n"] * 200, b"0\r\n\r\n"],
        [CHUNKED, *drop_by_drop(b"1;" + b"x" * 200), b"\r\nx\r\n0\r\n\r\n"],
        [CHUNKED + b"1\r\nx\r\n0\r\n", *[b"X: x\r\n"] * 200, b"\r\n"],
        [HEAD + b"Connection: close\r\nContent-Length: 200\r\n\r\n", *[b"x"] * 200],
    ],
    ids=["body", "until-closed", "chunks", "a-chunk's-length", "fields-after-the-last-chunk", "connection-that-closes"],
)
def test_body_that_drips_is_cut(serve: Serve, pool: urllib3.PoolManager, says: list[bytes]) -> None:
    """Each byte comes in time, and all come in ten seconds."""
    server = serve(says, pause_s=DRIP_S)
    with pytest.raises(TimeoutError):
        ask(pool, server.url, SOON_S)
    assert server.cut.wait(5), "it was read to its end"


def test_flood_of_fields_after_a_body_is_cut(serve: Serve, pool: urllib3.PoolManager) -> None:
    """It is never silent, and nothing of it is a body that could grow too large."""
    server = serve([CHUNKED + b"1\r\nx\r\n0\r\n", *[b"X: x\r\n" * 10_000] * 20_000])
    with pytest.raises(TimeoutError):
        ask(pool, server.url, SOON_S)
    assert server.cut.wait(5)


def test_head_that_drips_is_cut_when_the_requests_time_is_over(serve: Serve, pool: urllib3.PoolManager) -> None:
    server = serve([*drop_by_drop(HEAD + b"X: " + b"x" * 100), b"\r\nContent-Length: 0\r\n\r\n"], pause_s=DRIP_S)
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        pool.request("GET", server.url, preload_content=False, timeout=urllib3.Timeout(connect=30, read=SOON_S))
    assert server.cut.wait(5), "it was read to its end"


def test_body_in_time_is_whole_and_its_connection_is_used_again(serve: Serve, pool: urllib3.PoolManager) -> None:
    server = serve([HEAD + b"Content-Length: 4\r\n\r\n", b"bo", b"dy"], repeat=True)
    assert [ask(pool, server.url, 60) for _ in range(3)] == [b"body"] * 3
    assert server.asked == 1


def test_body_that_a_library_reads_is_cut(serve: Serve, librarys: urllib3.PoolManager) -> None:
    end_in_time(librarys, body_s=SOON_S)
    server = serve([HEAD + b"Content-Length: 200\r\n\r\n", *[b"x"] * 200], pause_s=DRIP_S)
    with pytest.raises(urllib3.exceptions.HTTPError):
        librarys.request("GET", server.url, preload_content=False).read()
    assert server.cut.wait(5), "it was read to its end"


@pytest.mark.parametrize("at_once", [True, False])
def test_body_that_a_library_has_read_is_not_cut_with_the_next_on_its_connection(
    serve: Serve, librarys: urllib3.PoolManager, at_once: bool
) -> None:
    end_in_time(librarys, body_s=2)
    server = serve([HEAD + b"Content-Length: 4\r\n\r\n", b"bo", b"dy"], pause_s=DRIP_S, repeat=True)
    assert [librarys.request("GET", server.url, preload_content=at_once).data for _ in range(20)] == [b"body"] * 20  # three seconds
    assert server.asked == 1


def test_no_more_is_read_than_shows_that_there_is_too_much(serve: Serve, pool: urllib3.PoolManager) -> None:
    assert len(ask(pool, serve([HEAD + b"Content-Length: 5\r\n\r\nxxxxx"]).url, 60, most=5)) == 5
    endless = serve([HEAD + b"\r\n", *[b" " * 65536] * 10_000])
    assert 5 < len(ask(pool, endless.url, 60, most=5)) <= 65536
    assert endless.cut.wait(5)


def test_body_that_ends_early_is_none(serve: Serve, pool: urllib3.PoolManager) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError):
        ask(pool, serve([HEAD + b"Content-Length: 5\r\n\r\nxxx"]).url, 60)


def test_answer_of_a_pool_without_end_is_not_read() -> None:
    server = RawServer([HEAD + b"Content-Length: 1\r\n\r\nx"])
    try:
        with pytest.raises(TypeError):
            ask(urllib3.PoolManager(), server.url, 60)
    finally:
        server.close()
