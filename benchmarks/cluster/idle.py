"""Fifty workers that are attested and then idle, beside fifty pods of the same shape that only sleep: what of it is Kubernetes' own time.

Their image's Java sleeps, so that no engine starts.  Nodes of the test cluster have the memory of one machine: pods ask the scheduler for
a little of it, and their limits stay.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cluster.place import CONTEXT, IDLE_IMAGE, Place, profile_of
from benchmarks.cluster.runs import watched
from confide.canonical import Json
from confide.errors import InterruptedRunError
from confide.job import Job
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.jobs.result import RunEvent
from confide.jobs.submit import submit

_ASKED = {"cpu": "20m", "memory": "64Mi"}
_AGENT = b"confide.jobs.local.pod"
_WAIT_S = 240.0
_SLEEPER = "sleeps"


@dataclass
class Idle:
    """Seconds from the driver's attestation until all workers' pods ran and until all were accepted; what it took of the driver."""

    running: float = 0.0
    accepted: float = 0.0
    driver_cpu: float = 0.0
    worker_mb: float = 0.0
    sleeping: float = 0.0


class Roomy:
    """The API server, except that the driver finds workers' pods that ask for little."""

    def __init__(self, api: Cluster) -> None:
        self._api = api
        self.workers: dict[str, Json] = {}

    def create(self, found: Json, /) -> Json:
        """Create an object."""
        if found["kind"] == "ConfigMap" and "workers.json" in found.get("data", {}):
            self.workers = {node: _modest(pod) for node, pod in json.loads(found["data"]["workers.json"]).items()}
            found = {**found, "data": {**found["data"], "workers.json": json.dumps(self.workers)}}
        return self._api.create(found)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)


def _modest(pod: Json) -> Json:
    made = copy.deepcopy(pod)
    made["spec"]["containers"][0]["resources"]["requests"] = dict(_ASKED)
    return made


@dataclass
class _Told:
    """What a run tells until its last worker is accepted; then it is ended."""

    count: int
    driver: Callable[[], str]
    at: dict[str, float] = field(default_factory=dict)
    accepted: int = 0
    cpu: tuple[float, float] = (0.0, 0.0)
    worker_mb: float = 0.0

    def __call__(self, event: RunEvent) -> None:
        if event.type == "driver-attested":
            self.at["attested"] = time.time()
            self.cpu = (cpu_of(agents()[self.driver()]), 0.0)
        if event.type == "worker-accepted":
            self.accepted += 1
            if self.accepted == self.count:
                self._all_are_here()

    def _all_are_here(self) -> None:
        self.at["accepted"] = time.time()
        found = agents()
        self.cpu = (self.cpu[0], cpu_of(found.pop(self.driver())))
        self.worker_mb = sum(map(resident_mb, found.values())) / len(found)
        raise KeyboardInterrupt


def idle_workers(made: Place, api: Cluster, count: int) -> Idle:
    """Have ``count`` workers attested, end the run, and then start as many pods that sleep."""
    job = Job.load(made.demo.job)
    job = Job.build({**job.model_dump(), "resources": {**job.resources.model_dump(), "workers": count}})
    roomy = Roomy(api)
    profile = profile_of(made, image=IDLE_IMAGE, cpu_request=0.04, start_timeout_s=int(_WAIT_S))
    target = KubernetesTarget(roomy, ClusterProfile.from_json(profile), context=CONTEXT)
    with watched(api, lambda pod: (pod["metadata"].get("labels") or {}).get("confide.dev/node")) as times:
        told = _Told(count, lambda: times.names["driver"])
        with suppress(InterruptedRunError):
            submit(job, simulate=True, settings=made.settings, on=target, on_event=told)
        running = max(seen for node, seen in times.seen.items() if node != "driver")
    since = told.at["attested"]
    seconds = told.at["accepted"] - since
    return Idle(running - since, seconds, told.cpu[1] - told.cpu[0], told.worker_mb, sleeping_pods(api, list(roomy.workers.values())))


def sleeping_pods(api: Cluster, pods: list[Json]) -> float:
    """Seconds from the first request until all of these pods ran, their container only sleeping."""
    made = [sleeper(pod) for pod in pods]
    with watched(api, lambda pod: pod["metadata"]["name"] if _SLEEPER in (pod["metadata"].get("labels") or {}) else None) as times:
        began = time.time()
        for pod in made:
            api.create(pod)
        while len(times.seen) < len(made) and time.time() - began < _WAIT_S:
            time.sleep(0.05)
        last = max(times.seen.values())
    for pod in made:
        api.delete("Pod", pod["metadata"]["name"], grace_s=0)
    return last - began


def sleeper(pod: Json) -> Json:
    """A worker's pod that has what it has of the machine, and nothing of a run."""
    spec = pod["spec"]
    kept = [volume for volume in spec["volumes"] if "configMap" not in volume]
    names = {volume["name"] for volume in kept}
    container = {name: spec["containers"][0][name] for name in ("name", "image", "resources", "securityContext")}
    container["volumeMounts"] = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] in names]
    container["command"] = ["/usr/bin/sleep", "600"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{_SLEEPER}-{pod['metadata']['name']}"[:63], "labels": {_SLEEPER: "yes"}},
        "spec": {"containers": [container], "volumes": kept, "securityContext": spec["securityContext"], "restartPolicy": "Never"},
    }


# --- what this machine says of processes in pods -----------------------------------------------------------------------


def agents(proc: Path = Path("/proc")) -> dict[str, int]:
    """The process of each node's agent, by the name of its pod."""
    found = {}
    for path in proc.glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if _AGENT in path.read_bytes():
                found[(path.parent / "root" / "etc" / "hostname").read_text(encoding="utf-8").strip()] = int(path.parent.name)
    return found


def cpu_of(process: int) -> float:
    """Seconds of CPU that a process has taken (proc(5), stat)."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int) -> float:
    """Memory of a process in MiB, shared pages counted in parts."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024
