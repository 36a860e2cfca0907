"""From a job to nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from confide.config import Settings
from confide.errors import PolicyError, UsageError
from confide.ids import NodeId, Role, RunId, Tee
from confide.job import Job
from confide.jobs.plan import DRIVER, Plan, Site, make_plan
from confide.node.spec import NodeSpec

POLICY = {"name": "p", "measurements": {"sgx": ["ab" * 32], "tdx": ["cd" * 48]}, "allow": ["simulated"]}


def job(**changes: Any) -> Job:
    return Job.build({
        "name": "demo", "program": "main.py", "files": {"main.py": b"pass"}, "policy": POLICY,
        "broker": {"url": "https://127.0.0.1:1", "spki": "ab" * 32}, "resources": {"workers": 3, "cores": 2, "memory_mb": 700}, **changes,
    })  # fmt: skip


def plan(tmp_path: Path, *, simulate: bool = True, faults: dict[str, str] | None = None, **changes: Any) -> Plan:
    settings = Settings(home=tmp_path / "home")
    site = Site.of_run(tmp_path / "run", settings)
    return make_plan(job(**changes), run=RunId("demo-1"), site=site, settings=settings, simulate=simulate, faults=faults)


def test_a_plan_has_the_driver_and_the_jobs_workers(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert made.driver.node_id == DRIVER
    assert made.driver.role is Role.DRIVER
    assert made.worker_ids == ("worker-1", "worker-2", "worker-3")
    specs = made.worker_specs("127.0.0.1", 99, made.worker_ids)
    assert [(s.index, s.cores, s.memory_mb, s.driver_port) for s in specs] == [(1, 2, 700, 99), (2, 2, 700, 99), (3, 2, 700, 99)]
    assert {s.job_digest for s in specs} == {job().digest}


def test_nodes_take_the_policys_kinds_of_tee_in_turn(tmp_path: Path) -> None:
    made = plan(tmp_path)
    tees = [made.driver.tee, *(s.tee for s in made.worker_specs("127.0.0.1", 99, made.worker_ids))]
    assert tees == [Tee.SGX, Tee.TDX, Tee.SGX, Tee.TDX]


def test_only_workers_that_were_asked_for_get_a_spec(tmp_path: Path) -> None:
    assert [s.node_id for s in plan(tmp_path).worker_specs("127.0.0.1", 9, {NodeId("worker-2")})] == ["worker-2"]


def test_nodes_are_told_where_collateral_is_asked_for(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, intel_service="https://pccs.example:8081", service_ca_file=tmp_path / "ca.pem")
    made = make_plan(job(), run=RunId("demo-1"), site=Site.of_run(tmp_path, settings), settings=settings, simulate=True)
    for spec in (made.driver, *made.worker_specs("127.0.0.1", 9, made.worker_ids)):
        assert (spec.services.intel, spec.services.amd, spec.services.ca_file) == ("https://pccs.example:8081", "", tmp_path / "ca.pem")
        assert NodeSpec.from_json(spec.to_json()) == spec


def test_a_fault_goes_to_its_node_only(tmp_path: Path) -> None:
    made = plan(tmp_path, faults={"worker-3": "tampered"})
    faults = [s.simulation.fault for s in made.worker_specs("127.0.0.1", 9, made.worker_ids) if s.simulation]
    assert faults == [None, None, "tampered"]


def test_nothing_is_simulated_unless_asked_for(tmp_path: Path) -> None:
    made = plan(tmp_path, simulate=False)
    assert not made.simulated
    assert made.driver.simulation is None
    assert all(worker["simulation"] is None for worker in made.workers)


@pytest.mark.parametrize(("simulate", "faults"), [(False, {"worker-1": "debug"}), (True, {"worker-9": "debug"})])
def test_faults_need_simulation_and_a_node(tmp_path: Path, simulate: bool, faults: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        plan(tmp_path, simulate=simulate, faults=faults)


def test_a_job_with_an_empty_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        plan(tmp_path, policy={})


def test_a_plan_holds_no_code_and_no_arguments(tmp_path: Path) -> None:
    text = str(plan(tmp_path, arguments=("canary-argument",), files={"main.py": b"canary-code"}).to_json())
    assert "canary" not in text
