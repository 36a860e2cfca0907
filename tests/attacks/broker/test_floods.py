"""Requests without end, on the routes of owners and nodes: given up early, and the broker's memory stays what it was."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.broker_attacks import Granted
from support.broker_world import World

from confide.crypto.http import request
from confide.crypto.tls import Channel, Identity, PinnedSpki, connect
from confide.errors import ChannelError
from confide.ids import SpkiDigest
from confide.keys import server as server_module

GIGABYTE = 1 << 30
ENOUGH = 64 << 20
"""What socket buffers, TLS and the largest body that is read take at most."""
ROUTES = [
    "POST /confide/v0/keys", "POST /confide/v0/grants", "POST /confide/v0/enrol", "POST /confide/v0/datasets/import",
    "POST /confide/v0/release", "POST /confide/v0/outputs",
    "PUT /confide/v0/datasets/0123456789abcdef/manifest", "POST /kbs/v0/attest", "POST /nowhere",
]  # fmt: skip
PIECE = b" " * (1 << 20)


class Served:
    """A broker in a process of its own, by the command line."""

    def __init__(self, home: Path, before: str = "") -> None:
        home.mkdir()
        words = ["confide", "--home", str(home), "broker", "serve", "--listen", "127.0.0.1:0", "--key-file", str(home / "master.key")]
        program = f"{before}\nimport sys\nsys.argv = {words!r}\nfrom confide.cli.main import main\nmain()"
        self.process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        place = home / "broker" / "address.json"
        until = time.monotonic() + 60
        while not place.exists() and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        address = json.loads(place.read_text(encoding="utf-8"))
        self.url, self.spki = address["url"], SpkiDigest(address["spki"])
        self.identity = Identity.generate("stranger")

    def connect(self) -> Channel:
        host, port = self.url.removeprefix("https://").split(":")
        return connect(host, int(port), self.identity, trust=PinnedSpki(self.spki))

    def answers(self) -> bool:
        with self.connect() as channel:
            return request(channel, "POST", "/confide/v0/audit-head", {}).status == 401

    def grown_by(self, attack: Callable[[], object]) -> int:
        """By how many bytes the process was larger, at its largest, than before."""
        status = Path(f"/proc/{self.process.pid}/status")
        assert self.answers()
        before = _kilobytes(status, "VmRSS")
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")  # proc(5): forget the largest
        attack()
        return (_kilobytes(status, "VmHWM") - before) * 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)


def _kilobytes(status: Path, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text(encoding="ascii"))
    assert found
    return int(found[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served") / "home")
    yield made
    made.stop()


def pour(channel: Channel, head: str, piece: bytes, most: int) -> int:
    """Send ``head``, then ``piece`` again and again, up to ``most`` bytes or until the broker has enough; how many it took."""
    sent = 0
    with contextlib.suppress(ChannelError), channel:
        channel.send(head.encode())
        while sent < most:
            channel.send(piece, timeout=20)
            sent += len(piece)
    return sent


HEAD = "{} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
KINDS = {
    "a body of a gigabyte": (HEAD + f"content-length: {GIGABYTE}\r\n\r\n", PIECE),
    "a body in chunks without end": (HEAD + "transfer-encoding: chunked\r\n\r\n", b"100000\r\n" + PIECE + b"\r\n"),
    "chunks of a byte without end": (HEAD + "transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 170_000),
    "headers without end": (HEAD, b"x-flood: " + b"a" * 1000 + b"\r\n"),
    "one header without end": (HEAD + "x-flood: ", PIECE),
    "a path without end": ("POST /confide/v0/", PIECE.replace(b" ", b"a")),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_request_without_end_is_given_up_early_and_not_kept(served: Served, kind: str) -> None:
    head, piece = KINDS[kind]
    took: list[int] = []

    def attack() -> None:
        for route in ROUTES if "body" in kind else ROUTES[:2]:
            took.append(pour(served.connect(), head.format(route), piece, GIGABYTE))
            assert served.answers()

    assert served.grown_by(attack) < ENOUGH
    assert max(took) < ENOUGH
    assert max(took) < (8 << 20) or kind == "a body in chunks without end", "refused by its head, or the number of its chunks"


@pytest.mark.slow
@pytest.mark.parametrize(("chunks", "read"), [(70_000, False), (60_000, True)])
def test_body_in_too_many_chunks_is_refused_for_their_number(served: Served, chunks: int, *, read: bool) -> None:
    """Each takes the broker a while, however little is in it: a connection could keep it busy for as long as a request may take."""
    body = b'{"key": "' + b"a" * (chunks - 11) + b'"}'
    answer = b""
    with contextlib.suppress(ChannelError), served.connect() as channel:  # the broker may have ended it before all was sent
        channel.send(HEAD.format(ROUTES[0]).encode() + b"transfer-encoding: chunked\r\n\r\n")
        channel.send(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n", timeout=30)
        answer = channel.recv(4096, timeout=30)
    assert (b" 401 " in answer) is read, "whose key that is, is asked once the body has been read"


@pytest.mark.slow
def test_many_large_bodies_at_once_leave_nothing_behind(served: Served) -> None:
    """Each just below what is read: refused for what they say, and their memory is given back."""

    def attack() -> None:
        for _ in range(12):
            with served.connect() as channel:
                body = b'{"key": "' + b"a" * (15 << 20) + b'"}'
                head = f"POST /confide/v0/keys HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                channel.send(head.encode() + body, timeout=20)
                assert b" 401 " in channel.recv(4096, timeout=30)

    assert served.grown_by(attack) < 3 * ENOUGH


@pytest.mark.slow
def test_memory_of_a_broker_without_a_cap_grows(tmp_path: Path) -> None:
    """The control: what is measured would show."""
    weak = Served(tmp_path / "home", "import confide.crypto.http as http; http.MAX_BODY_BYTES = 1 << 40")
    try:
        head = (HEAD + f"content-length: {GIGABYTE}\r\n\r\n").format(ROUTES[0])
        assert weak.grown_by(partial(pour, weak.connect(), head, PIECE, 2 * ENOUGH)) > ENOUGH
    finally:
        weak.stop()


# --- drop by drop -------------------------------------------------------------------------------------------------------


def dripping(world: World, start: str) -> threading.Event:
    """Send ``start``, and then a byte now and then; the event is set when the broker has ended the connection."""
    host, port = world.server.url.removeprefix("https://").split(":")
    channel, ended = connect(host, int(port), Identity.generate("drip"), trust=PinnedSpki(world.server.spki)), threading.Event()

    def drip() -> None:
        with contextlib.suppress(ChannelError), channel:
            channel.send(start.encode())
            for _ in range(400):
                channel.send(b" ", timeout=5)
                time.sleep(0.05)
            return
        ended.set()

    threading.Thread(target=drip, daemon=True).start()
    return ended


STARTS = ["POST", HEAD.format(ROUTES[0]) + "x-drip:", HEAD.format(ROUTES[0]) + "content-length: 1000000\r\n\r\n{"]
"""Requests that stop in their first line, their headers and their body."""


@pytest.mark.parametrize("limit", [0.5, 1000.0], ids=["limited", "control"])
def test_request_that_comes_drop_by_drop_is_given_up_as_a_whole(world: World, monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    """However often a byte comes: a request has one time for all of it.  Others are served meanwhile."""
    monkeypatch.setattr(server_module, "serve_connection", partial(server_module.serve_connection, request_timeout=limit))
    granted = Granted(world)
    drips = [dripping(world, start) for start in STARTS]
    assert world.client(world.node()).release(granted.manifest)
    if limit < 1:
        assert all(ended.wait(15) for ended in drips)
    else:
        assert not any(ended.wait(1.5) for ended in drips)
