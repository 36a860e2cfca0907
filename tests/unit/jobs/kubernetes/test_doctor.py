"""What the doctor says of a cluster, for each thing that a cluster may lack."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from confide.errors import ClusterRefusedError, ParseError, UnavailableError
from confide.jobs.findings import Finding
from confide.jobs.kubernetes.doctor import Wanted, examine
from confide.jobs.kubernetes.quantity import parse_quantity, show_bytes
from confide.jobs.kubernetes.rights import SUBMITTER, Right

NOW = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)
POD = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "probe"}}
KUBE_DNS = ("Service", "kube-dns")


def _node(name: str, *, ready: str = "True", labels: dict[str, str] | None = None, **allocatable: str) -> dict[str, Any]:
    sgx = {f"sgx.intel.com/{resource}": amount for resource, amount in allocatable.items()}
    status = {"conditions": [{"type": "Ready", "status": ready}], "allocatable": sgx}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {}, "status": status}


class FakeCluster:
    """A cluster as values: all that runs of any shape need, unless a test takes something away."""

    server = "https://cluster.example:6443"

    def __init__(self) -> None:
        self.told_version: str | UnavailableError = "v1.33.1"
        self.skew = timedelta()
        self.lacking: set[Right] = set()
        self.refusal: UnavailableError | None = None
        self.hidden: set[str] = set()
        self.objects: dict[tuple[str, str], dict[str, Any]] = {
            KUBE_DNS: {},
            ("Endpoints", "kube-dns"): {"subsets": [{"addresses": [{"ip": "10.1.1.1"}, {"ip": "10.1.1.2"}]}]},
            ("Namespace", "runs"): {
                "metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
                "status": {"phase": "Active"},
            },
            ("RuntimeClass", "kata-qemu-tdx"): {"handler": "kata-qemu-tdx"},
            ("RuntimeClass", "kata-qemu-snp"): {"handler": "kata-qemu-snp"},
            ("RuntimeClass", "mine"): {"handler": "kata-mine"},
            ("Secret", "registry"): {},
            ("PersistentVolumeClaim", "data"): {"status": {"phase": "Bound"}},
            ("PriorityClass", "confide-batch"): {"value": 1000},
            ("WorkloadPriorityClass", "soon"): {"value": 100},
            ("LocalQueue", "confide"): {
                "spec": {"clusterQueue": "analytics"},
                "status": {"conditions": [{"type": "Active", "status": "True"}]},
            },
        }
        self.lists: dict[str, list[dict[str, Any]]] = {
            "Node": [
                _node("a", enclave="20", epc="64Mi", provision="20", labels={"confide.dev/tee": "tdx"}),
                _node("b", labels={"confide.dev/tee": "snp", "zone": "z"}),
            ],
            "ResourceQuota": [
                {
                    "metadata": {"name": "confide"},
                    "status": {"hard": {"pods": "10", "limits.memory": "8Gi"}, "used": {"limits.memory": "2Gi"}},
                }
            ],
        }

    def _look(self, kind: str) -> None:
        if kind in self.hidden:
            raise ClusterRefusedError(f"the cluster refused to look at {kind}", status=403)

    def version(self) -> str:
        if isinstance(self.told_version, UnavailableError):
            raise self.told_version
        return self.told_version

    def server_time(self) -> datetime:
        return (NOW + self.skew).replace(microsecond=0)

    def can_i(self, verb: str, resource: str, *, group: str = "", part: str = "") -> bool:
        return Right(verb, resource, part, group) not in self.lacking

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> dict[str, Any] | None:
        self._look(kind)
        assert (namespace == "kube-system") == (name == "kube-dns")
        return self.objects.get((kind, name))

    def exists(self, kind: str, name: str) -> bool:
        self._look(kind)
        return (kind, name) in self.objects

    def list(self, kind: str) -> list[dict[str, Any]]:
        self._look(kind)
        return self.lists[kind]

    def dry_run_create(self, made: dict[str, Any]) -> dict[str, Any]:
        assert made == POD
        if self.refusal is not None:
            raise self.refusal
        return made


ALL = Wanted(
    "runs",
    "tdx",
    priority_classes=("confide-batch",),
    queue="confide",
    queue_priorities=("soon",),
    pull_secrets=("registry",),
    claims=("data",),
    node_selector={"zone": "z"},
)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def _found(cluster: FakeCluster, wanted: Wanted = ALL) -> dict[str, Finding]:
    found = examine(cluster, wanted, POD, lambda: NOW)
    assert len({each.check for each in found}) == len(found)
    for each in found:
        assert each.found
        assert each.ok or each.hint, each
    return {each.check: each for each in found}


@pytest.mark.parametrize("shape", ["sgx", "tdx", "snp", "tdx-vm", "snp-vm", "simulated", ""])
def test_whole_cluster_has_what_each_shape_needs(cluster: FakeCluster, shape: str) -> None:
    found = _found(cluster, Wanted("runs", shape))
    assert all(each.ok for each in found.values()), found
    needed = {"sgx": "sgx", "tdx": "runtime class kata-qemu-tdx", "snp": "runtime class kata-qemu-snp"}.get(shape, f"{shape} nodes")
    special = set(found) & {"sgx", "runtime class kata-qemu-tdx", "runtime class kata-qemu-snp", "tdx-vm nodes", "snp-vm nodes"}
    assert special == ({needed} if shape not in {"", "simulated"} else set() if shape else special)
    assert not any(found[each].needed for each in special) or shape


def test_all_that_a_profile_names_is_looked_for(cluster: FakeCluster) -> None:
    assert [(each.check, each.found) for each in _found(cluster).values()] == [
        ("api server", "v1.33.1 at https://cluster.example:6443"),
        ("clock", "agrees with ours"),
        ("namespace runs", "Active, pod security level restricted"),
        ("rights", f"all {len(SUBMITTER)}"),
        ("quota confide", "limits.memory 2Gi of 8Gi, pods 0 of 10"),
        ("nodes", "1 ready with zone=z"),
        ("cluster dns", "kube-dns, 2 ready"),
        ("runtime class kata-qemu-tdx", "handler kata-qemu-tdx"),
        ("pull secret registry", "there"),
        ("volume claim data", "Bound"),
        ("priority class confide-batch", "1000"),
        ("queue", "confide, of analytics"),
        ("queue priority soon", "100"),
        ("admission", "a run's pod would be taken"),
    ]


def _without(kind: str, name: str) -> Callable[[FakeCluster], object]:
    return lambda cluster: cluster.objects.pop((kind, name))


def _nodes(*nodes: dict[str, Any]) -> Callable[[FakeCluster], object]:
    return lambda cluster: cluster.lists.update(Node=list(nodes))


def _is(kind: str, name: str, **found: Any) -> Callable[[FakeCluster], object]:
    return lambda cluster: cluster.objects.update({(kind, name): found})


def _all_pods_used(cluster: FakeCluster) -> None:
    cluster.lists["ResourceQuota"][0]["status"]["used"]["pods"] = "10"


@pytest.mark.parametrize(
    ("spoil", "check", "says", "hint"),
    [
        (lambda cluster: setattr(cluster, "told_version", "v1.19.9"), "api server", "v1.19.9", "1.20"),
        (lambda cluster: setattr(cluster, "told_version", "unknown"), "api server", "unknown", "1.20"),
        (lambda cluster: setattr(cluster, "skew", timedelta(seconds=90)), "clock", "90 s ahead of", "NTP"),
        (lambda cluster: setattr(cluster, "skew", timedelta(seconds=-90)), "clock", "89 s behind", "NTP"),
        (_without("Namespace", "runs"), "namespace runs", "there is none", "namespace.create"),
        (_is("Namespace", "runs", status={"phase": "Terminating"}), "namespace runs", "Terminating", "anew"),
        (lambda cluster: cluster.lacking.add(SUBMITTER[0]), "rights", "are missing: create jobs.batch", "submitters"),
        (lambda cluster: cluster.lacking.update(SUBMITTER), "rights", "...", "submitters"),
        (_all_pods_used, "quota confide", "pods 10 of 10", "left of pods"),
        (_nodes(), "nodes", "0 ready", "kubectl get nodes"),
        (_nodes(_node("b", ready="False", labels={"zone": "z"})), "nodes", "0 ready", "kubectl get nodes"),
        (_nodes(_node("b", labels={"zone": "y"})), "nodes", "0 ready with zone=z", "node_selector"),
        (_nodes({**_node("b", labels={"zone": "z"}), "spec": {"unschedulable": True}}), "nodes", "0 ready", "kubectl get nodes"),
        (_is("Endpoints", "kube-dns"), "cluster dns", "0 ready", "k8s-app=kube-dns"),
        (_without("RuntimeClass", "kata-qemu-tdx"), "runtime class kata-qemu-tdx", "there is none", "Kata"),
        (_without("Secret", "registry"), "pull secret registry", "there is none", "docker-registry"),
        (_without("PersistentVolumeClaim", "data"), "volume claim data", "there is none", "make it"),
        (_is("PersistentVolumeClaim", "data", status={"phase": "Lost"}), "volume claim data", "Lost", "make it"),
        (_without("PriorityClass", "confide-batch"), "priority class confide-batch", "there is none", "priorityClasses.create"),
        (_without("LocalQueue", "confide"), "queue", "there is no confide", "Kueue"),
        (_without("WorkloadPriorityClass", "soon"), "queue priority soon", "there is none", "priorityClasses.kueue"),
        (
            _is("LocalQueue", "confide", status={"conditions": [{"type": "Active", "status": "False", "message": "is stopped"}]}),
            "queue",
            "is stopped",
            "active",
        ),
        (
            lambda cluster: setattr(cluster, "refusal", ClusterRefusedError("violates PodSecurity", hint="level", status=403)),
            "admission",
            "violates PodSecurity",
            "level",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_needed_and_named_with_a_fix(
    cluster: FakeCluster, spoil: Callable[[FakeCluster], object], check: str, says: str, hint: str
) -> None:
    spoil(cluster)
    found = _found(cluster)
    assert not found[check].ok
    assert found[check].needed
    assert says in found[check].found
    assert hint in found[check].hint
    assert [each.check for each in found.values() if not each.ok] == [check]


@pytest.mark.parametrize(
    ("shape", "nodes", "check", "says"),
    [
        ("sgx", [_node("a")], "sgx", "no node has sgx.intel.com/enclave and sgx.intel.com/epc and sgx.intel.com/provision"),
        ("sgx", [_node("a", enclave="1", provision="1")], "sgx", "no node has sgx.intel.com/epc"),
        ("sgx", [_node("a", enclave="1", epc="junk", provision="1")], "sgx", "no node has sgx.intel.com/epc"),
        ("sgx", [_node("a", enclave="1", provision="1"), _node("b", epc="1Gi")], "sgx", "no node has"),
        ("tdx-vm", [_node("a", labels={"confide.dev/tee": "snp"})], "tdx-vm nodes", "0 labelled"),
        ("snp-vm", [_node("a")], "snp-vm nodes", "0 labelled"),
    ],
)
def test_shape_without_its_nodes_is_found(cluster: FakeCluster, shape: str, nodes: list[dict[str, Any]], check: str, says: str) -> None:
    cluster.lists["Node"] = nodes
    found = _found(cluster, Wanted("runs", shape))[check]
    assert (found.ok, found.needed) == (False, True)
    assert says in found.found
    assert not _found(cluster, Wanted("runs"))[check].needed


def test_class_that_the_profile_names_is_the_one_that_is_looked_for(cluster: FakeCluster) -> None:
    found = _found(cluster, Wanted("runs", "simulated", runtime_class="mine"))
    assert found["runtime class mine"].found == "handler kata-mine"
    assert "runtime class kata-qemu-tdx" not in found


def test_what_may_not_be_looked_at_is_no_failure(cluster: FakeCluster) -> None:
    cluster.hidden = {"Node", "Namespace", "RuntimeClass", "ResourceQuota", "Secret", "Service"}
    cluster.hidden |= {"PriorityClass", "LocalQueue", "WorkloadPriorityClass"}
    hidden = [each for each in _found(cluster).values() if not each.ok]
    assert len(hidden) == len(cluster.hidden)
    for each in hidden:
        assert not each.needed
        assert each.found == "not known: you have no right to look"
        assert "as it should be" in each.hint or "doctor.enabled" in each.hint


def test_dns_of_another_name_is_no_failure(cluster: FakeCluster) -> None:
    del cluster.objects[KUBE_DNS]
    found = _found(cluster)["cluster dns"]
    assert (found.ok, found.needed) == (False, False)


def test_server_that_is_away_is_the_only_finding(cluster: FakeCluster) -> None:
    cluster.told_version = UnavailableError("cannot be reached", hint="VPN")
    (found,) = _found(cluster).values()
    assert found == Finding("api server", ok=False, found="cannot be reached", hint="VPN")


@pytest.mark.parametrize("status", [401, 404])
def test_other_refusals_are_failures(cluster: FakeCluster, status: int) -> None:
    cluster.refusal = None
    cluster.lists = {}

    def refuse(kind: str) -> list[dict[str, Any]]:
        raise ClusterRefusedError("no", hint="log in", status=status)

    cluster.list = refuse  # type: ignore[method-assign]
    found = _found(cluster)
    assert (found["nodes"].needed, found["nodes"].hint) == (True, "log in")
    assert found["quota"].needed


JUNK = [None, [], "x", 3, {"conditions": 3}, {"conditions": [3]}, {"phase": []}, {"allocatable": [1], "hard": {"x": {}}}]


@pytest.mark.parametrize("junk", JUNK)
def test_cluster_that_answers_nonsense_breaks_nothing(cluster: FakeCluster, junk: Any) -> None:
    for each in (*cluster.objects.values(), *(node for nodes in cluster.lists.values() for node in nodes)):
        each.clear()
        each.update(status=junk, spec=junk, metadata=junk, subsets=junk, handler=junk)
    for shape in ("sgx", "tdx", "tdx-vm"):
        assert _found(cluster, Wanted("runs", shape, priority_classes=("confide-batch",), queue="confide", claims=("data",)))


AMOUNTS = {"0": 0, "500m": "0.5", "16Mi": 16 * 2**20, "1.5Gi": 3 * 2**29, "1e3": 1000, "2k": 2000, "1E": 10**18, 7: 7, "100n": "1e-7"}


@pytest.mark.parametrize(("text", "amount"), AMOUNTS.items())
def test_amounts_are_those_of_kubernetes(text: object, amount: int | str) -> None:
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "1mi", "1 Mi", "Mi", "1e", "0x1", "1e999", "--1", None, True, 1.5, [], "9" * 40])
def test_what_is_no_amount_is_refused(text: object) -> None:
    with pytest.raises(ParseError):
        parse_quantity(text)


def test_bytes_are_shown_in_their_largest_unit() -> None:
    assert [show_bytes(Decimal(n)) for n in (0, 1023, 1024, 3 * 2**29, 128 * 2**20)] == ["0", "1023", "1Ki", "1.5Gi", "128Mi"]


def test_node_that_leaves_quotes_to_aesm_needs_no_provisioning_key(cluster: FakeCluster) -> None:
    cluster.lists["Node"] = [_node("a", enclave="1", epc="64Mi")]
    assert not _found(cluster, Wanted("runs", "sgx"))["sgx"].ok
    assert _found(cluster, Wanted("runs", "sgx", quotes_itself=False))["sgx"].ok
