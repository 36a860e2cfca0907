"""The client against a real HTTPS server that answers like an API server: what it tells apart, and what it goes on over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.api_server import PODS, TOKEN, ApiServer, pod_of, status

from confide.errors import (
    ChannelError,
    ChannelTimeoutError,
    ClusterRefusedError,
    ConfideError,
    ConfigError,
    ExtraMissingError,
    ProtocolError,
    UnavailableError,
    UsageError,
)
from confide.jobs.kubernetes import client
from confide.jobs.kubernetes.client import Cluster

# --- objects ---


def test_object_is_made_read_changed_and_deleted(api: ApiServer, cluster: Cluster) -> None:
    made = cluster.create(pod_of("a", nodeName="x"))
    assert made["metadata"]["uid"]
    assert cluster.get("Pod", "a") == made
    assert cluster.patch("Pod", "a", {"spec": {"nodeName": None}})["spec"] == {}
    cluster.delete("Pod", "a", cascade="Foreground", grace_s=0, uid=made["metadata"]["uid"])
    assert cluster.get("Pod", "a") is None
    method, path, headers, body = api.asked[-2]
    assert (method, path) == ("DELETE", f"{PODS}/a")
    assert body["propagationPolicy"] == "Foreground"
    assert body["preconditions"] == {"uid": made["metadata"]["uid"]}
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    (merge,) = [each for each in api.asked if each[0] == "PATCH"]
    assert merge[2]["Content-Type"] == "application/merge-patch+json"


def test_absent_object_is_none_and_its_deletion_is_quiet(cluster: Cluster) -> None:
    assert cluster.get("Job", "a") is None
    assert not cluster.exists("PriorityClass", "a")
    cluster.delete("Job", "a")


def test_dry_run_keeps_nothing(api: ApiServer, cluster: Cluster) -> None:
    assert cluster.dry_run_create(pod_of("a"))["metadata"]["name"] == "a"
    assert cluster.get("Pod", "a") is None
    assert api.asked[0][1] == f"{PODS}?dryRun=All"


def test_secret_is_looked_for_without_asking_for_what_is_in_it(api: ApiServer, cluster: Cluster) -> None:
    api.put("/api/v1/namespaces/runs/secrets", {"metadata": {"name": "pull"}})
    assert cluster.exists("Secret", "pull")
    assert "PartialObjectMetadata" in api.asked[-1][2]["Accept"]


def test_list_goes_over_all_pages_and_says_what_each_is(api: ApiServer, cluster: Cluster) -> None:
    api.page = 2
    for name in "abcde":
        api.put(PODS, {"metadata": {"name": name}})
    found = cluster.list("Pod", "app=x", field_selector="spec.nodeName=n")
    assert [each["metadata"]["name"] for each in found] == list("abcde")
    assert {(each["kind"], each["apiVersion"]) for each in found} == {("Pod", "v1")}
    assert "labelSelector=app%3Dx&fieldSelector=spec.nodeName%3Dn" in api.asked[0][1]


def test_other_kinds_are_where_kubernetes_has_them(api: ApiServer, cluster: Cluster) -> None:
    for kind in ("Job", "Node", "NetworkPolicy", "RuntimeClass", "LocalQueue"):
        cluster.list(kind)
    cluster.list("Service", namespace="kube-system")
    assert [asked[1].split("?")[0] for asked in api.asked] == [
        "/apis/batch/v1/namespaces/runs/jobs",
        "/api/v1/nodes",
        "/apis/networking.k8s.io/v1/namespaces/runs/networkpolicies",
        "/apis/node.k8s.io/v1/runtimeclasses",
        "/apis/kueue.x-k8s.io/v1beta1/namespaces/runs/localqueues",
        "/api/v1/namespaces/kube-system/services",
    ]
    with pytest.raises(UsageError, match="no objects of the kind Deployment"):
        cluster.get("Deployment", "a")


def test_name_cannot_reach_another_path(api: ApiServer, cluster: Cluster) -> None:
    cluster.get("Pod", "../../secrets/x")
    assert api.asked[-1][1] == f"{PODS}/..%2F..%2Fsecrets%2Fx"


# --- the cluster ---


def test_rights_version_and_time_are_asked_of_the_cluster(api: ApiServer, cluster: Cluster) -> None:
    api.allowed = {("create", "jobs", "runs"), ("get", "pods/log", "runs")}
    assert cluster.can_i("create", "jobs", group="batch")
    assert cluster.can_i("get", "pods", part="log")
    assert not cluster.can_i("delete", "jobs", group="batch")
    assert not cluster.can_i("create", "jobs", group="batch", namespace="other")
    assert cluster.version() == "v1.33.1"
    assert abs(cluster.server_time().timestamp() - time.time()) < 5


# --- refusals ---


@pytest.mark.parametrize(
    ("code", "message", "error_and_hint"),
    [
        (401, "Unauthorized", (ClusterRefusedError, "log in")),
        (403, 'pods is forbidden: User "ann" cannot create', (ClusterRefusedError, "confide-submitter")),
        (403, "exceeded quota: q, requested: cpu=2, used: cpu=1, limited: cpu=2", (ClusterRefusedError, "quota is used up")),
        (403, 'violates PodSecurity "restricted:latest"', (ClusterRefusedError, "pod security level")),
        (404, 'namespaces "runs" not found', (ClusterRefusedError, "namespace exists")),
        (409, 'pods "a" already exists', (ClusterRefusedError, "of that name")),
        (422, 'Pod "a" is invalid: spec.containers: Required value', (ClusterRefusedError, "which field")),
        (500, "etcdserver: request timed out", (UnavailableError, "try again")),
        (503, "apiserver is shutting down", (UnavailableError, "try again")),
        (302, "", (ClusterRefusedError, "message")),
    ],
)
def test_refusal_is_told_in_the_clusters_words_with_a_hint(
    api: ApiServer, cluster: Cluster, code: int, message: str, error_and_hint: tuple[type[ConfideError], str]
) -> None:
    error, hint = error_and_hint
    api.faults.append((code, status(code, "Why", message), {"Location": "https://evil.example/"}))
    with pytest.raises(error) as raised:
        cluster.create(pod_of("a"))
    assert type(raised.value) is error
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")
    assert raised.value.facts == {"status": code, "reason": "Why"}
    assert len(api.asked) == 1


def test_token_is_not_in_errors_even_if_the_server_says_it(api: ApiServer, cluster: Cluster) -> None:
    api.faults += [(403, status(403, TOKEN, f"no: Bearer {TOKEN}\x1b[2J\n" + "x" * 9000), {}), (500, f"oops {TOKEN}".encode(), {})]
    for _ in range(2):
        with pytest.raises(UnavailableError) as raised:
            cluster.list("Pod")
        assert TOKEN not in repr(raised.value.to_json())
        assert "\x1b" not in raised.value.message
        assert len(raised.value.message) < 1000


def test_busy_server_is_asked_again_and_not_for_ever(api: ApiServer, cluster: Cluster) -> None:
    busy = (429, status(429, "TooManyRequests", "busy"), {"Retry-After": "0"})
    api.faults = [busy] * 3
    assert cluster.list("Pod") == []
    api.faults = [busy] * 9
    with pytest.raises(UnavailableError, match="busy"):
        cluster.list("Pod")
    assert len(api.faults) == 5


@pytest.mark.parametrize("said", [b"not JSON", b"[1]", b"\xff"])
def test_answer_that_is_none_is_refused(api: ApiServer, cluster: Cluster, said: bytes) -> None:
    api.faults.append((200, said, {}))
    with pytest.raises(ProtocolError):
        cluster.list("Pod")


def test_answer_without_end_is_refused(api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MOST_BODY", 100)
    api.faults.append((200, b" " * 200, {}))
    with pytest.raises(ProtocolError, match="no end"):
        cluster.list("Pod")


def test_server_that_is_away_cannot_be_reached(api: ApiServer, cluster: Cluster) -> None:
    api.stop()
    with pytest.raises(UnavailableError, match="cannot be reached") as raised:
        cluster.list("Pod")
    assert type(raised.value) is UnavailableError


def test_silent_server_is_not_waited_for(api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT", 0.3)
    monkeypatch.setattr("support.api_server._Handler._answer", lambda *_: time.sleep(2))
    with pytest.raises(ChannelTimeoutError):
        cluster.version()


def _dripping(handler: Any, *_: Any) -> None:
    """An answer whose every byte comes in time, and all of it after ten seconds."""
    handler._begin()
    for _ in range(100):
        handler._piece(b" ")
        time.sleep(0.1)
    handler._piece(b'{"kind": "List", "items": []}')
    handler._piece(b"")


@pytest.mark.parametrize("ask", [Cluster.version, Cluster.server_time, lambda one: one.list("Pod")], ids=["version", "time", "list"])
def test_server_that_drips_is_not_heard_to_its_end(
    api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Cluster], object]
) -> None:
    monkeypatch.setattr(client, "_BODY_S", 0.5)
    monkeypatch.setattr("support.api_server._Handler._answer", _dripping)
    with pytest.raises(ChannelTimeoutError):
        ask(cluster)


# --- who the server is, and who we are ---


def test_server_of_another_authority_is_refused(api: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ApiServer(tmp_path / "other")
    kubeconfig = api.kubeconfig(**{"certificate-authority": str(other.folder / "ca.crt")})
    with pytest.raises(ChannelError, match="no TLS"):
        Cluster.connect("test", kubeconfig=kubeconfig).version()
    with pytest.raises(ChannelError, match="no TLS"):
        Cluster.connect("test", kubeconfig=kubeconfig).port_forward("a", 7443)
    other.stop()
    assert api.asked == []


def test_server_of_another_name_is_refused(api: ApiServer) -> None:
    kubeconfig = api.kubeconfig(server=f"https://127.0.0.1:{api.port}")
    with pytest.raises(ChannelError, match="no TLS"):
        Cluster.connect("test", kubeconfig=kubeconfig).version()
    with pytest.raises(ChannelError, match="no TLS"):
        Cluster.connect("test", kubeconfig=kubeconfig).port_forward("a", 7443)
    kubeconfig = api.kubeconfig(server=f"https://127.0.0.1:{api.port}", **{"tls-server-name": "localhost"})
    assert Cluster.connect("test", kubeconfig=kubeconfig).version()


@pytest.mark.parametrize(
    ("cluster_says", "user", "match"),
    [
        ({"insecure-skip-tls-verify": True}, None, "does not check who"),
        ({"server": "http://localhost:1"}, None, "no https"),
        ({}, {"auth-provider": {"name": "gcp", "config": {"access-token": TOKEN}}}, "credential of an auth-provider"),
        ({}, {}, "gives no credential"),
        ({}, {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false"}}, "gives no credential"),
        ({}, {"client-certificate": "nowhere.pem", "client-key": "nowhere.pem"}, "cannot use the context"),
    ],
    ids=str,
)
def test_unsafe_or_useless_context_is_refused(api: ApiServer, cluster_says: dict[str, Any], user: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as raised:
        Cluster.connect("test", kubeconfig=api.kubeconfig(user=user, **cluster_says))
    assert raised.value.hint
    assert api.asked == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "contexts: 3", "apiVersion: v1"])
def test_broken_or_absent_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    for place in (tmp_path / "config", tmp_path / "nowhere"):
        with pytest.raises(ConfigError):
            Cluster.connect("test", kubeconfig=place)


def test_unknown_context_is_refused_and_the_one_that_is_named_is_used(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="production"):
        Cluster.connect("production", kubeconfig=api.kubeconfig())
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(namespace=None)))
    assert Cluster.connect("test").namespace == "default"
    assert Cluster.connect("test", namespace="n").namespace == "n"


def test_credential_plugin_is_run(api: ApiServer, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    credential = f'{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {{"token": "{TOKEN}"}}}}'
    plugin.write_text(f"#!/bin/sh\necho '{credential}'\n")
    plugin.chmod(0o755)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}}
    assert Cluster.connect("test", kubeconfig=api.kubeconfig(user=user)).version() == "v1.33.1"


def test_pod_uses_its_service_account_and_not_its_environment(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = tmp_path / "account"
    mount.mkdir()
    for name, text in {"token": TOKEN + "\n", "namespace": "runs\n", "ca.crt": (tmp_path / "ca.crt").read_text()}.items():
        (mount / name).write_text(text)
    for name in ("HTTPS_PROXY", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.setenv(name, "evil.example")
    found = Cluster.in_pod(mount=mount, server=f"https://localhost:{api.port}")
    assert (found.namespace, found.version()) == ("runs", "v1.33.1")
    assert Cluster.in_pod(mount=mount).server == "https://kubernetes.default.svc:443"
    with pytest.raises(ConfigError, match="no service account"):
        Cluster.in_pod(mount=tmp_path)


def test_missing_library_names_its_extra(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes.config.kube_config", None)
    with pytest.raises(ExtraMissingError) as raised:
        Cluster.connect("test", kubeconfig=api.kubeconfig())
    assert raised.value.hint == "pip install 'confide[k8s]'"
