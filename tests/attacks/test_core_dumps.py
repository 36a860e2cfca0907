"""A client, a node or a broker crashes, or is made to: its memory, where the keys are, is not written to a disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker_attacks import Granted
from support.broker_world import World
from support.canaries import found_under

from confide.attest.insecure import Installation

TESTS = Path(__file__).parents[1]
FORBID = "from confide.crypto import core_dumps; core_dumps.forbid()"
OWNER = """
from confide.keys.client import OwnerClient
from confide.keys.credentials import Credential
opened = OwnerClient(said["url"], said["spki"], Credential.load(Path(said["credentials"]), "airline")).open(said["manifest"])
"""
NODE = """
from support.broker_world import MEASUREMENT, Node
from confide.attest.insecure import InsecureAttester, Installation
from confide.ids import Tee
from confide.keys.client import NodeBrokerClient
node = Node(InsecureAttester(Installation.open(Path(said["tee"])), Tee.SGX, MEASUREMENT))
client = NodeBrokerClient(said["url"], said["spki"], identity=node.identity, attester=node.attester, context=node.context,
                          seal_key=node.seal_key, role=node.role)
opened = client.release(said["manifest"])
"""
WIPED = "opened.secret.wipe(); client.close()"
PROGRAMS = {
    "the command line": "sys.argv = ['confide', 'keys']; from confide.cli import main; main._run = lambda words: os.abort(); main.main()",
    "a node": (
        "sys.argv = ['node', '--spec', 'x', '--parent', str(os.getppid())]; from confide.jobs.local import node;"
        "node.NodeSpec.load = lambda path: os.abort(); node.main()"
    ),
    "an engine": (
        f"os.execv(sys.executable, [sys.executable, '-I', '-S', {str(TESTS.parent / 'src/confide/node/launch.py')!r}, str(os.getppid()),"
        "sys.executable, '-c', 'import os; os.abort()'])"
    ),
}
WITHOUT = {
    "the command line": "from confide.crypto import core_dumps; core_dumps.forbid = lambda: None;",
    "a node": "from confide.crypto import core_dumps; core_dumps.forbid = lambda: None;",
    "an engine": "import resource; os.abort();",
}


def crashed(folder: Path, program: str, said: object = None) -> bool:
    """Run a program that ends by SIGABRT, in a folder of its own, on a system that would keep its core: whether it has."""
    folder.mkdir()
    head = (
        "import json, os, resource, sys; resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)\n"
        f"sys.path[:0] = {[str(TESTS)]!r}; from pathlib import Path; said = json.load(sys.stdin)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", head + program],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stderr is not None
    with child.stdin, child.stderr:
        child.stdin.write(json.dumps(said).encode())
        child.stdin.close()
        told = child.stderr.read().decode(errors="replace")
        _, status = os.waitpid(child.pid, 0)
    child.returncode = status  # it is gone: nobody waits for it again
    assert os.WIFSIGNALED(status), told
    assert os.WTERMSIG(status) == signal.SIGABRT, told
    return os.WCOREDUMP(status)


@pytest.fixture(scope="module")
def keeps_cores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where this machine's kernel writes core dumps of what crashes."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if os.geteuid() == 0 and hard == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY))
    folder = tmp_path_factory.mktemp("cores")
    if not crashed(folder / "control", "os.abort()"):
        pytest.skip("this machine's limits (ulimit -H -c) let nobody write a core dump")
    return folder


@pytest.fixture(scope="module")
def tee(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


@pytest.fixture
def world(tmp_path: Path, tee: Installation) -> Iterator[World]:
    made = World(tmp_path, tee)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_our_programs_dump_no_core(keeps_cores: Path, name: str) -> None:
    """And would, if they did not see to it before they do anything else."""
    assert not crashed(keeps_cores / name, PROGRAMS[name])
    assert list((keeps_cores / name).iterdir()) == []
    assert crashed(keeps_cores / f"{name} as it must not be", WITHOUT[name] + PROGRAMS[name])


@pytest.mark.slow
@pytest.mark.parametrize("who", ["owner", "node", "wiped"])
def test_no_key_of_a_client_is_in_its_core_dump(keeps_cores: Path, world: World, tee: Installation, who: str) -> None:
    granted = Granted(world)
    said: Any = {
        "url": world.server.url, "spki": world.server.spki, "manifest": granted.manifest, "tee": str(tee._folder),
        "credentials": str(world.folder / "credentials"),
    }  # fmt: skip
    program = {"owner": OWNER, "node": NODE, "wiped": NODE + WIPED}[who] + "\nos.abort()\n"
    key = {"key": granted.minted.secret.reveal()}
    before, after = keeps_cores / f"{who}-live", keeps_cores / f"{who}-safe"
    assert crashed(before, program, said)
    if list(before.iterdir()) and who != "wiped":  # else the kernel gave it to another program
        assert {name for name, _ in found_under([before], key)} == {"key"}, "the control: a live client's memory holds it"
    assert not crashed(after, FORBID + program, said)
    assert list(after.iterdir()) == []
