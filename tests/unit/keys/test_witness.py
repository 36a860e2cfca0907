"""Witnesses: an older copy of the store does not come into service, and what is no witness is never taken for a silent one."""

from __future__ import annotations

import json
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.databases import certificate
from support.raw_server import RawServer

from confide.canonical import Json
from confide.errors import AuditError, UsageError, WitnessError
from confide.keys.audit import new_event
from confide.keys.custody.local import KeyFile
from confide.keys.store import Store
from confide.keys.witness import FileWitness, HttpWitness, Reporter, Witness, accept, check, witness

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def now() -> datetime:
    return NOW


@pytest.fixture
def unlock(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "master.key")


@pytest.fixture
def store(tmp_path: Path, unlock: KeyFile) -> Iterator[Store]:
    made = Store.create(tmp_path / "broker.db", unlock)
    yield made
    made.close()


class Remembering(ThreadingHTTPServer):
    """A witness over HTTPS.  ``answer`` is what it says instead of what it should, if set."""

    def __init__(self, folder: Path) -> None:
        self.heads: list[bytes] = []
        self.answer: tuple[int, bytes] | None = None
        super().__init__(("127.0.0.1", 0), Handler)
        self.ca = certificate(folder, "localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}/head"


class Handler(BaseHTTPRequestHandler):
    server: Remembering

    def do_GET(self) -> None:
        self._say(*(self.server.answer or ((200, self.server.heads[-1]) if self.server.heads else (404, b""))))

    def do_POST(self) -> None:
        self.server.heads.append(self.rfile.read(int(self.headers["content-length"])))
        self._say(*(self.server.answer or (201, b"")))

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Remembering]:
    folder = tmp_path / "https"
    folder.mkdir()
    made = Remembering(folder)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(params=["file", "https"])
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Witness:
    if request.param == "file":
        return witness(str(tmp_path / "witness.jsonl"))
    server: Remembering = request.getfixturevalue("server")
    return witness(server.url, server.ca)


def test_witness_that_knows_nothing_yet_is_no_obstacle(store: Store, one: Witness) -> None:
    assert one.last() is None
    check(store, [one], NOW)


def test_store_that_has_grown_passes(store: Store, one: Witness) -> None:
    for action in ("one", "two", "three"):
        with Reporter(store, [one], now):
            store.append_audit(new_event(action, [], NOW))
        check(store, [one], NOW)


def test_yesterdays_store_does_not_come_into_service(tmp_path: Path, store: Store, unlock: KeyFile, one: Witness) -> None:
    store.append_audit(new_event("one", [], NOW))
    store.close()
    shutil.copy(tmp_path / "broker.db", tmp_path / "yesterday.db")
    today = Store.open(tmp_path / "broker.db", unlock)
    with Reporter(today, [one], now):
        today.append_audit(new_event("revoke", [], NOW))
    today.close()
    restored = Store.open(tmp_path / "yesterday.db", unlock)
    check(restored, [], NOW)  # without a witness, nothing tells
    with pytest.raises(AuditError, match="longer"):
        check(restored, [one], NOW)
    for number in range(3):  # and it does not help to let it grow past what the witness has seen
        restored.append_audit(new_event("again", [], NOW, number=number))
    with pytest.raises(AuditError, match="continue"):
        check(restored, [one], NOW)
    restored.close()


def test_roll_back_is_accepted_once_and_only_of_what_is_lost(tmp_path: Path, store: Store, unlock: KeyFile, one: Witness) -> None:
    """Owners are told of what happened, and of nothing else."""
    other = FileWitness(tmp_path / "other.jsonl")
    store.append_audit(new_event("one", [], NOW))
    other.tell(store.signed_head(NOW))
    with pytest.raises(UsageError, match="continues all"):
        accept(store, [other], "for nothing", NOW)
    store.close()
    shutil.copy(tmp_path / "broker.db", tmp_path / "yesterday.db")
    today = Store.open(tmp_path / "broker.db", unlock)
    with Reporter(today, [one], now):
        today.append_audit(new_event("revoke", [], NOW))
    today.close()
    restored = Store.open(tmp_path / "yesterday.db", unlock)
    (lost,) = accept(restored, [one, other], "the disk broke", NOW)
    assert (lost["witness"], lost["size"]) == (one.name, 2)
    check(restored, [one, other], NOW)
    with pytest.raises(UsageError, match="continues all"):
        accept(restored, [one, other], "again", NOW)
    assert [entry.event["action"] for entry in restored.audit() if entry.event] == ["one", "rollback-accepted"]
    restored.close()


def test_another_brokers_witness_is_refused(tmp_path: Path, store: Store, one: Witness) -> None:
    other = Store.create(tmp_path / "other.db", KeyFile.create(tmp_path / "other.key"))
    with Reporter(other, [one], now):
        other.append_audit(new_event("one", [], NOW))
    other.close()
    with pytest.raises(AuditError):
        check(store, [one], NOW)


def test_head_is_told_once_and_again_after_a_failure(store: Store, server: Remembering) -> None:
    reporter = Reporter(store, [HttpWitness(server.url, server.ca)], now)
    store.append_audit(new_event("one", [], NOW))
    server.answer = (500, b"")
    assert reporter.report() == [server.url]
    server.answer = None
    assert reporter.report() == []
    assert reporter.report() == []
    assert len(server.heads) == 2


@pytest.mark.parametrize("answer", [(500, b""), (200, b"{}x"), (200, b"x" * 5000), (302, b""), (200, b"")])
def test_witness_that_answers_anything_else_stops_the_start(store: Store, server: Remembering, answer: tuple[int, bytes]) -> None:
    server.answer = answer
    with pytest.raises((WitnessError, AuditError)):
        check(store, [HttpWitness(server.url, server.ca)], NOW)


def test_witness_over_https_is_authenticated(store: Store, server: Remembering) -> None:
    with pytest.raises(WitnessError):
        check(store, [HttpWitness(server.url)], NOW)
    with pytest.raises(WitnessError):
        check(store, [HttpWitness(server.url.replace("localhost", "127.0.0.1"), server.ca)], NOW)


def test_witness_that_is_down_stops_the_start(store: Store, server: Remembering) -> None:
    with pytest.raises(WitnessError):
        check(store, [HttpWitness("https://localhost:1/head", server.ca)], NOW)


@pytest.mark.parametrize("address", ["http://host/head", "https:///head", "https://user:canary@host/head"])
def test_address_that_is_no_witness_is_refused(address: str) -> None:
    with pytest.raises(UsageError) as refusal:
        witness(address)
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"no head\n", b"{\n", b"x" * 9000])
def test_file_that_holds_no_head_stops_the_start(tmp_path: Path, store: Store, content: bytes) -> None:
    path = tmp_path / "witness.jsonl"
    path.write_bytes(content)
    with pytest.raises(WitnessError):
        check(store, [FileWitness(path)], NOW)


def test_file_that_cannot_be_used_is_no_silent_witness(tmp_path: Path, store: Store) -> None:
    with pytest.raises(WitnessError):
        check(store, [FileWitness(tmp_path)], NOW)
    with pytest.raises(WitnessError, match="folder is not there"):  # a disk that is not mounted is no witness that has seen nothing
        check(store, [FileWitness(tmp_path / "none" / "witness.jsonl")], NOW)
    assert Reporter(store, [FileWitness(tmp_path / "none" / "witness.jsonl")], now).report()


def test_full_disk_of_a_witness_is_reported(store: Store) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    assert Reporter(store, [FileWitness(Path("/dev/full"))], now).report() == ["/dev/full"]


def test_file_is_only_ever_appended_to(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "witness.jsonl"
    reporter = Reporter(store, [FileWitness(path)], now)
    sizes = []
    for number in range(3):
        store.append_audit(new_event("one", [], NOW, number=number))
        reporter.report()
        sizes.append(path.stat().st_size)
    assert sizes == sorted(set(sizes))
    assert len([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]) == 3
    assert path.stat().st_mode & 0o022 == 0


# --- witnesses that keep who speaks with them ------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = {
    "head": [HEAD, *[b"X: x\r\n"] * 90, b"Content-Length: 0\r\n\r\n"],
    "body": [HEAD + b"Content-Length: 90\r\n\r\n", *[b" "] * 90],
    "fields-after-the-last-chunk": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n \r\n0\r\n", *[b"X: x\r\n"] * 90, b"\r\n"],
}


@pytest.fixture(params=list(DRIPS))
def dripping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RawServer, Path]]:
    """A witness whose every byte comes in time, and all of them after nine seconds; and its certificate."""
    folder = tmp_path / "drip"
    folder.mkdir()
    ca = certificate(folder, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    made = RawServer(DRIPS[request.param], pause_s=0.1, tls=context)
    yield made, ca
    made.close()


def test_witness_that_drips_is_given_up(store: Store, dripping: tuple[RawServer, Path]) -> None:
    server, ca = dripping
    one = HttpWitness(server.url, ca, timeout_s=1)
    with pytest.raises(WitnessError, match="cannot be reached"):
        check(store, [one], NOW)
    assert server.cut.wait(5), "it was heard to its end"
    server.cut.clear()
    with pytest.raises(WitnessError, match="cannot be reached"):
        one.tell(store.signed_head(NOW))
    assert server.cut.wait(5), "it was heard to its end"


def test_witness_that_drips_keeps_no_head_from_the_others_and_no_broker_from_its_end(
    tmp_path: Path, store: Store, dripping: tuple[RawServer, Path]
) -> None:
    server, ca = dripping
    other = FileWitness(tmp_path / "other.jsonl")
    with Reporter(store, [HttpWitness(server.url, ca, timeout_s=60), other], now, interval=0.01, end_s=0.1):
        until = time.monotonic() + 5
        while other.last() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert other.last() is not None
        while not server.asked and time.monotonic() < until:
            time.sleep(0.01)
    assert not server.cut.is_set()
    assert [one for one in threading.enumerate() if one.name == "witness"], "the end waited for all that drips"
    server.close()


class Stuck:
    """A witness on a disk that hangs."""

    name = "stuck"

    def __init__(self) -> None:
        self.inside, self.goes_on, self.told = threading.Event(), threading.Event(), 0

    def last(self) -> Json | None:
        return None

    def tell(self, head: Json) -> None:
        self.told += 1
        self.inside.set()
        assert self.goes_on.wait(30)


def test_broker_that_has_ended_does_not_look_for_heads_any_more(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Its store is closed by then."""
    stuck = Stuck()
    reporter = Reporter(store, [stuck], now, interval=0.01, end_s=0.1)
    with reporter:
        assert stuck.inside.wait(5)
        store.append_audit(new_event("one", [], NOW))
    assert "last head in time: stuck" in caplog.text
    stuck.goes_on.set()
    (thread,) = reporter._threads.values()
    thread.join(5)
    assert not thread.is_alive()
    assert stuck.told == 1
