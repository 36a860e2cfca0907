"""Where each kind of object is in the API of Kubernetes.  Pure; only kinds that are used.

Follows "Kubernetes API Concepts, Resource URIs".
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote

from confide.errors import UsageError


class Resource(NamedTuple):
    """One kind's place: group and version as in ``apiVersion``, name in paths, and whether it is in namespaces."""

    api: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group as access reviews name it: empty for the core."""
        return self.api.partition("/")[0] if "/" in self.api else ""


RESOURCES: Final = {
    "ConfigMap": Resource("v1", "configmaps"),
    "Endpoints": Resource("v1", "endpoints"),
    "Event": Resource("v1", "events"),
    "Job": Resource("batch/v1", "jobs"),
    "LimitRange": Resource("v1", "limitranges"),
    "LocalQueue": Resource("kueue.x-k8s.io/v1beta1", "localqueues"),
    "Namespace": Resource("v1", "namespaces", namespaced=False),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "Node": Resource("v1", "nodes", namespaced=False),
    "PersistentVolumeClaim": Resource("v1", "persistentvolumeclaims"),
    "Pod": Resource("v1", "pods"),
    "PriorityClass": Resource("scheduling.k8s.io/v1", "priorityclasses", namespaced=False),
    "ResourceQuota": Resource("v1", "resourcequotas"),
    "Role": Resource("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": Resource("rbac.authorization.k8s.io/v1", "rolebindings"),
    "RuntimeClass": Resource("node.k8s.io/v1", "runtimeclasses", namespaced=False),
    "Secret": Resource("v1", "secrets"),
    "SelfSubjectAccessReview": Resource("authorization.k8s.io/v1", "selfsubjectaccessreviews", namespaced=False),
    "Service": Resource("v1", "services"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "WorkloadPriorityClass": Resource("kueue.x-k8s.io/v1beta1", "workloadpriorityclasses", namespaced=False),
}


def resource_of(kind: str) -> Resource:
    """The place of a kind.

    Raises:
        UsageError: Confide uses no such kind.
    """
    found = RESOURCES.get(kind)
    if found is None:
        raise UsageError(f"Confide uses no objects of the kind {kind[:80]}", hint=f"one of {', '.join(RESOURCES)}")
    return found


def path_of(kind: str, namespace: str, name: str | None = None, part: str | None = None) -> str:
    """The path of a collection, of one object, or of a part of it (``log``, ``portforward``).  ``namespace`` counts where there are any.

    Raises:
        UsageError: Confide uses no such kind.
    """
    resource = resource_of(kind)
    base = f"/apis/{resource.api}" if "/" in resource.api else f"/api/{resource.api}"
    place = f"/namespaces/{quote(namespace, safe='')}" if resource.namespaced else ""
    one = "" if name is None else f"/{quote(name, safe='')}"
    return f"{base}{place}/{resource.plural}{one}" + (f"/{part}" if part else "")
