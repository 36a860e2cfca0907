"""The host of a driver in a pod: the cluster, through its API server and the driver's own service account.

The driver creates its workers' pods as the client rendered them, and has no rights but that and to keep the run's result.  Whoever
changes those pods gets nodes with other evidence, which the driver refuses.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from confide.canonical import Json, canonical, parse_object
from confide.errors import ConfideError, ConfigError, NodeLostError
from confide.ids import NodeId
from confide.jobs.kubernetes.board import Board
from confide.jobs.kubernetes.condition import condition_of
from confide.jobs.kubernetes.objects import RESULT_SUFFIX
from confide.jobs.kubernetes.pods import NODE_LABEL, RUN_LABEL
from confide.jobs.kubernetes.said import about, as_list, as_object, as_text, label_of, name_of
from confide.node.control import EventType

if TYPE_CHECKING:
    from confide.ids import RunId
    from confide.jobs.kubernetes.api import Api, Changes
    from confide.node.host import Ended, Heard
    from confide.node.spec import Announcement

_log = logging.getLogger(__name__)
ANNOUNCEMENT, RESULT, STANDING = "announcement", "result", "standing"
"""What of a run's result object holds the driver's address, how the run ended, sealed to the client, and how its nodes stand."""
_TOLD = frozenset({
    EventType.JOB_ACCEPTED, EventType.WORKER_ACCEPTED, EventType.WORKER_REFUSED, EventType.WORKER_STARTED, EventType.WORKER_FAILED,
    EventType.WORKER_LOST, EventType.WORKER_CUT_OFF, EventType.PROGRAM_STARTED, EventType.PROGRAM_ENDED,
})  # fmt: skip
"""What is told of nodes to whoever may look at the run's objects."""


class PodHost:
    """See the module.  ``workers``: the pods to create, by node; ``pod``: the driver's own."""

    goes_on_alone = True

    def __init__(self, api: Api, run: RunId, pod: str, workers: Mapping[NodeId, Json]) -> None:
        self._api = api
        self._run = run
        self._pod = pod
        self._workers = workers
        self._created: list[str] = []
        self._changes: Changes | None = None
        self._board = Board(partial(self._put, STANDING))

    def announce(self, said: Announcement) -> None:
        """Say in the run's result object where the driver listens.

        Raises:
            NodeLostError: a driver of this run has said so before: the cluster has started another one in its place.
            ConfideError: the API server does not take it.
        """
        found = self._api.get("ConfigMap", f"{self._run}-{RESULT_SUFFIX}") or {}
        if ANNOUNCEMENT in as_object(found.get("data")):
            raise NodeLostError("this run's driver is gone, and another one cannot take its place", run=self._run)
        text = canonical(said.model_dump(mode="json")).decode()
        self._put(ANNOUNCEMENT, text)

    def start_workers(self, nodes: Sequence[NodeId], *, heard: Heard, ended: Ended) -> bool:
        """Create the workers' pods, and watch them from now on.

        Raises:
            ConfigError: the client rendered no pod for one of them.
            ConfideError: the API server does not take one.
        """
        missing = [node for node in nodes if node not in self._workers]
        if missing:
            raise ConfigError("there is no pod for a worker", node=missing[0])
        own = self._api.get("Pod", self._pod) or {}
        owners = as_list(about(own).get("ownerReferences")) or [_as_owner(own)]
        for node in nodes:
            pod = self._workers[node]
            made = self._api.create({**pod, "metadata": {**pod["metadata"], "ownerReferences": _plain(owners)}})
            name = name_of(made)
            self._created.append(name)
            heard("node-started", node, {"role": "worker", "process": name})
        self._changes = self._api.watch("Pod", label_selector=f"{RUN_LABEL}={self._run}")
        threading.Thread(target=self._watch, args=(self._changes, heard, ended), name="confide-worker-pods", daemon=True).start()
        return True

    def _watch(self, changes: Changes, heard: Heard, ended: Ended) -> None:
        told: dict[NodeId, str] = {}
        gone: set[NodeId] = set()
        try:
            for kind, pod in changes:
                node = NodeId(label_of(pod, NODE_LABEL))
                if name_of(pod) not in self._created or node in gone:
                    continue
                condition = condition_of(pod, gone=kind == "DELETED")
                if condition.message and told.get(node) != condition.message:
                    told[node] = condition.message
                    heard("node-waiting" if not condition.final else "node-ended", node, condition.to_json())
                if condition.final or kind == "DELETED":
                    gone.add(node)
                    ended(node)
        except ConfideError as error:  # workers that join or leave are noticed by their channels; what pods say is a hint
            _log.warning("the workers' pods cannot be watched any more: %s: %s", error.code, error.message)

    def tell(self, kind: str, node: NodeId, fields: Json) -> None:
        """Put what happened to a node into the run's result object, soon."""
        if kind in _TOLD:
            self._board.note(kind, node, fields.get("code"))

    def keep(self, result: str) -> None:
        """Put the sealed result into the run's result object.

        Raises:
            ConfideError: the API server does not take it.
        """
        self._put(RESULT, result)

    def _put(self, name: str, text: str) -> None:
        self._api.patch("ConfigMap", f"{self._run}-{RESULT_SUFFIX}", {"data": {name: text}})

    def close(self) -> None:
        """Delete the workers' pods."""
        self._board.close()
        if self._changes is not None:
            self._changes.close()
        for name in self._created:
            with suppress(ConfideError):  # their owner's end takes them along
                self._api.delete("Pod", name)


def load_workers(path: Path) -> dict[NodeId, Json]:
    """The workers' pods that a driver's config map has.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        found = parse_object(path.read_bytes())
    except (OSError, ConfideError) as cause:
        raise ConfigError("cannot read the workers' pods", path=str(path)) from cause
    return {NodeId(node): pod for node, pod in found.items()}


def _as_owner(pod: Json) -> Json:
    """A driver's pod that belongs to nothing itself: `spark-submit` made it."""
    return {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "uid": as_text(about(pod).get("uid"))}


def _plain(owners: Sequence[object]) -> list[Json]:
    """The driver's owner as that of the workers, whom it does not control."""
    return [{name: as_text(as_object(owner).get(name)) for name in ("apiVersion", "kind", "name", "uid")} for owner in owners]
