"""The broker in the cluster, from its chart: runs take their keys from its service, its owners reach it, and its volume keeps its keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cluster.conftest import ClusterStage, turn
from cluster.deployed import DeployedBroker, DeployedStage
from cluster.kubernetes import TestCluster
from cluster.runs import Told, left_of, polars_job, run, written
from support.stage import PEOPLE

from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.keys.audit import AuditHead

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def broker(cluster: TestCluster, stage: ClusterStage) -> Iterator[DeployedBroker]:
    made = DeployedBroker(cluster, stage)
    with turn(cluster):
        made.install(stage.tee)
    yield made
    made.api.delete("Namespace", made.namespace)
    made.api.close()


@pytest.fixture(scope="module")
def owned(cluster: TestCluster, broker: DeployedBroker, stage: ClusterStage) -> Iterator[DeployedStage]:
    with turn(cluster):
        made = DeployedStage(stage, broker)
        made.encrypt("airline", "people", PEOPLE)
    made.shared()
    yield made
    made.close()


def test_run_takes_its_keys_from_the_broker_in_the_cluster_whose_pod_was_deleted_and_which_opens_nothing_with_another_master_key(
    broker: DeployedBroker, owned: DeployedStage, api: Cluster, target: KubernetesTarget
) -> None:
    airline = owned.clients["airline"]
    before = AuditHead.verify(airline.audit_head(), airline.broker_key())
    right = broker.put_master_key(broker.new_master_key())
    broker.replaced()
    assert broker.ended()["exitCode"] != 0
    assert "is not what this key store was made with" in broker.said()

    assert right is not None
    broker.put_master_key(right)
    broker.replaced()
    broker.ready()
    job, told = polars_job(owned), Told()
    assert job.broker.url == broker.url
    result = run(owned, target, job, told)
    assert written(job) == ["summary"]
    assert left_of(api, result.run) == []
    assert airline.audit_since(before).size > before.size
    events = [entry.event for entry in airline.audit().entries if entry.event is not None]
    assert [event["action"] for event in events if event.get("run") == result.run][:1] == ["release"]


def test_pod_of_the_broker_is_restricted_and_has_no_token_of_the_cluster(broker: DeployedBroker) -> None:
    """As the cluster completed it: no admission put in what the chart left out."""
    spec: dict[str, Any] = broker.ready()["spec"]
    assert not any("serviceaccount" in mount["mountPath"] for each in spec["containers"] for mount in each["volumeMounts"])
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    assert spec["securityContext"]["runAsUser"] == 65532
