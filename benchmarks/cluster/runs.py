"""One run of the main job on the cluster by ``confide run``, and one of the same program on plain files by ``spark-submit``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.cluster.place import CONTEXT, CORES, INPUTS, MEMORY_MB, NAMESPACE, ROOT, SPARK_IMAGE, WORKERS, Place, host
from benchmarks.spine import first_task_in
from confide.canonical import Json
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.store import RunStore

_SERVICE_ACCOUNT = "spark"
_CONTAINER = "spark"


class PodTimes:
    """When each pod of the namespace was first seen to run, by what ``role`` says of it; seconds since 1970."""

    def __init__(self, role: Callable[[Json], str | None]) -> None:
        self.seen: dict[str, float] = {}
        self.names: dict[str, str] = {}
        self._role = role

    def hear(self, pod: Json) -> None:
        """Note a pod as it is now."""
        role = self._role(pod)
        if role is None:
            return
        self.names[role] = pod["metadata"]["name"]
        states = [each.get("state") or {} for each in (pod.get("status") or {}).get("containerStatuses") or []]
        if any("running" in state or "terminated" in state for state in states):
            self.seen.setdefault(role, time.time())


@contextmanager
def watched(api: Cluster, role: Callable[[Json], str | None]) -> Iterator[PodTimes]:
    """Watch the namespace's pods for as long as the block runs."""
    times, changes = PodTimes(role), api.watch("Pod")

    def follow() -> None:
        for _, pod in changes:
            times.hear(pod)

    threading.Thread(target=follow, daemon=True).start()
    try:
        yield times
    finally:
        changes.close()


def confide_run(made: Place, api: Cluster, number: int) -> dict[str, float]:
    """Seconds from the command to each step: ``pod``, ``driver``, ``pods``, ``workers``, ``task``, ``end``; ``attesting``, ``cpu``."""
    job = made.demo.folder / f"job-{number}.toml"
    text = made.demo.job.read_text(encoding="utf-8").replace('"results/', f'"data/out/{number}-')
    job.write_text(text, encoding="utf-8")
    words = ["--home", made.demo.folder, "run", job, "--on", f"k8s:{CONTEXT}", "--cluster", made.profile, "--simulate", "--json"]
    with watched(api, _node_of) as times:
        began, cpu = time.time(), made.pods_cpu
        answer = json.loads(_done([sys.executable, "-m", "confide.cli.main", *words], made.environment))
        end = time.time()
    folder = RunStore(made.settings.runs_dir).open(answer["run"])
    logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in folder.logs.glob("*"))
    steps = {**steps_of(folder.events(), times.seen), "task": first_task_in(logs), "end": end}
    attesting = attesting_in(logs) + keys_after(folder.events())
    return {**{name: at - began for name, at in steps.items()}, "attesting": attesting, "cpu": made.pods_cpu - cpu}


def steps_of(events: Iterable[Json], pods: Mapping[str, float]) -> dict[str, float]:
    """When a run came to each step, from its events and from when its pods were seen to run."""
    at: dict[str, list[float]] = {}
    for event in events:
        at.setdefault(str(event["type"]), []).append(datetime.fromisoformat(event["at"]).timestamp())
    workers = [seen for node, seen in pods.items() if node != "driver"]
    return {
        "pod": pods["driver"],
        "driver": at["driver-attested"][0],
        "pods": max(workers),
        "workers": max(at["worker-accepted"]),
    }


def attesting_in(logs: str) -> float:
    """Seconds that attestation took on the way to the first task: the driver's by the client, and then the slowest worker's, both ways."""
    driver = re.findall(r"a client has attested this node: ([0-9.]+) s", logs)
    workers = re.findall(r"have attested each other, and it is certified: ([0-9.]+) s", logs)
    return float(driver[0]) + max(map(float, workers))


def keys_after(events: Iterable[Json]) -> float:
    """Seconds from a worker's acceptance to its keys of all inputs, of the worker that had to wait longest."""
    accepted: dict[str, float] = {}
    opened: dict[str, list[float]] = {}
    for event in events:
        at, node = datetime.fromisoformat(event["at"]).timestamp(), str(event["node"])
        if event["type"] == "worker-accepted":
            accepted[node] = at
        elif event["type"] == "key-opened" and node in accepted:
            opened.setdefault(node, []).append(at)
    return max(sorted(opened[node])[INPUTS - 1] - at for node, at in accepted.items())


def _node_of(pod: Json) -> str | None:
    return (pod["metadata"].get("labels") or {}).get("confide.dev/node")


# --- plain Spark -----------------------------------------------------------------------------------------------------


def prepare_plain(api: Cluster, made: Place) -> Path:
    """What an administrator makes for Spark once; the pods' template."""
    rules = [{"apiGroups": [""], "resources": ["pods", "services", "configmaps", "persistentvolumeclaims"], "verbs": ["*"]}]
    subject = {"kind": "ServiceAccount", "name": _SERVICE_ACCOUNT, "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": _SERVICE_ACCOUNT}
    named = {"metadata": {"name": _SERVICE_ACCOUNT}}
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", **named})
    api.create({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", **named, "rules": rules})
    api.create({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", **named, "roleRef": role, "subjects": [subject]})
    template = made.profile.with_name("spark-pods.json")
    template.write_text(json.dumps(pod_template(made.volumes)), encoding="utf-8")
    return template


def pod_template(volumes: list[dict[str, Any]]) -> Json:
    """A pod with this machine's code in it, as Confide's has it."""
    named = [(f"data-{index}", volume) for index, volume in enumerate(volumes)]
    mounts = [{"name": name, "mountPath": each["mount"], "readOnly": each.get("read_only", False)} for name, each in named]
    places: list[Json] = [{"name": name, "hostPath": {"path": each["host_path"], "type": "Directory"}} for name, each in named]
    container = {"name": _CONTAINER, "volumeMounts": [*mounts, {"name": "tmp", "mountPath": "/tmp"}]}  # noqa: S108  in the pod
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "spec": {
            "containers": [container],
            "securityContext": {"runAsUser": 10001, "runAsGroup": 10001},
            "volumes": [*places, {"name": "tmp", "emptyDir": {}}],
        },
    }


def submit_words(made: Place, template: Path) -> list[str]:
    """The command line of ``spark-submit`` in cluster mode: as many executors, cores and megabytes as Confide's job asks for."""
    options = {
        "spark.kubernetes.namespace": NAMESPACE,
        "spark.kubernetes.context": CONTEXT,
        "spark.kubernetes.container.image": SPARK_IMAGE,
        "spark.kubernetes.container.image.pullPolicy": "IfNotPresent",
        "spark.kubernetes.authenticate.driver.serviceAccountName": _SERVICE_ACCOUNT,
        "spark.executor.instances": WORKERS,
        "spark.executor.cores": CORES,
        "spark.executor.memory": f"{MEMORY_MB}m",
        "spark.driver.memory": f"{MEMORY_MB}m",
    }
    for role in ("driver", "executor"):
        options[f"spark.kubernetes.{role}.podTemplateFile"] = str(template)
        options[f"spark.kubernetes.{role}.podTemplateContainerName"] = _CONTAINER
        options[f"spark.kubernetes.{role}.request.cores"] = "100m"
        options[f"spark.kubernetes.{role}.limit.cores"] = CORES
    settings = [word for name, value in options.items() for word in ("--conf", f"{name}={value}")]
    program = [f"local://{ROOT / 'benchmarks' / 'plain.py'}", str(made.demo.folder / "delays.py"), str(made.plain)]
    where = ["--master", f"k8s://https://{host()}:6443", "--deploy-mode", "cluster", "--name", "plain"]
    return [str(Path(sys.executable).with_name("spark-submit")), *where, *settings, *program]


def plain_run(made: Place, api: Cluster, template: Path) -> dict[str, float]:
    """Seconds from the command to: ``pod`` (the driver's runs), ``pods`` (all executors' do), ``task``, ``end``; ``cpu``."""
    with watched(api, _spark_role) as times:
        began, cpu = time.time(), made.pods_cpu
        _done(submit_words(made, template), made.environment)
        end = time.time()
    driver = times.names["driver"]
    task = first_task_in("\n".join(line.text for line in api.log_lines(driver, container=_CONTAINER)))
    api.delete("Pod", driver)
    executors = [seen for role, seen in times.seen.items() if role != "driver"]
    steps = {"pod": times.seen["driver"], "pods": max(executors), "task": task, "end": end}
    return {**{name: at - began for name, at in steps.items()}, "cpu": made.pods_cpu - cpu}


def _spark_role(pod: Json) -> str | None:
    labels = pod["metadata"].get("labels") or {}
    found = labels.get("spark-role")
    return f"executor-{labels.get('spark-exec-id')}" if found == "executor" else found


def _done(words: list[Any], environment: Mapping[str, str]) -> str:
    done = subprocess.run([str(word) for word in words], env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{Path(str(words[0])).name} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout
