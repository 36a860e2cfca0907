"""What the client reads for long: watches, logs and ports, over what breaks meanwhile."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.api_server import PODS, TOKEN, ApiServer, pod_of, status

from confide.errors import (
    ChannelTimeoutError,
    ClusterRefusedError,
    ProtocolError,
    UnavailableError,
)
from confide.jobs.kubernetes import changes, client, following
from confide.jobs.kubernetes.client import Cluster

# --- watches ---


def _names(changes: Any, count: int) -> list[tuple[str, str]]:
    return [(each.type, each.object["metadata"]["name"]) for each in itertools.islice(changes, count)]


def test_watch_tells_what_there_is_and_then_each_change(api: ApiServer, cluster: Cluster) -> None:
    api.put(PODS, pod_of("a"))
    with cluster.watch("Pod", "app=x") as changes:
        assert _names(changes, 1) == [("ADDED", "a")]
        api.put(PODS, pod_of("b"))
        api.put(PODS, pod_of("a", nodeName="n"))
        api.remove(PODS, "b")
        assert _names(changes, 3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]


def test_watch_goes_on_where_its_connection_broke(api: ApiServer, cluster: Cluster) -> None:
    with cluster.watch("Pod") as changes:
        api.events_before_cut = 1
        api.put(PODS, pod_of("a"))
        assert _names(changes, 1) == [("ADDED", "a")]
        api.put(PODS, pod_of("b"))
        api.put(PODS, pod_of("c"))
        assert _names(changes, 2) == [("ADDED", "b"), ("ADDED", "c")]
    assert sum("limit=" in asked[1] for asked in api.asked) == 1


def test_watch_that_is_too_old_tells_the_difference(api: ApiServer, cluster: Cluster) -> None:
    for name in "abc":
        api.put(PODS, pod_of(name))
    with cluster.watch("Pod") as changes:
        assert len(_names(changes, 3)) == 3
        api.stop()
        api.remove(PODS, "a")
        api.put(PODS, pod_of("b", nodeName="n"))
        api.put(PODS, pod_of("d"))
        api.forget()
        api.start()
        assert _names(changes, 3) == [("DELETED", "a"), ("MODIFIED", "b"), ("ADDED", "d")]


def test_watch_outlives_a_restart_of_the_api_server_that_then_refuses_at_first(api: ApiServer, cluster: Cluster) -> None:
    with cluster.watch("Pod") as changes:
        api.put(PODS, pod_of("a"))
        assert _names(changes, 1) == [("ADDED", "a")]
        api.stop()
        api.put(PODS, pod_of("b"))
        api.faults = [(503, status(503, "x", "starting"), {}), (403, status(403, "Forbidden", "not synced"), {})]
        threading.Timer(0.5, api.start).start()
        assert _names(changes, 1) == [("ADDED", "b")]


def test_watch_gives_up_when_its_patience_ends(api: ApiServer, cluster: Cluster) -> None:
    with cluster.watch("Pod", patience_s=0.3) as changes:
        api.put(PODS, pod_of("a"))
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


def test_what_is_meant_to_be_long_has_no_end_in_time(api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch and a log are read for much longer than an answer may take, each in one answer."""
    api.logs_end, api.logs["pod"] = False, []
    api.put(PODS, pod_of("pod"))
    with cluster.watch("Pod") as changes, cluster.log_lines("pod", follow=True) as lines:
        assert next(changes).object["metadata"]["name"] == "pod"  # from a list, which is an answer like others
        monkeypatch.setattr(client, "_BODY_S", 0.3)
        for number in range(10):
            time.sleep(0.1)
            api.put(PODS, pod_of(f"pod-{number}"))
            api.logs["pod"].append((f"2026-01-02T00:00:0{number}.0Z", f"line {number}"))
            assert next(changes).object["metadata"]["name"] == f"pod-{number}"
            assert next(lines).text == f"line {number}"
    assert sum("watch=true" in path for _, path, *_ in api.asked) == 1
    assert sum(urlsplit(path).path.endswith("/log") for _, path, *_ in api.asked) == 1
