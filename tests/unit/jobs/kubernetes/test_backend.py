"""The client's backend and the driver's host, on an API server in memory: what they create, hear, say and leave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cluster_plans import RUN, profile_for, tee_of
from support.cluster_plans import plan_for as planned
from support.kubernetes_api import InMemoryApi

from confide.errors import ClusterRefusedError, ConfigError, NodeLostError, ProtocolError, UnavailableError
from confide.ids import NodeId, RunId
from confide.jobs.backend import LastingBackend, NodeHandle
from confide.jobs.kubernetes import backend as backend_module
from confide.jobs.kubernetes.backend import KubernetesBackend, remove_run
from confide.jobs.kubernetes.objects import RunObjects, render
from confide.jobs.kubernetes.pod_host import PodHost, load_workers
from confide.jobs.kubernetes.profile import Shape
from confide.jobs.plan import DRIVER, Plan
from confide.node.spec import Announcement

PLAN: Plan = planned(Shape.SIMULATED)
POD = f"{RUN}-x7"
SAID = Announcement(run_id=RunId(RUN), node_id=DRIVER, host="10.0.0.7", port=7443)


@pytest.fixture
def api() -> InMemoryApi:
    return InMemoryApi()


@pytest.fixture
def objects() -> RunObjects:
    return render(PLAN, profile_for(Shape.SIMULATED), simulated_tee=tee_of(Shape.SIMULATED))


@pytest.fixture
def backend(api: InMemoryApi, objects: RunObjects, tmp_path: Path) -> KubernetesBackend:
    return KubernetesBackend(api, RunId(RUN), objects, tmp_path, simulated=True)


def start(api: InMemoryApi, backend: KubernetesBackend) -> NodeHandle:
    """Start a run, and its pod as the cluster's Job controller does."""
    handle = backend.start(PLAN.driver)
    job = api.objects["Job", RUN]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": RUN, "uid": job["metadata"]["uid"], "controller": True}
    template = job["spec"]["template"]
    api.create({"kind": "Pod", "metadata": {"name": POD, **template["metadata"], "ownerReferences": [owner]}, "spec": template["spec"]})
    return handle


def until(there: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 5
    while not (found := there()):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return found


def running() -> dict[str, Any]:
    return {"phase": "Running", "containerStatuses": [{"name": "node", "state": {"running": {}}}]}


def ended(code: int) -> dict[str, Any]:
    return {"phase": "Failed", "containerStatuses": [{"name": "node", "state": {"terminated": {"exitCode": code, "reason": "Error"}}}]}


def event(about: str, uid: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Event", "metadata": {"name": f"{about}.{reason}", "uid": f"event-{about}-{reason}"}, "reason": reason, "message": message,
        "involvedObject": {"name": about, "uid": uid}, "lastTimestamp": "2026-11-28T12:00:00Z",
    }  # fmt: skip


def test_driver_whose_pod_is_refused_waits_in_the_words_of_its_jobs_controller(api: InMemoryApi, backend: KubernetesBackend) -> None:
    handle = backend.start(PLAN.driver)
    refused = 'pods "x" is forbidden: maximum memory usage per Container is 6Gi, but limit is 8Gi'
    api.create(event(RUN, api.objects["Job", RUN]["metadata"]["uid"], "FailedCreate", f"Error creating: {refused}"))
    api.create(event("another", "uid-999", "FailedCreate", "Error creating: another's"))
    assert "maximum memory usage per Container is 6Gi" in until(lambda: backend.poll(handle).condition)
    assert backend.poll(handle).running
    backend.stop([handle])


def test_driver_in_a_queue_is_told_to_wait_there(api: InMemoryApi, backend: KubernetesBackend) -> None:
    handle = backend.start(PLAN.driver)
    api.patch("Job", RUN, {"spec": {"suspend": True}})
    assert "queue" in until(lambda: backend.poll(handle).condition)
    api.patch("Job", RUN, {"spec": {"suspend": None}})
    until(lambda: not backend.poll(handle).condition)
    backend.stop([handle])


def test_driver_whose_volume_cannot_be_mounted_waits_in_the_kubelets_words(api: InMemoryApi, backend: KubernetesBackend) -> None:
    """Which it says in an event alone."""
    handle = start(api, backend)
    api.create(event(POD, api.objects["Pod", POD]["metadata"]["uid"], "FailedMount", 'persistentvolumeclaim "flights" not found'))
    assert 'persistentvolumeclaim "flights" not found' in until(lambda: backend.poll(handle).condition)
    api.set_status(POD, running())
    until(lambda: not backend.poll(handle).condition)
    backend.stop([handle])


def test_everything_is_there_before_the_driver_and_belongs_to_it(api: InMemoryApi, backend: KubernetesBackend, objects: RunObjects) -> None:
    start(api, backend)
    created = [name for verb, kind, name in api.calls if verb == "create" and kind != "Pod"]
    assert created == [each["metadata"]["name"] for each in objects.applied]
    uid = api.objects["Job", RUN]["metadata"]["uid"]
    for each in objects.base:
        owners = api.objects[each["kind"], each["metadata"]["name"]]["metadata"]["ownerReferences"]
        assert [owner["uid"] for owner in owners] == [uid]
    backend.stop([NodeHandle(RunId(RUN), DRIVER, "")])


def test_a_run_that_cannot_be_started_whole_leaves_nothing(api: InMemoryApi, backend: KubernetesBackend) -> None:
    api.refuse["Job"] = ClusterRefusedError("no right to create jobs")
    with pytest.raises(ClusterRefusedError):
        backend.start(PLAN.driver)
    assert api.objects == {}


def test_the_client_starts_no_workers(backend: KubernetesBackend) -> None:
    (worker,) = PLAN.worker_specs("driver", 1, {NodeId("worker-1")})
    with pytest.raises(UnavailableError, match="the driver starts the workers"):
        backend.start(worker)


def test_what_a_pod_waits_for_and_how_it_ended_is_told(api: InMemoryApi, backend: KubernetesBackend) -> None:
    handle = start(api, backend)
    words = "0/1 nodes are available: 1 Insufficient memory."
    api.set_status(POD, {"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}]})  # fmt: skip
    until(lambda: words in backend.poll(handle).condition)
    assert backend.poll(handle).running
    api.set_status(POD, running())
    api.set_status(POD, ended(5))
    until(lambda: not backend.poll(handle).running)
    assert backend.poll(handle).exit_status == 5
    backend.stop([handle])


def test_a_pod_that_was_deleted_has_ended(api: InMemoryApi, backend: KubernetesBackend) -> None:
    handle = start(api, backend)
    api.set_status(POD, running())
    api.delete("Pod", POD)
    until(lambda: not backend.poll(handle).running)
    backend.stop([handle])


def test_the_driver_is_reached_once_it_has_said_that_it_listens(api: InMemoryApi, backend: KubernetesBackend, objects: RunObjects) -> None:
    handle = start(api, backend)
    assert backend.announced(handle) is None
    PodHost(api, RunId(RUN), POD, objects.workers).announce(SAID)
    address = until(lambda: backend.announced(handle))
    assert address.host == "127.0.0.1"
    assert backend.announced(handle) == address
    backend.stop([handle])


@pytest.mark.parametrize("text", ["", "{}", '{"run_id": "other", "node_id": "driver", "host": "x", "port": 1}'])
def test_an_announcement_that_is_none_or_anothers_is_refused(api: InMemoryApi, backend: KubernetesBackend, text: str) -> None:
    handle = start(api, backend)
    api.patch("ConfigMap", f"{RUN}-result", {"data": {"announcement": text}})

    def heard() -> bool:
        try:
            return backend.announced(handle) is not None
        except ProtocolError:
            return True

    until(heard)
    with pytest.raises(ProtocolError):
        backend.announced(handle)
    backend.stop([handle])


def test_a_watch_that_is_lost_is_told_and_ends_no_node(api: InMemoryApi, backend: KubernetesBackend) -> None:
    handle = start(api, backend)
    api.set_status(POD, running())
    until(lambda: backend._pods)
    api.break_watches(UnavailableError("no answer"))
    until(lambda: "cannot be asked" in backend.poll(handle).condition)
    assert backend.poll(handle).running
    backend.stop([handle])


def test_a_pods_log_is_kept(api: InMemoryApi, backend: KubernetesBackend, tmp_path: Path) -> None:
    class Line:
        at_ns, text = 1, "the agent says"

    handle = start(api, backend)
    api.set_status(POD, running())
    until(lambda: POD in api.logs)
    api.logs[POD].put(Line())
    until(lambda: (tmp_path / "driver.log").exists() and (tmp_path / "driver.log").read_text() == "the agent says\n")
    api.set_status(POD, ended(0))
    api.logs[POD].close()
    backend.stop([handle])
    assert backend.log_path(handle) == tmp_path / "driver.log"


def test_a_log_that_ends_with_its_run_is_not_asked_for_again(
    api: InMemoryApi, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubelet refuses it when the container is gone, of which the watch has not heard yet."""
    handle = start(api, backend)
    api.set_status(POD, running())
    until(lambda: POD in api.logs)
    api.keeps_ending_pods = True
    stopping = threading.Thread(target=backend.stop, args=([handle],))
    stopping.start()
    until(lambda: api.names("Job") == [])

    def refuse(*_: object, **__: object) -> None:
        raise ClusterRefusedError("the container is terminated")

    monkeypatch.setattr(api, "log_lines", refuse)
    api.logs[POD].close()
    stopping.join(1)
    api.set_status(POD, ended(0))
    stopping.join(5)
    assert "cannot be kept" not in caplog.text


def test_the_end_removes_everything(api: InMemoryApi, backend: KubernetesBackend) -> None:
    handle = start(api, backend)
    backend.stop([handle])
    backend.stop([handle])
    assert api.objects == {}


def test_the_end_waits_for_pods_to_end_and_not_for_a_kubelet_to_remove_them(api: InMemoryApi, backend: KubernetesBackend) -> None:
    handle = start(api, backend)
    api.set_status(POD, running())
    api.keeps_ending_pods = True
    stopping = threading.Thread(target=backend.stop, args=([handle],))
    stopping.start()
    until(lambda: api.names("Job") == [])
    stopping.join(0.5)
    assert stopping.is_alive()
    assert api.names("Pod") == [POD]
    api.set_status(POD, ended(0))
    stopping.join(5)
    assert not stopping.is_alive()
    assert api.objects == {}


@pytest.mark.parametrize(("reason", "patient"), [("ImagePullBackOff", False), ("ContainerCreating", True)])
def test_the_end_waits_for_a_pod_only_that_may_be_about_to_start(
    api: InMemoryApi, backend: KubernetesBackend, reason: str, *, patient: bool
) -> None:
    handle = start(api, backend)
    api.patch("Pod", POD, {"spec": {"nodeName": "node1"}})
    waiting = {"phase": "Pending", "containerStatuses": [{"name": "node", "state": {"waiting": {"reason": reason}}}]}
    api.set_status(POD, waiting)
    api.keeps_ending_pods = True
    begun = time.monotonic()
    backend.stop([handle])
    assert api.objects == {}
    assert (time.monotonic() - begun > backend_module._STARTING_S) is patient


def test_a_pod_that_does_not_end_in_time_keeps_its_object_for_the_kubelet(
    api: InMemoryApi, backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nobody would end its processes."""
    monkeypatch.setattr(backend_module, "_GONE_S", 0.3)
    start(api, backend)
    api.set_status(POD, running())
    api.keeps_ending_pods = True
    assert not remove_run(api, RunId(RUN))
    assert api.names("Pod") == [POD]
    backend.leave()


def test_a_run_that_goes_on_is_found_with_its_result(
    api: InMemoryApi, backend: KubernetesBackend, objects: RunObjects, tmp_path: Path
) -> None:
    again = KubernetesBackend(api, RunId(RUN), objects, tmp_path, simulated=True)
    assert isinstance(again, LastingBackend)
    assert again.find() is None
    assert again.kept() is None
    start(api, backend)
    backend.leave()
    PodHost(api, RunId(RUN), POD, objects.workers).keep("sealed")
    found = again.find()
    assert found is not None
    assert again.kept() == "sealed"
    again.stop([found])


# --- the driver's host ------------------------------------------------------------------------------------------------


@pytest.fixture
def host(api: InMemoryApi, backend: KubernetesBackend, objects: RunObjects) -> PodHost:
    start(api, backend)
    return PodHost(api, RunId(RUN), POD, objects.workers)


def test_the_driver_creates_the_workers_pods_as_they_were_rendered(api: InMemoryApi, host: PodHost, objects: RunObjects) -> None:
    heard: list[tuple[str, str]] = []
    gone: list[str] = []
    nodes = [NodeId("worker-1"), NodeId("worker-2")]
    assert host.start_workers(nodes, heard=lambda kind, node, _: heard.append((kind, node)), ended=gone.append)
    for node in nodes:
        made = api.objects["Pod", f"{RUN}-{node}"]
        assert made["spec"] == objects.workers[node]["spec"]
        assert [owner["name"] for owner in made["metadata"]["ownerReferences"]] == [RUN]
        assert "controller" not in made["metadata"]["ownerReferences"][0]
    assert heard == [("node-started", "worker-1"), ("node-started", "worker-2")]
    api.set_status(f"{RUN}-worker-2", ended(3))
    until(lambda: gone == ["worker-2"])
    assert ("node-ended", "worker-2") in heard
    host.close()
    host.close()
    assert api.names("Pod") == [POD]


def test_a_worker_without_a_pod_is_refused_before_any_is_created(api: InMemoryApi, host: PodHost) -> None:
    with pytest.raises(ConfigError):
        host.start_workers([NodeId("worker-1"), NodeId("worker-9")], heard=lambda *_: None, ended=lambda _: None)
    assert api.names("Pod") == [POD]


def test_a_quota_ends_the_start_of_workers(api: InMemoryApi, host: PodHost) -> None:
    api.refuse["Pod"] = ClusterRefusedError("exceeded quota: small")
    with pytest.raises(ClusterRefusedError, match="exceeded quota"):
        host.start_workers([NodeId("worker-1")], heard=lambda *_: None, ended=lambda _: None)


def test_a_second_driver_of_one_run_ends(host: PodHost) -> None:
    host.announce(SAID)
    with pytest.raises(NodeLostError, match="another one cannot take its place"):
        host.announce(SAID)


def test_workers_pods_are_read_from_the_drivers_config_map(objects: RunObjects, tmp_path: Path) -> None:
    (driver,) = [each for each in objects.base if each["metadata"]["name"] == f"{RUN}-driver"]
    (tmp_path / "workers.json").write_text(driver["data"]["workers.json"])
    assert load_workers(tmp_path / "workers.json") == json.loads(json.dumps(dict(objects.workers)))
    with pytest.raises(ConfigError):
        load_workers(tmp_path / "nowhere.json")


# --- a driver that somebody else started ------------------------------------------------------------------------------


def submit(api: InMemoryApi, objects: RunObjects) -> str:
    """The objects of a run and its driver's pod, as `kubectl` and `spark-submit` create them: without a Job."""
    for each in objects.base:
        api.create(each)
    template = objects.driver_job["spec"]["template"]
    name = f"{RUN}-driver"
    api.create({"kind": "Pod", "metadata": {"name": name, **template["metadata"]}, "spec": template["spec"]})
    return name


def test_a_driver_without_a_job_is_found_and_its_objects_are_left_to_who_created_them(
    api: InMemoryApi, backend: KubernetesBackend, objects: RunObjects
) -> None:
    name = submit(api, objects)
    api.set_status(name, running())
    before = set(api.objects)
    found = backend.find()
    assert found is not None
    assert backend.find() == found
    assert found.name == f"pod/{name}"
    PodHost(api, RunId(RUN), name, objects.workers).announce(SAID)
    until(lambda: backend.announced(found))
    api.set_status(name, ended(0))
    api.logs[name].close()
    backend.stop([found])
    assert set(api.objects) == before


def test_a_driver_that_has_ended_is_known_to_have_when_it_is_found(
    api: InMemoryApi, backend: KubernetesBackend, objects: RunObjects
) -> None:
    name = submit(api, objects)
    api.set_status(name, ended(1))
    found = backend.find()
    assert found is not None
    assert not backend.poll(found).running
    backend.leave()


def test_its_workers_are_its_own(api: InMemoryApi, objects: RunObjects) -> None:
    name = submit(api, objects)
    host = PodHost(api, RunId(RUN), name, objects.workers)
    host.start_workers([NodeId("worker-1")], heard=lambda *_: None, ended=lambda _: None)
    (owner,) = api.objects["Pod", f"{RUN}-worker-1"]["metadata"]["ownerReferences"]
    uid = api.objects["Pod", name]["metadata"]["uid"]
    assert owner == {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
    host.close()
