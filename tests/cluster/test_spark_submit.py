"""PySpark's own ``spark-submit`` starts a run: cluster mode, on a real cluster, with a job of two owners' tables; and what it must not get.

The attacker is the API server: what ``spark-submit`` is given is changed as an API server could change what it stores.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cluster.conftest import ClusterStage
from cluster.kubernetes import TestCluster
from cluster.runs import WAITS, Told, polars_job, spark_job, written
from cluster.test_attacks import with_argument, with_variable
from support.stage import CANARY

from confide.data.files import read_table
from confide.data.manifest import verify_manifest
from confide.data.snapshots import load_manifest
from confide.errors import BindingError, NodeLostError, RunNotFoundError
from confide.job import Job
from confide.jobs.attach import attach
from confide.jobs.kubernetes.backend import remove_run
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.spark_start import SPARK_ARGUMENTS, VARIABLES
from confide.jobs.kubernetes.submitted import SubmittedRun
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.jobs.kubernetes.yaml_text import as_yaml
from confide.jobs.prepare import prepare
from confide.jobs.receipt import verify
from confide.jobs.store import RunDir

pytestmark = pytest.mark.timeout(600)
Json = dict[str, Any]
SPARK_SUBMIT = Path(sys.prefix) / "bin" / "spark-submit"
_BRIEF = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For JVMs that end before what they compile well pays: it halves their time."""


class Submission:
    """One run as its user starts it: objects applied, then ``spark-submit``, which waits for the driver's end."""

    def __init__(self, stage: ClusterStage, cluster: TestCluster, api: Cluster, target: KubernetesTarget, folder: Path) -> None:
        self.stage, self.cluster, self.api, self.target, self.folder = stage, cluster, api, target, folder

    def prepare(self, job: Job) -> tuple[RunDir, SubmittedRun]:
        return prepare(job, self.target, simulate=True, settings=self.stage.settings)

    def start(self, made: SubmittedRun, *more: str, change: Callable[[Json], None] = lambda _: None) -> tuple[int, str]:
        """Apply and submit; the exit code that the driver's container had, and its log."""
        for found in made.base:
            changed = copy.deepcopy(found)
            change(changed)
            self.api.create(changed)
        template = copy.deepcopy(made.template)
        change(template)
        (self.folder / "driver.yaml").write_text(as_yaml([template]))
        (self.folder / "spark.properties").write_text(made.properties_text)
        places = {"properties": str(self.folder / "spark.properties"), "template": str(self.folder / "driver.yaml")}
        words = made.submit_command(server=self.target.server, context="test", **places)
        environment = {
            "PATH": f"{SPARK_SUBMIT.parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_SUBMIT_OPTS": _BRIEF,
            "SPARK_LAUNCHER_OPTS": _BRIEF,
            **({"JAVA_HOME": os.environ["JAVA_HOME"]} if "JAVA_HOME" in os.environ else {}),
        }
        done = subprocess.run([*words[:-1], *more, words[-1]], env=environment, capture_output=True, text=True, timeout=300, check=False)
        pod = self.api.get("Pod", f"{made.name}-driver")
        assert pod is not None, done.stderr[-4000:]
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        return int(state["exitCode"]), "\n".join(line.text for line in self.api.log_lines(f"{made.name}-driver"))


@pytest.fixture
def submission(stage: ClusterStage, cluster: TestCluster, api: Cluster, target: KubernetesTarget, tmp_path: Path) -> Submission:
    return Submission(stage, cluster, api, target, tmp_path)


HOSTILE_PROPERTIES = {
    "spark.authenticate": "false",
    "spark.driver.extraClassPath": "/evil.jar",
    "spark.driver.extraJavaOptions": "-javaagent:/evil.jar",
    "spark.plugins": "evil.Plugin",
    "spark.ssl.rpc.enabled": "false",
}


def confs(properties: dict[str, str]) -> list[str]:
    return [word for name, value in properties.items() for word in ("--conf", f"{name}={value}")]


def test_spark_submit_runs_a_job_to_its_verified_receipt(
    submission: Submission, stage: ClusterStage, cluster: TestCluster, api: Cluster
) -> None:
    """Whatever properties it is given: none of them is the node's."""
    job = spark_job(stage, workers=2)
    folder, made = submission.prepare(job)
    with pytest.raises(RunNotFoundError, match="nobody has started"):
        attach(folder.run, job, submission.target, simulate=True, settings=stage.settings)
    status, log = submission.start(made, *confs(HOSTILE_PROPERTIES))
    assert status == 0, log
    assert written(job) == ["names", "summary"]
    result = attach(folder.run, job, submission.target, simulate=True, settings=stage.settings)
    statement = verify(result.receipt, settings=stage.settings).require()
    assert (statement.run, statement.job) == (folder.run, job.digest)
    assert sorted(node.node for node in statement.nodes) == ["driver", "worker-1", "worker-2"]
    assert rows_of(stage, job, "summary") == {("a", 40), ("b", 60)}
    assert_nothing_secret_in(stage, cluster, api, made)
    assert remove_run(api, folder.run)


def test_the_owner_of_a_submitted_run_follows_it_while_it_runs(submission: Submission, stage: ClusterStage, api: Cluster) -> None:
    """And leaves its objects to whom has created them: `spark-submit` still waits for the driver's pod."""
    job = polars_job(stage, WAITS.replace(b"SECONDS", b"15"))
    folder, made = submission.prepare(job)
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(submission.start, made)
        until = time.monotonic() + 120
        while "announcement" not in ((api.get("ConfigMap", f"{made.name}-result") or {}).get("data") or {}):
            assert time.monotonic() < until
            time.sleep(0.5)
        told = Told()
        result = attach(folder.run, job, submission.target, simulate=True, settings=stage.settings, on_event=told)
        status, log = ended.result()
    assert status == 0, log
    assert "driver-attested" in told.types()
    assert verify(result.receipt, settings=stage.settings).require().run == folder.run
    assert written(job) == ["summary"]
    assert api.get("ConfigMap", f"{made.name}-driver") is not None
    assert remove_run(api, folder.run)


def rows_of(stage: ClusterStage, job: Job, name: str) -> set[tuple[object, ...]]:
    """An output as its recipient reads it."""
    signed = load_manifest(Path(job.outputs[name].path))
    key = stage.clients["analyst"].open(signed.envelope).secret
    return {tuple(row.values()) for row in read_table(signed.folder, verify_manifest(signed.envelope, signed.signer), key).to_pylist()}


def assert_nothing_secret_in(stage: ClusterStage, cluster: TestCluster, api: Cluster, made: SubmittedRun) -> None:
    """Etcd's files, every request and answer of the API server, every log; and the ways by which Spark itself hands secrets to pods."""
    hidden = [CANARY.encode(), *(secret.reveal() for secret in stage.dataset_keys.values())]
    hidden += [secret.hex().encode() for secret in hidden[1:]]
    hidden += [b"_SPARK_AUTH_SECRET", b"spark.authenticate.secret"]
    for place in ("etcd", "logs", "containerd"):
        for path in (cluster.folder / place).rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                assert not any(secret in data for secret in hidden), path
    assert f"{made.name}-driver" in cluster.audit_log.read_text()
    pods = api.list("Pod", f"confide.dev/run={made.name}")
    (driver,) = (pod["spec"]["containers"][0] for pod in pods if pod["metadata"]["name"] == f"{made.name}-driver")
    assert tuple(driver["args"]) == SPARK_ARGUMENTS
    assert {each["name"] for each in driver["env"]} <= set(VARIABLES)


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (with_variable("LD_PRELOAD", "/evil.so"), ()),
        (with_argument, ()),
        (lambda _: None, ("--conf", "spark.kubernetes.driverEnv.SPARK_JAVA_OPT_0=-javaagent:/evil.jar")),
    ],
    ids=["LD_PRELOAD", "argument", "Java option as a variable"],
)
def test_driver_that_was_started_otherwise_gets_no_key(
    submission: Submission, stage: ClusterStage, api: Cluster, change: Callable[[Json], None], more: tuple[str, ...]
) -> None:
    job = polars_job(stage)
    folder, made = submission.prepare(job)
    status, log = submission.start(made, *more, change=change)
    assert status != 0
    assert "appraisal-refused" in log
    assert_refused(submission, folder, job, NodeLostError)
    assert remove_run(api, folder.run)


def assert_refused(submission: Submission, folder: RunDir, job: Job, error: type[Exception]) -> None:
    """Its owner hears of it, nothing was written, and no owner's broker has given a key."""
    stage = submission.stage
    with pytest.raises(error):
        attach(folder.run, job, submission.target, simulate=True, settings=stage.settings)
    assert written(job) == []
    released = [entry.event for entry in stage.broker.store.audit() if entry.event and entry.event["action"] == "release"]
    assert folder.run not in json.dumps(released)


def test_another_job_in_the_config_map_is_refused_and_gets_no_key(submission: Submission, stage: ClusterStage, api: Cluster) -> None:
    """Once without the digest that the node was started for, and once with it: then the broker has no grant for it.

    A driver that was never attested leaves nothing that its owner would believe; one of another job leaves that job's.
    """
    job = polars_job(stage)
    evil = Job.build({**job.model_dump(), "files": {"main.py": b"print('everything')"}})
    for changes_digest, error in ((False, NodeLostError), (True, BindingError)):

        def change(found: Json, *, changes_digest: bool = changes_digest) -> None:
            if found["kind"] == "ConfigMap" and "left.json" in found["data"]:
                left, spec = json.loads(found["data"]["left.json"]), json.loads(found["data"]["spec.json"])
                spec["job_digest"] = evil.digest if changes_digest else spec["job_digest"]
                found["data"] |= {"left.json": json.dumps({**left, "job": evil.to_json()}), "spec.json": json.dumps(spec)}

        folder, made = submission.prepare(job)
        status, _ = submission.start(made, change=change)
        assert status != 0
        assert_refused(submission, folder, job, error)
        assert remove_run(api, folder.run)


def test_executors_of_somebody_else_get_no_certificate_and_no_key(submission: Submission, stage: ClusterStage, api: Cluster) -> None:
    """One has a library of its own before all others, and one is started as Spark's scheduler starts executors."""

    def change(found: Json) -> None:
        if found["kind"] == "ConfigMap" and "workers.json" in found["data"]:
            pods = json.loads(found["data"]["workers.json"])
            with_variable("LD_PRELOAD", "/evil.so")(pods["worker-1"])
            with_variable("SPARK_DRIVER_URL", "spark://CoarseGrainedScheduler@10.0.0.1:7078")(pods["worker-2"])
            pods["worker-2"]["spec"]["containers"][0]["args"] = ["executor"]
            found["data"]["workers.json"] = json.dumps(pods)

    job = spark_job(stage, workers=2)
    folder, made = submission.prepare(job)
    status, _ = submission.start(made, change=change)
    assert status != 0
    with pytest.raises(NodeLostError):
        attach(folder.run, job, submission.target, simulate=True, settings=stage.settings)
    assert written(job) == []
    assert len(list((folder.path / "refused").iterdir())) == 2
    assert remove_run(api, folder.run)
