"""The runbook's first chapters, typed as they stand there against real brokers, and what they are for: nothing is released any more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, MEASUREMENT, Node

from confide.attest.insecure import InsecureAttester, Installation
from confide.canonical import Json
from confide.cli.broker import spawn
from confide.cli.owners import BrokerAddress, client_of
from confide.config import Settings
from confide.errors import ConfideError, KeyRevokedError
from confide.ids import Tee
from confide.keys.client import NodeBrokerClient

RUNBOOK = Path(__file__).resolve().parents[2] / "docs" / "guides" / "runbook.md"
_BLOCK = re.compile(r"<!-- run: ([a-z-]+) -->\n```console\n(.*?)```", re.DOTALL)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def blocks(name: str) -> list[list[str]]:
    """The commands of a chapter, block by block."""
    found = [text for chapter, text in _BLOCK.findall(RUNBOOK.read_text()) if chapter == name]
    return [[line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")] for text in found]


class Desk:
    """Where somebody types: a folder, with the program on the path."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.said: dict[str, str] = {}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environ = {**os.environ, "CONFIDE_HOME": str(home), "PATH": path, "COLUMNS": "200"}
        self.background: list[subprocess.Popen[bytes]] = []

    def type(self, command: str, **variables: str) -> str:
        environ = {**self.environ, **variables}
        if command == "wait":
            assert self.background.pop().wait(120) == 0
            return ""
        if command.endswith("&"):
            words = ["bash", "-c", f"exec {command.removesuffix('&')}"]
            self.background.append(subprocess.Popen(words, cwd=self.folder, env=environ, stdin=subprocess.DEVNULL))
            return ""
        for _ in range(120):
            done = subprocess.run(["bash", "-ec", command], cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
            if "no broker" not in done.stderr:  # one that was started a line before may not listen yet
                break
            time.sleep(0.5)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        self.said[command] = done.stdout
        return done.stdout

    def refused(self, command: str) -> str:
        """What a command says that is refused."""
        for _ in range(120):
            done = subprocess.run(["bash", "-ec", command], cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False)
            if "no broker" not in done.stderr:
                break
            time.sleep(0.5)
        assert done.returncode != 0
        return done.stderr

    def close(self) -> None:
        while self.background:
            one = self.background.pop()
            one.terminate()
            one.wait(30)


class Airline:
    """An owner with a granted dataset at a broker of the owner's own, and a node that has its key."""

    def __init__(self, home: Path, address: BrokerAddress, desk: Desk) -> None:
        self.home, self.address, self.desk = home, address, desk
        (desk.folder / "policy.toml").write_text(f'name = "p"\nallow = ["simulated"]\n[measurements]\nsgx = ["{MEASUREMENT}"]\n')
        stricter = f'name = "s"\nroles = ["driver", "worker"]\nmin_tcb_eval = 20\n[measurements]\nsgx = ["{"cd" * 32}"]\n'
        (desk.folder / "stricter.toml").write_text(stricter)
        (desk.folder / "table.csv").write_text("a,b\n1,2\n")
        key_file = home / "master.key"
        for command in (
            f"confide broker enrol airline --key-file {key_file}",
            "confide keys init airline --enrolment airline.enrolment.json",
            "confide keys create airline/flights",
            "confide data encrypt table.csv data --key airline/flights",
            f"confide keys grant airline/flights --digest {JOB} --policy policy.toml",
        ):
            desk.type(command)
        manifest = desk.folder / "data" / "_confide.json"
        self.manifest: Json = json.loads(manifest.read_text())
        (grant,) = json.loads(desk.type("confide keys ls --json"))["grants"]
        self.grant = grant["id"]

    def node(self, **options: Any) -> NodeBrokerClient:
        node = Node(InsecureAttester(Installation.create(self.home / "simulated"), Tee.SGX, MEASUREMENT))
        keys = {"identity": node.identity, "attester": node.attester, "context": node.context, "seal_key": node.seal_key}
        return NodeBrokerClient(self.address.url, self.address.spki, role=node.role, **keys, **options)


@pytest.fixture
def airline(tmp_path: Path) -> Iterator[Airline]:
    home, folder = tmp_path / "home", tmp_path / "desk"
    home.mkdir()
    folder.mkdir()
    with spawn(home, home / "master.key") as address:
        yield Airline(home, address, Desk(folder, home))


def test_leaked_key(airline: Airline) -> None:
    with airline.node(timeout=40.0) as node:
        secret = node.release(airline.manifest).secret.reveal()
        for command in blocks("leaked-key")[0]:
            airline.desk.type(command, GRANT=airline.grant)
        with pytest.raises(KeyRevokedError):
            node.watch()
        with pytest.raises(ConfideError) as refused:
            node.release(airline.manifest)
        assert refused.value.code == "grant-missing"
    versions = json.loads(airline.desk.type("confide keys versions airline/flights --json"))["versions"]
    assert [(v["version"], v["state"], v["datasets"]) for v in versions] == [(1, "destroyed", 0), (2, "active", 1)]
    with client_of(Settings.load(environ={}, home=airline.home), "airline") as client:
        assert client.open(airline.manifest).secret.reveal() == secret, "the owner still opens the data"
    assert '"release"' in (airline.desk.folder / "leaked-key.jsonl").read_text()


def test_compromised_node(airline: Airline) -> None:
    with airline.node(timeout=40.0) as node:
        node.release(airline.manifest)
        for command in blocks("compromised-node")[0]:
            airline.desk.type(command, GRANT=airline.grant, JOB=JOB)
        assert MEASUREMENT[:16] in airline.desk.said["confide audit show --last 20"]
        with pytest.raises(KeyRevokedError):
            node.watch()
        with pytest.raises(ConfideError) as refused:
            node.release(airline.manifest)
        assert refused.value.code in {"grant-missing", "appraisal-refused"}


@pytest.fixture
def short() -> Iterator[Path]:
    """A socket's path is short: see docs/guides/custody.md."""
    folder = Path("/tmp") / f"confide-runbook-{os.getpid()}"
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def test_lost_share(short: Path) -> None:
    desk = Desk(short, short / "home")
    try:
        (commands,) = blocks("lost-share")
        desk.type("confide broker init --shares 2-of-3 --out old-shares --on-disk")
        shutil.copytree(short / "old-shares", short / "seen")  # somebody has copied them all
        (short / "old-shares" / "share-2-of-3").unlink()  # and this one is lost
        for command in commands:
            desk.type(command)
        desk.type("confide broker enrol airline --shares --out first.json")
        desk.type("confide keys init airline --enrolment first.json")
        desk.close()
        desk.type("confide broker serve --shares --listen 127.0.0.1:0 &")
        for number in (1, 2, 3):
            assert "another set" in desk.refused(f"confide broker unseal --share-file seen/share-{number}-of-3")
        for command in commands[-2:]:
            desk.type(command)
    finally:
        desk.close()


def test_moved_keys(short: Path) -> None:
    folder, desk = short, Desk(short, short / "nobody")
    try:
        operators, owners = blocks("moved-keys")
        desk.type("confide --home old broker init --shares 2-of-3 --out old-shares --on-disk")
        (folder / "old-shares" / "share-2-of-3").unlink()  # this one is lost
        for command in operators[:3]:
            desk.type(command)
        desk.type("confide --home old broker enrol airline --shares --out first.json")
        desk.type("confide --home old keys init airline --enrolment first.json")
        desk.type("confide --home old keys create airline/flights")
        for command in operators[3:]:
            desk.type(command)
        shutil.copytree(folder / "old" / "credentials", folder / "new" / "credentials", ignore=shutil.ignore_patterns("*.broker.json"))
        spki = json.loads((folder / "new" / "broker" / "address.json").read_text())["spki"]
        for command in owners:
            desk.type(command, SPKI=spki)
        assert "airline/flights@1" in desk.said["confide --home new keys ls"]
    finally:
        desk.close()


def test_chapters_that_are_run_are_there() -> None:
    assert {name: len(blocks(name)) for name in ("leaked-key", "compromised-node", "lost-share", "moved-keys")} == {
        "leaked-key": 1, "compromised-node": 1, "lost-share": 1, "moved-keys": 2,
    }  # fmt: skip
