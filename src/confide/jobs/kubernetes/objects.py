"""From a plan and a profile to the Kubernetes objects of one run.  Pure: the same input gives the same objects, byte for byte.

All that is in them is public.  No pod has a command, arguments or an environment: the image's entrypoint is fixed, and reads the node's
spec from a config map.  Whoever changes one of these objects gets nodes whose evidence is refused; that is checked by who attests them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from confide.canonical import Json, canonical
from confide.errors import UsageError
from confide.ids import NodeId
from confide.jobs.kubernetes.access import access_objects
from confide.jobs.kubernetes.limits import check_object
from confide.jobs.kubernetes.names import check_object_name
from confide.jobs.kubernetes.pods import NODE_FILE, annotations_of, labels_of, pod_template
from confide.jobs.kubernetes.profile import QUEUE_KEY, QUEUE_PRIORITY_KEY, ClusterProfile, Shape
from confide.jobs.kubernetes.shapes import SIMULATION_FILE, SIMULATION_SUFFIX, init_data_of
from confide.jobs.plan import AGENT_PORT, Plan
from confide.node.spec import NodeSpec

CONTROL_PORT: Final = 7444
RESULT_SUFFIX: Final = "result"
LEFT_FILE: Final = "left.json"
"""Within the driver's config map: the job, of a run that no client accompanies."""
WORKERS_FILE: Final = "workers.json"
"""Within the driver's config map: the workers' whole pods, by node id, for the driver to create."""


@dataclass(frozen=True, slots=True)
class RunObjects:
    """The objects of one run.  ``base`` is created first, in this order, then ``driver_job``; the driver creates ``workers``.

    ``init_data``: what the evidence of guests that were started from these objects holds, in hex, if their shape gives them init-data.

    Each of ``adopted`` then gets the Job as its owner, so that what ends the Job removes them.
    """

    name: str
    namespace: str
    base: tuple[Json, ...]
    driver_job: Json
    workers: Mapping[NodeId, Json]
    init_data: str | None

    @property
    def adopted(self) -> tuple[Json, ...]:
        """What gets an owner reference to the Job: all that was there before it."""
        return self.base

    @property
    def applied(self) -> tuple[Json, ...]:
        """What the client creates, in order: all but the workers."""
        return (*self.base, self.driver_job)


def service_host(plan: Plan, profile: ClusterProfile) -> str:
    """The name at which workers find the run's driver."""
    return f"{plan.run}.{profile.namespace}.svc"


def render(plan: Plan, profile: ClusterProfile, *, simulated_tee: Json | None = None, left: Json | None = None) -> RunObjects:
    """The objects of the plan's run on the profile's cluster.

    ``simulated_tee``: the packed installation whose evidence the nodes of a simulated run make, which protects nothing.
    ``left``: the job (``confide.node.left_job``), of a run that no client accompanies; it is public then.

    Raises:
        UsageError: the plan is simulated and the shape is not, or the reverse; a node's kind of TEE is not the shape's; a name or a size
            is not within Kubernetes' limits.
        ConfigError: the profile's init-data is none.
    """
    _check_simulation(plan, profile, simulated_tee)
    check_object_name(str(plan.run))
    specs = plan.worker_specs(service_host(plan, profile), AGENT_PORT, plan.worker_ids)
    workers = {spec.node_id: _worker_pod(plan, spec, profile) for spec in specs}
    driver_files: dict[str, Json] = {NODE_FILE: plan.driver.to_json(), WORKERS_FILE: {str(node): pod for node, pod in workers.items()}}
    driver_files |= {} if left is None else {LEFT_FILE: left}
    base = (
        *access_objects(plan, profile, ports={"agent": AGENT_PORT, "control": CONTROL_PORT}),
        _config_map(plan, profile, RESULT_SUFFIX, {}, immutable=False),
        *(() if simulated_tee is None else (_config_map(plan, profile, SIMULATION_SUFFIX, {SIMULATION_FILE: simulated_tee}),)),
        _config_map(plan, profile, plan.driver.node_id, driver_files, spec=plan.driver),
        *(_config_map(plan, profile, spec.node_id, {NODE_FILE: spec.to_json()}, spec=spec) for spec in specs),
    )
    made = RunObjects(str(plan.run), profile.namespace, base, _driver_job(plan, profile), workers, _held(plan, profile))
    for found in (*made.applied, *made.workers.values()):
        check_object(found)
    return made


def _held(plan: Plan, profile: ClusterProfile) -> str | None:
    document = init_data_of(profile, plan.driver.tee, plan.digest)
    return None if document is None else document.bound_value(plan.driver.tee).hex()


def _check_simulation(plan: Plan, profile: ClusterProfile, simulated_tee: Json | None) -> None:
    if plan.simulated and profile.shape is not Shape.SIMULATED:
        hint = 'use a profile with shape = "simulated", or leave out --simulate'
        raise UsageError(f"the run is simulated, and the profile's shape is {profile.shape}", hint=hint)
    if not plan.simulated and profile.shape is Shape.SIMULATED:
        raise UsageError("the profile's shape is simulated, and the run is not", hint="add --simulate, which protects nothing")
    if plan.simulated != (simulated_tee is not None):
        raise UsageError("a simulated run takes its simulated TEE along, and no other run does")


def _driver_job(plan: Plan, profile: ClusterProfile) -> Json:
    """The driver: one pod, tried once."""
    labels = labels_of(plan, profile, plan.driver)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": str(plan.run),
            "namespace": profile.namespace,
            "labels": {**labels, **queue_labels(profile)},
            "annotations": annotations_of(plan, profile),
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "ttlSecondsAfterFinished": profile.ttl_s,
            "template": pod_template(plan, plan.driver, profile, ports={"agent": AGENT_PORT, "control": CONTROL_PORT}),
        },
    }


def _worker_pod(plan: Plan, spec: NodeSpec, profile: ClusterProfile) -> Json:
    template = pod_template(plan, spec, profile, ports={})
    named = {"name": f"{plan.run}-{spec.node_id}", "namespace": profile.namespace, **template["metadata"]}
    named["labels"] = {**named["labels"], **queue_labels(profile)}  # a queue counts all that a run uses, not its driver alone
    return {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": template["spec"]}


def queue_labels(profile: ClusterProfile) -> dict[str, str]:
    """What a queue knows each of a run's pods by, and its priority there."""
    labels = {QUEUE_KEY: profile.queue, QUEUE_PRIORITY_KEY: profile.queue_priority}
    return {key: value for key, value in labels.items() if value is not None}


def _config_map(
    plan: Plan, profile: ClusterProfile, suffix: str, files: Mapping[str, Json], *, immutable: bool = True, spec: NodeSpec | None = None
) -> Json:
    found: Json = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{plan.run}-{suffix}", "namespace": profile.namespace, "labels": labels_of(plan, profile, spec)},
        "data": {name: canonical(value).decode() for name, value in files.items()},
    }
    return {**found, "immutable": True} if immutable else found
