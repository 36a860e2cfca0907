"""Runs of tests on the cluster: jobs whose outputs pods can write, what they told, and what must be gone afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.conftest import ClusterStage

from confide.job import Job
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.result import RunEvent, RunResult
from confide.jobs.submit import submit
from confide.jobs.target import Target

KINDS = ("Job", "Pod", "ConfigMap", "Service", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy")
COUNTS = b"""
from confide.data.polars import session

ctx = session()
ctx.write(ctx.read("people").group_by("city").len("people"), "summary")
"""
WAITS = b"""
import time
from confide.data.polars import session

ctx = session()
time.sleep(SECONDS)
ctx.write(ctx.read("people").head(3), "summary")
"""
_GONE_S = 60.0


class Told:
    """Events of a run."""

    def __init__(self, then: Callable[[RunEvent], None] = lambda _: None) -> None:
        self.events: list[RunEvent] = []
        self._then = then

    def __call__(self, event: RunEvent) -> None:
        self.events.append(event)
        self._then(event)

    @property
    def run(self) -> str:
        return str(self.events[0].fields["run"])

    def types(self, node: str | None = None) -> list[str]:
        return [event.type for event in self.events if node is None or event.node == node]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [{"node": event.node, **event.fields} for event in self.events if event.type == kind]


def spark_job(stage: ClusterStage, *, workers: int = 2, **changes: Any) -> Job:
    """The main job: two owners' tables joined by workers."""
    return _granted(stage, {"resources": {"workers": workers, "memory_mb": 700, "driver_memory_mb": 700}, **changes})


def polars_job(stage: ClusterStage, program: bytes = COUNTS, **changes: Any) -> Job:
    """A job in the driver alone."""
    fields = {"engine": "polars", "files": {"main.py": program}, "inputs": {"people": {"path": str(stage.root / "people")}}}
    return _granted(stage, {**fields, "resources": {"driver_memory_mb": 700}, **changes}, outputs=("summary",))


def _granted(stage: ClusterStage, changes: dict[str, Any], *, outputs: tuple[str, ...] = ("summary", "names")) -> Job:
    place = stage.place()
    told = {name: {"path": str(place / name), "recipients": ["analyst"]} for name in outputs}
    job = stage.job(**{"outputs": outputs, **{name: value for name, value in changes.items() if name != "outputs"}})
    job = Job.build({**job.model_dump(), "outputs": told})
    stage.grant(job)
    return job


def run(stage: ClusterStage, target: Target, job: Job, told: Told | None = None, **options: Any) -> RunResult:
    """Submit a job and follow it to its end."""
    return submit(job, simulate=True, settings=stage.settings, on=target, on_event=told, **options)


def left_of(api: Cluster, run_id: str) -> list[str]:
    """What there is of a run in its namespace, once what is ending has ended."""
    until = time.monotonic() + _GONE_S
    while True:
        left = [f"{kind}/{each['metadata']['name']}" for kind in KINDS for each in api.list(kind, f"confide.dev/run={run_id}")]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.3)


def written(job: Job) -> list[str]:
    """The outputs that are in their places."""
    return sorted(name for name, spec in job.outputs.items() if Path(spec.path).exists())


def until_kept(api: Cluster, name: str) -> str:
    """Wait for the result that a run leaves, and return it."""
    with api.watch("ConfigMap", f"confide.dev/run={name}") as watch:
        for kind, found in watch:
            if kind != "DELETED" and found["metadata"]["name"] == f"{name}-result" and "result" in (found.get("data") or {}):
                return str(found["data"]["result"])
    raise AssertionError("the watch ended")
