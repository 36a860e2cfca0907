"""The client against a real HTTPS server that answers like an API server: what it tells apart, and what it goes on over."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.api_server import TOKEN, ApiServer, status

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
from confide.jobs.kubernetes import changes, client, following
from confide.jobs.kubernetes.client import Cluster

PODS = "/api/v1/namespaces/runs/pods"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    found = ApiServer(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def cluster(api: ApiServer) -> Cluster:
    return Cluster.connect("test", kubeconfig=api.kubeconfig())


def _pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}


# --- objects ---


def test_object_is_made_read_changed_and_deleted(api: ApiServer, cluster: Cluster) -> None:
    made = cluster.create(_pod("a", nodeName="x"))
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
    assert cluster.dry_run_create(_pod("a"))["metadata"]["name"] == "a"
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
        cluster.create(_pod("a"))
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


def test_what_is_meant_to_be_long_has_no_end_in_time(api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch and a log are read for much longer than an answer may take, each in one answer."""
    api.logs_end, api.logs["pod"] = False, []
    api.put(PODS, _pod("pod"))
    with cluster.watch("Pod") as changes, cluster.log_lines("pod", follow=True) as lines:
        assert next(changes).object["metadata"]["name"] == "pod"  # from a list, which is an answer like others
        monkeypatch.setattr(client, "_BODY_S", 0.3)
        for number in range(10):
            time.sleep(0.1)
            api.put(PODS, _pod(f"pod-{number}"))
            api.logs["pod"].append((f"2026-01-02T00:00:0{number}.0Z", f"line {number}"))
            assert next(changes).object["metadata"]["name"] == f"pod-{number}"
            assert next(lines).text == f"line {number}"
    assert sum("watch=true" in path for _, path, *_ in api.asked) == 1
    assert sum(urlsplit(path).path.endswith("/log") for _, path, *_ in api.asked) == 1


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


# --- watches ---


def _names(changes: Any, count: int) -> list[tuple[str, str]]:
    return [(each.type, each.object["metadata"]["name"]) for each in itertools.islice(changes, count)]


def test_watch_tells_what_there_is_and_then_each_change(api: ApiServer, cluster: Cluster) -> None:
    api.put(PODS, _pod("a"))
    with cluster.watch("Pod", "app=x") as changes:
        assert _names(changes, 1) == [("ADDED", "a")]
        api.put(PODS, _pod("b"))
        api.put(PODS, _pod("a", nodeName="n"))
        api.remove(PODS, "b")
        assert _names(changes, 3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]


def test_watch_goes_on_where_its_connection_broke(api: ApiServer, cluster: Cluster) -> None:
    with cluster.watch("Pod") as changes:
        api.events_before_cut = 1
        api.put(PODS, _pod("a"))
        assert _names(changes, 1) == [("ADDED", "a")]
        api.put(PODS, _pod("b"))
        api.put(PODS, _pod("c"))
        assert _names(changes, 2) == [("ADDED", "b"), ("ADDED", "c")]
    assert sum("limit=" in asked[1] for asked in api.asked) == 1


def test_watch_that_is_too_old_tells_the_difference(api: ApiServer, cluster: Cluster) -> None:
    for name in "abc":
        api.put(PODS, _pod(name))
    with cluster.watch("Pod") as changes:
        assert len(_names(changes, 3)) == 3
        api.stop()
        api.remove(PODS, "a")
        api.put(PODS, _pod("b", nodeName="n"))
        api.put(PODS, _pod("d"))
        api.forget()
        api.start()
        assert _names(changes, 3) == [("DELETED", "a"), ("MODIFIED", "b"), ("ADDED", "d")]


def test_watch_outlives_a_restart_of_the_api_server_that_then_refuses_at_first(api: ApiServer, cluster: Cluster) -> None:
    with cluster.watch("Pod") as changes:
        api.put(PODS, _pod("a"))
        assert _names(changes, 1) == [("ADDED", "a")]
        api.stop()
        api.put(PODS, _pod("b"))
        api.faults = [(503, status(503, "x", "starting"), {}), (403, status(403, "Forbidden", "not synced"), {})]
        threading.Timer(0.5, api.start).start()
        assert _names(changes, 1) == [("ADDED", "b")]


def test_watch_gives_up_when_its_patience_ends(api: ApiServer, cluster: Cluster) -> None:
    with cluster.watch("Pod", patience_s=0.3) as changes:
        api.put(PODS, _pod("a"))
        next(changes)
        api.stop()
        begun = time.monotonic()
        with pytest.raises(UnavailableError):
            next(changes)
        assert 0.3 < time.monotonic() - begun < 5


def test_watch_that_is_refused_at_first_says_so_at_once(api: ApiServer, cluster: Cluster) -> None:
    api.faults.append((403, status(403, "Forbidden", "no"), {}))
    with cluster.watch("Pod") as changes, pytest.raises(ClusterRefusedError, match="no"):
        next(changes)


def test_watch_is_closed_by_another_thread_while_it_waits(cluster: Cluster) -> None:
    changes = cluster.watch("Pod")
    threading.Timer(0.3, changes.close).start()
    begun = time.monotonic()
    assert list(changes) == []
    assert time.monotonic() - begun < 3


def test_watch_is_closed_while_the_server_is_away(api: ApiServer, cluster: Cluster) -> None:
    api.stop()
    changes = cluster.watch("Pod")
    threading.Timer(0.3, changes.close).start()
    assert list(changes) == []


def test_silent_connection_counts_as_dead(api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_TURN_S", 0)
    monkeypatch.setattr(following, "_GRACE_S", 0.3)
    quiet = threading.Event()
    monkeypatch.setattr("support.api_server._Handler._watch", lambda self, *_: (self._begin(), quiet.wait(5)))
    with cluster.watch("Pod", patience_s=0.1) as changes, pytest.raises(ChannelTimeoutError):
        next(changes)
    quiet.set()


# --- logs and ports ---

LINES = [("2026-11-28T09:00:00.1Z", "first"), ("2026-11-28T09:00:00.123456789Z", "second"), ("2026-11-28T09:00:01Z", "third \xff")]


def test_log_is_read_to_its_end_or_from_a_time(api: ApiServer, cluster: Cluster) -> None:
    api.logs["a"] = LINES
    found = list(cluster.log_lines("a"))
    assert [each.text for each in found] == ["first", "second", "third \xff"]
    assert [each.text for each in cluster.log_lines("a", since_ns=found[1].at_ns)] == ["third \xff"]
    assert "container=node" in api.asked[-1][1]


def test_log_is_followed_over_silence_and_broken_connections(api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_TURN_S", 0)
    monkeypatch.setattr(following, "_GRACE_S", 0.3)
    api.logs_end = False
    api.logs["a"] = LINES[:1]
    lines = cluster.log_lines("a", follow=True)
    assert next(lines).text == "first"
    threading.Timer(0.8, lambda: api.logs.update(a=LINES[:2])).start()
    assert next(lines).text == "second"
    api.cut()
    api.logs["a"] = LINES
    assert next(lines).text == "third \xff"
    api.logs_end = True
    assert list(lines) == []
    assert len(api.asked) >= 3


def test_line_without_a_time_is_told_as_it_is() -> None:
    assert following.parse_log_line(b"unable to retrieve container logs") == (None, "unable to retrieve container logs")
    assert following.parse_log_line(b"2026-13-28T09:00:00Z x").at_ns is None
    assert following.parse_log_line(b"1970-01-01T00:00:01.5+00:00 x") == (1_500_000_000, "x")


def test_port_of_a_pod_is_a_socket(cluster: Cluster) -> None:
    with cluster.port_forward("a", 7443) as peer:
        peer.settimeout(5)
        sent = b"abc" * 40_000
        threading.Thread(target=peer.sendall, args=(sent,)).start()
        found = b""
        while len(found) < len(sent):
            found += peer.recv(65536)
        assert found == sent.upper()


def test_first_words_of_a_port_that_came_with_the_handshake_are_not_held_back(cluster: Cluster) -> None:
    with cluster.port_forward("a", 2) as peer:
        peer.settimeout(5)
        assert peer.recv(10) == b"hello"


def test_port_that_nothing_listens_at_is_closed(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    with cluster.port_forward("a", 1) as peer:
        peer.settimeout(5)
        assert peer.recv(10) == b""
    assert "connection refused" in caplog.text


def test_forwarded_port_ends_with_the_api_server(api: ApiServer, cluster: Cluster) -> None:
    with cluster.port_forward("a", 7443) as peer:
        peer.settimeout(5)
        peer.sendall(b"a")
        assert peer.recv(1) == b"A"
        api.stop()
        assert peer.recv(1) == b""


def test_forward_that_is_refused_says_why(api: ApiServer, cluster: Cluster) -> None:
    api.faults.append((403, status(403, "Forbidden", f"cannot create pods/portforward {TOKEN}"), {}))
    with pytest.raises(ClusterRefusedError, match="pods/portforward") as raised:
        cluster.port_forward("a", 7443)
    assert TOKEN not in raised.value.message
    api.faults.append((200, {}, {}))
    with pytest.raises(UnavailableError):
        cluster.port_forward("a", 7443)
    api.stop()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        cluster.port_forward("a", 7443)


def test_line_without_end_is_refused(api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_MOST_LINE", 1000)
    monkeypatch.setattr("support.api_server._Handler._watch", lambda self, *_: (self._begin(), self._piece(b"x" * 5000), self._piece(b"")))
    with cluster.watch("Pod", patience_s=0.1) as found, pytest.raises(ProtocolError, match="longer than any object"):
        next(found)


NO_EVENTS = [b"x", b"[]", b"{}", b'{"type": "ADDED"}', b'{"type": "NEW", "object": {}}', b'{"type": "ADDED", "object": []}']


@pytest.mark.parametrize("line", NO_EVENTS)
def test_event_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        changes.parse_event(line, "watch")
