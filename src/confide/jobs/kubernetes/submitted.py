"""A run that Spark's own tools start: ``spark-submit --master k8s://``, or the Spark Operator.  Pure.

They create the driver's pod from a template, with the image's own entrypoint; what they add to it is known (``.spark_start``) and means
nothing to the node.  Everything else is as in any run of a cluster (``.objects``): the driver creates its workers' pods, so that Spark's
scheduler, its Kubernetes client and its way to hand secrets to executors are no part of a node.  No client is there: the job is in the
driver's config map, where whoever can read config maps reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from confide.canonical import Json
from confide.jobs.kubernetes.limits import check_object
from confide.jobs.kubernetes.objects import queue_labels, render
from confide.jobs.kubernetes.pod_places import CONTAINER
from confide.jobs.kubernetes.pods import labels_of
from confide.jobs.kubernetes.spark_start import PROGRAM

if TYPE_CHECKING:
    from confide.jobs.kubernetes.profile import ClusterProfile
    from confide.jobs.plan import Plan
    from confide.node.left_job import LeftJob

SPARK_VERSION: Final = "4.3.0"
"""What the operator is told: it is the version of the `spark` extra, and decides nothing in a node."""
_PREFIX: Final = "spark.kubernetes"
_POD_NAME: Final = "spark.kubernetes.driver.pod.name"


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """``base`` is created first; ``template`` and ``properties`` are for ``spark-submit``, ``application`` is for the operator."""

    name: str
    namespace: str
    base: tuple[Json, ...]
    template: Json
    properties: dict[str, str]
    application: Json

    @property
    def driver_pod(self) -> str:
        """The name of the driver's pod."""
        return self.properties[_POD_NAME]

    @property
    def properties_text(self) -> str:
        """The properties as ``spark-submit --properties-file`` reads them.  No value has a line's end or a backslash."""
        return "".join(f"{name}={value}\n" for name, value in self.properties.items())

    def submit_command(self, *, server: str, context: str, properties: str, template: str) -> tuple[str, ...]:
        """The arguments of ``spark-submit``, with the API server's address and the places of two files."""
        settings = (f"{_PREFIX}.context={context}", f"{_PREFIX}.driver.podTemplateFile={template}")
        confs = tuple(word for setting in settings for word in ("--conf", setting))
        head = ("spark-submit", "--master", f"k8s://{server}", "--deploy-mode", "cluster")
        return (*head, "--properties-file", properties, *confs, PROGRAM)


def render_submitted(plan: Plan, profile: ClusterProfile, left: LeftJob, *, simulated_tee: Json | None = None) -> SubmittedRun:
    """What is given to Spark's own tools for one run of ``left``.

    Raises:
        UsageError: as ``render`` raises, or the job is too large for a config map.
        ConfigError: the profile's init-data is none.
    """
    objects = render(plan, profile, simulated_tee=simulated_tee, left=left.to_json())
    found = objects.driver_job["spec"]["template"]
    metadata = {**found["metadata"], "labels": {**found["metadata"]["labels"], **queue_labels(profile)}}
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": found["spec"]}
    application = _application(plan, profile, template)
    check_object(application)
    return SubmittedRun(str(plan.run), profile.namespace, objects.base, template, _properties(plan, profile, template), application)


def _properties(plan: Plan, profile: ClusterProfile, template: Json) -> dict[str, str]:
    """What ``spark-submit`` has to know to create the pod as the template has it; a node is told none of it."""
    memory, overhead, request, limit = _size(plan, template)
    found = {
        "spark.app.name": plan.job,
        "spark.driver.cores": str(plan.driver.cores),
        "spark.driver.memory": memory,
        "spark.driver.memoryOverhead": overhead,
        f"{_PREFIX}.namespace": profile.namespace,
        f"{_PREFIX}.container.image": profile.image,
        f"{_PREFIX}.container.image.pullPolicy": "IfNotPresent",
        f"{_PREFIX}.authenticate.driver.serviceAccountName": str(plan.run),
        _POD_NAME: f"{plan.run}-{plan.driver.node_id}",
        f"{_PREFIX}.driver.podTemplateContainerName": CONTAINER,
        f"{_PREFIX}.driver.request.cores": request,
        f"{_PREFIX}.driver.limit.cores": limit,
    }
    secrets = ",".join(profile.image_pull_secrets)
    return {**found, f"{_PREFIX}.container.image.pullSecrets": secrets} if secrets else found


def _application(plan: Plan, profile: ClusterProfile, template: Json) -> Json:
    """The run for the Spark Operator (``sparkoperator.k8s.io/v1beta2``), which starts a driver once and restarts none."""
    memory, overhead, request, limit = _size(plan, template)
    workers = [(worker["cores"], worker["memory_mb"]) for worker in plan.workers] or [(1, plan.driver.memory_mb)]
    spec: Json = {
        "type": "Python",
        "mode": "cluster",
        "sparkVersion": SPARK_VERSION,
        "image": profile.image,
        "imagePullPolicy": "IfNotPresent",
        "mainApplicationFile": PROGRAM,
        "restartPolicy": {"type": "Never"},
        "timeToLiveSeconds": profile.ttl_s,
        "driver": {
            "podName": f"{plan.run}-{plan.driver.node_id}",
            "cores": plan.driver.cores,
            "coreRequest": request,
            "coreLimit": limit,
            "memory": memory,
            "memoryOverhead": overhead,
            "serviceAccount": str(plan.run),
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
        # The operator wants to be told; the driver creates its workers as the job says.
        "executor": {"instances": len(workers), "cores": workers[0][0], "memory": f"{workers[0][1]}m"},
    }
    if profile.image_pull_secrets:
        spec["imagePullSecrets"] = list(profile.image_pull_secrets)
    metadata = {"name": str(plan.run), "namespace": profile.namespace, "labels": labels_of(plan, profile, None)}
    return {"apiVersion": "sparkoperator.k8s.io/v1beta2", "kind": "SparkApplication", "metadata": metadata, "spec": spec}


def _size(plan: Plan, template: Json) -> tuple[str, str, str, str]:
    """Memory, memory besides, cores asked for and allowed: Spark writes them over those of the template, so they have to be the same."""
    (container,) = template["spec"]["containers"]
    resources = container["resources"]
    besides = int(resources["limits"]["memory"].removesuffix("Mi")) - plan.driver.memory_mb
    return f"{plan.driver.memory_mb}m", f"{besides}m", resources["requests"]["cpu"], resources["limits"]["cpu"]
