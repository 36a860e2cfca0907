"""Why a pod waits, runs or has ended, as one reason that a person can act on.  Pure.

Pods, Jobs and events are the control plane's words, and so are the messages made of them: they are shown to people, and decide nothing
but how long to wait.  Whatever is missing or of another type is as if it were not said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from confide.canonical import Json
from confide.jobs.kubernetes.reasons import Code, hint_for
from confide.jobs.kubernetes.said import as_list, as_object, as_text, words

_IMAGE: Final = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError",
    "SignatureValidationFailed",
})  # fmt: skip
_NEVER: Final = frozenset({"InvalidImageName", "ErrImageNeverPull", "SignatureValidationFailed"})
"""Of these, what trying again does not change."""
_START: Final = frozenset({
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun", "PreStartHookError",
    "PostStartHookError", "CrashLoopBackOff",
})  # fmt: skip
_SANDBOX: Final = frozenset({"FailedCreatePodSandBox", "FailedPodSandBoxStatus"})
_MOUNT: Final = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})


class Phase(StrEnum):
    """How far a pod has come."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Condition:
    """One pod's state.

    ``message``: why it waits or how it ended, in the cluster's words, empty while all goes as it should; ``exit_status`` is negative where
    a signal ended it; ``final``: nothing more becomes of it.
    """

    phase: Phase
    code: Code
    message: str
    hint: str | None = None
    exit_status: int | None = None
    final: bool = False

    @property
    def started(self) -> bool:
        """Whether its container runs or ran, so that it may have a log."""
        return self.phase is not Phase.WAITING

    @property
    def words(self) -> str:
        """The message with what to do about it."""
        return f"{self.message}; {self.hint}" if self.message and self.hint else self.message

    def to_json(self) -> Json:
        """The condition as fields of an event."""
        return {"status": self.exit_status, "reason": str(self.code), "message": self.message, "hint": self.hint}


_DISRUPTIONS: Final[Mapping[str, Code]] = {
    "EvictionByEvictionAPI": Code.DRAINED,
    "PreemptionByScheduler": Code.PREEMPTED,
    "PreemptionByKubeScheduler": Code.PREEMPTED,  # 1.25 and 1.26
    "DeletionByTaintManager": Code.NODE_LOST,
    "DeletionByPodGC": Code.NODE_LOST,
    "TerminationByKubelet": Code.EVICTED,
}
"""Reasons of the condition DisruptionTarget (on since 1.26)."""
_POD_REASONS: Final[Mapping[str, Code]] = {
    "Evicted": Code.EVICTED,
    "Preempting": Code.PREEMPTED,
    "NodeLost": Code.NODE_LOST,
    "Terminated": Code.NODE_SHUTDOWN,
    "NodeShutdown": Code.NODE_SHUTDOWN,
    "Shutdown": Code.NODE_SHUTDOWN,  # 1.20 and 1.21
    "DeadlineExceeded": Code.TOO_LONG,
    "UnexpectedAdmissionError": Code.REFUSED_BY_NODE,
    "NodeAffinity": Code.REFUSED_BY_NODE,
    "TopologyAffinityError": Code.REFUSED_BY_NODE,
    "AppArmor": Code.REFUSED_BY_NODE,
    "SysctlForbidden": Code.REFUSED_BY_NODE,
}
"""Reasons of a failed pod's status; ``OutOf<resource>`` is a node's refusal too."""
_LAST_EVENTS: Final[Mapping[str, Code]] = {
    "Preempted": Code.PREEMPTED,
    "Evicted": Code.EVICTED,
    "TaintManagerEviction": Code.NODE_LOST,
    "NodeNotReady": Code.NODE_LOST,
}
"""What older versions say of a pod that is deleted in events alone."""


def condition_of(pod: Json, events: Sequence[Json] = (), *, gone: bool = False) -> Condition:
    """What a pod's last known object and its events say of it.

    ``events`` may be those of other pods too, in any order; ``gone``: a watch has said DELETED of it.  A pod that is told to go, and still
    runs, is not over yet: its message says why it goes.
    """
    status, own = as_object(pod.get("status")), _own_events(pod, events)
    state = as_object(_container(status).get("state"))
    ended, running = as_object(state.get("terminated")), "running" in state
    if status.get("phase") == "Succeeded":
        return Condition(Phase.ENDED, Code.SUCCEEDED, "", exit_status=0, final=True)
    cause = _cause(pod, status, own, ended, gone=gone)
    if cause is not None:
        code, said = cause
        if ended or gone or status.get("phase") == "Failed":
            return _end(code, said, ended)
        return Condition(Phase.RUNNING if running else Phase.WAITING, code, words(said), hint_for(code, said))
    if ended:
        return _ended(ended)
    if status.get("phase") == "Failed":
        return _end(Code.UNKNOWN, _said(status) or "the pod failed, and its status does not say why")
    if running and status.get("phase") == "Running":
        return Condition(Phase.RUNNING, Code.RUNNING, "")
    return _waiting(status, state, own)


def job_condition(job: Json, events: Sequence[Json] = ()) -> Condition:
    """What a Job that has no pod says of itself: it waits in a queue, or its pod was refused when the Job's controller made it."""
    status, spec = as_object(job.get("status")), as_object(job.get("spec"))
    for found in map(as_object, as_list(status.get("conditions"))):
        if found.get("type") == "Complete" and found.get("status") == "True":
            return Condition(Phase.ENDED, Code.SUCCEEDED, "", exit_status=0, final=True)
        if found.get("type") in ("Failed", "FailureTarget") and found.get("status") == "True":
            late = found.get("reason") == "DeadlineExceeded"
            return _end(Code.TOO_LONG if late else Code.UNKNOWN, _said(found) or "the Job has failed, and does not say why")
    if spec.get("suspend") is True:
        return Condition(Phase.WAITING, Code.QUEUED, "the Job is suspended: its queue has not admitted it", hint_for(Code.QUEUED, ""))
    last = _last(_own_events(job, events))
    if last.get("reason") == "FailedCreate":
        said = as_text(last.get("message")).removeprefix("Error creating: ")
        refused = refusal(403, said)
        # The controller tries again, which helps where quota or a runtime class comes later, so this is not the end.
        return Condition(Phase.WAITING, refused.code, refused.message, refused.hint)
    return Condition(Phase.WAITING, Code.STARTING, "")


def refusal(http_status: int, message: str) -> Condition:
    """What the API server's answer to a request to create something means; ``message`` is that of its ``Status`` object."""
    said = words(message)
    code = Code.UNKNOWN
    if "exceeded quota" in said or "failed quota" in said:
        code = Code.QUOTA_EXCEEDED
    elif re.search(r"RuntimeClass\b.*\bnot found", said):
        code = Code.RUNTIME_MISSING
    elif http_status in {401, 403}:
        code = Code.FORBIDDEN
    elif http_status in {400, 404, 409, 422}:
        code = Code.INVALID
    return _end(code, said or f"the API server answers {http_status}")


def _waiting(status: Json, state: Json, events: Sequence[Json]) -> Condition:
    """A pod that was neither started nor given up."""
    scheduled = next((c for c in map(as_object, as_list(status.get("conditions"))) if c.get("type") == "PodScheduled"), {})
    if scheduled.get("status") == "False":
        gated = scheduled.get("reason") == "SchedulingGated"
        return _wait(Code.QUEUED if gated else Code.UNSCHEDULABLE, _said(scheduled) or "no cluster node takes it")
    waiting = as_object(state.get("waiting"))
    reason, said = as_text(waiting.get("reason")), as_text(waiting.get("message"))
    if reason in _IMAGE:
        pulls = [text for e in events if (text := as_text(e.get("message"))).startswith("Failed to pull image")]
        told = max([said, *pulls[-1:]], key=len)  # older versions have the registry's answer in the event alone
        return _wait(Code.IMAGE_PULL, told or reason, final=reason in _NEVER)
    if reason in _START:
        return _wait(_start_code(said), said or reason)
    return _by_last_event(_last(events), said)


def _by_last_event(last: Json, otherwise: str) -> Condition:
    reason, said = as_text(last.get("reason")), as_text(last.get("message"))
    if reason in _MOUNT:
        return _wait(_start_code(said, Code.VOLUME_UNAVAILABLE), said)
    if reason in _SANDBOX:
        missing = re.search(r"no runtime for|runtime handler .* not (?:found|supported)|unknown runtime", said)
        return _wait(Code.RUNTIME_MISSING if missing else Code.START_REFUSED, said)
    if reason == "FailedScheduling":
        return _wait(Code.UNSCHEDULABLE, said)
    if reason == "Pulling":
        return Condition(Phase.WAITING, Code.STARTING, words(said))
    return Condition(Phase.WAITING, Code.STARTING, words(otherwise))


def _start_code(said: str, otherwise: Code = Code.START_REFUSED) -> Code:
    return Code.CONFIG_MAP_MISSING if re.search(r"configmaps? \"?[^\"]*\"? ?not found", said) else otherwise


def _cause(pod: Json, status: Json, events: Sequence[Json], ended: Json, *, gone: bool) -> tuple[Code, str] | None:
    """Who else than the container ends the pod, if somebody does: its cluster node, the scheduler, or who drains nodes."""
    failed, left = status.get("phase") == "Failed", _told_to_go(pod)
    going = gone if left is None else not ended or as_text(ended.get("finishedAt"))[:19] >= left
    for found in map(as_object, as_list(status.get("conditions"))):
        if found.get("type") == "DisruptionTarget" and found.get("status") == "True" and (failed or going):
            said, code = _said(found), _DISRUPTIONS.get(as_text(found.get("reason")), Code.DELETED)
            return Code.NODE_SHUTDOWN if code is Code.EVICTED and "shutdown" in said else code, said
    reason = as_text(status.get("reason"))
    if failed and (reason in _POD_REASONS or reason.startswith("OutOf")):
        return _POD_REASONS.get(reason, Code.REFUSED_BY_NODE), _said(status)
    if failed and ended.get("reason") == "ContainerStatusUnknown":
        return Code.NODE_LOST, as_text(ended.get("message")) or "its cluster node lost the container"
    if reason == "NodeLost" or status.get("phase") == "Unknown":
        return Code.NODE_LOST, _said(status) or "its cluster node does not answer"
    if not going or ((ended or failed) and left is None):
        return None
    told = next((e for e in reversed(events) if as_text(e.get("reason")) in _LAST_EVENTS), None)
    if told is None:
        return Code.DELETED, "the pod was deleted"
    return _LAST_EVENTS[as_text(told.get("reason"))], as_text(told.get("message"))


def _told_to_go(pod: Json) -> str | None:
    """When somebody asked for the pod's deletion, as text to the second; its ``deletionTimestamp`` is when its grace period ends."""
    metadata = as_object(pod.get("metadata"))
    until, grace = metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds")
    if not isinstance(until, str):
        return None
    try:
        told = datetime.fromisoformat(until) - timedelta(seconds=grace if type(grace) is int else 0)
    except (ValueError, OverflowError):
        return until[:19]
    return told.isoformat()[:19]


def _ended(ended: Json) -> Condition:
    exit_status, reason = _exit_status(ended), as_text(ended.get("reason"))
    if reason == "OOMKilled":
        return _end(Code.OUT_OF_MEMORY, "the kernel ended the container: it used more memory than its limit", ended)
    if reason in _START:
        return _end(_start_code(as_text(ended.get("message"))), as_text(ended.get("message")) or reason, ended)
    if exit_status is None:
        return _end(Code.UNKNOWN, "the container ended, and its status does not say how")
    if exit_status < 0:
        return _end(Code.SIGNALLED, f"signal {-exit_status} ended the container", ended)
    if exit_status == 0:
        return _end(Code.SUCCEEDED, "", ended)
    return _end(Code.EXITED, f"the container ended with exit status {exit_status}", ended)


def _exit_status(ended: Json) -> int | None:
    signal, code = ended.get("signal"), ended.get("exitCode")
    if type(signal) is int and 0 < signal < 128:
        return -signal
    if type(code) is not int:
        return None
    return 128 - code if 128 < code < 256 else code  # runtimes report 128 and the signal's number


def _end(code: Code, said: str, ended: Json | None = None) -> Condition:
    return Condition(Phase.ENDED, code, words(said), hint_for(code, said), _exit_status(ended or {}), final=True)


def _wait(code: Code, said: str, *, final: bool = False) -> Condition:
    return Condition(Phase.WAITING, code, words(said), hint_for(code, said), final=final)


def _container(status: Json) -> Json:
    """Status of the run's one container.  Others, which someone else put into the pod, are not looked at."""
    found = [c for c in map(as_object, as_list(status.get("containerStatuses"))) if c.get("name") == "node"]
    return found[0] if found else {}


def _own_events(owner: Json, events: Sequence[Json]) -> list[Json]:
    """Events of that object, oldest first."""
    metadata = as_object(owner.get("metadata"))
    name, uid = metadata.get("name"), metadata.get("uid")

    def is_own(event: Json) -> bool:
        about = as_object(event.get("involvedObject"))
        return about.get("uid") == uid if uid and about.get("uid") else about.get("name") == name

    return sorted(filter(is_own, map(as_object, events)), key=_time)


def _time(event: Json) -> tuple[str, str]:
    """RFC 3339 in UTC: the text's order is the time's, to the second.  Within one, an event's name ends with when it was first made."""
    series = as_object(event.get("series"))
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"), event.get("firstTimestamp"))
    return next((time[:19] for time in times if isinstance(time, str)), ""), as_text(as_object(event.get("metadata")).get("name"))


def _last(events: Sequence[Json]) -> Json:
    return events[-1] if events else {}


def _said(found: Json) -> str:
    message, reason = as_text(found.get("message")), as_text(found.get("reason"))
    return message or reason
