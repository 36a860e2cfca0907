"""The client's backend on Kubernetes: creates a run's objects, watches its pods, keeps their logs, and removes everything at the end.

The client starts the driver only; the driver starts the workers with rights of its own (:mod:`confide.jobs.kubernetes.pod_host`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from confide.canonical import Json, parse_object
from confide.errors import ConfideError, ProtocolError, UnavailableError
from confide.ids import NodeId, RunId
from confide.jobs.backend import Address, NodeHandle, NodeStatus
from confide.jobs.kubernetes.forward import HOST, Forward
from confide.jobs.kubernetes.heard import Heard
from confide.jobs.kubernetes.objects import RESULT_SUFFIX
from confide.jobs.kubernetes.pod_host import ANNOUNCEMENT, RESULT
from confide.jobs.kubernetes.pod_log import PodLog
from confide.jobs.kubernetes.pods import NODE_LABEL, RUN_LABEL
from confide.jobs.kubernetes.processes import is_starting, runs
from confide.jobs.kubernetes.said import about, as_object, as_text, label_of, name_of
from confide.jobs.plan import DRIVER
from confide.node.spec import Announcement

if TYPE_CHECKING:
    from confide.jobs.kubernetes.api import Api, Changes
    from confide.jobs.kubernetes.objects import RunObjects
    from confide.node.spec import NodeSpec

_log = logging.getLogger(__name__)
_GONE_S = 60.0
"""How long a run's pods may take to end after their run was ended: their grace period, and a busy kubelet."""
_POLL_S = 0.2
_LAST_LINES_S = 2.0
"""How long what pods wrote last may be on its way."""
_STARTING_S = 5.0
"""How long a kubelet may take to hear that a pod which it starts is deleted."""
_KINDS = ("Job", "Pod", "NetworkPolicy", "RoleBinding", "Role", "ServiceAccount", "Service", "ConfigMap")
"""What a run may leave, in the order in which it is removed."""


class KubernetesBackend:
    """One run in a cluster; see the module."""

    name = "kubernetes"

    def __init__(self, api: Api, run: RunId, objects: RunObjects, logs: Path, *, simulated: bool) -> None:
        self.simulated = simulated
        self.init_data = objects.init_data
        self._api = api
        self._run = run
        self.objects = objects
        self._nodes = {DRIVER, *objects.workers}
        self._logs = logs
        self._lock = threading.Lock()
        self._heard = Heard()
        self._pods: dict[NodeId, str] = {}
        self._seen: dict[NodeId, NodeStatus] = {}
        self._announcement: str | None = None
        self._copied: dict[str, PodLog] = {}
        self._watches: list[Changes] = []
        self._forward: Forward | None = None
        self._is_anothers = False
        self._ending = False

    @property
    def _selector(self) -> str:
        return f"{RUN_LABEL}={self._run}"

    # --- starting ------------------------------------------------------------------------------------------------------

    def start(self, spec: NodeSpec) -> NodeHandle:
        """Create the run's objects, which start its driver.

        Raises:
            UnavailableError: the API server refuses one, or this is not the driver.  Nothing of the run is left then.
        """
        if spec.node_id != DRIVER:
            raise UnavailableError("the driver starts the workers of a run in a cluster", node=str(spec.node_id))
        try:
            for each in self.objects.base:
                self._api.create(each)
            job = self._api.create(self.objects.driver_job)
            self._adopt(job)
        except ConfideError:
            self._remove()
            raise
        self._watch()
        return NodeHandle(self._run, spec.node_id, f"job/{name_of(job)}")

    def _adopt(self, job: Json) -> None:
        """Make the driver's job the owner of everything else, so that its end is the end of all."""
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name_of(job), "uid": as_text(about(job).get("uid"))}
        for each in self.objects.adopted:
            self._api.patch(each["kind"], each["metadata"]["name"], {"metadata": {"ownerReferences": [owner]}})

    # --- coming back ---------------------------------------------------------------------------------------------------

    def find(self) -> NodeHandle | None:
        """The driver of a run that goes on, watched from now on; ``None`` if it is gone.

        One without a Job was started by somebody else, such as ``spark-submit``, who also removes it.
        """
        has_job = self._api.get("Job", self._run) is not None
        pods = self._api.list("Pod", label_selector=f"{self._selector},{NODE_LABEL}={DRIVER}")
        if not has_job and not pods:
            return None
        self._is_anothers = not has_job
        self._watch_once()
        for pod in pods:  # one that has ended is known to have, before anything is asked of it
            self._hear_pod("ADDED", pod)
        return NodeHandle(self._run, DRIVER, f"job/{self._run}" if has_job else f"pod/{name_of(pods[0])}")

    def kept(self) -> str | None:
        """The sealed result that the run left, if it left one."""
        found = self._api.get("ConfigMap", f"{self._run}-{RESULT_SUFFIX}") or {}
        return as_text(as_object(found.get("data")).get(RESULT)) or None

    def leave(self) -> None:
        """Watch the run no more."""
        for changes in self._watches:
            changes.close()
        if self._forward is not None:
            self._forward.close()

    # --- watching ------------------------------------------------------------------------------------------------------

    def _watch_once(self) -> None:
        if not self._watches:
            self._watch()

    def _watch(self) -> None:
        self._follow(self._api.watch("Pod", self._selector), self._hear_pod, self._lost_sight)
        self._follow(self._api.watch("ConfigMap", self._selector), self._hear_config_map, self._lost_sight)
        self._follow(self._api.watch("Job", self._selector), self._hear_job, self._lost_words)
        self._watch_events(str(self._run))

    def _watch_events(self, name: str) -> None:
        """Events of an object of the run: of its Job, and of the driver's pod."""
        events = self._api.watch("Event", field_selector=f"involvedObject.name={name}")
        self._follow(events, self._hear_event, self._lost_words)

    def _follow(self, changes: Changes, hear: Callable[[str, Json], None], lost: Callable[[ConfideError], None]) -> None:
        self._watches.append(changes)

        def follow() -> None:
            try:
                for change, found in changes:
                    hear(change, found)
            except ConfideError as error:
                lost(error)

        threading.Thread(target=follow, name="confide-watch", daemon=True).start()

    def _lost_sight(self, error: ConfideError) -> None:
        """Nodes that nothing more will be heard of go on running, as far as anybody knows."""
        _log.warning("the run's objects cannot be watched any more: %s: %s", error.code, error.message)
        unknown = NodeStatus(running=True, condition=f"the cluster cannot be asked: {error.message}")
        with self._lock:
            self._seen.setdefault(DRIVER, unknown)
            self._seen = {node: unknown if status.running else status for node, status in self._seen.items()}

    def _lost_words(self, error: ConfideError) -> None:
        _log.info("why the run waits may not be told: %s: %s", error.code, error.message)

    def _hear_pod(self, kind: str, pod: Json) -> None:
        node, name = NodeId(label_of(pod, NODE_LABEL)), name_of(pod)
        if node not in self._nodes:  # nor does anybody's label name a file of this machine
            return
        with self._lock:
            self._heard.pod(node, pod)
            condition = self._heard.condition(node, gone=kind == "DELETED")
            over, words = condition.final or kind == "DELETED", condition.words
            if node == DRIVER and self._pods.get(node) != name:
                self._watch_events(name)
            self._pods[node] = name
            if self._seen.get(node, NodeStatus(running=True)).running:
                self._seen[node] = NodeStatus(running=not over, exit_status=condition.exit_status if over else None, condition=words)
            if name not in self._copied and (condition.started or over) and kind != "DELETED":
                self._copied[name] = PodLog(self._api, name, self._logs / f"{node}.log", over=lambda: self._is_over(node))

    def _is_over(self, node: NodeId) -> bool:
        """Whether a log that has ended is not asked for again: its pod has ended, or will have before anybody could."""
        return self._ending or not self._seen[node].running

    def _hear_job(self, _kind: str, job: Json) -> None:
        with self._lock:
            self._heard.job(job)
            self._say_why()

    def _hear_event(self, _kind: str, event: Json) -> None:
        with self._lock:
            self._heard.event(event)
            self._say_why()

    def _say_why(self) -> None:
        """Of a driver that has not ended: what else than its pod says why it waits.  That it has ended, its pod alone says."""
        if self._seen.get(DRIVER, NodeStatus(running=True)).running:
            self._seen[DRIVER] = NodeStatus(running=True, condition=self._heard.condition(DRIVER).words)

    def _hear_config_map(self, _kind: str, found: Json) -> None:
        if name_of(found) == f"{self._run}-{RESULT_SUFFIX}":
            said = as_object(found.get("data")).get(ANNOUNCEMENT)
            with self._lock:
                self._announcement = said if isinstance(said, str) else self._announcement

    # --- the backend's protocol ----------------------------------------------------------------------------------------

    def poll(self, handle: NodeHandle) -> NodeStatus:
        """What the cluster says of a node's pod.  Never waits."""
        with self._lock:
            return self._seen.get(handle.node, NodeStatus(running=True))

    def announced(self, handle: NodeHandle) -> Address | None:
        """A port of this machine that leads to the driver's, once the driver has said that it listens.

        Raises:
            ProtocolError: what it said is no announcement, or is another node's.
        """
        with self._lock:
            said, pod = self._announcement, self._pods.get(handle.node)
        if said is None or pod is None:
            return None
        try:
            found = Announcement.model_validate(parse_object(said.encode()))
        except (ValueError, ConfideError) as cause:
            raise ProtocolError("the node's announcement is not one", node=str(handle.node)) from cause
        if (found.run_id, found.node_id) != (handle.run, handle.node):
            raise ProtocolError("the announcement is another node's", node=str(handle.node), got=str(found.node_id))
        if self._forward is None:
            self._forward = Forward(self._api, pod, found.port)
        return Address(HOST, self._forward.port)

    def log_path(self, handle: NodeHandle) -> Path:
        """The file that a pod's log is copied to."""
        return self._logs / f"{handle.node}.log"

    def stop(self, handles: Iterable[NodeHandle]) -> None:
        """End the run: remove its objects, and wait until none of its processes runs.  Those that another has created are left to him."""
        if not list(handles):
            return
        self._finish_logs(ended=True)  # a pod that has ended takes its log along when it is removed
        self._ending = True
        if not self._is_anothers:
            self._remove()
        self.leave()

    def _remove(self) -> None:
        if not remove_run(self._api, self._run, last_look=self._finish_logs):
            _log.warning("pods of run %s are still ending", self._run)

    def _finish_logs(self, *, ended: bool = False) -> None:
        """Take the last lines of every log, or of those only whose pods are known to have ended."""
        with self._lock:
            logs = [log for log in self._copied.values() if log.over or not ended]
        until = time.monotonic() + _LAST_LINES_S
        for log in logs:
            log.finish(max(0.0, until - time.monotonic()))


def remove_run(api: Api, run: RunId, *, last_look: Callable[[], None] = lambda: None) -> bool:
    """Remove every object of a run; whether none of its processes runs any more when this returns, after a minute at most.

    ``last_look`` is called when none does, while the objects of pods that ran are still there, and their logs.
    """
    selector = f"{RUN_LABEL}={run}"
    for kind in _KINDS:
        with suppress(ConfideError):  # what its owner's end has removed is gone already
            for name in filter(None, map(name_of, api.list(kind, label_selector=selector))):
                with suppress(ConfideError):
                    api.delete(kind, name)
    ended = _await_end(api, selector)
    last_look()
    with suppress(ConfideError):
        for pod in api.list("Pod", label_selector=selector):
            if name_of(pod) and not runs(pod):
                api.delete("Pod", name_of(pod), grace_s=0)
    return ended


def _await_end(api: Api, selector: str) -> bool:
    """Whether the processes of deleted pods have ended in time."""
    begun = time.monotonic()
    while (waited := time.monotonic() - begun) < _GONE_S:
        with suppress(ConfideError):
            pods = api.list("Pod", label_selector=selector)
            for pod in pods:  # one that was created in the place of one that was deleted, before its Job was
                if name_of(pod) and "deletionTimestamp" not in about(pod):
                    api.delete("Pod", name_of(pod))
            if not any(runs(pod) or (waited < _STARTING_S and is_starting(pod)) for pod in pods):
                return True
        time.sleep(_POLL_S)
    return False
