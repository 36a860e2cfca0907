"""Plaintext from remote storages: S3 as moto has it, one that misbehaves, and URLs of fsspec."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.custody.tls import Tls

from confide.data import s3
from confide.data.finding import find_sources
from confide.errors import DataError, UnavailableError, UsageError

DATA = bytes(range(256)) * 4096
NOTHING: Mapping[str, str] = {}


pytestmark = pytest.mark.usefixtures("s3_credentials")


def test_objects_are_found_by_key_folder_and_pattern(bucket: Any) -> None:
    for key in ("t/2025/a.csv", "t/2025/b.csv", "t/2025/c.txt", "t/2026/a.csv", "t/"):
        bucket(key)
    found = {
        "s3://bkt/t/2025/a.csv": ["a.csv"],
        "s3://bkt/t/2025/*.csv": ["a.csv", "b.csv"],
        "s3://bkt/t/20*/a.csv": ["2025/a.csv", "2026/a.csv"],
        "s3://bkt/t/**/a.csv": ["2025/a.csv", "2026/a.csv"],
        "s3://bkt/t/": ["2025/a.csv", "2025/b.csv", "2025/c.txt", "2026/a.csv"],
    }
    for url, names in found.items():
        sources = find_sources([url])
        assert [source.name for source in sources.sources] == names, url
        assert sources.plain == (not url.endswith("/"))
        assert all(source.size == len(DATA) and source.version for source in sources.sources)
    for url in ("s3://bkt/none.csv", "s3://bkt/none*", "s3://bkt/none/", "s3://nobucket/a"):
        with pytest.raises(DataError, match="no file"):
            find_sources([url])
    for url in ("s3://bkt", "s3://", "s3://key:secret@bkt/a.csv"):
        with pytest.raises(UsageError) as caught:
            find_sources([url])
        assert "secret" not in caught.value.message


def test_an_object_is_read_from_any_offset(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "BLOCK", 10_000)
    bucket("a.bin")
    with find_sources(["s3://bkt/a.bin"]).sources[0].open() as file:
        assert file.read() == DATA
        assert file.seek(-300, 2) == len(DATA) - 300
        assert file.read(500) == DATA[-300:]
        file.seek(77_777)
        assert file.read(30_000) == DATA[77_777:107_777]
        with pytest.raises(ValueError, match="before"):
            file.seek(-1)


def test_an_object_that_is_replaced_while_it_is_read_is_refused(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "BLOCK", 1000)
    bucket("a.bin")
    with find_sources(["s3://bkt/a.bin"]).sources[0].open() as file:
        assert file.read(1000) == DATA[:1000]
        bucket("a.bin", DATA[::-1])
        with pytest.raises(DataError, match="changed while it was read"):
            file.read(1000)


class Misbehaving(BaseHTTPRequestHandler):
    """Gives ``DATA``, unless it is told to answer with errors first, or to break off."""

    protocol_version = "HTTP/1.1"
    slow_downs = cuts = elsewhere = 0
    denied = moved = False

    def do_HEAD(self) -> None:
        self._answer(200, DATA, body=False)

    def do_GET(self) -> None:
        kind = type(self)
        kind.elsewhere += self.path == "/elsewhere"
        if kind.moved:
            return self._answer(302, b"", more={"Location": f"http://{self.headers['Host']}/elsewhere"})
        if kind.denied:
            return self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        if kind.slow_downs:
            kind.slow_downs -= 1
            return self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
        first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
        data = DATA[first : last + 1]
        if kind.cuts:
            kind.cuts -= 1
            return self._answer(206, data, cut=True)
        return self._answer(206, data)

    def _answer(self, status: int, data: bytes, *, body: bool = True, cut: bool = False, more: Mapping[str, str] = NOTHING) -> None:
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Misbehaving]]:
    class Handler(Misbehaving):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    yield Handler
    server.shutdown()
    server.server_close()


def test_throttling_and_broken_transfers_are_got_over(misbehaving: type[Misbehaving]) -> None:
    source = find_sources(["s3://bkt/a.bin"]).sources[0]
    misbehaving.slow_downs, misbehaving.cuts = 5, 3
    with source.open() as file:
        assert file.read() == DATA
    assert misbehaving.slow_downs == misbehaving.cuts == 0


WITHOUT_END = [("slow_downs", "refuses s3://bkt/a.bin: SlowDown"), ("cuts", "does not give all"), ("denied", "AccessDenied")]


@pytest.mark.parametrize(("fault", "said"), WITHOUT_END)
def test_what_does_not_end_is_told(misbehaving: type[Misbehaving], fault: str, said: str) -> None:
    source = find_sources(["s3://bkt/a.bin"]).sources[0]
    setattr(misbehaving, fault, 1000)
    with source.open() as file, pytest.raises(UnavailableError, match=said) as caught:
        file.read()
    assert caught.value.hint


@pytest.mark.parametrize("url", ["s3://bkt/a.csv", "s3a://bkt/a.csv", "zip://a.csv::s3://bkt/b.zip"])
def test_an_endpoint_in_the_clear_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example:9000")
    with pytest.raises(UsageError, match="in the clear"):
        find_sources([url])


def test_an_endpoint_that_does_not_show_who_it_is_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HttpsServer(Tls(tmp_path / "tls"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    try:
        with pytest.raises(UnavailableError, match="SSLError"):
            find_sources(["s3://bkt/a.csv"])
        assert server.asked == []
    finally:
        server.stop()


def test_an_object_that_is_said_to_be_elsewhere_is_not_looked_for_there(misbehaving: type[Misbehaving]) -> None:
    source = find_sources(["s3://bkt/a.bin"]).sources[0]
    misbehaving.moved = True
    with source.open() as file, pytest.raises(UnavailableError):
        file.read()
    assert misbehaving.elsewhere == 0


@pytest.mark.parametrize(
    "url", ["http://h/a.csv", "HTTP://h/a.csv", "ftp://h/a.csv", "ws://h/a", "webhdfs://h/a.csv", "zip://a.csv::http://h/b.zip"]
)
def test_urls_over_the_network_in_the_clear_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="as they are"):
        find_sources([url])


@pytest.mark.parametrize("url", ["simplecache::https://h/a.csv", "filecache::s3://bkt/a", "cached::https://h/a", "blockcache::https://h/a"])
def test_urls_that_keep_plaintext_here_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="temporary folder"):
        find_sources([url])


class HttpsServer:
    """Gives ``DATA`` at ``/a.bin``; sends who asks for another path to ``to``."""

    def __init__(self, tls: Tls, to: str = "") -> None:
        asked = self.asked = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200 if self.path == "/a.bin" else 302)
                if self.path != "/a.bin":
                    self.send_header("Location", to)
                self.send_header("Content-Length", str(len(DATA) if self.path == "/a.bin" else 0))
                self.end_headers()
                if self.command == "GET" and self.path == "/a.bin":
                    self.wfile.write(DATA)

            do_HEAD = do_GET  # noqa: N815 - http.server's name

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.socket = tls.for_server().wrap_socket(self._http.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


ELSEWHERE = [("/a.bin", True), ("http://storage.example/a.bin", False), ("//storage.example:1/a.bin", None)]


@pytest.mark.parametrize(("to", "follows"), ELSEWHERE)
def test_https_is_not_left_for_a_url_in_the_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, follows: bool | None) -> None:
    """``None``: followed, by TLS, to a host that there is not."""
    tls = Tls(tmp_path / "tls")
    server = HttpsServer(tls, to)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=tls.ca))  # made when it is imported
    try:
        if follows:
            with find_sources([f"{server.address}/moved"]).sources[0].open() as file:
                assert file.read() == DATA
            return
        with pytest.raises(UsageError if follows is False else DataError, match="as they are" if follows is False else "no file"):
            find_sources([f"{server.address}/moved"])
        assert set(server.asked) == {"/moved"}
    finally:
        server.stop()


def test_https_needs_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    server = HttpsServer(Tls(tmp_path / "tls"))
    try:
        with pytest.raises(DataError):
            find_sources([f"{server.address}/a.bin"])
        assert server.asked == []
    finally:
        server.stop()


def test_any_url_of_fsspec_is_read() -> None:
    import fsspec

    storage = fsspec.filesystem("memory")
    for name in ("/f/a.csv", "/f/b.csv", "/f/g/c.txt"):
        storage.pipe_file(name, DATA)
    names = {"memory://f/a.csv": ["a.csv"], "memory://f/*.csv": ["a.csv", "b.csv"], "memory://f/": ["a.csv", "b.csv", "g/c.txt"]}
    for url, expected in names.items():
        sources = find_sources([url]).sources
        assert [source.name for source in sources] == expected
        with sources[0].open() as file:
            assert file.read() == DATA
    with pytest.raises(DataError):
        find_sources(["memory://f/none"])
    with pytest.raises(UnavailableError):
        find_sources(["unheardof://f/none"])
    storage.rm("/f", recursive=True)
