"""What a client may have to do in a namespace, as rights of Kubernetes.  Pure.

``deploy/helm/confide-namespace`` gives exactly these (a test compares), and ``confide doctor`` asks the cluster for each.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from confide.jobs.kubernetes.api_paths import resource_of


class Right(NamedTuple):
    """One verb on one resource, or on a part of it (``log``); only on the object called ``name`` if there is one."""

    verb: str
    resource: str
    part: str = ""
    group: str = ""
    name: str = ""

    def __str__(self) -> str:
        """As ``kubectl auth can-i`` writes it."""
        group = f".{self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{group}" + (f"/{self.part}" if self.part else "")


def _rights(kind: str, *verbs: str, part: str = "", name: str = "") -> tuple[Right, ...]:
    resource = resource_of(kind)
    return tuple(Right(verb, resource.plural, part, resource.group, name) for verb in verbs)


_OWN: Final = ("create", "delete", "get", "list", "patch", "watch")

SUBMITTER: Final = (
    *(right for kind in ("Job", "Service", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy") for right in _rights(kind, *_OWN)),
    # The driver's Role has rights on config maps and pods, and nobody makes a Role with rights that he lacks.
    *_rights("ConfigMap", *_OWN, "update"),
    *_rights("Pod", "create", "delete", "get", "list", "watch"),
    *_rights("Pod", "get", part="log"),
    *_rights("Pod", "create", "get", part="portforward"),
    *_rights("Event", "list", "watch"),
)
"""What the client of a run does in its namespace."""

DOCTOR_NAMESPACE: Final = (
    *_rights("Namespace", "get"),
    *_rights("PersistentVolumeClaim", "get"),
    *_rights("ResourceQuota", "list"),
    *_rights("LocalQueue", "get"),
)
"""What the doctor reads besides in the namespace."""

DOCTOR_CLUSTER: Final = (
    *_rights("Node", "list"),
    *_rights("RuntimeClass", "get", "list"),
    *_rights("PriorityClass", "get"),
    *_rights("WorkloadPriorityClass", "get"),
    *_rights("Service", "get", name="kube-dns"),
    *_rights("Endpoints", "get", name="kube-dns"),
)
"""What the doctor reads of the whole cluster, where it may."""
