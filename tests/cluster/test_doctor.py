"""``confide doctor --on k8s:...`` on a real cluster: ready where it is, and what was broken is named with what mends it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster.asking import Asking
from cluster.conftest import ClusterStage
from cluster.kubernetes import TestCluster
from cluster.plan import EPC, NODES

from confide.cli.main import main
from confide.jobs.kubernetes.client import Cluster

pytestmark = pytest.mark.timeout(300)
Json = dict[str, Any]
Doctor = Callable[..., tuple[int, dict[str, Json]]]
IMAGE = f"registry.example/confide-node@sha256:{'12' * 32}"
SGX = {"shape": "sgx", "sgx_epc": "64Mi"}


@pytest.fixture
def said(stage: ClusterStage, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Json]]:
    """The command, with the tests' own simulated TEE; its exit status and answer."""

    def run(*words: str) -> tuple[int, Json]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(stage.settings.home), "doctor", "--on", "k8s:test", "--json", *words])
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def doctor(
    said: Callable[..., tuple[int, Json]], cluster: TestCluster, api: Cluster, profile: Json, tmp_path: Path
) -> Doctor:
    """Asks it about the test's namespace, with a profile that differs from the tests' own as is said; exit status and findings."""
    until(lambda: api.exists("ServiceAccount", "default"))

    def ask(*words: str, kubeconfig: Path | None = None, **changes: Any) -> tuple[int, dict[str, Json]]:
        simulated = changes.get("shape", "simulated") == "simulated"
        table = {**(profile if simulated else {"image": IMAGE, "namespace": api.namespace}), **changes}
        (tmp_path / "profile.toml").write_text("".join(f"{name} = {toml(value)}\n" for name, value in table.items()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(kubeconfig or cluster.kubeconfig))
            status, found = said("--cluster", str(tmp_path / "profile.toml"), *words)
        return status, {check["check"]: check for check in found["checks"]}

    return ask


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + " }"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def until(look: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not look():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)


def wrong(found: dict[str, Json]) -> dict[str, Json]:
    return {name: check for name, check in found.items() if check["needed"] and not check["ok"]}


def test_good_cluster_is_ready_and_a_node_that_is_started_there_shows_what_the_policy_of_its_image_asks_for(
    doctor: Doctor, stage: ClusterStage, api: Cluster
) -> None:
    status, found = doctor("--probe")
    assert (status, wrong(found)) == (0, {})
    assert found["api server"]["found"].startswith("v1.20.2")
    assert found["nodes"]["found"] == "2 ready"
    measured = stage.policy["measurements"]["sgx"][0]
    assert found["probe evidence"]["found"].startswith(f"SIMULATED, which protects nothing: sgx, measurement {measured}")
    assert [kind for kind in ("Job", "ConfigMap", "Service", "Role") if api.list(kind, "app.kubernetes.io/name=confide")] == []


@pytest.mark.parametrize(
    ("changes", "check", "told", "mends"),
    [
        ({"volumes": [{"mount": "/d", "claim": "flights"}]}, "volume claim flights", "there is none", "take the volume out"),
        ({"image_pull_secrets": ["registry"]}, "pull secret registry", "there is none", "kubectl create secret docker-registry registry"),
        ({"priority_class": "urgent"}, "priority class urgent", "there is none", "priorityClasses.create=true"),
        ({"node_selector": {"pool": "none"}}, "nodes", "0 ready with pool=none", "node_selector must fit"),
        ({"shape": "tdx", "runtime_class": "kata-nowhere"}, "runtime class kata-nowhere", "there is none", "Kata Containers"),
        ({"shape": "snp-vm"}, "snp-vm nodes", "0 labelled", "confide.dev/tee=snp"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else None,
)
def test_what_a_profile_names_and_the_cluster_has_not_is_told_with_what_mends_it(
    doctor: Doctor, changes: Json, check: str, told: str, mends: str
) -> None:
    status, found = doctor(**changes)
    assert status == 1
    assert check in wrong(found)
    assert found[check]["found"] == told
    assert mends in found[check]["hint"]


def test_account_without_the_role_of_submitters_is_told_its_rights(doctor: Doctor, cluster: TestCluster, api: Cluster) -> None:
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    status, found = doctor(kubeconfig=cluster.kubeconfig_of(api.namespace, "nobody"))
    assert status == 1
    assert "are missing: create jobs.batch" in found["rights"]["found"]
    assert "confide-submitter" in found["rights"]["hint"]
    assert found["nodes"]["found"] == "not known: you have no right to look"


def test_cluster_with_enclaves_devices_is_ready_for_them_and_one_without_their_memory_is_told_so(
    doctor: Doctor, cluster: TestCluster, api: Cluster
) -> None:
    status, found = doctor(**SGX)
    assert (status, wrong(found)) == (0, {})
    assert found["sgx"]["found"] == "2 nodes, 40 enclaves, at most 2Gi of EPC each"
    with without_epc(cluster, api):
        status, found = doctor(**SGX)
    assert status == 1
    assert found["sgx"]["found"] == "no node has sgx.intel.com/epc"
    assert "Node Feature Discovery" in found["sgx"]["hint"]


@contextmanager
def without_epc(cluster: TestCluster, api: Cluster) -> Iterator[None]:
    """As if nobody had told the nodes' enclave memory; the kubelet takes it over from the capacity."""

    def give(amount: str) -> None:
        for name in NODES:
            asking.patch(f"/api/v1/nodes/{name}/status", [{"op": "add", "path": "/status/capacity/sgx.intel.com~1epc", "value": amount}])
        until(lambda: {each["status"]["allocatable"]["sgx.intel.com/epc"] for each in api.list("Node")} == {amount})

    asking = Asking(cluster.kubeconfig)
    give("0")
    try:
        yield
    finally:
        give(EPC)
