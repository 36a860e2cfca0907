"""Driver, workers and client together: real channels, real evidence, an engine of a few lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from confide.attest.evidence import Evidence
from confide.attest.insecure import Fault
from confide.canonical import Json
from confide.crypto.identity import AnyKeyUntilAttested, Identity, IssuedBy
from confide.crypto.tls import connect
from confide.errors import (
    AppraisalError,
    AttestationError,
    AttesterError,
    BindingError,
    ChannelError,
    ConfideError,
    JobFailedError,
    KeyAccessError,
    KeyRevokedError,
    NodeLostError,
    OverdueError,
    ProtocolError,
    UnavailableError,
)
from confide.ids import NodeId, ReportData, Role, Tee
from confide.node.agent import DriverAgent, NodeReport, NodeServices, Refusal, WorkerAgent
from confide.node.client import DriverClient
from confide.node.control import PROTOCOL, Kind, read
from confide.node.jobca import CONTROL_LIFETIME, LIFETIME
from confide.node.reattest import Watch
from confide.node.record import EvidenceRecord
from confide.node.session import present, utc_now
from confide.node.spec import Announcement


class Engine:
    """A driver's workload: hands out a secret, runs until released, signs nothing."""

    def __init__(self, *, fails: ConfideError | None = None, prepare_fails: ConfideError | None = None) -> None:
        self.fails, self.prepare_fails = fails, prepare_fails
        self.release, self.stopped = threading.Event(), threading.Event()
        self.services: NodeServices | None = None
        self.lost: list[NodeId] = []
        self.cut: list[NodeId] = []
        self.reports: list[tuple[NodeId, Json]] = []
        self.unwanted: set[str] = set()

    def prepare(self, node: NodeServices) -> Json:
        self.services = node
        if self.prepare_fails is not None:
            raise self.prepare_fails
        node.private_dir.write("secret", b"hidden")
        return {"endpoint": "127.0.0.1:7077", "secret": "hidden"}

    def run(self) -> Json:
        while not self.release.wait(0.02):
            if self.stopped.is_set():
                raise JobFailedError("stopped")
        if self.fails is not None:
            raise self.fails
        return {"rows": 3}

    def worker_lost(self, node: NodeId) -> None:
        self.lost.append(node)

    def cut_off(self, node: NodeId) -> None:
        self.cut.append(node)

    def check_worker(self, record: EvidenceRecord) -> None:
        if record.context.node in self.unwanted:
            raise AppraisalError("an owner's policy asks for more")

    def heard(self, node: NodeId, report: Json) -> None:
        if "note" not in report:
            raise ProtocolError("not a report")
        self.reports.append((node, report))

    def receipt(self, nodes: Sequence[NodeReport], refused: Sequence[Refusal]) -> Json:
        again = {n.node: [n.again, n.latest is not None and n.latest.digest != n.record.digest] for n in nodes}
        rows = [[n.node, n.ended, n.record.to_json()] for n in nodes]
        return {"nodes": rows, "refused": [[r.node, r.code] for r in refused], "again": again}

    def stop(self) -> None:
        self.stopped.set()


class Executor:
    """A worker's workload."""

    def __init__(self, *, open_fails: ConfideError | None = None) -> None:
        self.open_fails = open_fails
        self.engine: Json | None = None
        self.status: int | None = None
        self.stopped = threading.Event()
        self.services: NodeServices | None = None

    def open(self, node: NodeServices) -> None:
        self.services = node
        if self.open_fails is not None:
            raise self.open_fails
        node.emit("keys-opened", count=2)

    def start(self, engine: Json) -> None:
        self.engine = engine

    def poll(self) -> int | None:
        return self.status

    def stop(self) -> None:
        self.stopped.set()


class Changing:
    """An attester whose platform's standing may change; ``trouble`` makes it give nothing."""

    def __init__(self, world: Any, fault: Fault | None) -> None:
        self.world, self.fault, self.trouble, self.asked = world, fault, False, 0
        self.tee, self.simulated = Tee.SGX, True

    def quote(self, data: ReportData) -> Evidence:
        self.asked += 1
        if self.trouble:
            raise AttesterError("busy")
        evidence: Evidence = self.world.attester(self.fault).quote(data)
        return evidence


class Seconds:
    """The clock of re-attestation: it stands still until it is moved."""

    def __init__(self) -> None:
        self.value = 0.0

    def __call__(self) -> float:
        return self.value


class Running:
    """An agent on a thread, and how it ended."""

    def __init__(self, agent: DriverAgent | WorkerAgent) -> None:
        self.agent, self.error, self.result = agent, None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    error: BaseException | None
    result: Any

    def _run(self) -> None:
        try:
            self.result = self.agent.run()
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def join(self) -> BaseException | None:
        self._thread.join(15)
        assert not self._thread.is_alive(), "the agent did not end"
        return self.error


class Stage:
    """One run: starts a driver and plays the client and the backend."""

    def __init__(self, world: Any, specs: Any) -> None:
        self.world, self.specs, self.job = world, specs, world.job
        self.engine = Engine()
        self.workers: dict[str, tuple[Running, Executor]] = {}
        self.frames: list[Json] = []
        self.client: DriverClient | None = None
        self.seconds = Seconds()
        self.attesters: dict[str, Changing] = {}

    def attester(self, node: str, fault: Fault | None) -> Changing:
        self.attesters[node] = Changing(self.world, fault)
        return self.attesters[node]

    def start_driver(self, fault: Fault | None = None, **changes: object) -> None:
        self.spec = self.specs.make(self.job, Role.DRIVER, "driver", **changes)
        attester = self.attester("driver", fault)
        self.driver = Running(
            DriverAgent(self.spec, self.engine, attester=attester, verifier=self.world.verifier, now=self.seconds)
        )
        wait_for(lambda: self.specs.folder.joinpath("announce.json").exists())
        self.address = Announcement.load(self.specs.folder / "announce.json")

    def attest(self, **changes: Any) -> DriverClient:
        values = {"job": self.job, "run": self.specs.run, "node": "driver", "verifier": self.world.verifier}
        values |= {"timing": self.spec.timing, "now": self.seconds}
        self.client = DriverClient.attest(self.address.host, self.address.port, **{**values, **changes})
        return self.client

    def start_worker(self, node: str, *, fault: Fault | None = None, executor: Executor | None = None, job: Any = None) -> Running:
        executor = executor or Executor()
        spec = self.specs.make(job or self.job, Role.WORKER, node, port=self.address.port)
        attester = self.attester(node, fault)
        running = Running(WorkerAgent(spec, executor, attester=attester, verifier=self.world.verifier, now=self.seconds))
        self.workers[node] = (running, executor)
        return running

    def until(self, kind: str, *, event: str | None = None) -> Json:
        """Read frames to the first of ``kind`` (and event type)."""
        assert self.client is not None
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            frame = self.client.next_frame(0.2)
            if frame is not None:
                self.frames.append(frame)
                if frame["kind"] == kind and (event is None or frame["type"] == event):
                    return frame
        raise AssertionError(f"no {kind} {event}: {[(f['kind'], f.get('type')) for f in self.frames]}")

    def begin(self, *workers: str, **executors: Executor) -> None:
        self.start_driver()
        self.attest().submit()
        self.until("start-workers")
        for node in workers:
            self.start_worker(node, executor=executors.get(node.replace("-", "_")))

    def events(self) -> list[tuple[str, str]]:
        return [(f["type"], f["node"]) for f in self.frames if f["kind"] == "event"]

    def leave(self) -> None:
        if self.client is not None:
            self.client.close()

    def end(self) -> None:
        self.leave()
        self.driver.agent.stop()
        for running, _ in self.workers.values():
            running.agent.stop()


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


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def private_folders(run: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"confide-{run}-*"))


def test_run_goes_from_announcement_to_receipt_and_leaves_nothing(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    assert len(private_folders(stage.specs.run)) == 3
    assert all(executor.engine == {"endpoint": "127.0.0.1:7077", "secret": "hidden"} for _, executor in stage.workers.values())
    stage.engine.release.set()
    result = stage.until("result")
    assert result["ok"] is True
    assert result["summary"] == {"rows": 3}
    assert [node[:2] for node in result["receipt"]["nodes"]] == [["driver", "ok"], ["worker-1", "ok"], ["worker-2", "ok"]]
    stage.leave()
    assert stage.driver.join() is None
    assert [running.join() for running, _ in stage.workers.values()] == [None, None]
    assert stage.engine.stopped.is_set()
    assert private_folders(stage.specs.run) == []


def test_receipt_evidence_can_be_checked_again_from_json(stage: Stage, world: Any) -> None:
    stage.begin("worker-1", "worker-2")
    stage.engine.release.set()
    nodes = stage.until("result")["receipt"]["nodes"]
    for name, _, data in nodes:
        record = EvidenceRecord.from_json(data)
        result = record.recheck(world.verifier, world.policy, record.at)
        assert result.context.node == name
        assert result.role == (Role.DRIVER if name == "driver" else Role.WORKER)
    assert EvidenceRecord.from_json(nodes[0][2]).spki == stage.engine.services.identity.spki_der  # type: ignore[union-attr]


def test_worker_events_carry_the_name_that_was_attested(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.engine.release.set()
    stage.until("result")
    assert ("keys-opened", "worker-1") in stage.events()
    assert ("keys-opened", "worker-2") in stage.events()


def test_what_a_worker_tells_is_heard_under_its_attested_name_before_it_goes_on(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    tell = stage.workers["worker-2"][1].services.tell  # type: ignore[union-attr]
    tell({"note": 1, "node": "driver"})
    assert stage.engine.reports == [("worker-2", {"note": 1, "node": "driver"})]
    stage.engine.services.tell({"note": 2})  # type: ignore[union-attr]
    assert stage.engine.reports[1:] == [("driver", {"note": 2})]
    stage.engine.release.set()
    stage.until("result")
    stage.leave()
    stage.workers["worker-2"][0].join()
    with pytest.raises(ChannelError):
        tell({"note": 3})


def test_tampered_worker_is_refused_and_the_run_goes_on(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    tampered = stage.start_worker("worker-3", fault=Fault.WRONG_MEASUREMENT)
    refused = stage.until("event", event="worker-refused")
    assert (refused["node"], refused["fields"]["code"], refused["fields"]["facts"]["check"]) == (
        "worker-3",
        "appraisal-refused",
        "measurement",
    )
    error = tampered.join()
    assert isinstance(error, AttestationError)
    assert error.code == "appraisal-refused"
    assert stage.workers["worker-3"][1].services is None
    stage.engine.release.set()
    result = stage.until("result")
    assert result["ok"]
    assert result["receipt"]["refused"] == [["worker-3", "appraisal-refused"]]


def test_worker_that_the_owners_would_refuse_gets_nothing_of_the_engine(stage: Stage) -> None:
    stage.engine.unwanted = {"worker-2"}
    stage.begin("worker-1", "worker-2")
    failed = stage.until("event", event="worker-failed")
    assert (failed["node"], failed["fields"]["code"]) == ("worker-2", "appraisal-refused")
    stage.until("event", event="program-started")
    assert stage.workers["worker-1"][1].engine is not None
    assert isinstance(stage.workers["worker-2"][0].join(), NodeLostError)
    assert stage.workers["worker-2"][1].engine is None


def test_refused_worker_ends_the_run_if_the_job_asks_so(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 1, "refused_worker": "fail"}))
    stage.begin("worker-1")
    stage.start_worker("worker-2", fault=Fault.WRONG_MEASUREMENT)
    result = stage.until("result")
    assert (result["ok"], result["error"]["code"]) == (False, "node-lost")
    stage.leave()
    assert isinstance(stage.driver.join(), NodeLostError)
    stage.workers["worker-1"][0].join()


def test_run_fails_when_too_few_workers_come_in_time(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 2}))
    stage.start_driver(timing={"start_timeout_s": 1.0, "heartbeat_s": 0.2, "lost_after_s": 2.0})
    stage.attest().submit()
    stage.until("start-workers")
    stage.start_worker("worker-1")
    error = stage.until("result")["error"]
    assert error["code"] == "node-lost"
    assert error["facts"] == {"started": 1, "min_workers": 2}


def test_program_starts_with_the_workers_that_are_left(stage: Stage) -> None:
    stage.begin("worker-1")
    assert stage.client is not None
    stage.client.worker_ended(NodeId("worker-2"))
    stage.until("event", event="worker-lost")
    assert stage.until("event", event="program-started")["fields"] == {"workers": 1}


def test_worker_that_dies_mid_run_is_reported_and_the_run_goes_on(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.workers["worker-1"][1].status = -9
    lost = stage.until("event", event="worker-lost")
    assert (lost["node"], lost["fields"]["facts"]["status"]) == ("worker-1", -9)
    wait_for(lambda: stage.engine.lost == ["worker-1"])
    assert isinstance(stage.workers["worker-1"][0].join(), NodeLostError)
    stage.engine.release.set()
    result = stage.until("result")
    assert result["ok"]
    assert [node[:2] for node in result["receipt"]["nodes"]] == [["driver", "ok"], ["worker-1", "lost"], ["worker-2", "ok"]]


def test_run_ends_when_too_few_workers_are_left(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 2}))
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.workers["worker-2"][1].status = 1
    error = stage.until("result")["error"]
    assert (error["code"], error["facts"]["left"]) == ("node-lost", 1)
    assert stage.engine.stopped.wait(5)


@pytest.mark.parametrize("first", ["driver", "worker-1"])
def test_withdrawn_key_ends_the_run_whichever_node_hears_of_it_first(first: str, stage: Stage) -> None:
    """The job could go on with fewer workers, but not with a key whose owner took it back."""
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    services = stage.engine.services if first == "driver" else stage.workers[first][1].services
    assert services is not None
    services.fail(KeyRevokedError("withdrawn", key="airline/flights", reason="grant-missing"))
    error = stage.until("result")["error"]
    assert (error["code"], error["facts"]) == ("key-revoked", {"key": "airline/flights", "reason": "grant-missing"})
    assert stage.engine.stopped.wait(5)
    for name in ("worker-1", "worker-2"):
        assert stage.workers[name][1].stopped.wait(5), name


def test_worker_that_is_refused_a_key_reports_the_reason(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2", worker_2=Executor(open_fails=KeyAccessError("no grant", key="a/b")))
    failed = stage.until("event", event="worker-failed")
    assert (failed["node"], failed["fields"]["code"], failed["fields"]["facts"]) == ("worker-2", "key-refused", {"key": "a/b"})
    assert isinstance(stage.workers["worker-2"][0].join(), KeyAccessError)
    stage.until("event", event="program-started")


def test_failed_program_ends_everything_with_its_error(stage: Stage) -> None:
    stage.engine.fails = JobFailedError("division by zero", status=1)
    stage.begin("worker-1", "worker-2")
    stage.engine.release.set()
    result = stage.until("result")
    assert result["error"]["code"] == "job-failed"
    assert result["error"]["facts"] == {"status": 1}
    stage.leave()
    assert isinstance(stage.driver.join(), JobFailedError)
    for running, _ in stage.workers.values():
        running.join()
    assert private_folders(stage.specs.run) == []


def test_failed_preparation_ends_the_run(stage: Stage) -> None:
    stage.engine.prepare_fails = KeyAccessError("no grant")
    stage.begin()
    assert stage.until("result")["error"]["code"] == "key-refused"


def test_driver_without_its_client_ends_the_run_and_wipes(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.leave()
    error = stage.driver.join()
    assert isinstance(error, NodeLostError)
    assert "client" in error.message
    for running, executor in stage.workers.values():
        running.join()
        assert executor.stopped.is_set()
    assert private_folders(stage.specs.run) == []


def test_worker_without_its_driver_wipes_and_ends(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.driver.agent._workers._links["worker-1"]._channel._wire.shut()  # type: ignore[union-attr]
    running, executor = stage.workers["worker-1"]
    error = running.join()
    assert isinstance(error, NodeLostError)
    assert executor.stopped.is_set()
    assert len(private_folders(stage.specs.run)) == 2


def test_client_hears_that_its_driver_is_gone(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.driver.agent._client._channel._wire.shut()  # type: ignore[union-attr]
    with pytest.raises(NodeLostError, match="driver is gone"):
        stage.until("result")


def test_stopped_driver_tells_its_client(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    assert stage.client is not None
    stage.client.stop()
    assert stage.until("result")["error"]["code"] == "interrupted"


def test_client_that_never_comes_ends_the_driver(stage: Stage) -> None:
    stage.start_driver(timing={"start_timeout_s": 0.3, "heartbeat_s": 0.2, "lost_after_s": 2.0})
    error = stage.driver.join()
    assert isinstance(error, NodeLostError)
    assert "client" in error.message


def test_driver_refuses_another_job_than_it_was_started_for(world: Any, stage: Stage) -> None:
    stage.start_driver()
    client = stage.attest()
    client._job = world.with_job(files={"main.py": b"print('other')"}).job
    with pytest.raises(BindingError):
        client.submit()
    assert stage.engine.services is None
    client.close()
    stage.attest().submit()
    stage.until("start-workers")


def test_second_client_is_turned_away(stage: Stage) -> None:
    stage.begin()
    first = stage.client
    second = stage.attest()
    with pytest.raises(ConfideError, match="has its client already"):
        second.submit()
    second.close()
    stage.client = first
    assert stage.driver.error is None


def test_worker_of_another_job_refuses_the_driver_and_is_refused(world: Any, stage: Stage) -> None:
    stage.begin("worker-1")
    other = stage.start_worker("worker-2", job=world.with_job(arguments=["--other"]).job)
    refused = stage.until("event", event="worker-refused")
    assert (refused["node"], refused["fields"]["code"]) == ("worker-2", "binding-mismatch")
    assert isinstance(other.join(), BindingError)


def test_second_worker_of_a_name_is_refused(world: Any, stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    identity = Identity.generate("twin")
    with connect(stage.address.host, stage.address.port, identity, trust=AnyKeyUntilAttested()) as channel:
        channel.send_frame({"kind": "hello", "protocol": PROTOCOL, "role": "worker", "node": "worker-1"})
        present(channel, attester=world.attester(), role=Role.WORKER, context=world.context(stage.specs.run, "worker-1"))
        with pytest.raises(BindingError, match="or it is here already"):
            read(channel.recv_frame(), Kind.JOB)
    stage.engine.release.set()
    assert [node[:2] for node in stage.until("result")["receipt"]["nodes"]][1:] == [["worker-1", "ok"], ["worker-2", "ok"]]


def test_job_is_not_told_to_a_worker_that_is_not_accepted(world: Any, stage: Stage) -> None:
    stage.begin()
    identity = Identity.generate("spy")
    with connect(stage.address.host, stage.address.port, identity, trust=AnyKeyUntilAttested()) as channel:
        channel.send_frame({"kind": "hello", "protocol": PROTOCOL, "role": "worker", "node": "worker-1"})
        with pytest.raises(AttestationError):
            present(channel, attester=world.attester(Fault.DEBUG), role=Role.WORKER, context=world.context(stage.specs.run, "worker-1"))
        rest = []
        with suppress(ConfideError):
            while True:
                rest.append(channel.recv_frame())
    assert [frame["kind"] for frame in rest] == ["error"]
    assert "main.py" not in str(rest)


def test_frames_end_with_the_result(stage: Stage) -> None:
    stage.engine.release.set()
    stage.begin("worker-1", "worker-2")
    assert stage.client is not None
    assert [frame["kind"] for frame in stage.client.frames()][-1] == Kind.RESULT


def control(stage: Stage) -> Any:
    return stage.driver.agent._workers._control  # type: ignore[union-attr]


def test_certificate_alone_does_not_make_a_worker(stage: Stage) -> None:
    """The job CA's certificate on a key that was never attested: what a stolen CA key could make, and the roster still refuses."""
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stranger, ca = Identity.generate("stranger"), stage.driver.agent._ca  # type: ignore[union-attr]
    pem = ca.issue(stranger.spki_der, node=NodeId("worker-1"), role=Role.WORKER, host="127.0.0.1", now=utc_now())
    identity = stranger.with_certificate(pem, ca.ca_pem)
    with connect("127.0.0.1", control(stage).port, identity, trust=IssuedBy(ca.ca_pem)) as channel, pytest.raises(ChannelError):
        channel.recv_frame()
    assert stage.driver.error is None


def test_engine_key_is_not_the_attested_one_and_opens_no_control_channel(stage: Stage) -> None:
    """What the user's program can read of a node does not let it speak, or sign, as the node."""
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    for agent, services in ((stage.driver.agent, stage.engine.services), *((w.agent, e.services) for w, e in stage.workers.values())):
        assert services.certificate.private_key_pem.reveal() != agent._identity.key.private_pem().reveal()
    worker, services = stage.workers["worker-1"][0].agent, stage.workers["worker-1"][1].services
    certificate = services.certificate  # type: ignore[union-attr]
    identity = worker._engine_identity.with_certificate(certificate.certificate_pem, certificate.ca_pem)  # type: ignore[union-attr]
    with connect("127.0.0.1", control(stage).port, identity, trust=IssuedBy(certificate.ca_pem)) as channel, pytest.raises(ChannelError):
        channel.recv_frame()


def test_accepted_worker_has_one_control_channel(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    worker, ca = stage.workers["worker-1"][0].agent, stage.driver.agent._ca  # type: ignore[union-attr]
    pem = ca.issue(worker._identity.spki_der, node=NodeId("worker-1"), role=Role.WORKER, host="127.0.0.1", now=utc_now())
    identity = worker._identity.with_certificate(pem, ca.ca_pem)
    with connect("127.0.0.1", control(stage).port, identity, trust=IssuedBy(ca.ca_pem)) as channel, pytest.raises(ChannelError):
        channel.recv_frame()
    stage.engine.release.set()
    assert stage.until("result")["receipt"]["nodes"][1][:2] == ["worker-1", "ok"]


@pytest.mark.parametrize("frame", [{"kind": "welcome"}, {"kind": "engine-exited"}, {"kind": "event", "type": 1},
                                   {"kind": "report", "seq": 1, "report": {}}, {"kind": "report", "report": {"note": 1}}])  # fmt: skip
def test_worker_that_breaks_the_protocol_is_cut_off(frame: Json, stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.workers["worker-2"][0].agent._link._channel.send_frame(frame)  # type: ignore[union-attr]
    assert stage.until("event", event="worker-lost")["node"] == "worker-2"
    assert isinstance(stage.workers["worker-2"][0].join(), NodeLostError)


def test_client_that_breaks_the_protocol_ends_the_run(stage: Stage) -> None:
    stage.begin()
    stage.client._channel.send_frame({"kind": "welcome"})  # type: ignore[union-attr]
    assert stage.until("result")["error"]["code"] == "protocol-violation"


@pytest.mark.parametrize("hello", [{"protocol": "other"}, {"role": "broker"}, {"role": "worker"}, {"kind": "bundle"}, {"role": 1}])
def test_stranger_at_the_bootstrap_address_is_turned_away(hello: Json, stage: Stage) -> None:
    stage.start_driver()
    with connect(stage.address.host, stage.address.port, Identity.generate("stranger"), trust=AnyKeyUntilAttested()) as channel:
        channel.send_frame({"kind": "hello", "protocol": PROTOCOL, "role": "client", "node": "x", **hello})
        with pytest.raises(ChannelError):
            channel.recv_frame()
    stage.attest().submit()
    stage.until("start-workers")


class Broken(Engine):
    def prepare(self, node: NodeServices) -> Json:
        raise ValueError("a bug")

    def stop(self) -> None:
        super().stop()
        raise ValueError("another bug")


def test_bug_in_the_engine_ends_the_run_and_everything_is_wiped(stage: Stage) -> None:
    stage.engine = Broken()
    stage.begin()
    result = stage.until("result")
    assert result["error"]["code"] == "unavailable"
    assert "a bug" not in str(result)
    stage.leave()
    assert isinstance(stage.driver.join(), UnavailableError)
    assert private_folders(stage.specs.run) == []


class BrokenReceipt(Engine):
    def receipt(self, nodes: Sequence[NodeReport], refused: Sequence[Refusal]) -> Json:
        raise ValueError("a bug")


def test_run_without_a_receipt_has_failed(stage: Stage) -> None:
    stage.engine = BrokenReceipt()
    stage.begin("worker-1", "worker-2")
    stage.engine.release.set()
    assert stage.until("result")["error"]["code"] == "unavailable"
    stage.leave()
    assert isinstance(stage.driver.join(), UnavailableError)


class BrokenExecutor(Executor):
    def poll(self) -> int | None:
        raise ValueError("a bug")

    def stop(self) -> None:
        super().stop()
        raise ValueError("another bug")


def test_bug_in_a_workers_engine_ends_that_worker(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2", worker_2=BrokenExecutor())
    assert stage.until("event", event="worker-failed")["node"] == "worker-2"
    assert isinstance(stage.workers["worker-2"][0].join(), UnavailableError)


def test_worker_that_is_stopped_from_outside_is_lost(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.workers["worker-2"][0].agent.stop("SIGTERM")
    assert stage.until("event", event="worker-lost")["node"] == "worker-2"


def test_services_name_the_node_for_its_peers(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    services = stage.workers["worker-1"][1].services
    assert services is not None
    assert services.peer_host == "127.0.0.1"
    assert services.job.digest == stage.job.digest
    assert services.certificate.private_key_pem.reveal().startswith(b"-----BEGIN PRIVATE KEY")


def test_client_leaves_a_driver_that_it_does_not_accept(world: Any, stage: Stage) -> None:
    stage.start_driver(Fault.WRONG_MEASUREMENT)
    with pytest.raises(AttestationError):
        stage.attest()
    assert stage.engine.services is None


# --- long runs: nodes are attested again ------------------------------------------------------------------------------


INTERVAL, GRACE = 300.0, 120.0


def working(stage: Stage, *workers: str) -> None:
    stage.begin(*workers)
    stage.until("event", event="program-started")


def finished(stage: Stage) -> Json:
    stage.engine.release.set()
    result = stage.until("result")
    assert result["ok"], result
    receipt: Json = result["receipt"]
    return receipt


def test_all_nodes_of_a_long_run_attest_themselves_again(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    before = {node: attester.asked for node, attester in stage.attesters.items()}
    for count in (1, 2):
        stage.seconds.value += INTERVAL
        beats(stage, lambda expected=count: {*again_of(stage), *(w.count for w in watches(stage))} == {expected})
    after = {node: attester.asked - before[node] for node, attester in stage.attesters.items()}
    assert after == {"worker-1": 2, "worker-2": 2, "driver": 6}, "once for its driver, or for two workers and the client"
    assert finished(stage)["again"] == {"driver": [2, True], "worker-1": [2, True], "worker-2": [2, True]}


def again_of(stage: Stage) -> list[int]:
    agent = stage.driver.agent
    assert isinstance(agent, DriverAgent)
    return [agent._presenter.count, *(report.again for report in agent._workers.reports)]  # type: ignore[union-attr]


def watches(stage: Stage) -> list[Watch]:
    """Of those who attest the driver: its client and its workers."""
    holders = [stage.client, *(running.agent for running, _ in stage.workers.values())]
    return [holder._watch for holder in holders]  # type: ignore[union-attr, misc]


def beats(stage: Stage, condition: Callable[[], bool]) -> None:
    """Wait like a client that listens: it attests the driver meanwhile."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        frame = stage.client.next_frame(0.02)  # type: ignore[union-attr]
        if frame is not None:
            stage.frames.append(frame)


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.OUT_OF_DATE, "appraisal-refused"), (Fault.REVOKED_PCK, "evidence-invalid"), (Fault.REPLAY, "binding-mismatch")],
)
def test_worker_that_loses_its_good_standing_is_cut_off_and_the_run_goes_on(fault: Fault, code: str, stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["worker-1"].fault = fault
    stage.seconds.value += INTERVAL
    cut = stage.until("event", event="worker-cut-off")
    assert (cut["node"], cut["fields"]["code"]) == ("worker-1", code)
    running, executor = stage.workers["worker-1"]
    error = running.join()
    assert isinstance(error, AttestationError)
    assert error.code == code
    assert executor.stopped.is_set()
    wait_for(lambda: stage.engine.cut == stage.engine.lost == ["worker-1"])
    receipt = finished(stage)
    assert [node[:2] for node in receipt["nodes"]] == [["driver", "ok"], ["worker-1", "failed"], ["worker-2", "ok"]]
    assert receipt["refused"] == [["worker-1", code]]


def test_worker_that_was_cut_off_comes_back_neither_with_its_certificate_nor_anew(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    agent = stage.workers["worker-1"][0].agent
    assert isinstance(agent, WorkerAgent)
    workers = stage.driver.agent._workers  # type: ignore[union-attr]
    spki = workers._peers[NodeId("worker-1")].record.spki  # type: ignore[union-attr]
    stage.attesters["worker-1"].fault = Fault.OUT_OF_DATE
    stage.seconds.value += INTERVAL
    stage.until("event", event="worker-cut-off")
    del workers._links[NodeId("worker-1")]  # type: ignore[union-attr]  # so that the roster alone keeps it out
    with pytest.raises(BindingError, match="no accepted worker"):
        workers._take(None, spki)  # type: ignore[union-attr, arg-type]
    assert isinstance(stage.start_worker("worker-1").join(), ConfideError)
    assert stage.workers["worker-1"][1].services is None


def test_control_certificate_of_a_worker_is_short_lived(stage: Stage) -> None:
    stage.begin()
    issued: list[timedelta] = []
    ca = stage.driver.agent._ca
    original = ca.issue

    def issue(*args: Any, **options: Any) -> bytes:
        issued.append(options.get("lifetime", LIFETIME))
        return original(*args, **options)

    ca.issue = issue  # type: ignore[method-assign]
    stage.start_worker("worker-1")
    stage.until("event", event="worker-started")
    assert sorted(issued) == [CONTROL_LIFETIME, LIFETIME], "one for the control channel, one for the engine"


def test_worker_that_is_silent_for_too_long_is_cut_off(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["worker-2"].trouble = True
    stage.seconds.value += INTERVAL
    beats(stage, lambda: again_of(stage) == [1, 1, 0] and {watch.count for watch in watches(stage)} == {1})
    stage.seconds.value += GRACE
    cut = stage.until("event", event="worker-cut-off")
    assert (cut["node"], cut["fields"]["code"]) == ("worker-2", "evidence-overdue")
    assert isinstance(stage.workers["worker-2"][0].join(), OverdueError)


def test_attester_that_is_busy_for_a_while_is_no_refusal(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["worker-2"].trouble = True
    stage.seconds.value += INTERVAL
    beats(stage, lambda: again_of(stage) == [1, 1, 0] and {watch.count for watch in watches(stage)} == {1})
    stage.attesters["worker-2"].trouble = False
    beats(stage, lambda: again_of(stage) == [1, 1, 1])
    assert finished(stage)["refused"] == []


def test_worker_that_is_cut_off_ends_the_run_if_the_job_asks_so(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 1, "refused_worker": "fail"}))
    working(stage, "worker-1", "worker-2")
    stage.attesters["worker-1"].fault = Fault.OUT_OF_DATE
    stage.seconds.value += INTERVAL
    error = stage.until("result")["error"]
    assert (error["code"], error["facts"]["code"]) == ("node-lost", "appraisal-refused")


def test_driver_that_loses_its_good_standing_ends_the_run_for_its_client_and_wipes(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["driver"].fault = Fault.OUT_OF_DATE
    stage.seconds.value += INTERVAL
    with pytest.raises(AppraisalError):
        stage.until("result")
    stage.leave()
    assert isinstance(stage.driver.join(), ConfideError)
    assert stage.engine.stopped.is_set()
    assert [executor.stopped.wait(5) for _, executor in stage.workers.values()] == [True, True]
    for running, _ in stage.workers.values():
        running.join()
    assert private_folders(stage.specs.run) == []


def test_worker_leaves_a_driver_that_lost_its_good_standing(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["driver"].fault = Fault.OUT_OF_DATE
    stage.seconds.value += INTERVAL  # the client does not look: it is the workers who notice
    errors = [running.join() for running, _ in stage.workers.values()]
    assert any(isinstance(error, AppraisalError) for error in errors)
    assert all(isinstance(error, AppraisalError | NodeLostError) for error in errors)
    assert all(executor.stopped.is_set() for _, executor in stage.workers.values())
    assert isinstance(stage.driver.join(), NodeLostError)
