"""The Pod Security Standard "restricted" (Kubernetes documentation, "Pod Security Standards"), which contains "baseline", over pods' specs.

Written by its published list, one rule after the other, so that a rule can be compared with its row there.  Linux pods only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def violations(pod: Json) -> list[str]:
    """Names of the rules that a pod's template or object (metadata and spec) breaks."""
    spec, annotations = pod["spec"], pod.get("metadata", {}).get("annotations", {})
    return sorted({*_of_pod(spec, annotations), *(rule for container in _containers(spec) for rule in _of_container(container, spec))})


def _containers(spec: Json) -> list[Json]:
    return [*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])]


def _of_pod(spec: Json, annotations: Json) -> Iterator[str]:
    if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if "hostPath" in kinds:
            yield "hostPath volumes"
        if not kinds <= _VOLUMES:
            yield "volume types"
    for key, value in annotations.items():
        if key.startswith("container.apparmor.security.beta.kubernetes.io/") and not value.startswith(("runtime/default", "localhost/")):
            yield "AppArmor"
    if {s["name"] for s in spec.get("securityContext", {}).get("sysctls", [])} - _SYSCTLS:
        yield "sysctls"
    yield from _of_contexts(spec.get("securityContext", {}))


def _of_contexts(context: Json) -> Iterator[str]:
    """Rules over fields that pods and containers have alike."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "HostProcess"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "SELinux"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in {"RuntimeDefault", "Localhost"}:
        yield "AppArmor"
    if context.get("runAsUser") == 0:
        yield "running as non-root user"


def _of_container(container: Json, spec: Json) -> Iterator[str]:
    own, pod = container.get("securityContext", {}), spec.get("securityContext", {})
    yield from _of_contexts(own)
    if own.get("privileged"):
        yield "privileged containers"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "host ports"
    if own.get("procMount", "Default") != "Default":
        yield "/proc mount type"
    handlers = [container[name] for name in _PROBES if name in container]
    handlers += list(container.get("lifecycle", {}).values())
    if any(handler.get(kind, {}).get("host") for handler in handlers for kind in ("httpGet", "tcpSocket")):
        yield "host probes and lifecycle hooks"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "privilege escalation"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "running as non-root"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccomp"
