"""What a control plane may do to a run's pods, each refused: what a node is and how it was started, its evidence says.

The simulated TEE measures what a real one does of these: files, arguments and variables (docs/security/threat-model.md says which attacks
real hardware sees in another way).  The attacker is the API server itself: it stores other objects than the client and the driver send.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from cluster.conftest import ClusterStage, namespace, profile_of, turn
from cluster.kubernetes import TestCluster
from cluster.node_image import ROOT, write_node_image
from cluster.runs import Told, left_of, polars_job, run, spark_job, until_kept, written

from confide.crypto.sign import SigningKey
from confide.errors import AppraisalError, AttestationError, BindingError, ConfideError
from confide.job import Job
from confide.jobs.attach import attach, launch
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.node.kept_result import open_result, seal_result

pytestmark = pytest.mark.timeout(600)
Json = dict[str, Any]
Change = Callable[[Json], None]


class HostileApi:
    """The API server as an attacker runs it: every object is changed on its way in."""

    def __init__(self, api: Cluster, change: Change) -> None:
        self._api = api
        self._change = change

    def create(self, found: Json, /) -> Json:
        changed = copy.deepcopy(found)
        self._change(changed)
        return self._api.create(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)


def container_of(found: Json) -> Json | None:
    """The container of an object that has one."""
    spec = found["spec"]["template"]["spec"] if found["kind"] == "Job" else found.get("spec", {}) if found["kind"] == "Pod" else None
    return None if spec is None else spec["containers"][0]


def with_variable(name: str, value: str) -> Change:
    def change(found: Json) -> None:
        container = container_of(found)
        if container is not None:
            container.setdefault("env", []).append({"name": name, "value": value})

    return change


def with_argument(found: Json) -> None:
    container = container_of(found)
    if container is not None:
        container["args"] = ["--verbose"]


def with_another_command(found: Json) -> None:
    container = container_of(found)
    if container is not None:
        container["command"] = ["/usr/bin/env", "LD_PRELOAD=", str(ROOT / ".venv/bin/python"), "-I", "-m", "confide.jobs.local.pod"]


def with_a_file_over_code(found: Json) -> None:
    """One module of the agent is another file: a config map of the attacker's, mounted over it."""
    container = container_of(found)
    if container is None:
        return
    spec = found["spec"]["template"]["spec"] if found["kind"] == "Job" else found["spec"]
    spec["volumes"].append({"name": "evil", "configMap": {"name": "evil"}})
    place = f"{ROOT}/src/confide/node/roster.py"
    container["volumeMounts"].append({"name": "evil", "mountPath": place, "subPath": "roster.py", "readOnly": True})


def with_another_image(found: Json) -> None:
    container = container_of(found)
    if container is not None:
        container["image"] = "localhost/confide-node:evil"


def with_another_job(found: Json) -> None:
    """The spec that the driver finds names another job: one that the attacker would like to be given this job's data."""
    if found["kind"] == "ConfigMap" and "spec.json" in found.get("data", {}):
        spec = json.loads(found["data"]["spec.json"])
        found["data"]["spec.json"] = json.dumps({**spec, "job_digest": "0" * 96})


def hostile(api: Cluster, profile: Json, change: Change) -> KubernetesTarget:
    return KubernetesTarget(HostileApi(api, change), ClusterProfile.from_json(profile), context="test")  # type: ignore[arg-type]


CHANGES: dict[str, tuple[Change, type[AttestationError]]] = {
    "LD_PRELOAD": (with_variable("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/libSegFault.so"), AppraisalError),
    "PYTHONPATH": (with_variable("PYTHONPATH", "/data/evil"), AppraisalError),
    "JAVA_TOOL_OPTIONS": (with_variable("JAVA_TOOL_OPTIONS", "-javaagent:/data/evil.jar"), AppraisalError),
    "argument": (with_argument, AppraisalError),
    "command": (with_another_command, AppraisalError),
    "file over code": (with_a_file_over_code, AppraisalError),
    "image tag": (with_another_image, AppraisalError),
    "config map": (with_another_job, BindingError),
}
"""What is changed of a driver, and how its client refuses it."""
_AT_ONCE = 4


@dataclass(frozen=True)
class Attempt:
    """How a run went whose driver was changed, and what there was of it in its namespace afterwards."""

    job: Job
    told: Told
    error: AttestationError | None
    left: list[str]


@pytest.fixture(scope="module")
def attempts(stage: ClusterStage, cluster: TestCluster) -> dict[str, Attempt]:
    """A run for each change, several at a time: most of each is waiting for the cluster."""
    archive = stage.root / "evil.tar"
    measured = stage.settings.simulation_dir / "measured.json"
    write_node_image(archive, measured, name="localhost/confide-node:evil", environment={"JAVA_TOOL_OPTIONS": "-javaagent:/evil.jar"})
    cluster.load(archive)
    with turn(cluster), ThreadPoolExecutor(_AT_ONCE) as pool:
        runs = {name: pool.submit(_attempt, stage, cluster, polars_job(stage), change) for name, (change, _) in CHANGES.items()}
        return {name: each.result() for name, each in runs.items()}


def _attempt(stage: ClusterStage, cluster: TestCluster, job: Job, change: Change) -> Attempt:
    told, error = Told(), None
    evil = (ROOT / "src/confide/node/roster.py").read_text() + "\nKEYS_GO_TO = 'somebody else'\n"
    with namespace(cluster) as api:
        api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "evil"}, "data": {"roster.py": evil}})
        try:
            run(stage, hostile(api, profile_of(stage, api.namespace), change), job, told)
        except AttestationError as refused:
            error = refused
        return Attempt(job, told, error, left_of(api, told.run))


@pytest.mark.parametrize("name", CHANGES)
def test_driver_whose_pod_was_changed_is_refused_and_gets_no_job(attempts: dict[str, Attempt], name: str) -> None:
    attempt = attempts[name]
    assert isinstance(attempt.error, CHANGES[name][1])
    assert "driver-attested" not in attempt.told.types()
    assert written(attempt.job) == []
    assert attempt.left == []


def test_workers_whose_pods_were_changed_get_no_certificate_and_no_key(stage: ClusterStage, api: Cluster, profile: Json) -> None:
    """The driver's pod is left alone; what it is to create is changed in its config map."""

    def change(found: Json) -> None:
        if found["kind"] == "ConfigMap" and "workers.json" in found.get("data", {}):
            pods = json.loads(found["data"]["workers.json"])
            with_variable("LD_PRELOAD", "/evil.so")(pods["worker-1"])
            found["data"]["workers.json"] = json.dumps(pods)

    job, told = spark_job(stage), Told()
    job = type(job).build({**job.model_dump(), "resources": {**job.resources.model_dump(), "refused_worker": "fail"}})
    stage.grant(job)
    with pytest.raises(ConfideError):
        run(stage, hostile(api, profile, change), job, told)
    refused = told.of("worker-refused")
    assert [(row["node"], row["code"]) for row in refused] == [("worker-1", "appraisal-refused")]
    assert "worker-1" not in {row["node"] for row in told.of("key-opened")}
    assert left_of(api, told.run) == []


def test_a_result_that_the_control_plane_has_put_in_the_drivers_place_is_refused(
    stage: ClusterStage, api: Cluster, target: KubernetesTarget
) -> None:
    """It knows the client's key, and is even given the driver's evidence."""
    job = polars_job(stage)
    folder = launch(job, target, simulate=True, settings=stage.settings)
    client = SigningKey.load_private(folder.client_key)
    shown = open_result(until_kept(api, folder.run), client, folder.run).evidence
    said = {"ok": False, "error": {"code": "job-failed", "message": "try again without encryption"}, "evidence": {}}
    forged = seal_result(said, client.spki_der, SigningKey.generate(), shown)
    api.patch("ConfigMap", f"{folder.run}-result", {"data": {"result": forged}})
    with pytest.raises(BindingError, match="not signed by the run's driver"):
        attach(folder.run, job, target, simulate=True, settings=stage.settings)
    assert left_of(api, folder.run) == []
