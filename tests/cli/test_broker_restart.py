"""A broker that is started anew under load loses no request; what a service manager gives it and hears of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.broker_process import Manager, Notices, manager
from support.broker_world import JOB, MEASUREMENT, Node, manifest, policy

from confide.attest.insecure import InsecureAttester, Installation
from confide.canonical import Json
from confide.cli.owners import Enrolment
from confide.cli.service_manager import ServiceManager, inherited_socket
from confide.crypto.http import request
from confide.crypto.tls import Channel, Identity, PinnedSpki, connect
from confide.errors import ConfideError, UsageError
from confide.ids import Tee
from confide.keys.client import NodeBrokerClient, OwnerClient
from confide.keys.credentials import Credential


class Granted:
    """A dataset that an owner has granted, and nodes that may have its key."""

    def __init__(self, brokers: Manager, enrolment: Enrolment) -> None:
        self.brokers = brokers
        self.spki = enrolment.broker.spki
        self.installation = Installation.create(brokers.home / "simulated")
        credential = Credential.create(brokers.home / "credentials", "airline")
        with OwnerClient(brokers.url, self.spki, credential) as airline:
            airline.enrol(enrolment.token)
            airline.create_key("flights")
            minted = airline.mint_dataset("flights")
            self.envelope: Json = manifest(minted, credential.key)
            airline.register_manifest(self.envelope)
            airline.grant("flights", job=JOB, policy=policy())
        self.secret = minted.secret.reveal()

    def client(self, **options: Any) -> NodeBrokerClient:
        node = Node(InsecureAttester(self.installation, Tee.SGX, MEASUREMENT))
        keys = {"identity": node.identity, "attester": node.attester, "context": node.context, "seal_key": node.seal_key}
        return NodeBrokerClient(self.brokers.url, self.spki, role=node.role, **keys, **options)

    def channel(self) -> Channel:
        return connect("127.0.0.1", self.brokers.sock.getsockname()[1], Identity.generate("x"), trust=PinnedSpki(self.spki))


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Manager]:
    with manager(tmp_path, "--simulate", "--key-file", str(tmp_path / "master.key")) as made:
        yield made


@pytest.fixture
def old(brokers: Manager) -> subprocess.Popen[bytes]:
    return brokers.serve()[0]


@pytest.fixture
def granted(brokers: Manager, old: subprocess.Popen[bytes], confide: Any) -> Granted:
    file = brokers.home / "airline.json"
    confide("--home", brokers.home, "broker", "enrol", "airline", "--out", file, "--key-file", brokers.home / "master.key")
    return Granted(brokers, Enrolment.load(file))


class Load:
    """Threads that do one thing again and again, and what went wrong."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.errors: list[str] = []
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, name: str, once: Callable[[], object]) -> None:
        self.done[name] = 0

        def work() -> None:
            while not self._end.is_set():
                try:
                    once()
                    self.done[name] += 1
                except ConfideError as error:
                    self.errors.append(f"{name}: {error.code}: {error.message}")

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def wait_for(self, more: int) -> None:
        """Until everybody has done it so many times more."""
        before, end = dict(self.done), time.monotonic() + 60
        while any(self.done[name] < number + more for name, number in before.items()) and not self.errors:
            assert time.monotonic() < end, (before, self.done)
            time.sleep(0.02)

    def end(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)


@pytest.mark.slow
def test_restart_on_one_socket_under_load_loses_no_request(brokers: Manager, old: subprocess.Popen[bytes], granted: Granted) -> None:
    load, clients = Load(), [granted.client() for _ in range(3)]

    def release(client: NodeBrokerClient) -> None:
        assert client.release(granted.envelope).secret.reveal() == granted.secret

    def whole_cycle() -> None:
        with granted.client() as client:
            release(client)

    def health() -> None:
        channel = granted.channel()
        assert request(channel, "GET", "/livez").status == 200
        channel.close()

    for number, client in enumerate(clients):
        load.add(f"open session {number}", lambda client=client: release(client))
    load.add("whole cycle", whole_cycle)
    load.add("liveness", health)
    try:
        load.wait_for(5)
        for _ in range(2):
            new, _ = brokers.serve()
            old.send_signal(signal.SIGTERM)
            assert old.wait(30) == 0, brokers.log
            load.wait_for(5)
            old = new
        assert "cut off" not in brokers.log
    finally:
        load.end()
        for client in clients:
            client.close()
    assert load.errors == []
    assert (brokers.home / "broker" / "address.json").exists(), "the old broker took the new one's announcement away"


def test_who_waits_for_withdrawals_is_answered_at_once_and_by_the_next_broker_afterwards(
    brokers: Manager, old: subprocess.Popen[bytes], granted: Granted
) -> None:
    with granted.client(timeout=40.0) as client:
        client.release(granted.envelope)
        watching = threading.Thread(target=client.watch)
        watching.start()
        time.sleep(1)
        brokers.serve()
        before = time.monotonic()
        old.send_signal(signal.SIGTERM)
        assert old.wait(30) == 0
        watching.join(30)
        assert time.monotonic() - before < 20, "25 seconds would be a wait that nobody has ended"
        client.release(granted.envelope)


def test_session_ends_with_its_broker_and_the_node_attests_anew(
    brokers: Manager, old: subprocess.Popen[bytes], granted: Granted
) -> None:
    with granted.client() as client:
        client.release(granted.envelope)
        old.send_signal(signal.SIGTERM)
        old.wait(30)
        brokers.serve()
        client.release(granted.envelope)
        client.release(granted.envelope)


def test_second_signal_ends_the_wait_for_a_client_that_says_nothing(
    brokers: Manager, old: subprocess.Popen[bytes], granted: Granted
) -> None:
    with socket.create_connection(("127.0.0.1", brokers.sock.getsockname()[1])):
        time.sleep(0.5)
        old.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert old.poll() is None, "a connection that was accepted has its first request answered"
        old.send_signal(signal.SIGTERM)
        assert old.wait(8) == 0
    assert "cut off: 1" in brokers.log


def test_request_that_takes_longer_than_the_drain_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("drain_s = 0.5\n")
    with manager(tmp_path, "--simulate", "--key-file", str(tmp_path / "master.key")) as brokers:
        process, _ = brokers.serve()
        with socket.create_connection(("127.0.0.1", brokers.sock.getsockname()[1])):
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(8) == 0
        assert "cut off: 1" in brokers.log


def test_service_manager_hears_of_begin_reload_life_and_end(tmp_path: Path) -> None:
    with manager(tmp_path, "--simulate", "--key-file", str(tmp_path / "master.key"), watchdog_s=2.0) as brokers:
        process, notices = brokers.serve()
        notices.wait_for("WATCHDOG=1", 2)
        certificate = tmp_path / "broker" / "certificate.pem"
        certificate.unlink()  # as if it had to be made anew
        process.send_signal(signal.SIGHUP)
        notices.wait_for("READY=1", 2)
        assert notices.count("RELOADING=1") == 1
        assert certificate.exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        notices.wait_for("STOPPING=1")


def test_stopped_broker_is_not_said_to_be_alive(tmp_path: Path) -> None:
    """A watchdog that is fed by a thread of its own says nothing of the server: this one looks whether connections are taken."""
    from confide.cli import broker_process

    class Stuck:
        looked = time.monotonic() - broker_process.STUCK_S - 1
        url = "https://127.0.0.1:1"

    told: list[str] = []

    class Told(ServiceManager):
        def alive(self) -> None:
            told.append("alive")

    process = broker_process.BrokerProcess(Stuck(), Told(watchdog_s=0.1), lambda: None, None)  # type: ignore[arg-type,return-value]
    attendant = threading.Thread(target=process._attend)
    attendant.start()
    time.sleep(1.2)
    assert told == []
    Stuck.looked = time.monotonic() + 60
    time.sleep(1.2)
    process._ended.set()
    attendant.join()
    assert told


def test_new_certificate_is_shown_without_a_restart(brokers: Manager, old: subprocess.Popen[bytes], granted: Granted) -> None:
    from cryptography import x509

    file = brokers.home / "broker" / "certificate.pem"
    before = x509.load_pem_x509_certificate(file.read_bytes())
    file.unlink()
    old.send_signal(signal.SIGHUP)
    end = time.monotonic() + 20
    while granted.channel()._peer.serial_number == before.serial_number:  # type: ignore[union-attr]
        assert time.monotonic() < end
        time.sleep(0.1)
    assert before.not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)


@pytest.mark.parametrize(("fds", "more", "said"), [(2, [], "one socket"), (1, ["--listen", "127.0.0.1:0"], "leave --listen out")])
def test_what_a_service_manager_gives_must_be_one_socket_and_nothing_else(tmp_path: Path, fds: int, more: list[str], said: str) -> None:
    with manager(tmp_path, "--key-file", str(tmp_path / "master.key")) as brokers:
        process, _ = brokers.start(*more, fds=fds)
        assert process.wait(30) == 2
        assert said in brokers.log


def test_sockets_of_another_process_are_not_taken() -> None:
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert inherited_socket(environ) is None
    assert environ == {}, "child processes are told nothing"


def test_descriptor_that_is_no_listening_socket_is_refused(tmp_path: Path) -> None:
    given = "{'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}"
    code = f"import os; from confide.cli import service_manager; service_manager.inherited_socket({given})"
    for redirect, said in (("3</dev/null", "cannot be used"), ("3>&-", "cannot be used")):
        shell = ["bash", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, code]
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        assert "UsageError" in done.stderr
        assert said in done.stderr
    with pytest.raises(UsageError):
        inherited_socket({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"})


@pytest.mark.parametrize("address", ["", "relative", "/nobody/listens"])
def test_manager_that_cannot_be_told_ends_no_service(address: str) -> None:
    ServiceManager.of({"NOTIFY_SOCKET": address}).ready("x")


def test_service_that_waits_says_so_again_and_again_until_it_waits_no_more(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="confide-") as folder:
        notices = Notices(Path(folder) / "notify")
        reason = "the custody is away\nREADY=1\rWATCHDOG=1"  # what a service far away may have said
        with ServiceManager(str(notices.path)).waits(lambda: reason, every_s=0.02):
            notices.wait_for("EXTEND_TIMEOUT_USEC=60000000", 3)
            reason = "the custody is still away"
            notices.wait_for("STATUS=the custody is still away")
        time.sleep(0.5)  # what was sent before the end is read
        said = len(notices.words)
        time.sleep(0.5)
        assert len(notices.words) == said
        assert notices.count("STATUS=the custody is away READY=1 WATCHDOG=1") >= 3
        assert {"READY=1", "WATCHDOG=1"} & set(notices.words) == set()


def test_watchdog_of_another_process_is_not_ours() -> None:
    assert ServiceManager.of({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)}).watchdog_s == 0
    assert ServiceManager.of({"WATCHDOG_USEC": "1000000"}).watchdog_s == 1.0
