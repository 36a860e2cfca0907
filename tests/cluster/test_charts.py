"""The namespace's chart on a real cluster: what it makes is taken, and who is named in it submits runs with its rights and no others."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from cluster.asking import Asking
from cluster.charts import Release
from cluster.conftest import ClusterStage, turn
from cluster.kubernetes import TestCluster
from cluster.runs import Told, left_of, polars_job, run, written

from confide.errors import ClusterRefusedError, InterruptedRunError
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.jobs.result import RunEvent

pytestmark = pytest.mark.timeout(600)
ADMINISTRATION = "default"
"""The namespace of the release, in which Ann has her account: she is named in the chart's values, and has no other right."""
SETTINGS: dict[str, Any] = {
    "submitters": {"serviceAccounts": [{"name": "ann", "namespace": ADMINISTRATION}]},
    "doctor": {"clusterRole": True},
    "quota": {"enabled": True, "hard": {"pods": "4", "limits.memory": "8Gi", "requests.cpu": "4"}},
    "limitRange": {"enabled": True, "container": {"max": {"memory": "6Gi"}}},
    "priorityClasses": {"create": True},
}


@pytest.fixture(scope="module")
def release(cluster: TestCluster) -> Iterator[Release]:
    """The namespace's chart, installed with everything in it but the queue, whose kind is Kueue's."""
    where = f"runs-{secrets.token_hex(4)}"
    made = Release("confide-namespace", {**SETTINGS, "namespace": {"name": where, "create": True}}, name="c", namespace=ADMINISTRATION)
    asking = Asking(cluster.kubeconfig)
    asking.post(f"/api/v1/namespaces/{ADMINISTRATION}/serviceaccounts", {"metadata": {"name": "ann"}})
    made.objects.sort(key=lambda each: each["kind"] != "Namespace")  # as Helm does it
    with turn(cluster):
        made.install(asking)
    yield made
    with Cluster.connect("test", kubeconfig=cluster.kubeconfig) as api:
        api.delete("Namespace", where)


@pytest.fixture
def ann(cluster: TestCluster, release: Release) -> Iterator[Cluster]:
    """The API as Ann may use it, in the namespace that the chart has made."""
    account = cluster.kubeconfig_of(ADMINISTRATION, "ann")
    where = next(each["metadata"]["name"] for each in release.objects if each["kind"] == "Namespace")
    with Cluster.connect("test", namespace=where, kubeconfig=account) as found:
        yield found


def on(api: Cluster, profile: dict[str, Any]) -> KubernetesTarget:
    return KubernetesTarget(api, ClusterProfile.from_json(profile), context="test")


def test_who_is_named_in_the_namespaces_chart_runs_a_job_within_its_quota_and_at_its_priority(
    stage: ClusterStage, ann: Cluster, profile: dict[str, Any]
) -> None:
    job, pods, used = polars_job(stage), list[Any](), list[Any]()

    def look(event: RunEvent) -> None:
        if event.type == "program-started":
            pods.extend(ann.list("Pod", f"confide.dev/run={told.run}"))
            used.extend(quota["status"]["used"] for quota in ann.list("ResourceQuota"))

    told = Told(look)
    settings = {**profile, "namespace": ann.namespace, "priority_class": "confide-batch"}
    run(stage, on(ann, settings), job, told)
    assert written(job) == ["summary"]
    assert [(pod["spec"]["priority"], pod["spec"]["preemptionPolicy"]) for pod in pods] == [(1000, "Never")]
    assert [each["pods"] for each in used] == ["1"]
    assert left_of(ann, told.run) == []


def test_a_run_above_the_limits_of_the_namespaces_chart_is_told(stage: ClusterStage, ann: Cluster, profile: dict[str, Any]) -> None:
    """The Job is taken and its pod is not, which its controller says in an event."""

    def enough(event: RunEvent) -> None:
        if event.type == "node-waiting":
            raise KeyboardInterrupt

    told = Told(enough)
    settings = {**profile, "namespace": ann.namespace}
    with pytest.raises(InterruptedRunError):
        run(stage, on(ann, settings), polars_job(stage, resources={"driver_memory_mb": 7000}), told)
    assert "maximum memory usage per Container is 6Gi" in told.of("node-waiting")[0]["message"]
    assert left_of(ann, told.run) == []


def test_who_is_named_in_the_namespaces_chart_has_no_right_anywhere_else(cluster: TestCluster, ann: Cluster, api: Cluster) -> None:
    account = cluster.kubeconfig_of(ADMINISTRATION, "ann")
    with Cluster.connect("test", namespace=api.namespace, kubeconfig=account) as elsewhere, pytest.raises(ClusterRefusedError):
        elsewhere.list("Pod")
    with pytest.raises(ClusterRefusedError):
        ann.list("Secret")
