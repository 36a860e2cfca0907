"""Who may do what in a run, and who may talk to whom: service account, role, network policy and service.  Pure.

All of this is the control plane's to keep or to break: it keeps honest clusters tidy, and no claim of Confide rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping

from confide.canonical import Json
from confide.jobs.kubernetes.pods import DRIVER_LABELS, RUN_LABEL, labels_of
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.plan import Plan


def access_objects(plan: Plan, profile: ClusterProfile, *, ports: Mapping[str, int]) -> tuple[Json, ...]:
    """Service account, role, its binding, network policy and the driver's service with these ports, in the order to create them."""
    run = str(plan.run)

    def named(api: str, kind: str, fields: Json, annotations: Mapping[str, str] | None = None) -> Json:
        metadata: Json = {"name": run, "namespace": profile.namespace, "labels": labels_of(plan, profile, None)}
        if annotations:
            metadata["annotations"] = dict(annotations)
        return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}

    account = {"kind": "ServiceAccount", "name": run, "namespace": profile.namespace}
    binding = {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": run}, "subjects": [account]}
    return (
        named("v1", "ServiceAccount", {"automountServiceAccountToken": False}, profile.service_account_annotations),
        named("rbac.authorization.k8s.io/v1", "Role", {"rules": _rules(run)}),
        named("rbac.authorization.k8s.io/v1", "RoleBinding", binding),
        named("networking.k8s.io/v1", "NetworkPolicy", {"spec": _network(run, profile)}),
        named("v1", "Service", {"spec": _service(run, ports)}),
    )


def _rules(run: str) -> list[Json]:
    """What the driver does at the API server: create, watch and end workers, and leave the run's result."""
    return [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "list", "watch", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [f"{run}-result"], "verbs": ["get", "patch", "update"]},
    ]


def _network(run: str, profile: ClusterProfile) -> Json:
    """Pods of the run take connections of each other only; the client comes through the kubelet's port-forward, which is none of these."""
    ours = {"podSelector": {"matchLabels": {RUN_LABEL: run}}}
    policy: Json = {**ours, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [ours]}]}
    if profile.egress is None:  # said, because a namespace may deny what no policy allows
        return {**policy, "egress": [{}]}
    names = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    networks = [{"ipBlock": {"cidr": network}} for network in profile.egress]
    return {**policy, "egress": [{"to": [ours]}, {"ports": names}, {"to": networks}]}


def _service(run: str, ports: Mapping[str, int]) -> Json:
    """A name for the driver's pod, from before it is ready: workers come while it starts."""
    listed = [{"name": name, "port": port, "targetPort": port, "protocol": "TCP"} for name, port in ports.items()]
    return {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {RUN_LABEL: run, **DRIVER_LABELS}, "ports": listed}
