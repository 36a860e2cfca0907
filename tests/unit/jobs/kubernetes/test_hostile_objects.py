"""What an API server says that is none of what it should be: no watch ends by it, no file is named by it, and nothing else is deleted."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.cluster_plans import RUN, plan_for, profile_for, tee_of
from support.kubernetes_api import InMemoryApi

from confide.errors import NodeLostError, ProtocolError
from confide.ids import RunId
from confide.jobs.backend import NodeHandle
from confide.jobs.kubernetes import backend as backend_module
from confide.jobs.kubernetes.backend import KubernetesBackend, remove_run
from confide.jobs.kubernetes.objects import render
from confide.jobs.kubernetes.pod_host import PodHost
from confide.jobs.kubernetes.processes import is_starting, runs
from confide.jobs.kubernetes.profile import Shape
from confide.jobs.plan import DRIVER, Plan
from confide.node.spec import Announcement

PLAN: Plan = plan_for(Shape.SIMULATED)
NONE: list[Any] = [None, 7, "", "x", [], ["x"], {}, {"x": []}]
"""What may stand where something else should."""
PLACES = [
    ("metadata",), ("metadata", "name"), ("metadata", "uid"), ("metadata", "labels"), ("metadata", "labels", "confide.dev/node"), ("spec",),
    ("spec", "nodeName"), ("status",), ("status", "phase"), ("status", "conditions"), ("status", "containerStatuses"),
    ("status", "containerStatuses", 0), ("status", "containerStatuses", 0, "state"),
    ("status", "containerStatuses", 0, "state", "running"), ("status", "containerStatuses", 0, "state", "waiting"),
    ("data",), ("data", "announcement"), ("data", "result"), ("involvedObject",), ("message",),
]  # fmt: skip


@pytest.fixture
def api() -> InMemoryApi:
    return InMemoryApi()


@pytest.fixture
def backend(api: InMemoryApi, tmp_path: Path) -> KubernetesBackend:
    objects = render(PLAN, profile_for(Shape.SIMULATED), simulated_tee=tee_of(Shape.SIMULATED))
    (tmp_path / "logs").mkdir()
    return KubernetesBackend(api, RunId(RUN), objects, tmp_path / "logs", simulated=True)


def spoilt(place: tuple[Any, ...], value: object, *, kind: str = "Pod") -> dict[str, Any]:
    """An object that is as it should be, but for one place."""
    container = {"name": "node", "state": {"running": {}, "waiting": {"reason": "ContainerCreating"}}}
    found: dict[str, Any] = {
        "kind": kind, "metadata": {"name": f"{RUN}-result", "uid": "1", "labels": {"confide.dev/node": "driver", "confide.dev/run": RUN}},
        "spec": {"nodeName": "node1"}, "status": {"phase": "Pending", "conditions": [], "containerStatuses": [container]},
        "data": {"announcement": "{}", "result": "x"}, "involvedObject": {"name": RUN}, "message": "m",
    }  # fmt: skip
    at: Any = found
    for part in place[:-1]:
        at = at[part]
    at[place[-1]] = value
    return found


def bare_pod(**status: Any) -> dict[str, Any]:
    return {"spec": {"nodeName": "node1"}, "status": status}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_an_object_that_is_none_ends_no_watch_and_is_as_if_nothing_was_said(backend: KubernetesBackend, place: tuple[Any, ...]) -> None:
    handle = NodeHandle(RunId(RUN), DRIVER, "")
    for value in NONE:
        for change in ("ADDED", "MODIFIED", "DELETED"):
            for kind in ("Pod", "ConfigMap", "Job", "Event"):
                hear = getattr(backend, {"ConfigMap": "_hear_config_map"}.get(kind, f"_hear_{kind.lower()}"))
                hear(change, spoilt(place, value, kind=kind))
        backend.poll(handle)
        with suppress(ProtocolError):
            backend.announced(handle)
    backend.leave()


@pytest.mark.parametrize("place", PLACES[:-2], ids=lambda place: ".".join(map(str, place)))
def test_a_run_with_objects_that_are_none_is_found_and_removed(
    backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(backend_module, "_GONE_S", 0.02)
    monkeypatch.setattr(backend_module, "_POLL_S", 0.01)
    deleted: list[str] = []
    for value in NONE:
        monkeypatch.setattr(backend._api, "list", lambda *_, value=value, **__: [spoilt(place, value)])
        monkeypatch.setattr(backend._api, "get", lambda *_, value=value, **__: spoilt(place, value))
        monkeypatch.setattr(backend._api, "delete", lambda _, name, **__: deleted.append(name))
        backend.find()
        assert isinstance(backend.kept(), str | None)
        remove_run(backend._api, RunId(RUN))
    assert all(isinstance(name, str) and name for name in deleted), "without a name it would be all pods of the namespace"
    backend.leave()


@pytest.mark.parametrize("value", NONE)
def test_a_job_that_was_made_otherwise_than_it_was_asked_for_ends_no_client(
    api: InMemoryApi, backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.setattr(api, "create", lambda found: {**found, "metadata": value})
    monkeypatch.setattr(api, "patch", lambda *_: {})
    backend.start(PLAN.driver)
    backend.leave()


def test_what_a_pod_does_not_say_in_its_own_words_is_no_process() -> None:
    assert not runs(bare_pod(containerStatuses="running"))
    assert not runs(bare_pod(containerStatuses=[{"state": "running"}, "running"]))
    assert runs(bare_pod(containerStatuses=[{"state": {}}, {"state": {"running": {}}}]))
    assert is_starting(bare_pod())
    assert is_starting(bare_pod(containerStatuses=[{"state": {"waiting": {"reason": "ContainerCreating"}}}]))
    assert not is_starting(bare_pod(containerStatuses=[{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]))
    assert not is_starting(bare_pod(containerStatuses=[{"state": {"waiting": {"reason": ["ContainerCreating"]}}}]))
    assert not is_starting(bare_pod(phase="Failed"))
    assert not is_starting({"spec": {}, "status": {}})


@pytest.mark.parametrize("node", ["../elsewhere", "worker-99", "/tmp/elsewhere"])
def test_a_pod_that_is_no_node_of_the_run_gets_no_file(api: InMemoryApi, backend: KubernetesBackend, tmp_path: Path, node: str) -> None:
    """Its label would be the file's name."""
    handle = backend.start(PLAN.driver)
    for name, of in (("evil", node), ("driver", "driver")):
        labels = {"confide.dev/run": RUN, "confide.dev/node": of}
        status = {"phase": "Running", "containerStatuses": [{"name": "node", "state": {"running": {}}}]}
        api.create({"kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})
    limit = time.monotonic() + 5
    while "driver" not in api.logs or not (tmp_path / "logs" / "driver.log").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    time.sleep(0.1)
    assert "evil" not in api.logs
    assert [path.name for path in tmp_path.rglob("*.log")] == ["driver.log"]
    backend.stop([handle])


@pytest.mark.parametrize("place", [*PLACES[:5], ("metadata", "ownerReferences"), ("data",)], ids=lambda place: ".".join(map(str, place)))
def test_a_driver_creates_and_watches_its_workers_whatever_it_is_told(
    api: InMemoryApi, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, ...]
) -> None:
    objects = render(PLAN, profile_for(Shape.SIMULATED), simulated_tee=tee_of(Shape.SIMULATED))
    said = Announcement(run_id=RunId(RUN), node_id=DRIVER, host="10.0.0.7", port=7443)
    node = next(iter(objects.workers))
    for value in NONE:
        ended: list[str] = []
        changes = [("DELETED", spoilt(place, value)), ("DELETED", {"metadata": {"name": "made", "labels": {"confide.dev/node": node}}})]
        monkeypatch.setattr(api, "get", lambda *_, value=value: spoilt(place, value))
        monkeypatch.setattr(api, "create", lambda _: {"metadata": {"name": "made"}})
        monkeypatch.setattr(api, "patch", lambda *_: {})
        monkeypatch.setattr(api, "watch", lambda *_, changes=changes, **__: Heard(changes))
        host = PodHost(api, RunId(RUN), "driver", objects.workers)
        with suppress(NodeLostError):  # another one has said so before
            host.announce(said)
        host.start_workers([node], heard=lambda *_: None, ended=ended.append)
        limit = time.monotonic() + 5
        while not ended:
            assert time.monotonic() < limit
            time.sleep(0.01)
        host.close()


class Heard:
    """Changes that are there at once."""

    def __init__(self, changes: list[tuple[str, Any]]) -> None:
        self._changes = iter(changes)

    def __iter__(self) -> Heard:
        return self

    def __next__(self) -> tuple[str, Any]:
        return next(self._changes)

    def close(self) -> None:
        """Nothing waits."""
