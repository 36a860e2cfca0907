"""Runs on a real cluster: client attests driver, driver creates and attests workers, keys, engine, encrypted output, receipt."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from cluster.capture import Capture, captured
from cluster.conftest import ClusterStage, namespace, profile_of, turn
from cluster.kubernetes import TestCluster
from cluster.plan import NODES
from cluster.runs import WAITS, Told, left_of, polars_job, run, spark_job, until_kept, written
from support.stage import CANARY

from confide.attest.insecure import Fault
from confide.errors import NodeLostError, RunNotFoundError
from confide.ids import RunId
from confide.job import Job
from confide.jobs.attach import attach, launch
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.pod_places import USER
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.kubernetes.standing import standing_of
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.jobs.receipt import verify
from confide.jobs.result import RunEvent
from confide.jobs.staging import ABANDONED_AFTER_S, staging_path
from confide.jobs.store import RunStore

pytestmark = pytest.mark.timeout(600)
Json = dict[str, Any]


@dataclass
class MainRun:
    """The main job with a worker that was tampered with and a pod that copied another's identity, and what was seen of it."""

    job: Job
    told: Told
    secrets: dict[str, bytes] = field(default_factory=dict)
    networks: list[Capture] = field(default_factory=list)
    receipt: Path = Path()
    left: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def main_run(stage: ClusterStage, cluster: TestCluster) -> MainRun:
    """One run for all tests that look at the main job."""
    copied = list[str]()

    def look(event: RunEvent) -> None:
        if event.type == "node-started" and event.node == "worker-1" and not copied:
            copied.append(copy_of(api, str(event.fields["process"])))
        if event.type == "program-started":
            made.secrets.update(spark_secrets(told.run))

    told = Told(look)
    made = MainRun(spark_job(stage, workers=3), told)
    with turn(cluster), namespace(cluster) as api:
        target = KubernetesTarget(api, ClusterProfile.from_json(profile_of(stage, api.namespace)), context="test")
        with captured(cluster) as made.networks:
            say_in_two_parts(NODES["node1"])
            made.receipt = run(stage, target, made.job, told, faults={"worker-2": Fault.DEBUG.value}).receipt
        made.left = left_of(api, told.run)
    return made


def copy_of(api: Cluster, name: str) -> str:
    """A second pod with a worker's spec: one of the two is the first to come to the driver."""
    pod = api.get("Pod", name)
    assert pod is not None
    about = {"name": f"{name}-copy", "labels": pod["metadata"]["labels"]}
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    return str(api.create({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec})["metadata"]["name"])


def test_main_job_runs_with_workers_that_the_driver_attested_and_without_the_one_that_it_refused(
    stage: ClusterStage, main_run: MainRun
) -> None:
    assert written(main_run.job) == ["names", "summary"]
    assert sorted(row["node"] for row in main_run.told.of("worker-accepted")) == ["worker-1", "worker-3"]
    assert ("worker-2", "appraisal-refused") in [(row["node"], row["code"]) for row in main_run.told.of("worker-refused")]
    assert verify(main_run.receipt, settings=stage.settings).require().run == main_run.told.run
    assert main_run.left == []


def test_a_pod_that_copied_anothers_identity_was_refused(main_run: MainRun) -> None:
    """One of the two got in, and the other none of its keys."""
    refused = [row["node"] for row in main_run.told.of("worker-refused") if row["code"] == "binding-mismatch"]
    assert refused == ["worker-1"]
    assert len(main_run.told.of("worker-accepted")) == 2


@dataclass
class LoneRun:
    """A job without workers, asked for at a priority, and what was seen of it while it ran."""

    job: Job
    told: Told
    killed: Path
    alive: Path
    objects: dict[str, Json] = field(default_factory=dict)
    rights: dict[str, bool] = field(default_factory=dict)
    folder: Path = Path()
    left: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def lone_run(stage: ClusterStage, cluster: TestCluster) -> LoneRun:
    """One run for all tests that look at a job in the driver alone."""

    def look(event: RunEvent) -> None:
        if event.type == "program-started":
            for kind in ("Pod", "Job"):
                (made.objects[kind],) = api.list(kind, f"confide.dev/run={told.run}")
            account = f"system:serviceaccount:{api.namespace}:{told.run}"
            made.rights = {right: allowed(cluster, api.namespace, account, *right.split()) for right in RIGHTS}

    told, job = Told(look), polars_job(stage)
    place = Path(job.outputs["summary"].path)
    made = LoneRun(job, told, *(staging_path(place, RunId(f"main-job-{name}")) for name in ("killed", "alive")))
    for folder in (made.killed, made.alive):
        folder.mkdir(mode=0o700)
        os.chown(folder, USER, USER)
    os.utime(made.killed, (time.time() - ABANDONED_AFTER_S - 60,) * 2)
    with turn(cluster), namespace(cluster) as api, priority_class(api, f"confide-interactive-{api.namespace}") as name:
        priorities = {"interactive": {"priority_class": name, "queue_priority": "soon"}}
        given = {**profile_of(stage, api.namespace), "queue": "research", "priorities": priorities}
        at = ClusterProfile.from_json(given).at_priority("interactive")
        made.folder = run(stage, KubernetesTarget(api, at, context="test"), job, told).folder
        made.left = left_of(api, told.run)
    return made


@contextmanager
def priority_class(api: Cluster, name: str) -> Iterator[str]:
    api.create({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 100000})
    yield name
    api.delete("PriorityClass", name)


RIGHTS = {
    "create pods": True,
    "delete pods": True,
    "get secrets": False,
    "list configmaps": False,
    "create pods/exec": False,
    "get nodes": False,
}
"""What a driver's service account must be able to do, and may not."""


def allowed(cluster: TestCluster, namespace: str, user: str, verb: str, resource: str) -> bool:
    name, _, part = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "resource": name, "subresource": part}
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
        review = {"spec": {"user": user, "resourceAttributes": attributes}}
        answer = kubernetes.client.AuthorizationV1Api(client).create_subject_access_review(review)
    return bool(answer.status.allowed)


def test_a_job_without_workers_runs_in_the_driver_alone(lone_run: LoneRun) -> None:
    assert written(lone_run.job) == ["summary"]
    started = [(row["node"], row["process"]) for row in lone_run.told.of("node-started")]
    assert started == [("driver", f"job/{lone_run.told.run}")]
    assert "SIMULATED TEE" in (lone_run.folder / "logs" / "driver.log").read_text()
    assert lone_run.left == []


def test_drivers_service_account_may_do_what_it_must_and_no_more(lone_run: LoneRun) -> None:
    """Asked of the API server itself, about that account, while its run went on."""
    assert lone_run.rights == RIGHTS


def test_what_a_killed_driver_has_staged_is_removed_by_the_next_run_with_that_output(lone_run: LoneRun) -> None:
    assert (lone_run.killed.exists(), lone_run.alive.exists()) == (False, True)


def test_a_runs_priority_is_what_the_profile_calls_so(lone_run: LoneRun) -> None:
    assert lone_run.objects["Pod"]["spec"]["priority"] == 100000
    assert lone_run.objects["Job"]["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "soon"


def test_a_run_goes_on_without_its_client_who_comes_back(stage: ClusterStage, api: Cluster, target: KubernetesTarget) -> None:
    job, told = polars_job(stage, WAITS.replace(b"SECONDS", b"4")), Told()
    folder = launch(job, target, simulate=True, settings=stage.settings, on_event=told)
    assert folder.summary().status == "detached"
    assert told.types()[-1] == "driver-attested"
    until_said(api, folder.run, "program-started")
    again = Told()
    result = attach(folder.run, job, target, simulate=True, settings=stage.settings, on_event=again)
    assert "driver-attested" in again.types()
    assert again.types()[-2:] == ["receipt-verified", "run-ended"]
    assert result.run == folder.run
    assert written(job) == ["summary"]
    assert left_of(api, folder.run) == []


def until_said(api: Cluster, run: RunId, word: str) -> None:
    """Wait until the driver has said that of itself, where people see it."""
    limit = time.monotonic() + 60
    while [(node.node, node.said, node.phase) for node in standing_of(api, run)[0]] != [("driver", word, "running")]:
        assert time.monotonic() < limit
        time.sleep(0.2)


def test_the_receipt_of_a_run_that_ended_alone_is_found_from_another_machine(
    stage: ClusterStage, api: Cluster, target: KubernetesTarget, tmp_path: Path
) -> None:
    job = polars_job(stage)
    folder = launch(job, target, simulate=True, settings=stage.settings)
    until_kept(api, folder.run)
    key = tmp_path / "key.pem"
    key.write_bytes(folder.client_key.read_bytes())
    key.chmod(0o600)
    elsewhere = RunStore(stage.settings.runs_dir).path
    elsewhere.rename(elsewhere.with_name("runs-of-the-first-machine"))
    result = attach(folder.run, job, target, simulate=True, client_key=key, settings=stage.settings)
    assert verify(result.receipt, settings=stage.settings).require().run == folder.run
    assert left_of(api, folder.run) == []
    with pytest.raises(RunNotFoundError, match="has ended"):
        attach(folder.run, job, target, simulate=True, settings=stage.settings)


def test_no_canary_and_no_key_is_in_anything_that_the_control_plane_has(
    stage: ClusterStage, cluster: TestCluster, main_run: MainRun
) -> None:
    """Of a run with workers, nor a secret of Spark's: etcd's files, requests and answers, servers' logs, all that the network carried."""
    secrets, networks = main_run.secrets, main_run.networks
    assert set(secrets) == {"spark-secret", "gateway-token"}
    keys = [secret.reveal() for secret in stage.dataset_keys.values()]
    hidden = [CANARY.encode(), *keys, *(key.hex().encode() for key in keys), *(base64.b64encode(key) for key in keys), *secrets.values()]
    assert [each.dropped for each in networks] == [0, 0]
    assert networks[0].holds(PUBLIC) or networks[1].holds(PUBLIC)
    assert any(each.holds(b"kubernetes.default.svc") for each in networks)  # the name that the driver's TLS asks for
    for network in networks:
        assert network.packets > 1000
        assert not any(network.holds(secret) for secret in hidden)
    looked = 0
    for place in ("etcd", "logs", "containerd"):
        for path in (cluster.folder / place).rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                looked += len(data)
                assert not any(secret in data for secret in hidden), path
    assert looked > 1_000_000
    said = [json.loads(line) for line in cluster.audit_log.read_text().splitlines()]
    assert any(each.get("objectRef", {}).get("name") == f"{main_run.told.run}-driver" for each in said)


PUBLIC = b"a-public-word-that-the-capture-must-hold"


def say_in_two_parts(address: str) -> None:
    """To a port of a node that listens to anybody, the kubelet's, which takes it for a broken greeting."""
    with socket.create_connection((address, 10250)) as there:
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (PUBLIC[:10], PUBLIC[10:]):
            there.sendall(part)
            time.sleep(0.05)


def spark_secrets(name: str) -> dict[str, bytes]:
    """What the driver's processes have in their private memory, read as this machine's administrator can of a run that nothing protects."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if name.encode() in (path / "cmdline").read_bytes():
                for file in (path / "root/dev/shm").glob(f"confide-{name}-driver*/*"):
                    if file.name in {"spark-secret", "gateway-token"}:
                        found[file.name] = file.read_bytes()
        except OSError:
            continue  # it has ended
    return found


def test_a_driver_that_is_lost_is_told_and_leaves_nothing(stage: ClusterStage, api: Cluster, target: KubernetesTarget) -> None:
    job = polars_job(stage, WAITS.replace(b"SECONDS", b"60"))

    def kill(event: object) -> None:
        if getattr(event, "type", "") == "program-started":
            (pod,) = api.list("Pod", f"confide.dev/run={told.run},confide.dev/node=driver")
            api.delete("Pod", pod["metadata"]["name"], grace_s=0)

    told = Told(kill)
    with pytest.raises(NodeLostError):
        run(stage, target, job, told)
    assert written(job) == []
    assert left_of(api, told.run) == []
