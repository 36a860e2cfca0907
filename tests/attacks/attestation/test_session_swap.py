"""A false driver, and a session that is swapped for another after attesting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.attested_session import NODE, RUN, Connect, World, aside

from confide.attest.insecure import Fault, InsecureAttester
from confide.attest.policy import Policy
from confide.canonical import Json
from confide.crypto.identity import AnyKeyUntilAttested, Identity, IssuedBy
from confide.crypto.tls import Channel, Listener, connect
from confide.errors import AppraisalError, BindingError, ChannelError, EvidenceInvalidError, JobError, PolicyError
from confide.ids import NodeId, Role, Tee
from confide.job import Job
from confide.node import session, worker
from confide.node.agent import WorkerAgent
from confide.node.control import PROTOCOL, Kind, read
from confide.node.jobca import JobCa
from confide.node.session import VerifierSide, attest_peer, present
from confide.node.spec import NodeSpec, Timing


class NoEngine:
    """A worker's workload that must never be reached."""

    def __init__(self) -> None:
        self.opened = False

    def open(self, node: object) -> None:
        self.opened = True

    def start(self, engine: Json) -> None:
        self.opened = True

    def poll(self) -> int | None:
        return None

    def stop(self) -> None:
        return


class FalseDriver:
    """Listens where a worker was sent to, and plays a driver up to the step that a test is about."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.identity = Identity.generate("false driver")
        self.listener = Listener("127.0.0.1", 0, self.identity, trust=AnyKeyUntilAttested())
        self.workload = NoEngine()
        values = {"run_id": RUN, "node_id": NODE, "role": "worker", "job_digest": world.job.digest, "tee": "sgx"}
        paths = {"log_path": folder / "log", "work_dir": folder}
        timing = Timing(start_timeout_s=5, heartbeat_s=0.2, lost_after_s=2)
        host, port = self.listener.address
        spec = NodeSpec.model_validate({**values, **paths, "driver_host": host, "driver_port": port, "timing": timing})
        self.agent = WorkerAgent(spec, self.workload, attester=world.attester(), verifier=world.verifier)

    def greet(self) -> tuple[Channel, session.AttestedPeer]:
        channel = self.listener.accept(5)
        channel.handshake()
        read(channel.recv_frame(), Kind.HELLO)
        return channel, self.world.attest(channel)

    def tell_job(self, channel: Channel, form: Json) -> None:
        channel.send_frame({"kind": str(Kind.JOB), "form": form})


@pytest.fixture
def false_driver(world: World, tmp_path: Path) -> Iterator[FalseDriver]:
    driver = FalseDriver(world, tmp_path)
    yield driver
    driver.listener.close()
    assert not driver.workload.opened


def replace_policy(job: Job, measurements: Json) -> Job:
    return Job.build({**job.to_json(), "files": dict(job.files), "policy": {**job.policy, "measurements": measurements}})


def test_worker_does_not_take_its_policy_from_whoever_answers(world: World, false_driver: FalseDriver) -> None:
    """A policy that accepts the attacker's own measurement changes the job digest, which the worker was started with."""
    weak = replace_policy(world.job, {"sgx": ["ee" * 32]}).canonical_form()

    def play() -> None:
        channel, _ = false_driver.greet()
        false_driver.tell_job(channel, weak)
        present(
            channel,
            attester=InsecureAttester(world.installation, Tee.SGX, "ee" * 32),
            role=Role.DRIVER,
            context=world.context(node="driver"),
        )

    aside(play)
    with pytest.raises(BindingError, match="another job"):
        false_driver.agent.run()


def test_weak_policy_would_let_a_false_driver_in(world: World, linked: Connect) -> None:
    """The control of the test above: under the weak policy that evidence is fine."""
    policy = replace_policy(world.job, {"sgx": ["ee" * 32]}).policy
    near, far = linked()
    attester = InsecureAttester(world.installation, Tee.SGX, "ee" * 32)
    aside(lambda: present(near, attester=attester, role=Role.DRIVER, context=world.context(node="driver")))
    assert world.attest(far, role=Role.DRIVER, side=VerifierSide(world.verifier, Policy.from_json(policy)))


@pytest.mark.parametrize("fault", [Fault.WRONG_MEASUREMENT, Fault.DEBUG, Fault.REPLAY])
def test_worker_refuses_a_driver_that_is_not_what_the_policy_asks_for(fault: Fault, world: World, false_driver: FalseDriver) -> None:
    def play() -> None:
        channel, _ = false_driver.greet()
        false_driver.tell_job(channel, world.job.canonical_form())
        present(channel, attester=world.attester(fault), role=Role.DRIVER, context=world.context(node="driver"))

    aside(play)
    with pytest.raises((AppraisalError, EvidenceInvalidError, BindingError)):
        false_driver.agent.run()


def swap(world: World, false_driver: FalseDriver) -> None:
    """The job CA certifies every accepted node; the worker goes on only with the very key that it attested as the driver's."""
    ca = JobCa(RUN, now=datetime.now(UTC))
    other = Identity.generate("driver")
    pem = ca.issue(other.spki_der, node=NodeId("driver"), role=Role.WORKER, host="127.0.0.1", now=datetime.now(UTC))
    control = Listener("127.0.0.1", 0, other.with_certificate(pem, ca.ca_pem), trust=IssuedBy(ca.ca_pem))

    def play() -> None:
        channel, peer = false_driver.greet()
        false_driver.tell_job(channel, world.job.canonical_form())
        present(channel, attester=world.attester(), role=Role.DRIVER, context=world.context(node="driver"))
        mine = ca.issue(peer.record.spki, node=NODE, role=Role.WORKER, host="127.0.0.1", now=datetime.now(UTC)).decode()
        certificate = {"certificate": mine, "engine_certificate": mine, "ca": ca.ca_pem.decode(), "control_port": control.address[1]}
        channel.send_frame({"kind": str(Kind.CERTIFICATE), **certificate})
        answering = control.accept(5)
        answering.handshake()
        answering.send_frame({"kind": str(Kind.WELCOME), "job": {}})

    aside(play)
    try:
        false_driver.agent.run()
    finally:
        control.close()


def test_control_address_of_another_certified_node_is_refused(world: World, false_driver: FalseDriver) -> None:
    with pytest.raises(BindingError, match="not served by the attested driver"):
        swap(world, false_driver)


def test_only_the_attested_key_stops_another_certified_node_at_the_control_address(
    world: World, false_driver: FalseDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weakened variant: with a certificate of the job CA alone, the worker goes on, and reads what it is told to run."""
    monkeypatch.setattr(worker, "_check_same_node", lambda control, driver: None)
    with pytest.raises(JobError, match="a job needs its files"):
        swap(world, false_driver)


def test_certificate_of_another_runs_ca_does_not_open_the_control_channel() -> None:
    now = datetime.now(UTC)
    ours, theirs = JobCa(RUN, now=now), JobCa(RUN, now=now)
    driver, worker = Identity.generate("driver"), Identity.generate("worker")
    server = driver.with_certificate(
        ours.issue(driver.spki_der, node=NodeId("driver"), role=Role.DRIVER, host="127.0.0.1", now=now), ours.ca_pem
    )
    client = worker.with_certificate(theirs.issue(worker.spki_der, node=NODE, role=Role.WORKER, host="127.0.0.1", now=now), theirs.ca_pem)
    with Listener("127.0.0.1", 0, server, trust=IssuedBy(ours.ca_pem)) as listener:
        aside(lambda: connect(*listener.address, client, trust=IssuedBy(ours.ca_pem), timeout=5))
        with pytest.raises(ChannelError):
            listener.accept(5).handshake()


def test_job_with_an_empty_policy_is_refused_by_the_worker(world: World, tmp_path: Path) -> None:
    empty = Job.build({**world.job.to_json(), "files": dict(world.job.files), "policy": {}})
    driver = FalseDriver(replace(world, job=empty), tmp_path)

    def play() -> None:
        channel = driver.listener.accept(5)
        channel.handshake()
        read(channel.recv_frame(), Kind.HELLO)
        attest_peer(channel, side=world.side, role=Role.WORKER, job=empty.digest, run=RUN)
        driver.tell_job(channel, empty.canonical_form())

    aside(play)
    with pytest.raises(PolicyError):
        driver.agent.run()
    driver.listener.close()


def test_protocol_name_is_the_documented_one() -> None:
    assert PROTOCOL == "confide-session-v1"
