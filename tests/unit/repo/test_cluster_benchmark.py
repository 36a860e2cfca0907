"""What the cluster's benchmark makes of what it sees: steps from events, attestation from logs, both sides' pods, targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cluster_plans import plan_for, profile_for

from benchmarks import cluster
from benchmarks.cluster import idle, runs
from benchmarks.cluster.place import MEMORY_MB, WORKERS, Place, _toml
from benchmarks.spine import Row
from confide.cli.demo import Demo
from confide.cli.output import Story
from confide.jobs.kubernetes.objects import render
from confide.jobs.kubernetes.profile import ClusterProfile, Shape

VOLUMES: list[dict[str, Any]] = [{"mount": "/usr", "host_path": "/usr", "read_only": True}, {"mount": "/data", "host_path": "/data"}]


def at(second: float) -> str:
    return f"2026-01-01T00:00:{second:09.6f}+00:00"


def event(kind: str, second: float, node: str | None = None) -> dict[str, Any]:
    return {"type": kind, "node": node, "at": at(second), "fields": {}}


EVENTS = [
    event("driver-attested", 3, "driver"),
    event("worker-accepted", 6, "worker-2"),
    event("key-opened", 6.1, "worker-2"),
    event("worker-accepted", 7, "worker-1"),
    event("key-opened", 6.2, "worker-2"),
    event("key-opened", 7.1, "worker-1"),
    event("key-opened", 7.4, "worker-1"),
    event("key-opened", 20, "worker-1"),
]


def test_a_run_has_come_to_a_step_when_its_last_worker_has() -> None:
    start = 1767225600.0  # 2026-01-01
    steps = runs.steps_of(EVENTS, {"driver": start + 2, "worker-1": start + 5, "worker-2": start + 4})
    assert steps == {"pod": start + 2, "driver": start + 3, "pods": start + 5, "workers": start + 7}


def test_attestation_is_the_drivers_and_then_the_slowest_workers() -> None:
    logs = "x a client has attested this node: 0.200 s\n" + "".join(
        f"INFO confide.node.worker: this node and the driver have attested each other, and it is certified: {seconds} s\n"
        for seconds in ("0.100", "0.400")
    )
    assert runs.attesting_in(logs) == pytest.approx(0.6)


def test_keys_of_inputs_count_and_those_of_outputs_do_not() -> None:
    assert runs.keys_after(EVENTS) == pytest.approx(0.4)


def test_a_pod_runs_from_when_it_was_first_seen_to() -> None:
    times = runs.PodTimes(lambda pod: pod["metadata"]["labels"].get("role"))
    pod: dict[str, Any] = {"metadata": {"name": "a", "labels": {"role": "driver"}}}
    times.hear(pod)
    assert (times.names, times.seen) == ({"driver": "a"}, {})
    times.hear({**pod, "status": {"containerStatuses": [{"state": {"running": {}}}]}})
    first = dict(times.seen)
    times.hear({**pod, "status": {"containerStatuses": [{"state": {"terminated": {}}}]}})
    times.hear({"metadata": {"name": "of another", "labels": {}}})
    assert times.seen == first
    assert list(first) == ["driver"]


@pytest.fixture
def made(tmp_path: Path) -> Place:
    return Place(Demo(tmp_path, Story()), tmp_path / "plain", tmp_path / "profile.toml", tmp_path / "config", VOLUMES, "group")


def test_plain_spark_gets_what_confides_nodes_get(made: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "host", lambda: "10.10.0.1")
    words = runs.submit_words(made, made.profile)
    assert {f"spark.executor.instances={WORKERS}", f"spark.executor.memory={MEMORY_MB}m", f"spark.driver.memory={MEMORY_MB}m"} <= set(words)
    assert {f"spark.kubernetes.{role}.limit.cores=1" for role in ("driver", "executor")} <= set(words)
    assert words[words.index("--deploy-mode") + 1] == "cluster"
    mounts = runs.pod_template(VOLUMES)["spec"]["containers"][0]["volumeMounts"]
    assert [(each["mountPath"], each.get("readOnly")) for each in mounts] == [("/usr", True), ("/data", False), ("/tmp", None)]


def test_the_profile_is_one(tmp_path: Path) -> None:
    table = {"image": "localhost/x:1", "allow_tag": True, "shape": "simulated", "insecure_host_path": True}
    table |= {"volumes": VOLUMES, "cpu_request": 0.1}
    (tmp_path / "profile.toml").write_text(_toml(table))
    assert ClusterProfile.load(tmp_path / "profile.toml") == ClusterProfile.from_json(table)


def test_sleeping_pods_have_the_workers_shape_and_nothing_of_a_run() -> None:
    shape = Shape.SIMULATED
    pods = render(plan_for(shape), profile_for(shape), simulated_tee={"a": 1}).workers.values()
    for pod in pods:
        made = idle.sleeper(pod)
        assert "configMap" not in json.dumps(made)
        assert made["spec"]["containers"][0]["resources"] == pod["spec"]["containers"][0]["resources"]
        volumes = {volume["name"] for volume in made["spec"]["volumes"]}
        assert {mount["name"] for mount in made["spec"]["containers"][0]["volumeMounts"]} <= volumes
        assert "serviceAccountName" not in made["spec"]


def test_workers_pods_ask_for_little_and_keep_their_limits() -> None:
    class Kept:
        def create(self, found: dict[str, Any]) -> dict[str, Any]:
            return found

    pod = {"spec": {"containers": [{"resources": {"limits": {"memory": "2Gi"}, "requests": {"memory": "2Gi"}}}]}}
    roomy = idle.Roomy(Kept())  # type: ignore[arg-type]
    created = roomy.create({"kind": "ConfigMap", "data": {"workers.json": json.dumps({"worker-1": pod})}})
    resources = json.loads(created["data"]["workers.json"])["worker-1"]["spec"]["containers"][0]["resources"]
    assert (resources["limits"], resources["requests"]["memory"]) == ({"memory": "2Gi"}, "64Mi")
    assert roomy.create({"kind": "Job", "spec": {}}) == {"kind": "Job", "spec": {}}


@pytest.mark.parametrize(("end", "attesting", "words"), [(12.5, 2.0, ("met", "met")), (12.6, 2.1, ("**not met**", "**not met**"))])
def test_targets_are_told_as_they_are(end: float, attesting: float, words: tuple[str, str]) -> None:
    rows = {step: Row(what, "s") for step, what in cluster._STEPS.items()}
    both = {"pod": 1.0, "pods": 3.0, "task": 5.0, "cpu": 9.0}
    cluster.add_run(rows, {**both, "driver": 2, "workers": 4, "end": end, "attesting": attesting}, confide=True)
    cluster.add_run(rows, {**both, "end": 10}, confide=False)
    table = cluster.markdown([*rows.values(), *cluster.idle_rows(idle.Idle(40, 50, 5, 60, 30))], {}, 1)
    said = [line.rpartition(", ")[2] for line in table.splitlines() if line.startswith("* target")]
    assert tuple(said) == words
    assert "| from first task to end | " in table
    assert "| 100 ms |" in table
