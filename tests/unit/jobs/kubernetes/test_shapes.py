"""What each shape adds to a pod."""

from __future__ import annotations

from typing import Any

import pytest
from support.cluster_plans import pods_of, profile_for, rendered

from confide.canonical import Json
from confide.jobs.kubernetes.profile import Shape


def worker(shape: Shape, **fields: Any) -> Json:
    return pods_of(rendered(shape, **fields))[1]


def limits(shape: Shape, **fields: Any) -> Json:
    return worker(shape, **fields)["containers"][0]["resources"]["limits"]


def test_sgx_pods_ask_for_an_enclave_its_pages_and_the_right_to_quote() -> None:
    found = limits(Shape.SGX)
    assert {name: value for name, value in found.items() if "/" in name} == {
        "sgx.intel.com/enclave": "1", "sgx.intel.com/epc": found["memory"], "sgx.intel.com/provision": "1",
    }  # fmt: skip


def test_a_profile_says_how_large_enclaves_are() -> None:
    assert limits(Shape.SGX, sgx_epc="64Gi")["sgx.intel.com/epc"] == "64Gi"


def test_with_aesm_quotes_come_from_its_socket_and_the_pod_has_no_right_to_provision() -> None:
    pod = worker(Shape.SGX, sgx_quote="aesm")
    assert "sgx.intel.com/provision" not in limits(Shape.SGX, sgx_quote="aesm")
    assert {"name": "aesm", "mountPath": "/var/run/aesmd", "readOnly": True} in pod["containers"][0]["volumeMounts"]


@pytest.mark.parametrize(("shape", "runtime_class"), [(Shape.TDX, "kata-qemu-tdx"), (Shape.SNP, "kata-qemu-snp")])
def test_kata_shapes_name_their_runtime_class(shape, runtime_class) -> None:
    assert worker(shape)["runtimeClassName"] == runtime_class
    assert worker(shape, runtime_class="kata-cc")["runtimeClassName"] == "kata-cc"


@pytest.mark.parametrize("shape", sorted(set(Shape) - {Shape.TDX, Shape.SNP}))
def test_other_shapes_have_the_clusters_runtime_unless_the_profile_names_one(shape) -> None:
    assert "runtimeClassName" not in worker(shape)
    assert worker(shape, runtime_class="gramine")["runtimeClassName"] == "gramine"


@pytest.mark.parametrize("shape", [Shape.TDX, Shape.SNP])
def test_a_confidential_pod_writes_to_no_disk_of_its_host_and_has_the_memory_for_it(shape) -> None:
    kata, plain = worker(shape), worker(Shape.TDX_VM)
    volumes = [v["emptyDir"] for v in kata["volumes"] if "emptyDir" in v]
    assert len(volumes) == 3
    assert all(v["medium"] == "Memory" and v["sizeLimit"] for v in volumes)
    more, less = (int(pod["containers"][0]["resources"]["limits"]["memory"].removesuffix("Mi")) for pod in (kata, plain))
    assert more - less == 2 * 128


@pytest.mark.parametrize(("shape", "labels"), [
    (Shape.TDX_VM, [
        ("confide.dev/tee", "tdx"),
        ("feature.node.kubernetes.io/cpu-security.tdx.protected", "true"),
        ("cloud.google.com/gke-confidential-nodes-instance-type", "TDX"),
    ]),
    (Shape.SNP_VM, [("confide.dev/tee", "snp"), ("cloud.google.com/gke-confidential-nodes-instance-type", "SEV_SNP")]),
])  # fmt: skip
def test_vm_shapes_go_to_nodes_with_any_one_of_these_labels(shape, labels) -> None:
    terms = worker(shape)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [(e["key"], e["values"]) for term in terms for e in term["matchExpressions"]] == [(key, [value]) for key, value in labels]
    assert all(len(term["matchExpressions"]) == 1 for term in terms)


def test_a_vm_shape_takes_the_guest_device_from_a_device_plugin() -> None:
    assert limits(Shape.TDX_VM, tee_resource="example.org/tdx-guest")["example.org/tdx-guest"] == "1"
    assert not [name for name in limits(Shape.TDX_VM) if "/" in name]


def test_simulated_pods_read_the_runs_own_simulated_tee() -> None:
    made = rendered(Shape.SIMULATED)
    for pod in pods_of(made):
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert volumes["simulation"]["configMap"]["name"] == f"{made.name}-simulation"
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "simulation"]
        assert mount == {"name": "simulation", "mountPath": "/etc/confide/simulation", "readOnly": True}


@pytest.mark.parametrize("shape", list(Shape))
def test_every_mount_has_its_volume_and_every_volume_a_mount(shape) -> None:
    for pod in pods_of(rendered(shape, volumes=[{"mount": "/data", "claim": "flights", "read_only": True}])):
        mounts = pod["containers"][0]["volumeMounts"]
        assert sorted(m["name"] for m in mounts) == sorted(v["name"] for v in pod["volumes"])
        assert len({m["mountPath"] for m in mounts}) == len(mounts)


def test_what_a_profile_says_of_nodes_goes_to_every_pod() -> None:
    fields = {
        "node_selector": {"pool": "a"}, "priority_class": "interactive", "image_pull_secrets": ["registry"],
        "tolerations": [{"key": "tee", "value": "sgx", "effect": "NoExecute", "toleration_seconds": 60}, {"operator": "Exists"}],
    }  # fmt: skip
    for pod in pods_of(rendered(Shape.SGX, **fields)):
        assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"pool": "a"}, "interactive")
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["tolerations"] == [
            {"key": "tee", "operator": "Equal", "value": "sgx", "effect": "NoExecute", "tolerationSeconds": 60}, {"operator": "Exists"},
        ]  # fmt: skip


def test_nothing_is_said_that_the_profile_does_not_say() -> None:
    assert not {"nodeSelector", "priorityClassName", "imagePullSecrets", "tolerations", "affinity"} & set(worker(Shape.SGX))
    assert profile_for(Shape.SGX).egress is None
