"""What Spark's own tools are given to start a run, and what of theirs a node knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from kubeflow_spark_api.models import SparkV1beta2SparkApplication
from support.cluster_plans import IMAGE, RUN, job_for, plan_for, profile_for, tee_of
from support.pod_security import violations
from unit.jobs.kubernetes.test_objects import FULL, SHAPES, VERSIONS

from confide.crypto.sign import SigningKey
from confide.errors import ConfigError, UsageError
from confide.job import Job
from confide.jobs.kubernetes.pod import load_left
from confide.jobs.kubernetes.profile import Shape
from confide.jobs.kubernetes.spark_start import PROGRAM, SPARK_ARGUMENTS, is_of_spark
from confide.jobs.kubernetes.submitted import SubmittedRun, render_submitted
from confide.jobs.kubernetes.yaml_text import as_yaml
from confide.node.left_job import LeftJob

SNAPSHOTS = Path(__file__).parent / "snapshots"
OWNER = SigningKey(ec.derive_private_key(1, ec.SECP256R1())).public.spki_der


def made_for(shape: Shape, *, workers: int = 2, **fields: Any) -> SubmittedRun:
    left = LeftJob(job_for(shape, workers=workers), OWNER)
    return render_submitted(plan_for(shape, workers=workers), profile_for(shape, **fields), left, simulated_tee=tee_of(shape))


@pytest.mark.parametrize("shape", [Shape.SGX, Shape.SIMULATED])
def test_what_spark_submit_and_the_operator_are_given_is_this(request, shape) -> None:
    path, made = SNAPSHOTS / f"submitted-{shape}.yaml", made_for(shape, workers=1)
    places = {"properties": "run/spark.properties", "template": "run/driver.yaml"}
    command = made.submit_command(server="https://cluster.example:6443", context="office", **places)
    text = as_yaml([made.template, made.application]) + f"---\n{made.properties_text}---\n" + "\n".join(command) + "\n"
    if request.config.getoption("--update-snapshots"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; if this is meant, run pytest with --update-snapshots"


@pytest.mark.parametrize("fields", [{}, FULL], ids=["three-lines", "everything"])
@pytest.mark.parametrize("shape", SHAPES)
def test_everything_has_its_published_schema(shape, fields) -> None:
    made = made_for(shape, **fields)
    for version in VERSIONS:
        for item in (*made.base, {**made.template, "metadata": {**made.template["metadata"], "name": RUN}}):
            kubernetes_validate.validate(item, version, strict=True)
    read = SparkV1beta2SparkApplication.from_dict(json.loads(json.dumps(made.application)))
    assert read is not None
    assert parts_left_out(made.application, read.to_dict()) == []


def parts_left_out(given: Any, read: Any, where: str = "") -> list[str]:
    """Fields of an object that its published model does not know: it leaves them out when it reads."""
    if isinstance(given, dict):
        known = read if isinstance(read, dict) else {}
        return [each for name, value in given.items() for each in parts_left_out(value, known.get(name), f"{where}.{name}")]
    if isinstance(given, list):
        items = read if isinstance(read, list) and len(read) == len(given) else [None] * len(given)
        return [each for item, back in zip(given, items, strict=True) for each in parts_left_out(item, back, where)]
    return [] if given == read else [where]


def test_a_field_that_the_model_does_not_know_is_noticed() -> None:
    application = made_for(Shape.SGX).application
    application["spec"]["driver"]["podNames"] = "x"
    read = SparkV1beta2SparkApplication.from_dict(json.loads(json.dumps(application)))
    assert read is not None
    assert parts_left_out(application, read.to_dict()) == [".spec.driver.podNames"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_drivers_pod_is_that_of_any_run(shape) -> None:
    made = made_for(shape)
    (container,) = made.template["spec"]["containers"]
    assert not {"command", "args", "env", "envFrom", "lifecycle", "workingDir"} & set(container)
    assert violations(made.template) == []
    assert made.application["spec"]["driver"]["template"]["spec"] == made.template["spec"]


@pytest.mark.parametrize("shape", SHAPES)
def test_spark_writes_the_same_size_over_the_templates(shape) -> None:
    made = made_for(shape, cpu_request=0.5)
    (container,) = made.template["spec"]["containers"]
    said = made.properties
    memory = sum(int(said[name].removesuffix("m")) for name in ("spark.driver.memory", "spark.driver.memoryOverhead"))
    assert container["resources"]["limits"]["memory"] == f"{memory}Mi"
    assert said["spark.kubernetes.driver.request.cores"] == container["resources"]["requests"]["cpu"]
    assert said["spark.kubernetes.driver.limit.cores"] == container["resources"]["limits"]["cpu"]


def test_nothing_private_is_given_away() -> None:
    """Neither a key nor a secret of Spark's: the job and its owner's public key are all that goes to the cluster."""
    made = made_for(Shape.SGX)
    text = as_yaml([*made.base, made.template, made.application]) + made.properties_text
    assert not any(word in text for word in ("PRIVATE", "secret", "token:", "spark.authenticate"))


def test_queue_counts_the_driver_too_at_the_runs_priority_whoever_starts_it() -> None:
    made = made_for(Shape.SGX, queue="research", priority_class="confide-batch", queue_priority="batch")
    for driver in (made.template, made.application["spec"]["driver"]["template"]):
        labels = driver["metadata"]["labels"]
        assert (labels["kueue.x-k8s.io/queue-name"], labels["kueue.x-k8s.io/priority-class"]) == ("research", "batch")
        assert driver["spec"]["priorityClassName"] == "confide-batch"


def test_job_that_is_too_large_for_a_config_map_is_refused() -> None:
    job = Job.build({**job_for(Shape.SGX).model_dump(), "files": {"main.py": b"#" * 2_000_000}})
    with pytest.raises(UsageError, match="too large for Kubernetes"):
        render_submitted(plan_for(Shape.SGX), profile_for(Shape.SGX), LeftJob(job, OWNER))


def test_left_job_is_read_back(tmp_path: Path) -> None:
    path, left = tmp_path / "left.json", LeftJob(job_for(Shape.SGX), OWNER)
    assert load_left(path) is None
    path.write_text(json.dumps(left.to_json()))
    read = load_left(path)
    assert read is not None
    assert (read.job.digest, read.owner) == (left.job.digest, OWNER)


@pytest.mark.parametrize(
    "change", [{"format": "other"}, {"owner": "AAAA"}, {"owner": 1}, {"job": []}, {"job": {}}, {"more": 1}], ids=str
)
def test_what_is_no_left_job_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "left.json"
    path.write_text(json.dumps({**LeftJob(job_for(Shape.SGX), OWNER).to_json(), **change}))
    with pytest.raises(ConfigError, match="left here"):
        load_left(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPARK_USER", "ann"),
        ("SPARK_APPLICATION_ID", "spark-" + "0" * 32),
        ("SPARK_DRIVER_BIND_ADDRESS", "10.244.0.7"),
        ("SPARK_DRIVER_BIND_ADDRESS", "fd00::7"),
        ("SPARK_LOCAL_DIRS", "/var/data/spark-3f1a9c1e-0000-4000-8000-0123456789ab"),
        ("SPARK_CONF_DIR", "/opt/spark/conf"),
    ],
)
def test_variable_of_sparks_scheduler_is_known(name: str, value: str) -> None:
    assert is_of_spark(name, value)
    assert not is_of_spark(name, value + "\n")
    assert not is_of_spark(name, f"{value}:/evil")
    assert not is_of_spark(name, "")


@pytest.mark.parametrize(
    "name",
    [
        *("SPARK_JAVA_OPT_0", "SPARK_CLASSPATH", "SPARK_EXECUTOR_LIBRARY_PATH", "SPARK_DRIVER_URL", "HADOOP_CONF_DIR", "PYSPARK_PYTHON"),
        *("PYSPARK_DRIVER_PYTHON", "JAVA_TOOL_OPTIONS", "LD_PRELOAD", "PYTHONPATH", "spark_user"),
    ],
)
def test_other_variables_are_not(name: str) -> None:
    assert not is_of_spark(name, "/opt/spark/conf")


def test_arguments_are_those_of_a_program_in_python() -> None:
    assert SPARK_ARGUMENTS[-1] == PROGRAM
    assert made_for(Shape.SGX).application["spec"]["mainApplicationFile"] == PROGRAM
    assert made_for(Shape.SGX).application["spec"]["image"] == IMAGE
