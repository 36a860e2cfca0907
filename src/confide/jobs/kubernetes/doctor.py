"""Whether a cluster has what runs need, and how to mend what it has not.  Decides from what a :class:`Looks` tells; asks nobody itself.

What a cluster says here is a claim: a run believes evidence only.  A thing that may not be looked at is no failure: a run does without the
right to look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, Protocol

from confide.errors import ClusterRefusedError, ParseError, UnavailableError
from confide.jobs.findings import Finding
from confide.jobs.kubernetes.api_errors import clean, status_of
from confide.jobs.kubernetes.profile import Shape
from confide.jobs.kubernetes.quantity import parse_quantity, show_bytes
from confide.jobs.kubernetes.rights import SUBMITTER
from confide.jobs.kubernetes.shapes import RUNTIME_CLASSES, VM_LABELS

Json = dict[str, Any]

_OLDEST: Final = (1, 20)
_MOST_SKEW_S: Final = 60
_CHART: Final = "helm install the chart deploy/helm/confide-namespace"
_SGX: Final = ("sgx.intel.com/enclave", "sgx.intel.com/epc", "sgx.intel.com/provision")


class Looks(Protocol):
    """What is read of a cluster (:class:`~confide.jobs.kubernetes.client.Cluster`).  Each raises ``UnavailableError`` or a leaf of it."""

    server: str

    def version(self) -> str:
        """The API server's version."""
        ...

    def server_time(self) -> datetime:
        """Its clock."""
        ...

    def can_i(self, verb: str, resource: str, *, group: str = "", part: str = "") -> bool:
        """Whether the user has a right in the namespace."""
        ...

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> Json | None:
        """One object, if there is one."""
        ...

    def exists(self, kind: str, name: str) -> bool:
        """Whether there is one, without reading it."""
        ...

    def list(self, kind: str) -> Sequence[Json]:
        """All objects of a kind."""
        ...

    def dry_run_create(self, made: Json) -> Json:
        """What the cluster would make of an object."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What runs will ask of the cluster, as a profile says it; ``shape`` is empty without one, and then nothing of a TEE is needed."""

    namespace: str
    shape: str = ""
    runtime_class: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    priority_classes: tuple[str, ...] = ()
    queue: str | None = None
    queue_priorities: tuple[str, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    quotes_itself: bool = True
    """Whether an SGX node asks for its quote by itself, for which it needs the provisioning key; else AESM does."""


def examine(cluster: Looks, wanted: Wanted, pod: Json, now: Callable[[], datetime]) -> list[Finding]:
    """All findings, the API server's first; if that fails there are no others.  ``pod``: one as runs make them."""
    first = _looked("api server", partial(_server, cluster))
    if not first[0].ok:
        return first
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("clock", lambda: _clock(cluster, now)),
        (f"namespace {wanted.namespace}", lambda: _namespace(cluster, wanted)),
        ("rights", lambda: _rights(cluster)),
        ("quota", lambda: _quotas(cluster)),
        ("nodes", lambda: _nodes(cluster, wanted)),
        ("cluster dns", lambda: _dns(cluster)),
        *((f"runtime class {name}", partial(_runtime_class, cluster, name, wanted)) for name in _runtime_classes(wanted)),
        *((f"pull secret {name}", partial(_secret, cluster, name)) for name in wanted.pull_secrets),
        *((f"volume claim {name}", partial(_claim, cluster, name)) for name in wanted.claims),
    ]
    checks += [(f"priority class {name}", partial(_priority, cluster, name)) for name in wanted.priority_classes]
    if wanted.queue:
        checks.append(("queue", partial(_queue, cluster, wanted.queue)))
    checks += [(f"queue priority {name}", partial(_queue_priority, cluster, name)) for name in wanted.queue_priorities]
    checks.append(("admission", lambda: _admission(cluster, pod)))
    return [*first, *(finding for name, look in checks for finding in _looked(name, look))]


def _looked(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; that it may not look is a finding that is not needed, and that it cannot is one that is."""
    try:
        return list(look())
    except ClusterRefusedError as error:
        if status_of(error) == 403:
            return [Finding(name, ok=False, found="not known: you have no right to look", hint=_hint_to_look(name), needed=False)]
        return [Finding(name, ok=False, found=error.message, hint=error.hint or "")]
    except UnavailableError as error:
        return [Finding(name, ok=False, found=error.message, hint=error.hint or "")]


def _hint_to_look(name: str) -> str:
    if name.startswith("pull secret"):
        return "this is as it should be; if pulling fails, the run says so"
    return f"{_CHART} with doctor.enabled (and doctor.clusterRole for nodes, classes and DNS), or ask who runs the cluster"


# --- the cluster ---


def _server(cluster: Looks) -> Iterator[Finding]:
    version = cluster.version()
    found = re.match(r"v(\d+)\.(\d+)", version)
    new_enough = found is not None and (int(found[1]), int(found[2])) >= _OLDEST
    hint = "runs need Kubernetes 1.20 or newer, and pod security levels 1.25"
    yield Finding("api server", new_enough, f"{version} at {cluster.server}", hint)


def _clock(cluster: Looks, now: Callable[[], datetime]) -> Iterator[Finding]:
    asked = now()
    told, answered = cluster.server_time(), now()
    # Whole seconds are told, from some moment between question and answer.
    behind, ahead = (asked - told).total_seconds() - 1, (told - answered).total_seconds()
    skew = max(behind, ahead, 0)
    found = "agrees with ours" if skew < 1 else f"{skew:.0f} s {'ahead of' if ahead > behind else 'behind'} ours"
    yield Finding("clock", skew <= _MOST_SKEW_S, found, "certificates and leases have times: set both clocks by NTP")


def _dns(cluster: Looks) -> Iterator[Finding]:
    if cluster.get("Service", "kube-dns", namespace="kube-system") is None:
        hint = "see that pods resolve SERVICE.NAMESPACE.svc: workers find their driver so"
        yield Finding("cluster dns", ok=False, found="no service kube-dns in kube-system", hint=hint, needed=False)
        return
    endpoints = cluster.get("Endpoints", "kube-dns", namespace="kube-system") or {}
    ready = sum(len(_rows(subset, "addresses")) for subset in _rows(endpoints, "subsets"))
    hint = "start it: `kubectl --namespace kube-system get pods --selector k8s-app=kube-dns`"
    yield Finding("cluster dns", ready > 0, f"kube-dns, {ready} ready", hint)


def _nodes(cluster: Looks, wanted: Wanted) -> Iterator[Finding]:
    """Nodes that take pods, and of them those that have the TEE."""
    usable = [node for node in cluster.list("Node") if _takes_pods(node) and wanted.node_selector.items() <= _labels(node).items()]
    chosen = f" with {', '.join(f'{k}={v}' for k, v in sorted(wanted.node_selector.items()))}" if wanted.node_selector else ""
    hint = "see `kubectl get nodes`; the profile's node_selector must fit some of them"
    yield Finding("nodes", bool(usable), f"{len(usable)} ready{chosen}", hint)
    if wanted.shape in {"", "sgx"}:
        yield _sgx(usable, _SGX if wanted.quotes_itself else _SGX[:2], needed=bool(wanted.shape))
    for shape in VM_LABELS:
        if wanted.shape in {"", shape}:
            yield _confidential(usable, shape, needed=bool(wanted.shape))


def _takes_pods(node: Json) -> bool:
    return _condition(node, "Ready").get("status") == "True" and not _table(node, "spec").get("unschedulable")


def _labels(node: Json) -> Json:
    return _table(node, "metadata", "labels")


def _sgx(nodes: Sequence[Json], resources: Sequence[str], *, needed: bool) -> Finding:
    amounts = [[_amount(_table(node, "status", "allocatable"), name) for name in resources] for node in nodes]
    having = [each for each in amounts if all(each)]
    hint = "install Intel's device plugin for SGX and Node Feature Discovery (which tells the EPC)"
    if not having:
        lacking = [name for at, name in enumerate(resources) if not any(each[at] for each in amounts)]
        return Finding("sgx", ok=False, found=f"no node has {' and '.join(lacking or resources)}", hint=hint, needed=needed)
    enclaves, epc = sum(each[0] for each in having), max(each[1] for each in having)
    return Finding("sgx", ok=True, found=f"{len(having)} nodes, {enclaves} enclaves, at most {show_bytes(epc)} of EPC each", needed=needed)


def _amount(table: Mapping[str, object], name: str) -> Decimal:
    try:
        return parse_quantity(table.get(name, 0))
    except ParseError:
        return Decimal(0)


def _confidential(nodes: Sequence[Json], shape: Shape, *, needed: bool) -> Finding:
    labelled = [node for node in nodes if any(_labels(node).get(name) == value for name, value in VM_LABELS[shape])]
    hint = f"label them {VM_LABELS[shape][0][0]}={VM_LABELS[shape][0][1]}, if their platform has not labelled them already"
    return Finding(f"{shape} nodes", bool(labelled), f"{len(labelled)} labelled", hint, needed)


def _runtime_classes(wanted: Wanted) -> tuple[str, ...]:
    if wanted.runtime_class:
        return (wanted.runtime_class,)
    return tuple(name for shape, name in RUNTIME_CLASSES.items() if wanted.shape in {"", shape})


def _runtime_class(cluster: Looks, name: str, wanted: Wanted) -> Iterator[Finding]:
    found = cluster.get("RuntimeClass", name)
    hint = "install Kata Containers (its chart kata-deploy) on nodes with the TEE, or name another class in the profile"
    told = "there is none" if found is None else f"handler {_word(found, 'handler')}"
    yield Finding(f"runtime class {name}", found is not None, told, hint, bool(wanted.shape))


# --- the namespace ---


def _namespace(cluster: Looks, wanted: Wanted) -> Iterator[Finding]:
    check, found = f"namespace {wanted.namespace}", cluster.get("Namespace", wanted.namespace)
    if found is None:
        hint = f"{_CHART} with namespace.create=true, or choose another with --namespace"
        yield Finding(check, ok=False, found="there is none", hint=hint)
        return
    phase, level = _word(found, "status", "phase"), clean(str(_labels(found).get("pod-security.kubernetes.io/enforce", "not set")))
    yield Finding(check, phase == "Active", f"{phase}, pod security level {level}", "wait until it is gone, and make it anew")


def _rights(cluster: Looks) -> Iterator[Finding]:
    missing = [right for right in SUBMITTER if not cluster.can_i(right.verb, right.resource, group=right.group, part=right.part)]
    shown = ", ".join([*map(str, missing[:6]), *(["..."] if len(missing) > 6 else [])])
    found = f"{len(missing)} of {len(SUBMITTER)} are missing: {shown}" if missing else f"all {len(SUBMITTER)}"
    yield Finding("rights", not missing, found, f"{_CHART} with you in submitters.users, or be bound to its role confide-submitter")


def _quotas(cluster: Looks) -> Iterator[Finding]:
    quotas = cluster.list("ResourceQuota")
    if not quotas:
        yield Finding("quota", ok=True, found="none")
    for quota in quotas:
        hard, used = _table(quota, "status", "hard"), _table(quota, "status", "used")
        left = {name: _amount(hard, name) - _amount(used, name) for name in sorted(hard)}
        spent = [name for name, amount in left.items() if amount <= 0]
        shown = ", ".join(f"{name} {used.get(name, 0)} of {limit}" for name, limit in sorted(hard.items()))
        hint = clean(f"nothing is left of {', '.join(spent)}: wait for other runs, or have it raised")
        yield Finding(f"quota {_word(quota, 'metadata', 'name')}", not spent, clean(shown) or "not counted yet", hint)


def _secret(cluster: Looks, name: str) -> Iterator[Finding]:
    there = cluster.exists("Secret", name)
    hint = f"make it: `kubectl create secret docker-registry {name} ...`, or take it out of the profile"
    yield Finding(f"pull secret {name}", there, "there" if there else "there is none", hint)


def _claim(cluster: Looks, name: str) -> Iterator[Finding]:
    found = cluster.get("PersistentVolumeClaim", name)
    phase = "there is none" if found is None else _word(found, "status", "phase")
    # A claim of a storage class that waits for its first consumer is Pending until a pod uses it.
    yield Finding(f"volume claim {name}", phase in {"Bound", "Pending"}, phase, "make it, or take the volume out of the profile")


def _priority(cluster: Looks, name: str) -> Iterator[Finding]:
    found = cluster.get("PriorityClass", name)
    told = "there is none" if found is None else _word(found, "value")
    hint = f"{_CHART} with priorityClasses.create=true, or take it out of the profile"
    yield Finding(f"priority class {name}", found is not None, told, hint)


def _queue_priority(cluster: Looks, name: str) -> Iterator[Finding]:
    found = cluster.get("WorkloadPriorityClass", name)
    told = "there is none" if found is None else _word(found, "value")
    hint = f"install Kueue, and {_CHART} with priorityClasses.create=true and priorityClasses.kueue=true, or take it out of the profile"
    yield Finding(f"queue priority {name}", found is not None, told, hint)


def _queue(cluster: Looks, name: str) -> Iterator[Finding]:
    found = cluster.get("LocalQueue", name)
    hint = f"install Kueue, and {_CHART} with queue.enabled=true and the queue's name; else a run waits for ever"
    if found is None:
        yield Finding("queue", ok=False, found=f"there is no {name}", hint=hint)
        return
    active = _condition(found, "Active")
    works = active.get("status") != "False"
    told = f"{name}, of {_word(found, 'spec', 'clusterQueue')}" if works else _word(active, "message")
    yield Finding("queue", works, told, "its cluster queue must be active: ask who runs Kueue")


def _admission(cluster: Looks, pod: Json) -> Iterator[Finding]:
    """Whether the cluster would take a pod such as runs have, in a dry run: its pod security level, quotas and other admission say."""
    try:
        cluster.dry_run_create(pod)
    except ClusterRefusedError as error:
        yield Finding("admission", ok=False, found=error.message, hint=error.hint or "")
        return
    yield Finding("admission", ok=True, found="a run's pod would be taken")


# --- a server's answers, which may be anything ---


def _table(found: Json, *path: str) -> Json:
    inner: Any = found
    for name in path:
        inner = inner.get(name) if isinstance(inner, dict) else None
    return inner if isinstance(inner, dict) else {}


def _rows(found: Json, name: str) -> Sequence[Json]:
    inner = found.get(name)
    return [each for each in inner if isinstance(each, dict)] if isinstance(inner, list) else []


def _condition(found: Json, kind: str) -> Json:
    return next((each for each in _rows(_table(found, "status"), "conditions") if each.get("type") == kind), {})


def _word(found: Json, *path: str) -> str:
    return clean(str(_table(found, *path[:-1]).get(path[-1])))[:200]
