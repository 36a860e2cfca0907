"""A simulated vendor, a genuine job, and both ends of a TLS channel: what attacks on attested sessions need."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from confide.attest import binding
from confide.attest.evidence import NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.policy import Policy
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json
from confide.crypto.identity import AnyKeyUntilAttested, Identity
from confide.crypto.seal import SealKey
from confide.crypto.tls import Channel, Listener, connect
from confide.errors import ConfideError
from confide.ids import JobDigest, NodeId, ReportData, Role, RunId, Tee
from confide.job import Job
from confide.node import session
from confide.node.control import Kind, read
from confide.node.session import VerifierSide, attest_peer, present

MEASUREMENT = "ab" * 32
RUN = RunId("attacked-1")
NODE = NodeId("worker-1")


@dataclass(frozen=True)
class World:
    """A simulated vendor, a genuine job, and what an honest verifier uses."""

    installation: Installation
    verifier: Verifier
    job: Job

    @property
    def side(self) -> VerifierSide:
        return VerifierSide(self.verifier, Policy.from_json(self.job.policy))

    def attester(self, fault: Fault | None = None) -> InsecureAttester:
        return InsecureAttester(self.installation, Tee.SGX, MEASUREMENT, fault=fault)

    def context(self, *, job: JobDigest | None = None, run: RunId = RUN, node: str = NODE) -> NodeContext:
        return NodeContext(job or self.job.digest, run, NodeId(node), SealKey.generate().public_jwk())

    def attest(self, channel: Channel, *, role: Role = Role.WORKER, side: VerifierSide | None = None) -> session.AttestedPeer:
        return attest_peer(channel, side=side or self.side, role=role, job=self.job.digest, run=RUN)


Connect = Callable[..., tuple[Channel, Channel]]


def aside(work: Callable[[], object]) -> threading.Thread:
    """Run the other party on a thread; a refusal there is expected and not this thread's to judge."""

    def body() -> None:
        with suppress(ConfideError):
            work()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def without(monkeypatch: pytest.MonkeyPatch, *parts: str) -> None:
    """Take parts out of the report data, for attesters and verifiers alike."""

    def weak(*, role: Role, exporter: bytes, nonce: bytes, spki: bytes, context: bytes) -> ReportData:
        values = {"role": role.byte, "exporter": exporter, "nonce": nonce, "spki": hashlib.sha256(spki).digest(), "context": context}
        return ReportData(hashlib.sha512(b"".join(value for name, value in values.items() if name not in parts)).digest())

    monkeypatch.setattr(binding, "report_data", weak)
    monkeypatch.setattr(session, "report_data", weak)


@pytest.fixture(scope="module", name="world")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    installation = Installation.create(tmp_path_factory.mktemp("vendor") / "simulated")
    verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
    job = Job.build(
        {
            "name": "attacked",
            "program": "main.py",
            "files": {"main.py": b"pass\n"},
            "policy": {"name": "strict", "measurements": {"sgx": [MEASUREMENT]}, "allow": ["simulated"]},
            "broker": {"url": "https://127.0.0.1:1", "spki": "cd" * 32},
        }
    )
    return World(installation, verifier, job)


@pytest.fixture(name="linked")
def link_ends() -> Iterator[Connect]:
    """Makes both ends of a TLS channel: (the one that connected, the one that was connected to)."""
    opened: list[Channel | Listener] = []

    def make(client: Identity | None = None, server: Identity | None = None) -> tuple[Channel, Channel]:
        listener = Listener("127.0.0.1", 0, server or Identity.generate("server"), trust=AnyKeyUntilAttested())
        accepted: list[Channel] = []

        def accept() -> None:
            channel = listener.accept(5)
            with suppress(ConfideError):  # the other end reports it
                channel.handshake()
                accepted.append(channel)

        thread = threading.Thread(target=accept)
        thread.start()
        near = connect(*listener.address, client or Identity.generate("client"), trust=AnyKeyUntilAttested(), timeout=5)
        thread.join()
        opened.extend([listener, near, accepted[0]])
        return near, accepted[0]

    yield make
    for thing in reversed(opened):
        thing.close()


def replay(world: World, linked: Connect) -> session.AttestedPeer:
    """Record a genuine node's evidence frame; show it in a later session of the same node's key."""
    identity = Identity.generate("worker")
    frames: list[Json] = []
    near, far = linked(client=identity)
    recording = near.send_frame
    near.send_frame = lambda frame, **options: (frames.append(frame), recording(frame, **options))[1]  # type: ignore[method-assign]
    node = aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context()))
    world.attest(far)
    node.join()
    again, verifier_end = linked(client=identity)

    def show_it() -> None:
        read(again.recv_frame(), Kind.CHALLENGE)
        again.send_frame(frames[0])

    aside(show_it)
    return world.attest(verifier_end)


def show(world: World, linked: Connect, fault: Fault, policy: dict[str, Any] | None = None) -> session.AttestedPeer:
    near, far = linked()
    aside(lambda: present(near, attester=world.attester(fault), role=Role.WORKER, context=world.context()))
    side = VerifierSide(world.verifier, Policy.from_json({**world.job.policy, **(policy or {})}))
    return world.attest(far, side=side)
