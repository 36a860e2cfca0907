"""A job that is left with its driver: the driver's own process brings it, nobody else does, and the result is for whom it was left by."""

from __future__ import annotations

from typing import Any

import pytest
from support.node_stage import Engine, Stage, wait_for
from unit.node.test_driver_host import Cluster

from confide.attest.insecure import Fault
from confide.crypto.identity import Identity
from confide.errors import AttestationError, BindingError, ConfideError, ConfigError
from confide.ids import Role
from confide.job import Job
from confide.node.agent import DriverAgent
from confide.node.left_job import LeftJob


@pytest.fixture
def cluster(stage: Stage) -> Cluster:
    stage.host = made = Cluster(stage)
    stage.left = LeftJob(stage.job, made.client.spki_der)
    return made


def runs(stage: Stage) -> bool:
    client = stage.driver.agent._client  # type: ignore[union-attr]
    return bool(client.known and not client.here)


def test_left_job_runs_without_a_client_and_its_result_is_for_whom_it_was_left_by(stage: Stage, cluster: Cluster) -> None:
    stage.start_driver()
    wait_for(lambda: runs(stage))
    stage.engine.release.set()
    assert stage.driver.join() is None
    (kept,) = cluster.kept
    assert kept["ok"] is True
    assert [row[0] for row in kept["receipt"]["nodes"]] == ["driver", "worker-1", "worker-2"]


def test_who_left_the_job_can_come_to_its_run(stage: Stage, cluster: Cluster) -> None:
    stage.start_driver()
    wait_for(lambda: runs(stage))
    stage.attest(identity=cluster.client).submit()
    stage.engine.release.set()
    assert stage.until("result")["ok"] is True


def test_nobody_else_comes_to_the_run(stage: Stage, cluster: Cluster) -> None:
    assert stage.left is not None
    stage.start_driver()
    wait_for(lambda: runs(stage))
    for other in (Identity.generate("client"), stage.left.bearer):
        with pytest.raises(ConfideError, match="has its client already"):
            stage.attest(identity=other).submit()


def test_nobody_brings_the_job_before_the_driver_itself_does(stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even whom it is left by: it is one process that says what runs here."""
    monkeypatch.setattr(LeftJob, "bring", lambda *_, **__: None)
    stage.start_driver()
    for other in (Identity.generate("client"), cluster.client):
        with pytest.raises(ConfideError, match="left with its driver"):
            stage.attest(identity=other).submit()
    stage.driver.agent.stop()
    stage.driver.join()


def test_another_job_than_the_specs_is_refused(stage: Stage, cluster: Cluster) -> None:
    other = Job.build({**stage.job.model_dump(), "arguments": ["--other"]})
    stage.left = LeftJob(other, cluster.client.spki_der)
    stage.start_driver()
    error = stage.driver.join()
    assert isinstance(error, BindingError)
    assert "left here" in error.message
    assert stage.engine.services is None
    assert cluster.kept == []  # nobody would believe it: this driver was never attested


def test_driver_that_the_jobs_own_policy_refuses_does_not_run_it(stage: Stage, cluster: Cluster) -> None:
    stage.start_driver(fault=Fault.DEBUG)
    assert isinstance(stage.driver.join(), AttestationError)
    assert stage.engine.services is None


def test_job_is_left_only_where_runs_go_on_without_a_client(world: Any, specs: Any) -> None:
    spec, left = specs.make(world.job, Role.DRIVER, "driver"), LeftJob(world.job, Identity.generate("client").spki_der)
    with pytest.raises(ConfigError, match="goes on without a client"):
        DriverAgent(spec, Engine(), attester=world.attester(None), verifier=world.verifier, left=left)
