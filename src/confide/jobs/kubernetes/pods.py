"""One node's pod: one container of the profile's image, with nothing that a control plane could give a meaning to.  Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from confide.canonical import Json
from confide.ids import Role
from confide.jobs.kubernetes.pod_places import CONTAINER, NODE_DIR, SHM_DIR, STATE_DIR, TMP_DIR, USER
from confide.jobs.kubernetes.profile import ClusterProfile, Toleration
from confide.jobs.kubernetes.shapes import Additions, additions
from confide.jobs.plan import Plan
from confide.node.spec import NodeSpec

RUN_LABEL: Final = "confide.dev/run"
NODE_LABEL: Final = "confide.dev/node"
ROLE_LABEL: Final = "confide.dev/role"
OWN_LABELS: Final[Mapping[str, str]] = {"app.kubernetes.io/name": "confide", "app.kubernetes.io/managed-by": "confide"}
DRIVER_LABELS: Final[Mapping[str, str]] = {ROLE_LABEL: str(Role.DRIVER)}
NODE_FILE: Final = "spec.json"
GRACE_S: Final = 10
AGENT_MB: Final = 128
"""The agent's own process: 46 MiB with all its modules, 15 MiB more with 1,000 workers (docs/benchmarks.md), and what Arrow maps."""
_LEAST_OVERHEAD_MB: Final = 384
_OVERHEAD_FACTOR: Final = 0.4
"""Beside the JVM's heap, for its own memory and Python's: Spark's figures for Python jobs (spark.kubernetes.memoryOverheadFactor)."""
_SCRATCH_MB: Final = 128
_SCRATCH: Final = {"tmp": TMP_DIR, "state": STATE_DIR}


def labels_of(plan: Plan, profile: ClusterProfile, spec: NodeSpec | None) -> dict[str, str]:
    """Labels of an object of the run; ``spec``: of the node that it belongs to, if to one."""
    node = {} if spec is None else {NODE_LABEL: str(spec.node_id), ROLE_LABEL: str(spec.role)}
    return {**profile.labels, **OWN_LABELS, RUN_LABEL: str(plan.run), **node}


def annotations_of(plan: Plan, profile: ClusterProfile) -> dict[str, str]:
    """What people who look at a pod want to know; nothing reads it."""
    about = {"confide.dev/job": plan.job, "confide.dev/job-digest": str(plan.digest), "confide.dev/shape": str(profile.shape)}
    return {**profile.annotations, **about}


def memory_of(spec: NodeSpec, profile: ClusterProfile) -> int:
    """Memory of a pod in MiB, its memory-backed volumes counted in, without what a shape adds."""
    beside_heap = max(_LEAST_OVERHEAD_MB, math.ceil(spec.memory_mb * _OVERHEAD_FACTOR))
    return spec.memory_mb + beside_heap + AGENT_MB + profile.shm_mb


def pod_template(plan: Plan, spec: NodeSpec, profile: ClusterProfile, *, ports: Mapping[str, int]) -> Json:
    """The pod of one node as a template: labels, annotations and spec.

    Raises:
        UsageError: the node is of another kind of TEE than the shape.
        ConfigError: the profile's init-data is none.
    """
    memory = memory_of(spec, profile)
    shape = additions(profile, plan.run, spec.tee, plan.digest, memory)
    if shape.memory_volumes:
        memory += _SCRATCH_MB * len(_SCRATCH)
    found: Json = {
        "automountServiceAccountToken": spec.role is Role.DRIVER,
        "containers": [_container(spec, profile, shape, memory, ports)],
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": _pod_security(profile),
        "serviceAccountName": str(plan.run),
        "terminationGracePeriodSeconds": GRACE_S,
        "volumes": _volumes(plan, spec, profile, shape),
    }
    optional: Json = {
        "affinity": shape.affinity,
        "imagePullSecrets": [{"name": name} for name in profile.image_pull_secrets],
        "nodeSelector": dict(profile.node_selector),
        "priorityClassName": profile.priority_class,
        "runtimeClassName": shape.runtime_class,
        "tolerations": [_toleration(item) for item in profile.tolerations],
    }
    metadata = {"labels": labels_of(plan, profile, spec), "annotations": {**annotations_of(plan, profile), **shape.annotations}}
    return {"metadata": metadata, "spec": {**found, **{name: value for name, value in optional.items() if value}}}


def _container(spec: NodeSpec, profile: ClusterProfile, shape: Additions, memory_mb: int, ports: Mapping[str, int]) -> Json:
    limits = {"cpu": str(spec.cores), "memory": f"{memory_mb}Mi", **shape.limits}
    requests = limits if profile.cpu_request == 1.0 else {**limits, "cpu": f"{math.ceil(spec.cores * profile.cpu_request * 1000)}m"}
    container: Json = {
        "name": CONTAINER,
        "image": profile.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"limits": dict(limits), "requests": dict(requests)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(profile, shape),
    }
    listed = [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()]
    return {**container, "ports": listed} if listed else container


def _pod_security(profile: ClusterProfile) -> Json:
    found: Json = {
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",  # a claim with many files is not gone through at each start
        "runAsGroup": USER,
        "runAsNonRoot": True,
        "runAsUser": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {**found, "supplementalGroups": list(profile.supplemental_groups)} if profile.supplemental_groups else found


def _volumes(plan: Plan, spec: NodeSpec, profile: ClusterProfile, shape: Additions) -> list[Json]:
    scratch: Json = {"medium": "Memory", "sizeLimit": f"{_SCRATCH_MB}Mi"} if shape.memory_volumes else {}
    return [
        {"name": "node", "configMap": {"name": f"{plan.run}-{spec.node_id}", "defaultMode": 0o444}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{profile.shm_mb}Mi"}},
        *({"name": name, "emptyDir": dict(scratch)} for name in _SCRATCH),
        *shape.volumes,
        *(_volume(index, profile) for index in range(len(profile.volumes))),
    ]


def _volume(index: int, profile: ClusterProfile) -> Json:
    volume, name = profile.volumes[index], f"data-{index}"
    if volume.claim is None:
        return {"name": name, "hostPath": {"path": volume.host_path, "type": "Directory"}}
    return {"name": name, "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only}}


def _mounts(profile: ClusterProfile, shape: Additions) -> list[Json]:
    return [
        {"name": "node", "mountPath": NODE_DIR, "readOnly": True},
        {"name": "shm", "mountPath": SHM_DIR},
        *({"name": name, "mountPath": path} for name, path in _SCRATCH.items()),
        *shape.mounts,
        *({"name": f"data-{i}", "mountPath": volume.mount, "readOnly": volume.read_only} for i, volume in enumerate(profile.volumes)),
    ]


def _toleration(given: Toleration) -> Json:
    fields = {"key": given.key, "operator": given.operator, "value": given.value, "effect": given.effect}
    found: Json = {name: value for name, value in fields.items() if value}
    return found if given.toleration_seconds is None else {**found, "tolerationSeconds": given.toleration_seconds}
