"""What a pod's object says of its node, in one value and in words for a user.  Pure; what it says is the cluster's claim."""

from __future__ import annotations

from dataclasses import dataclass

from confide.canonical import Json

_HOPELESS = frozenset({"ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"})


@dataclass(frozen=True, slots=True)
class Condition:
    """``started``: its container runs or ran; ``final``: nothing more becomes of it; ``message``: why it waits or how it ended."""

    started: bool
    final: bool
    exit_status: int | None = None
    message: str = ""

    def to_json(self) -> Json:
        """The condition as fields of an event."""
        return {"status": self.exit_status, "message": self.message}


def condition_of(pod: Json) -> Condition:
    """What becomes of a pod."""
    status = pod.get("status") or {}
    phase = status.get("phase")
    containers = status.get("containerStatuses") or []
    state = (containers[0].get("state") or {}) if containers else {}
    if phase in {"Failed", "Succeeded"} or "terminated" in state:
        return _ended(status, state.get("terminated") or {})
    if "running" in state:
        return Condition(started=True, final=False)
    waiting = state.get("waiting") or {}
    words = _words(waiting.get("reason"), waiting.get("message")) if waiting.get("reason") != "ContainerCreating" else ""
    return Condition(started=False, final=waiting.get("reason") in _HOPELESS, message=words or _unscheduled(status))


def _ended(status: Json, terminated: Json) -> Condition:
    exited, signal = terminated.get("exitCode"), terminated.get("signal")
    number = -int(signal) if signal else int(exited) if isinstance(exited, int) else 1
    reason = terminated.get("reason") if terminated.get("reason") not in {"Completed", "Error", None} else status.get("reason")
    return Condition(started=True, final=True, exit_status=number, message=_words(reason, status.get("message")))


def _unscheduled(status: Json) -> str:
    for each in status.get("conditions") or []:
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            return _words(each.get("reason"), each.get("message"))
    return ""


def _words(reason: object, message: object) -> str:
    return ": ".join(str(part) for part in (reason, message) if part)
