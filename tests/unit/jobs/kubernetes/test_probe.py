"""A node is started and asked for evidence: a real process with a simulated TEE, and backends that get nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from confide.attest.policy import Policy
from confide.config import Settings
from confide.errors import ClusterRefusedError, ProtocolError
from confide.ids import Tee, new_run_id
from confide.job import Job
from confide.jobs.backend import Address, Backend, NodeHandle, NodeStatus
from confide.jobs.findings import Finding
from confide.jobs.kubernetes import probe as probing
from confide.jobs.kubernetes.probe import probe, probe_job
from confide.jobs.local.backend import LocalBackend
from confide.jobs.local.simulation import SimulatedTee
from confide.jobs.plan import Plan, Site, make_plan
from confide.node.spec import NodeSpec


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), node_start_timeout_s=100.0)


def _plan(job: Job, settings: Settings, folder: Path, **faults: str) -> Plan:
    site = Site.of_run(folder, settings)
    return make_plan(job, run=new_run_id("probe"), site=site, settings=settings, simulate=True, faults=faults)


def _found(backend: Backend, settings: Settings, folder: Path, **faults: str) -> list[Finding]:
    job, tee = probe_job(Tee.SGX, simulated=True), SimulatedTee.at(settings.simulation_dir)
    return probe(backend, job, _plan(job, settings, folder, **faults), tee.verifier())


class Counting(LocalBackend):
    """Notes what was stopped."""

    stopped = 0

    def stop(self, handles: Iterable[NodeHandle]) -> None:
        self.stopped += 1
        super().stop(handles)


def _probe(settings: Settings, folder: Path, **faults: str) -> tuple[list[Finding], Counting]:
    backend = Counting(folder)
    return _found(backend, settings, folder, **faults), backend


def test_node_that_gives_evidence_is_told_with_its_measurement(settings: Settings, tmp_path: Path) -> None:
    found, backend = _probe(settings, tmp_path / "run")
    started, evidence = found
    assert started.ok
    assert started.found.startswith("listens after ")
    assert evidence.ok, evidence
    assert evidence.found.startswith("SIMULATED, which protects nothing: sgx, measurement ")
    measured = evidence.found.split("measurement ")[1].split(",")[0]
    assert measured in str(SimulatedTee.at(settings.simulation_dir).reference_values())
    assert backend.stopped == 1


FAULTS = {"debug": "debug", "revoked-pck": "evoked", "out-of-date": "OutOfDate", "replay": ""}


@pytest.mark.parametrize(("fault", "says"), FAULTS.items())
def test_evidence_that_no_policy_should_accept_is_no_success(settings: Settings, tmp_path: Path, fault: str, says: str) -> None:
    found, backend = _probe(settings, tmp_path / "run", driver=fault)
    started, evidence = found
    assert started.ok
    assert not evidence.ok
    assert says in evidence.found
    assert evidence.hint
    assert backend.stopped == 1


class Nowhere:
    """A backend whose nodes do not come as far as listening."""

    name, simulated = "nowhere", True

    def __init__(self, *statuses: NodeStatus, announced: Address | Exception | None = None, start: Exception | None = None) -> None:
        self.statuses, self.said, self.refusal = list(statuses), announced, start
        self.stopped = 0

    def start(self, spec: NodeSpec) -> NodeHandle:
        if self.refusal is not None:
            raise self.refusal
        return NodeHandle(spec.run_id, spec.node_id, "pod")

    def poll(self, handle: NodeHandle) -> NodeStatus:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def announced(self, handle: NodeHandle) -> Address | None:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def log_path(self, handle: NodeHandle) -> Path:
        return Path("nowhere")

    def stop(self, handles: Iterable[NodeHandle]) -> None:
        self.stopped += 1


GOING = NodeStatus(running=True)
REFUSED = ClusterRefusedError("exceeded quota", hint="wait")


@pytest.mark.parametrize(
    ("backend", "check", "says"),
    [
        (Nowhere(GOING, start=REFUSED), "probe node", "exceeded quota"),
        (Nowhere(NodeStatus(running=True, condition="Insufficient epc"), GOING), "probe node", "in time: Insufficient epc"),
        (Nowhere(GOING), "probe node", "the cluster says no reason"),
        (Nowhere(GOING, NodeStatus(running=False, exit_status=1, condition="ErrImagePull")), "probe node", "listened: ErrImagePull"),
        (Nowhere(NodeStatus(running=False, exit_status=3)), "probe node", "exit status 3"),
        (Nowhere(GOING, announced=ProtocolError("the announcement is another node's")), "probe node", "another node's"),
        (Nowhere(GOING, announced=Address("127.0.0.1", 1)), "probe evidence", ""),
    ],
)
def test_node_that_gives_none_is_told_with_the_reason_and_removed(
    settings: Settings, tmp_path: Path, backend: Nowhere, check: str, says: str
) -> None:
    found = _found(backend, replace(settings, node_start_timeout_s=1.0), tmp_path / "run")
    assert (found[-1].check, found[-1].ok, found[-1].needed) == (check, False, True)
    assert says in found[-1].found
    assert found[-1].hint
    assert backend.stopped == (0 if backend.refusal else 1)


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX, Tee.SNP])
def test_policy_of_the_probe_is_one_and_accepts_no_software(tee: Tee) -> None:
    policy = Policy.from_json(probe_job(tee, simulated=False).policy)
    assert policy.tees == (tee,)
    again = probe_job(tee, simulated=False).policy
    assert policy.to_json()["measurements"] != again["measurements"]


def test_node_that_would_be_accepted_is_not_believed(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Accepting:
        @staticmethod
        def attest(*_: object, **__: object) -> Accepting:
            return Accepting()

        def close(self) -> None:
            pass

    monkeypatch.setattr(probing, "DriverClient", Accepting)
    found = _found(Nowhere(GOING, announced=Address("127.0.0.1", 1)), settings, tmp_path / "run")
    assert not found[-1].ok
    assert "accepts nobody" in found[-1].found
