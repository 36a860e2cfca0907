"""Every pod of every shape satisfies the Pod Security Standard "restricted", but for what is named here and in the documentation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from support.cluster_plans import rendered
from support.pod_security import violations

from confide.canonical import Json
from confide.jobs.kubernetes.profile import Shape

HOST_PATH = ["hostPath volumes", "volume types"]


def pods(shape: Shape, **fields: Any) -> list[Json]:
    made = rendered(shape, **fields)
    return [made.driver_job["spec"]["template"], *made.workers.values()]


@pytest.mark.parametrize("shape", list(Shape))
def test_every_shape_is_restricted(shape) -> None:
    claims = [{"mount": "/data", "claim": "flights"}]
    for pod in pods(shape, volumes=claims, tolerations=[{"operator": "Exists"}], supplemental_groups=[994]):
        assert violations(pod) == []


def test_the_socket_of_aesm_is_a_file_of_the_cluster_node() -> None:
    assert [violations(pod) for pod in pods(Shape.SGX, sgx_quote="aesm")] == [HOST_PATH] * 3
    mounted = {v["name"]: v["hostPath"] for pod in pods(Shape.SGX, sgx_quote="aesm") for v in pod["spec"]["volumes"] if "hostPath" in v}
    assert mounted == {"aesm": {"path": "/var/run/aesmd", "type": "Directory"}}


def test_so_is_a_folder_of_a_test_clusters_node() -> None:
    volumes = [{"mount": "/data", "host_path": "/srv/data"}]
    assert [violations(pod) for pod in pods(Shape.SIMULATED, volumes=volumes, insecure_host_path=True)] == [HOST_PATH] * 3


def _spec(**fields: Any) -> Callable[[Json], None]:
    return lambda pod: pod["spec"].update(fields)


def _context(**fields: Any) -> Callable[[Json], None]:
    return lambda pod: pod["spec"]["securityContext"].update(fields)


def _own(**fields: Any) -> Callable[[Json], None]:
    return lambda pod: pod["spec"]["containers"][0]["securityContext"].update(fields)


def _container(**fields: Any) -> Callable[[Json], None]:
    return lambda pod: pod["spec"]["containers"][0].update(fields)


@pytest.mark.parametrize(("change", "rule"), [
    (_spec(hostNetwork=True), "host namespaces"),
    (_spec(hostPID=True), "host namespaces"),
    (_spec(hostIPC=True), "host namespaces"),
    (_spec(volumes=[{"name": "v", "nfs": {"server": "s", "path": "/"}}]), "volume types"),
    (_spec(initContainers=[{"name": "i", "securityContext": {"privileged": True, "allowPrivilegeEscalation": False,
                                                             "capabilities": {"drop": ["ALL"]}}}]), "privileged containers"),
    (_spec(ephemeralContainers=[{"name": "e", "securityContext": {"allowPrivilegeEscalation": False}}]), "capabilities"),
    (_context(sysctls=[{"name": "kernel.msgmax", "value": "1"}]), "sysctls"),
    (_context(windowsOptions={"hostProcess": True}), "HostProcess"),
    (_context(seLinuxOptions={"type": "spc_t"}), "SELinux"),
    (_context(seLinuxOptions={"user": "system_u"}), "SELinux"),
    (_context(appArmorProfile={"type": "Unconfined"}), "AppArmor"),
    (_context(runAsUser=0), "running as non-root user"),
    (_context(seccompProfile={"type": "Unconfined"}), "seccomp"),
    (_own(privileged=True), "privileged containers"),
    (_own(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), "capabilities"),
    (_own(capabilities={"drop": ["NET_RAW"]}), "capabilities"),
    (_own(procMount="Unmasked"), "/proc mount type"),
    (_own(allowPrivilegeEscalation=True), "privilege escalation"),
    (_own(runAsNonRoot=False), "running as non-root"),
    (_own(runAsUser=0), "running as non-root user"),
    (_own(seccompProfile={"type": "Unconfined"}), "seccomp"),
    (_container(ports=[{"containerPort": 1, "hostPort": 1}]), "host ports"),
    (_container(livenessProbe={"tcpSocket": {"host": "10.0.0.1", "port": 1}}), "host probes and lifecycle hooks"),
    (lambda pod: pod["metadata"]["annotations"].update({"container.apparmor.security.beta.kubernetes.io/node": "unconfined"}), "AppArmor"),
])  # fmt: skip
def test_each_rule_of_the_standard_sees_its_breach(change, rule) -> None:
    pod = copy.deepcopy(pods(Shape.TDX)[0])
    change(pod)
    assert violations(pod) == [rule]
