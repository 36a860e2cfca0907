"""A simulated vendor, a job and nodes' attesters for the tests of this layer."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.node_stage import Stage

from confide.attest.evidence import NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.policy import Policy
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json
from confide.crypto.identity import AnyKeyUntilAttested, Identity
from confide.crypto.seal import SealKey
from confide.crypto.tls import Channel, Listener, connect
from confide.ids import JobDigest, NodeId, Role, RunId, Tee, new_run_id
from confide.job import Job
from confide.node.session import VerifierSide
from confide.node.spec import NodeSpec, Timing

MEASUREMENT = "ab" * 32


@dataclass(frozen=True)
class World:
    """One simulated vendor and one job that trusts what runs under it."""

    installation: Installation
    verifier: Verifier
    job: Job

    @property
    def policy(self) -> Policy:
        return Policy.from_json(self.job.policy)

    @property
    def side(self) -> VerifierSide:
        return VerifierSide(self.verifier, self.policy)

    def with_job(self, **changes: object) -> World:
        """The same vendor, another job."""
        return replace(self, job=make_job(**changes))

    def attester(self, fault: Fault | None = None) -> InsecureAttester:
        return InsecureAttester(self.installation, Tee.SGX, MEASUREMENT, fault=fault)

    def context(self, run: RunId, node: str = "driver", job: JobDigest | None = None) -> NodeContext:
        return NodeContext(self.job.digest if job is None else job, run, NodeId(node), SealKey.generate().public_jwk())


def make_job(**changes: object) -> Job:
    data: Json = {
        "name": "spine",
        "program": "main.py",
        "files": {"main.py": b"print('hello')\n"},
        "policy": {"name": "test", "measurements": {"sgx": [MEASUREMENT]}, "allow": ["simulated"]},
        "broker": {"url": "https://127.0.0.1:1", "spki": "cd" * 32},
        "resources": {"workers": 2, "min_workers": 1},
    }
    return Job.build({**data, **changes})


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("vendor") / "simulated")


@pytest.fixture
def world(installation: Installation) -> World:
    verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
    return World(installation, verifier, make_job())


@pytest.fixture
def run_id() -> RunId:
    return new_run_id("spine")


Pair = tuple[Channel, Channel]


@pytest.fixture
def channels() -> Iterator[Callable[..., Pair]]:
    """Makes (client, server) channels over loopback, each end with a key of its own."""
    opened: list[Channel | Listener] = []

    def make(client: Identity | None = None, server: Identity | None = None) -> Pair:
        listener = Listener("127.0.0.1", 0, server or Identity.generate("server"), trust=AnyKeyUntilAttested())
        opened.append(listener)
        accepted: list[Channel] = []

        def accept() -> None:
            channel = listener.accept(5)
            channel.handshake()
            accepted.append(channel)

        thread = threading.Thread(target=accept)
        thread.start()
        near = connect(*listener.address, client or Identity.generate("client"), trust=AnyKeyUntilAttested(), timeout=5)
        thread.join()
        opened.extend([near, *accepted])
        for channel in (near, accepted[0]):
            channel.settimeout(5)
        return near, accepted[0]

    yield make
    for thing in reversed(opened):
        thing.close()


@dataclass(frozen=True)
class Specs:
    """Makes node specs of one run."""

    folder: Path
    run: RunId

    def make(self, job: Job, role: Role, node: str, *, port: int | None = None, **changes: object) -> NodeSpec:
        values: Json = {
            "run_id": self.run,
            "node_id": node,
            "role": role,
            "job_digest": job.digest,
            "tee": Tee.SGX,
            "log_path": self.folder / f"{node}.log",
            "work_dir": self.folder / node,
            "timing": Timing(start_timeout_s=10, heartbeat_s=0.2, lost_after_s=2.0),
        }
        if role is Role.DRIVER:
            values["announce_path"] = self.folder / "announce.json"
        else:
            values |= {"driver_host": "127.0.0.1", "driver_port": port}
        return NodeSpec.model_validate({**values, **changes})


@pytest.fixture
def specs(tmp_path: Path, run_id: RunId) -> Specs:
    return Specs(tmp_path, run_id)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a unix socket's name."""
    folder = Path("/dev/shm") / f"confide-test-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture
def stage_of(specs: Any) -> Iterator[Callable[[Any], Stage]]:
    made: list[Stage] = []

    def make(world: Any) -> Stage:
        made.append(Stage(world, specs))
        return made[-1]

    yield make
    for found in made:
        found.end()


@pytest.fixture
def stage(world: Any, stage_of: Callable[[Any], Stage]) -> Stage:
    return stage_of(world)
