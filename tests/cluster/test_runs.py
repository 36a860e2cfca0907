"""The main job on a real cluster: client attests driver, driver creates and attests workers, keys, Spark, encrypted output, receipt."""

from __future__ import annotations

from pathlib import Path

from cluster.conftest import ClusterStage

from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.jobs.result import RunEvent
from confide.jobs.submit import submit

LEFT = ("Job", "Pod", "ConfigMap", "Service", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy")


def left_of(api: Cluster, run: str) -> list[str]:
    """What there is of a run in its namespace."""
    return [f"{kind}/{each['metadata']['name']}" for kind in LEFT for each in api.list(kind, f"confide.dev/run={run}")]


def test_main_job_runs_on_the_cluster(stage: ClusterStage, api: Cluster, target: KubernetesTarget) -> None:
    place = stage.place()
    outputs = {name: {"path": str(place / name), "recipients": ["analyst"]} for name in ("summary", "names")}
    job = stage.job(outputs=("summary", "names")).model_copy()
    job = type(job).build({**job.model_dump(), "outputs": outputs, "resources": {"workers": 3, "memory_mb": 700, "driver_memory_mb": 700}})
    stage.grant(job)
    events: list[RunEvent] = []
    try:
      result = submit(job, simulate=True, settings=stage.settings, on=target, on_event=lambda e: (events.append(e), print(e.at, e.type, e.node, dict(e.fields), flush=True))[0])
    finally:
      for p in stage.settings.runs_dir.glob("*/logs/*.log"):
        print("=====", p.name); print(p.read_text()[-3000:])
    print(result.seconds)
    assert [(row.name, row.path) for row in result.outputs] == [(name, Path(spec["path"])) for name, spec in outputs.items()]
    assert left_of(api, result.run) == []
