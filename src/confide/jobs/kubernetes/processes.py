"""Whether a pod's processes run, as its cluster node says it.  Pure; what has another type than it should is as if it were not said."""

from __future__ import annotations

from typing import Final

from confide.canonical import Json
from confide.jobs.kubernetes.said import as_list, as_object

_OVER: Final = ("Succeeded", "Failed")
_STARTING: Final = ("ContainerCreating", "PodInitializing", None)


def runs(pod: Json) -> bool:
    """Whether a process of the pod may still run.

    An object that only waits for its removal is no matter.  A kubelet does that in one of its next rounds, ten seconds later, or, if the
    pod ended by itself when it was deleted or never got its image, after a minute; whoever has seen that nothing runs may do it at once.
    """
    return any("running" in state for state in _states(pod))


def is_starting(pod: Json) -> bool:
    """Whether a cluster node may be about to start the pod, and not have heard that it is deleted."""
    if "nodeName" not in as_object(pod.get("spec")) or as_object(pod.get("status")).get("phase") in _OVER:
        return False
    return any(as_object(state.get("waiting")).get("reason") in _STARTING for state in _states(pod) or [{}])


def _states(pod: Json) -> list[Json]:
    """Of the pod's containers, whoever put them into it."""
    containers = as_list(as_object(pod.get("status")).get("containerStatuses"))
    return [as_object(as_object(each).get("state")) for each in containers]
