"""What goes wrong in clusters every day: each is told in the cluster's own words, ends the run or does not, and leaves nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster.asking import Asking
from cluster.conftest import ClusterStage, namespace, profile_of, turn
from cluster.kubernetes import TestCluster
from cluster.runs import WAITS, Told, left_of, polars_job, run, spark_job, written

from confide.errors import ClusterRefusedError, InterruptedRunError, NodeLostError
from confide.jobs.attach import launch
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.jobs.result import RunEvent
from confide.jobs.store import RunDir

pytestmark = pytest.mark.timeout(600)
Profile = dict[str, Any]


def on(api: Cluster, profile: Profile, **changes: Any) -> KubernetesTarget:
    return KubernetesTarget(api, ClusterProfile.from_json({**profile, **changes}), context="test")


@pytest.fixture(scope="module")
def forgotten(stage: ClusterStage, cluster: TestCluster) -> Iterator[tuple[Cluster, RunDir]]:
    """A run whose client never comes back, begun before other tests of its group: the shortest time to live is a minute."""
    with namespace(cluster) as api:
        target = on(api, profile_of(stage, api.namespace), ttl_s=60)
        with turn(cluster):
            begun = launch(polars_job(stage), target, simulate=True, settings=stage.settings)
        yield api, begun


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"node_selector": {"pool": "confidential"}}, "nodes are available"),
        ({"priority_class": "nobody-made-it"}, "nobody-made-it"),
        ({"runtime_class": "kata-qemu-nowhere"}, "kata-qemu-nowhere"),
    ],
    ids=["no node", "no priority class", "no runtime class"],
)
def test_why_a_driver_waits_is_told_in_the_clusters_words(
    stage: ClusterStage, api: Cluster, profile: Profile, changes: Profile, words: str
) -> None:
    """A scheduler's of its pod, or a controller's of a Job that gets none."""

    def enough(event: RunEvent) -> None:
        if event.type == "node-waiting" and words in event.fields["message"]:
            raise KeyboardInterrupt

    told = Told(enough)
    with pytest.raises(InterruptedRunError):
        run(stage, on(api, profile, **changes), polars_job(stage), told)
    assert left_of(api, told.run) == []


def test_an_image_that_is_nowhere_is_told(stage: ClusterStage, api: Cluster, profile: Profile) -> None:
    told = Told()
    with pytest.raises(NodeLostError, match=r"(?i)image"):
        run(stage, on(api, profile, image="localhost/confide-node:nowhere", start_timeout_s=20), polars_job(stage), told)
    assert left_of(api, told.run) == []


def test_a_quota_that_workers_exceed_is_told_by_its_name(stage: ClusterStage, api: Cluster, target: KubernetesTarget) -> None:
    hard = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": {"pods": "2"}}}
    api.create(hard)
    told = Told()
    with pytest.raises(ClusterRefusedError, match="exceeded quota: small"):
        run(stage, target, spark_job(stage), told)
    assert left_of(api, told.run) == []


def test_a_run_goes_on_when_a_worker_is_drained_in_the_middle_of_a_stage(
    stage: ClusterStage, cluster: TestCluster, api: Cluster, target: KubernetesTarget
) -> None:
    """By the Eviction API, as ``kubectl drain`` does it, while a task runs there; one worker is enough for the job."""
    marks = stage.place()
    program = SLOW_TASKS.replace(b"MARKS", str(marks).encode())
    resources = {"workers": 2, "memory_mb": 700, "driver_memory_mb": 700, "min_workers": 1}
    job = spark_job(stage, files={"main.py": program}, resources=resources)
    drained = threading.Event()

    def drain() -> None:
        pod, until = f"{told.run}-worker-1", time.monotonic() + 60
        while not (marks / f"{pod}.begun").exists() and time.monotonic() < until:
            time.sleep(0.05)
        about = {"metadata": {"name": pod}, "deleteOptions": {"gracePeriodSeconds": 1}}
        path = f"/api/v1/namespaces/{api.namespace}/pods/{pod}/eviction"
        Asking(cluster.kubeconfig).post(path, {"apiVersion": "policy/v1beta1", "kind": "Eviction", **about})
        drained.set()

    def begin(event: RunEvent) -> None:
        if event.type == "program-started":
            threading.Thread(target=drain, daemon=True).start()

    told = Told(begin)
    result = run(stage, target, job, told)
    assert drained.is_set()
    assert {row["node"] for row in (*told.of("worker-lost"), *told.of("worker-failed"))} == {"worker-1"}
    begun, ended = ({each.stem for each in marks.glob(f"*.{kind}")} for kind in ("begun", "ended"))
    assert begun - ended == {f"{told.run}-worker-1"}, "its task was under way"
    assert written(job) == ["names", "summary"]
    assert left_of(api, result.run) == []


SLOW_TASKS = b"""
import confide

ctx = confide.session()


def slowly(batches):
    import pathlib, socket, time

    mark = pathlib.Path("MARKS") / socket.gethostname()
    mark.with_name(mark.name + ".begun").touch()
    time.sleep(20 if mark.name.endswith("worker-1") else 2.5)  # its end comes before, however slow the machine is
    yield from batches
    mark.with_name(mark.name + ".ended").touch()


people = ctx.read("people").repartition(4)
ctx.write(people.mapInArrow(slowly, people.schema), "names")
ctx.write(people.groupBy("city").count(), "summary")
ctx.stop()
"""
"""Four tasks, each of which says where it has begun and ended; what is drained meanwhile would take long."""


@pytest.mark.alone
def test_a_run_outlives_a_restart_of_the_api_server(
    stage: ClusterStage, cluster: TestCluster, api: Cluster, target: KubernetesTarget
) -> None:
    """The session with the driver goes through the API server: it breaks, and the client comes back to the run."""
    job = polars_job(stage, WAITS.replace(b"SECONDS", b"10"))
    restarted = threading.Event()

    def restart(event: RunEvent) -> None:
        if event.type == "program-started" and not restarted.is_set():
            restarted.set()
            cluster.restart_api_server()

    told = Told(restart)
    result = run(stage, target, job, told)
    assert written(job) == ["summary"]
    assert left_of(api, result.run) == []


def test_ctrl_c_leaves_nothing(stage: ClusterStage, api: Cluster, target: KubernetesTarget) -> None:
    def interrupt(event: RunEvent) -> None:
        if event.type == "program-started":
            raise KeyboardInterrupt

    told, job = Told(interrupt), polars_job(stage, WAITS.replace(b"SECONDS", b"60"))
    with pytest.raises(InterruptedRunError):
        run(stage, target, job, told)
    assert written(job) == []
    assert left_of(api, told.run) == []


def test_two_runs_at_once_do_not_meet(stage: ClusterStage, api: Cluster, target: KubernetesTarget) -> None:
    jobs = [polars_job(stage, WAITS.replace(b"SECONDS", b"2")) for _ in range(2)]
    ended: list[str] = []
    threads = [threading.Thread(target=lambda job=job: ended.append(run(stage, target, job).run)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ended)) == 2
    assert [written(job) for job in jobs] == [["summary"], ["summary"]]


def test_a_finished_job_is_removed_by_its_time_to_live(forgotten: tuple[Cluster, RunDir]) -> None:
    """Of a run whose client never comes back: nothing of it stays."""
    api, folder = forgotten
    until = time.monotonic() + 150
    while api.list("Job", f"confide.dev/run={folder.run}") and time.monotonic() < until:
        time.sleep(1)
    assert left_of(api, folder.run) == []
