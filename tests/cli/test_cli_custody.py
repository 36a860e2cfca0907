"""``confide broker`` with the master key in others' hands: shares that are brought to a sealed broker, and a key service."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker_process import Notices
from support.broker_world import World, policy
from support.cli_broker import Broker
from support.custody.tls import Tls, private_file
from support.custody.transit import NAMESPACE, TransitServer
from support.kbs_world import Kbs

from confide.crypto.secret import SecretBytes
from confide.ids import Tee
from confide.jobs.local.simulation import SimulatedTee
from confide.keys.custody.shares import Share
from confide.keys.server import BrokerServer

TOKEN = "hvs.CAESIJtestTokenOfABroker"


@pytest.fixture
def home() -> Iterator[Path]:
    """Where a socket's path is short enough (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="confide-") as folder:
        yield Path(folder)


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Broker]]:
    begun: list[Broker] = []

    def begin(*words: str | Path) -> Broker:
        begun.append(Broker(home, *words))
        return begun[-1]

    yield begin
    for one in begun:
        one.end(signal.SIGKILL)


@pytest.fixture
def shares(confide: Any, home: Path) -> list[Path]:
    said = confide("--home", home, "broker", "init", "--shares", "2-of-3", "--out", home / "shares", "--on-disk", "--json")
    assert said.status == 0, said.err
    assert said.json["needed"] == 2
    return [Path(name) for name in said.json["shares"]]


def _unseal(confide: Any, home: Path, file: Path) -> Any:
    return confide("--home", home, "broker", "unseal", "--share-file", file, "--json")


def test_a_broker_with_shares_serves_once_enough_holders_have_brought_theirs(
    confide: Any, home: Path, shares: list[Path], start: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    notices = Notices(home / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(notices.path))
    broker = start("--shares")
    monkeypatch.delenv("NOTIFY_SOCKET")
    broker.wait_for("operator.sock")
    notices.wait_for("EXTEND_TIMEOUT_USEC=60000000")
    assert (notices.count("STATUS=sealed; waits for shares") > 0, notices.count("READY=1")) == (True, 0)
    assert _unseal(confide, home, shares[2]).json == {"share": 3, "missing": 1}
    assert stat.S_IMODE((home / "broker" / "operator.sock").stat().st_mode) == 0o600
    assert not broker.serves
    words = ("--shares", "--url", "https://127.0.0.1:1", "--out", home / "no.json", "--json")
    said = confide("--home", home, "broker", "enrol", "airline", *words)
    assert (said.status, said.json["error"]["code"]) == (6, "broker-sealed")
    assert _unseal(confide, home, shares[0]).json == {"share": 1, "missing": 0}
    broker.wait_for("address.json")
    said = confide("--home", home, "broker", "enrol", "airline", "--shares", "--out", home / "ticket.json")
    assert said.status == 0, said.err
    assert confide("--home", home, "keys", "init", "airline", "--enrolment", home / "ticket.json").status == 0
    assert confide("--home", home, "keys", "create", "airline/flights").status == 0
    assert _unseal(confide, home, shares[1]).json["error"]["code"] == "share-refused"
    assert broker.end() == 0
    texts = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file() and path.parent.name != "shares")
    for file in shares:
        assert file.read_bytes().strip() not in texts
        assert Share.parse(SecretBytes(file.read_bytes())).value.reveal() not in texts
    assert not (home / "broker" / "operator.sock").exists()


def test_wrong_shares_open_nothing_and_do_not_count(
    confide: Any, home: Path, shares: list[Path], start: Callable[..., Broker], tmp_path: Path
) -> None:
    broker = start("--shares")
    broker.wait_for("operator.sock")
    text = shares[0].read_text().strip()
    mistyped = private_file(tmp_path / "mistyped", text[:-1] + ("a" if text[-1] != "a" else "b"))
    other = tmp_path / "other"
    assert confide("--home", other, "broker", "init", "--shares", "2-of-3", "--out", other / "s", "--on-disk").status == 0
    loose = private_file(tmp_path / "loose", text)
    loose.chmod(0o644)
    for file, code in ((mistyped, "share-refused"), (other / "s" / "share-1-of-3", "share-refused"), (loose, "credential-refused"),
                       (tmp_path / "none", "credential-refused")):  # fmt: skip
        said = _unseal(confide, home, file)
        assert (said.status, said.json["error"]["code"]) == (4, code)
        assert text[20:] not in said.out + said.err
    assert _unseal(confide, home, shares[0]).json["missing"] == 1
    assert _unseal(confide, home, shares[0]).json["error"]["code"] == "share-refused"
    assert not broker.serves
    assert broker.end() == 130


def test_a_broker_that_was_killed_comes_back_sealed(confide: Any, home: Path, shares: list[Path], start: Callable[..., Broker]) -> None:
    broker = start("--shares")
    broker.wait_for("operator.sock")
    for file in shares[:2]:
        _unseal(confide, home, file)
    broker.wait_for("address.json")
    broker.end(signal.SIGKILL)
    (home / "broker" / "address.json").unlink()
    again = start("--shares")
    time.sleep(0.5)
    for _ in range(200):
        said = _unseal(confide, home, shares[1])
        if said.status == 0:
            break
        time.sleep(0.1)
    assert said.json == {"share": 2, "missing": 1}
    assert not again.serves


def test_two_brokers_do_not_share_a_socket(confide: Any, home: Path, shares: list[Path], start: Callable[..., Broker]) -> None:
    start("--shares").wait_for("operator.sock")
    second = start("--shares")
    assert second.process.wait(20) == 2
    assert "another broker" in second.log.read_text()
    assert _unseal(confide, home, shares[0]).status == 0


def test_shares_are_made_for_a_new_store_only_and_not_on_a_disk(confide: Any, home: Path, shares: list[Path], tmp_path: Path) -> None:
    said = confide("--home", home, "broker", "init", "--shares", "2-of-3", "--out", tmp_path / "more", "--on-disk")
    assert said.status == 4
    assert not (tmp_path / "more").exists()
    for wanted in ("3", "1-of-2", "3-of-2", "x-of-y", "2-of-300", "-of-"):
        assert confide("--home", tmp_path / "new", "broker", "init", "--shares", wanted, "--out", tmp_path / "s", "--on-disk").status == 2
    for file in shares:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_share_files_go_to_a_folder_in_memory_unless_told_otherwise(confide: Any, tmp_path: Path) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    home, disk = tmp_path / "home", Path(__file__).parent
    assert any(kind == "tmpfs" and place == "/dev/shm" for _, place, kind, *_ in mounts)
    said = confide("--home", home, "broker", "init", "--shares", "2-of-3", "--out", disk)
    assert said.status == 2
    assert "on a disk" in said.err
    assert not (home / "broker").exists()
    memory = Path("/dev/shm") / f"confide-test-{os.getpid()}"
    try:
        assert confide("--home", home, "broker", "init", "--shares", "2-of-3", "--out", memory).status == 0
        assert len(list(memory.iterdir())) == 3
    finally:
        for file in memory.iterdir():
            file.unlink()
        memory.rmdir()


def test_without_a_broker_or_terminal_unseal_says_what_to_do(confide: Any, home: Path, shares: list[Path]) -> None:
    said = _unseal(confide, home, shares[0])
    assert (said.status, said.json["error"]["code"]) == (6, "broker-unavailable")
    assert confide("--home", home, "broker", "unseal").status == 2


def test_a_store_is_opened_in_the_way_that_it_was_made_for(confide: Any, home: Path, shares: list[Path], tmp_path: Path) -> None:
    key = tmp_path / "master.key"
    said = confide("--home", tmp_path / "empty", "broker", "serve", "--shares", "--listen", "127.0.0.1:0")
    assert said.status == 4
    assert "broker init" in said.err
    key.touch(mode=0o600)
    key.write_bytes(bytes(32))
    said = confide("--home", home, "broker", "serve", "--key-file", key, "--listen", "127.0.0.1:0")
    assert said.status == 4
    assert confide("--home", home, "broker", "serve", "--key-file", key, "--shares", "--listen", "127.0.0.1:0").status == 2


# --- a key service -----------------------------------------------------------------------------------------------


@pytest.fixture
def transit(tmp_path: Path) -> Iterator[TransitServer]:
    server = TransitServer(Tls(tmp_path / "tls"), TOKEN)
    server.rotate("confide")
    yield server
    server.stop()


@pytest.fixture
def custody(tmp_path: Path, transit: TransitServer) -> Path:
    private_file(tmp_path / "vault.token", TOKEN)
    lines = ["[custody]", 'kind = "vault"', f'address = "{transit.address}"', f'namespace = "{NAMESPACE}"', 'key = "confide"',
             'token_file = "vault.token"', 'ca_file = "tls/ca.pem"', "check_every_s = 1", "grace_s = 0"]  # fmt: skip
    return private_file(tmp_path / "custody.toml", "\n".join(lines) + "\n")


def test_a_broker_in_a_custody_seals_itself_when_it_refuses_and_opens_when_it_agrees(
    confide: Any, home: Path, custody: Path, transit: TransitServer, start: Callable[..., Broker]
) -> None:
    broker = start("--custody", custody)
    broker.wait_for("address.json")
    said = confide("--home", home, "broker", "enrol", "airline", "--custody", custody, "--out", home / "ticket.json")
    assert said.status == 0, said.err
    assert confide("--home", home, "keys", "init", "airline", "--enrolment", home / "ticket.json").status == 0
    assert confide("--home", home, "keys", "create", "airline/one").status == 0

    def until(code: str | None) -> None:
        for number in range(100):
            said = confide("--home", home, "keys", "create", f"airline/key-{code or 'open'}-{number}", "--json")
            if said.json.get("error", {}).get("code") == code:
                return
            time.sleep(0.2)
        raise AssertionError(said.out)

    versions = transit.keys.pop("confide")
    until("broker-sealed")
    transit.keys["confide"] = versions
    until(None)
    assert broker.end() == 0
    log = broker.log.read_text()
    assert "sealed: the custody of the master key refuses" in log
    assert "unsealed" in log
    assert TOKEN not in log


@pytest.mark.parametrize("fault", ["denied", "away", "wrong token file"])
def test_a_broker_does_not_start_without_its_custody(fault: str, confide: Any, home: Path, custody: Path, transit: TransitServer) -> None:
    broker = Broker(home, "--custody", custody)
    broker.wait_for("address.json")
    broker.end()
    token = custody.with_name("vault.token")
    if fault == "denied":
        transit.token = "hvs.another"
    elif fault == "away":
        transit.stop()
    else:
        token.chmod(0o644)
    said = confide("--home", home, "broker", "serve", "--custody", custody, "--listen", "127.0.0.1:0", "--json")
    code = {"denied": "custody-refused", "away": "custody-offline", "wrong token file": "credential-refused"}[fault]
    assert json.loads(said.out)["error"]["code"] == code
    assert TOKEN not in said.out + said.err


def test_a_custody_file_with_an_unknown_key_is_refused(confide: Any, home: Path, custody: Path) -> None:
    custody.write_text(custody.read_text() + 'token = "hvs.x"\n')
    said = confide("--home", home, "broker", "serve", "--custody", custody, "--listen", "127.0.0.1:0")
    assert said.status == 2
    assert "config-invalid" in said.err


# --- an upstream key broker --------------------------------------------------------------------------------------------


def _health(address: str) -> tuple[int, str]:
    """As a probe on the machine, which takes whatever certificate is there."""
    host, _, port = address.removeprefix("https://").removesuffix("/healthz").rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ssl.get_server_certificate((host, int(port))))
    try:
        with urllib.request.urlopen(f"https://{host}:{port}/healthz", context=context, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.timeout(300)  # six brokers start, one after another
def test_a_broker_whose_upstream_is_away_waits_sealed_says_why_and_comes_up(
    confide: Any, home: Path, tmp_path: Path, start: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = SimulatedTee.at(tmp_path / "simulated")
    world = World(tmp_path, simulated.installation)
    kbs = Kbs(world)
    measurements = {Tee.TDX: (simulated.measurement().of(Tee.TDX),)}
    kbs.set_policy("airline", "simulated", policy("simulated", measurements=measurements).to_json())
    assert kbs.post("airline", "resource/airline/key/root", os.urandom(32)).status == 200
    file = private_file(tmp_path / "custody.toml", (
        f'[custody]\nkind = "kbs"\naddress = "{world.server.url}"\nkey = "airline/key/root"\nspki = "{world.server.spki}"\n'
        'simulated = "simulated"\n'
    ))  # fmt: skip
    first = start("--custody", file)
    first.wait_for("address.json")
    assert first.end() == 0
    port = int(world.server.url.rpartition(":")[2])
    world.server.stop()
    said = confide("--home", home, "broker", "serve", "--custody", file, "--listen", "127.0.0.1:0", "--json")
    assert json.loads(said.out)["error"]["code"] == "custody-offline"
    notices = Notices(home / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(notices.path))
    waiting = start("--custody", file, "--wait")
    for _ in range(400):
        if found := re.search(r"https://[0-9.:]+/healthz", waiting.log.read_text()):
            break
        time.sleep(0.05)
    assert found is not None, waiting.log.read_text()
    status, text = _health(found.group())
    assert (status, json.loads(text)["code"]) == (503, "broker-sealed")
    assert "upstream key broker cannot be reached" in text
    notices.wait_for("EXTEND_TIMEOUT_USEC=60000000")
    assert any(word.startswith("STATUS=sealed: the upstream key broker cannot be reached") for word in notices.words)
    assert (notices.count("READY=1"), waiting.serves) == (0, False)
    with BrokerServer(world.broker, port=port):
        waiting.wait_for("address.json")
        notices.wait_for("READY=1")
        assert _health(json.loads((home / "broker" / "address.json").read_text())["url"]) == (200, '{"status":"ok"}')
    assert waiting.end() == 0
    world.close()
    stopped = start("--custody", file, "--wait")
    while "healthz" not in stopped.log.read_text():
        assert stopped.process.poll() is None
        time.sleep(0.05)
    assert stopped.end() == 130
