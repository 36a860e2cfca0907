"""What was last heard of a run's Job, pods and events, and what of it says why a node waits or has ended.  Pure; in any order."""

from __future__ import annotations

from typing import Final

from confide.canonical import Json
from confide.ids import NodeId
from confide.jobs.kubernetes.changes import identity
from confide.jobs.kubernetes.condition import Condition, condition_of, job_condition
from confide.jobs.plan import DRIVER

_MOST_EVENTS: Final = 500
"""Kept of one run: each is about one object and one reason, and counts how often it happened."""


class Heard:
    """Of one run.  Not thread-safe."""

    def __init__(self) -> None:
        self._job: Json = {}
        self._pods: dict[NodeId, Json] = {}
        self._events: dict[str, Json] = {}

    def job(self, found: Json) -> None:
        """Note the driver's Job."""
        self._job = found

    def pod(self, node: NodeId, found: Json) -> None:
        """Note a node's pod."""
        self._pods[node] = found

    def event(self, found: Json) -> None:
        """Note an event about the Job or a pod."""
        if identity(found) in self._events or len(self._events) < _MOST_EVENTS:
            self._events[identity(found)] = found

    def condition(self, node: NodeId, *, gone: bool = False) -> Condition:
        """Why a node waits or has ended; of a driver that has no pod, the Job's reason.  ``gone``: a watch has said DELETED of its pod."""
        events, pod = list(self._events.values()), self._pods.get(node)
        if pod is None and node == DRIVER:
            return job_condition(self._job, events)
        return condition_of(pod or {}, events, gone=gone)
