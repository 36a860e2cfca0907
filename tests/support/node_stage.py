"""One run of driver, workers and client: real channels, real evidence, an engine of a few lines, and a test that plays the backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from confide.attest.evidence import Evidence
from confide.attest.insecure import Fault
from confide.canonical import Json
from confide.errors import (
    AppraisalError,
    AttesterError,
    ConfideError,
    JobFailedError,
    ProtocolError,
)
from confide.ids import NodeId, ReportData, Role, Tee
from confide.node.agent import DriverAgent, NodeReport, NodeServices, Refusal, WorkerAgent
from confide.node.client import DriverClient
from confide.node.host import DriverHost
from confide.node.left_job import LeftJob
from confide.node.reattest import Watch
from confide.node.record import EvidenceRecord
from confide.node.spec import Announcement

INTERVAL, GRACE = 300.0, 120.0
"""How often nodes attest themselves again, and how late they may be, in seconds."""


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
        self.host: DriverHost | None = None
        self.left: LeftJob | None = None
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
        options = {"verifier": self.world.verifier, "host": self.host, "left": self.left, "now": self.seconds}
        self.driver = Running(DriverAgent(self.spec, self.engine, attester=attester, **options))
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


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def private_folders(run: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"confide-{run}-*"))


def working(stage: Stage, *workers: str) -> None:
    stage.begin(*workers)
    stage.until("event", event="program-started")


def finished(stage: Stage) -> Json:
    stage.engine.release.set()
    result = stage.until("result")
    assert result["ok"], result
    receipt: Json = result["receipt"]
    return receipt


def again_of(stage: Stage) -> list[int]:
    agent = stage.driver.agent
    assert isinstance(agent, DriverAgent)
    return [agent._client.presenter.count, *(report.again for report in agent._workers.reports)]  # type: ignore[union-attr]


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
