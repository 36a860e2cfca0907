"""Attacks on attested sessions (threat model: network, operator, other nodes).

Each attack comes with its control: the same attack with the one defence taken out succeeds, so the defence is what stops it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from confide.attest import binding
from confide.attest.evidence import NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.policy import Policy
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json
from confide.crypto.identity import AnyKeyUntilAttested, Identity, IssuedBy
from confide.crypto.seal import SealKey
from confide.crypto.tls import Channel, Listener, connect
from confide.errors import AppraisalError, BindingError, ChannelError, ConfideError, EvidenceInvalidError, NonceError, PolicyError
from confide.ids import JobDigest, NodeId, ReportData, Role, RunId, Tee
from confide.job import Job
from confide.node import session
from confide.node.agent import WorkerAgent
from confide.node.control import PROTOCOL, Kind, read
from confide.node.jobca import JobCa
from confide.node.session import VerifierSide, attest_peer, present
from confide.node.spec import NodeSpec, Timing

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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
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


Connect = Callable[..., tuple[Channel, Channel]]


@pytest.fixture
def linked() -> Iterator[Connect]:
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


# --- replayed evidence --------------------------------------------------------------------------------------------------


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

    def show() -> None:
        read(again.recv_frame(), Kind.CHALLENGE)
        again.send_frame(frames[0])

    aside(show)
    return world.attest(verifier_end)


def test_replayed_evidence_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        replay(world, linked)


def test_replay_works_without_nonce_and_exporter(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "nonce", "exporter")
    assert replay(world, linked).context.node == NODE


@pytest.mark.parametrize("part", ["nonce", "exporter"])
def test_nonce_and_exporter_each_stop_replay_alone(part: str, world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, part)
    with pytest.raises(BindingError):
        replay(world, linked)


# --- evidence relayed through a second TLS session ----------------------------------------------------------------------


def relay(world: World, linked: Connect, *, stolen: Identity | None = None) -> session.AttestedPeer:
    """Stand between the verifier and a genuine node: a TLS session to each, frames passed on unchanged (CVE-2026-33697).

    ``stolen``: the node's own TLS key is in the attacker's hands as well.
    """
    attacker_to_node, node_end = linked(server=stolen)
    aside(lambda: present(node_end, attester=world.attester(), role=Role.WORKER, context=world.context()))
    attacker_to_verifier, verifier_end = linked(client=stolen)

    def pass_on() -> None:
        attacker_to_node.send_frame(attacker_to_verifier.recv_frame())
        attacker_to_verifier.send_frame(attacker_to_node.recv_frame())

    aside(pass_on)
    return world.attest(verifier_end)


def test_evidence_relayed_through_a_second_tls_session_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        relay(world, linked)


def test_relay_works_without_exporter_and_key(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "exporter", "spki")
    assert relay(world, linked).context.node == NODE


def test_exporter_stops_relay_by_a_thief_of_the_key(world: World, linked: Connect) -> None:
    """Evidence that is bound to a key alone (RA-TLS) would be worth nothing here."""
    with pytest.raises(BindingError):
        relay(world, linked, stolen=Identity.generate("stolen"))


def test_relay_by_a_thief_of_the_key_works_without_exporter(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "exporter")
    assert relay(world, linked, stolen=Identity.generate("stolen")).context.node == NODE


# --- reflected evidence -------------------------------------------------------------------------------------------------


def reflect(world: World, linked: Connect, *, lie: bool) -> session.AttestedPeer:
    """Come to a driver as a worker, and answer its challenge with evidence that the same driver gives in another session."""
    driver = Identity.generate("driver")
    attacker, verifier_end = linked(server=driver)
    other, presenter_end = linked(server=driver)
    aside(lambda: present(presenter_end, attester=world.attester(), role=Role.DRIVER, context=world.context(node="driver")))

    def mirror() -> None:
        challenge = attacker.recv_frame()
        other.send_frame({**challenge, "role": "driver"})
        evidence = other.recv_frame()
        attacker.send_frame({**evidence, "role": "worker"} if lie else evidence)

    aside(mirror)
    return world.attest(verifier_end, role=Role.WORKER)


@pytest.mark.parametrize("lie", [False, True])
def test_reflected_evidence_is_refused(lie: bool, world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        reflect(world, linked, lie=lie)


def test_reflection_works_without_role_exporter_and_key(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "role", "exporter", "spki")
    assert reflect(world, linked, lie=True).context.node == "driver"


def test_role_byte_alone_stops_reflection(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "exporter", "spki")
    with pytest.raises(BindingError):
        reflect(world, linked, lie=True)


def test_session_with_our_own_key_is_refused_in_the_handshake(linked: Connect) -> None:
    mine = Identity.generate("node")
    with pytest.raises((BindingError, ChannelError)):
        linked(client=mine, server=mine)


def own_key_session(world: World, *, own_spki: bytes | None) -> session.AttestedPeer:
    """A session whose other end is this node itself: all that evidence is bound to agrees."""
    identity, side, context, exporter = Identity.generate("node"), world.side, world.context(), bytes(range(32))
    nonce = side.nonces.issue(datetime.now(UTC))
    quote = world.attester().quote(
        binding.report_data(role=Role.WORKER, exporter=exporter, nonce=nonce, spki=identity.spki_der, context=context.digest)
    )
    presented = session.Presented(Role.WORKER, context, quote)
    expected = session.Expected(Role.WORKER, world.job.digest, RUN)
    return session.judge(
        presented,
        side=side,
        nonce=nonce,
        exporter=exporter,
        peer_spki=identity.spki_der,
        own_spki=own_spki or identity.spki_der,
        expected=expected,
    )


def test_peer_with_our_own_key_is_refused(world: World) -> None:
    with pytest.raises(BindingError, match="own key"):
        own_key_session(world, own_spki=None)


def test_only_the_own_key_check_stops_a_session_with_oneself(world: World) -> None:
    assert own_key_session(world, own_spki=b"another").context.node == NODE


# --- nonce --------------------------------------------------------------------------------------------------------------


def late(world: World, linked: Connect, *, ttl: timedelta) -> session.AttestedPeer:
    """Evidence that comes two minutes after its challenge."""
    times = iter([datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=2)])
    side = VerifierSide(world.verifier, Policy.from_json(world.job.policy), clock=lambda: next(times), nonce_ttl=ttl)
    near, far = linked()
    aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context()))
    return world.attest(far, side=side)


def test_evidence_for_an_expired_nonce_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(NonceError, match="expired"):
        late(world, linked, ttl=timedelta(seconds=60))


def test_late_evidence_passes_if_nonces_live_longer(world: World, linked: Connect) -> None:
    assert late(world, linked, ttl=timedelta(minutes=3)).context.node == NODE


def test_nonce_is_used_up_by_a_refusal(world: World) -> None:
    side = world.side
    nonce = side.nonces.issue(datetime.now(UTC))
    presented = session.Presented(Role.WORKER, world.context(run=RunId("other")), world.attester().quote(ReportData(bytes(64))))
    expected = session.Expected(Role.WORKER, world.job.digest, RUN)
    facts = {"side": side, "nonce": nonce, "exporter": bytes(32), "peer_spki": b"peer", "own_spki": b"own", "expected": expected}
    with pytest.raises(BindingError):
        session.judge(presented, **facts)  # type: ignore[arg-type]
    with pytest.raises(NonceError):
        session.judge(presented, **facts)  # type: ignore[arg-type]


# --- role, job, run and node --------------------------------------------------------------------------------------------


def edited(world: World, linked: Connect, edit: Callable[[Json], Json], **context: Any) -> session.AttestedPeer:
    """A genuine worker's own session, in which an evidence frame is edited before it reaches the verifier."""
    near, far = linked()
    sending = near.send_frame
    near.send_frame = lambda frame, **options: sending(edit(frame), **options)  # type: ignore[method-assign]
    aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context(**context)))
    return world.attest(far, role=Role.WORKER)


def swapped_role(world: World, linked: Connect) -> session.AttestedPeer:
    """A genuine worker shows its evidence where a driver is wanted."""
    near, far = linked()
    receiving, sending = near.recv_frame, near.send_frame
    near.recv_frame = lambda *args, **options: {
        **(f := receiving(*args, **options)),
        **({"role": "worker"} if f["kind"] == "challenge" else {}),
    }  # type: ignore[method-assign]
    near.send_frame = lambda frame, **options: sending({**frame, "role": "driver"}, **options)  # type: ignore[method-assign]
    aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context()))
    return world.attest(far, role=Role.DRIVER)


def test_swapped_role_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        swapped_role(world, linked)


def test_role_swap_works_without_the_role_byte(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "role")
    assert swapped_role(world, linked).record.role is Role.DRIVER


def test_node_does_not_present_itself_under_a_role_that_it_does_not_have(world: World, linked: Connect) -> None:
    near, far = linked()
    aside(lambda: world.attest(far, role=Role.DRIVER))
    with pytest.raises(BindingError, match="another role"):
        present(near, attester=world.attester(), role=Role.WORKER, context=world.context())


OTHER_JOB = JobDigest("0" * 96)


def test_evidence_of_a_node_with_another_job_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError, match="another job digest"):
        edited(world, linked, lambda frame: frame, job=OTHER_JOB)


def pretend_job(world: World) -> Callable[[Json], Json]:
    return lambda frame: {**frame, "context": {**frame["context"], "job": world.job.digest}} if frame["kind"] == "evidence" else frame


def test_job_digest_written_over_in_the_frame_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError, match="not bound"):
        edited(world, linked, pretend_job(world), job=OTHER_JOB)


def test_overwritten_job_digest_passes_without_the_context(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "context")
    assert edited(world, linked, pretend_job(world), job=OTHER_JOB).context.job == world.job.digest


def test_seal_key_of_another_is_refused(world: World, linked: Connect) -> None:
    """Else the broker would seal data keys to the attacker."""
    thief = SealKey.generate().public_jwk()
    with pytest.raises(BindingError, match="not bound"):
        edited(world, linked, lambda frame: {**frame, "context": {**frame["context"], "seal": thief}} if "context" in frame else frame)


def test_evidence_of_another_run_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError, match="another run"):
        edited(world, linked, lambda frame: frame, run=RunId("attacked-2"))


# --- what the node is ---------------------------------------------------------------------------------------------------


def show(world: World, linked: Connect, fault: Fault, policy: Json | None = None) -> session.AttestedPeer:
    near, far = linked()
    aside(lambda: present(near, attester=world.attester(fault), role=Role.WORKER, context=world.context()))
    side = VerifierSide(world.verifier, Policy.from_json({**world.job.policy, **(policy or {})}))
    return world.attest(far, side=side)


def test_tampered_node_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.WRONG_MEASUREMENT)
    assert refused.value.facts["check"] == "measurement"


def test_tampered_node_passes_only_a_policy_that_names_its_measurement(world: World, linked: Connect) -> None:
    tampered = "aa" + "ab" * 31
    assert show(world, linked, Fault.WRONG_MEASUREMENT, {"measurements": {"sgx": [tampered]}}).result.claims.measurement == tampered


def test_debug_quote_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.DEBUG)
    assert refused.value.facts["check"] == "debug"


def test_debug_quote_passes_only_a_policy_that_allows_it(world: World, linked: Connect) -> None:
    assert show(world, linked, Fault.DEBUG, {"allow": ["simulated", "debug"]}).result.claims.debug


def test_out_of_date_tcb_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.OUT_OF_DATE)
    assert (refused.value.facts["check"], refused.value.facts["got"]) == ("tcb-status", "OutOfDate")


def test_out_of_date_tcb_passes_only_a_policy_that_allows_it(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.OUT_OF_DATE, {"statuses": ["UpToDate", "OutOfDate"], "min_tcb_eval": 1})
    # With the status allowed, the platform's advisories are the next thing to answer for.
    assert refused.value.facts["check"] == "advisories"
    names = str(refused.value.facts["got"]).split(", ")
    allowed = {"statuses": ["UpToDate", "OutOfDate"], "min_tcb_eval": 1, "advisories_allowed": names}
    assert show(world, linked, Fault.OUT_OF_DATE, allowed).result.claims.tcb_status == "OutOfDate"


def test_simulated_evidence_is_refused_by_a_policy_that_does_not_allow_it(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.WRONG_MEASUREMENT, {"allow": []})
    assert refused.value.facts["check"] == "simulated"


def test_simulated_evidence_of_another_installation_is_not_genuine(world: World, linked: Connect, tmp_path: Path) -> None:
    other = Installation.create(tmp_path / "other")
    near, far = linked()
    attester = InsecureAttester(other, Tee.SGX, MEASUREMENT)
    aside(lambda: present(near, attester=attester, role=Role.WORKER, context=world.context()))
    with pytest.raises(EvidenceInvalidError):
        world.attest(far)


# --- a false driver -----------------------------------------------------------------------------------------------------


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


def test_control_address_of_another_certified_node_is_refused(world: World, false_driver: FalseDriver) -> None:
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
        certificate = {"certificate": mine, "ca": ca.ca_pem.decode(), "control_port": control.address[1]}
        channel.send_frame({"kind": str(Kind.CERTIFICATE), **certificate})
        control.accept(5).handshake()

    aside(play)
    with pytest.raises(BindingError, match="not served by the attested driver"):
        false_driver.agent.run()
    control.close()


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


def replace_policy(job: Job, measurements: Json) -> Job:
    return Job.build({**job.to_json(), "files": dict(job.files), "policy": {**job.policy, "measurements": measurements}})


def test_protocol_name_is_the_documented_one() -> None:
    assert PROTOCOL == "confide-session-v1"
