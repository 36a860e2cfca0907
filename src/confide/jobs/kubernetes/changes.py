"""What a watch tells, and how patient it is.  Pure: lines and times are given; knows nothing of connections.

Follows "Kubernetes API Concepts, Efficient detection of changes".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple

from confide.errors import ProtocolError
from confide.jobs.kubernetes.api_errors import GONE, refusal

Json = dict[str, Any]
ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]

_MOST_LINE: Final = 8 * 1024 * 1024
"""Bytes.  etcd takes no object larger than 1.5 MiB; JSON may be longer."""
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 5.0


class Change(NamedTuple):
    """One object that is new, changed or gone (then as it was last known)."""

    type: ChangeType
    object: Json


class Known:
    """The objects that a watch has told of, so that nothing is missed where it had a gap.  Not thread-safe."""

    def __init__(self) -> None:
        self._objects: dict[str, Json] = {}

    def listed(self, objects: Iterable[Json]) -> list[Change]:
        """What is different from before, given all that there is now."""
        there = {identity(each): each for each in objects}
        gone = [Change("DELETED", each) for uid, each in self._objects.items() if uid not in there]
        new = [Change("MODIFIED" if uid in self._objects else "ADDED", each) for uid, each in there.items() if self._differs(uid, each)]
        self._objects = there
        return gone + new

    def changed(self, kind: ChangeType, found: Json) -> Change:
        """Note one change, and tell it."""
        uid = identity(found)
        if kind == "DELETED":
            self._objects.pop(uid, None)
            return Change(kind, found)
        told: ChangeType = "MODIFIED" if uid in self._objects else "ADDED"
        self._objects[uid] = found
        return Change(told, found)

    def _differs(self, uid: str, found: Json) -> bool:
        return uid not in self._objects or version_of(self._objects[uid]) != version_of(found)


class Patience:
    """How long to wait after failures: longer each time, and no more once nothing has worked for ``patience_s`` seconds."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._wait_s = _FIRST_WAIT_S
        self._failing_since: float | None = None
        self.has_worked = False

    def worked(self) -> None:
        """Something came."""
        self._wait_s, self._failing_since, self.has_worked = _FIRST_WAIT_S, None, True

    def failed(self, now: float) -> float | None:
        """Seconds to wait before the next try, or ``None``: enough."""
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since > self._patience_s:
            return None
        wait, self._wait_s = self._wait_s, min(self._wait_s * 2, _LONGEST_WAIT_S)
        return wait


def identity(found: Json) -> str:
    """What tells an object from another of the same name that came after it."""
    about = found.get("metadata")
    return str(about.get("uid") or about.get("name")) if isinstance(about, dict) else ""


def version_of(found: Json) -> str:
    """The ``resourceVersion`` of an object or list."""
    about = found.get("metadata")
    return str(about.get("resourceVersion") or "") if isinstance(about, dict) else ""


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a body that comes in pieces, without their ends.  A last line that has none is left out: it was cut off.

    Raises:
        ProtocolError: a line is longer than any object.
    """
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line.strip())
        if len(rest) > _MOST_LINE:
            raise ProtocolError("the API server sent a line that is longer than any object", got=len(rest))


def parse_event(line: bytes, doing: str) -> tuple[ChangeType | None, Json]:
    """A watch's line: what has changed, and the object; a bookmark, which only says how far the watch is, has no type.

    Raises:
        ClusterRefusedError: the watch is over, with the server's reason; its status is 410 if all has to be listed anew.
        ProtocolError: it is no event.
    """
    try:
        event = json.loads(line)
    except ValueError as cause:
        raise ProtocolError("the API server sent a watch event that is no JSON") from cause
    found = event.get("object") if isinstance(event, dict) else None
    if not isinstance(found, dict):
        raise ProtocolError("the API server sent a watch event without an object")
    kind = event.get("type")
    if kind == "ERROR":
        code = found.get("code")
        raise refusal(code if isinstance(code, int) else GONE, json.dumps(found).encode(), doing)
    if kind == "BOOKMARK":
        return None, found
    if kind not in ("ADDED", "MODIFIED", "DELETED"):  # no set: a hostile server's type may be a list
        raise ProtocolError("the API server sent a watch event of an unknown type")
    return kind, found
