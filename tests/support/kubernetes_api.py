"""A namespace's API server in memory: objects with uids and owners, labels, watches, logs, and forwarded ports; pods run when told."""

from __future__ import annotations

import copy
import itertools
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

from confide.errors import ClusterRefusedError, UnavailableError

Json = dict[str, Any]


class Queue(Iterator[Any]):
    """A stream of values that any thread may close."""

    def __init__(self) -> None:
        self._values: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, value: Any) -> None:
        self._values.put(value)

    def close(self) -> None:
        self._values.put(None)

    def __next__(self) -> Any:
        value = self._values.get()
        if value is None:
            raise StopIteration
        if isinstance(value, Exception):
            raise value
        return value


class InMemoryApi:
    """See the module.  ``refuse`` maps a kind to the error that its creation meets.

    With ``keeps_ending_pods``, a pod that is deleted stays, as long as its kubelet would like: until it is deleted without grace.
    """

    server = "https://cluster.example:6443"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.refuse: dict[str, UnavailableError] = {}
        self.keeps_ending_pods = False
        self.calls: list[tuple[str, str, str]] = []
        self.logs: dict[str, Queue] = {}
        self.ports: dict[int, tuple[str, int]] = {}
        self._uids = itertools.count(1)
        self._watches: list[tuple[str, str, str, Queue]] = []
        self._lock = threading.RLock()

    def create(self, found: Json, /) -> Json:
        with self._lock:
            kind, name = found["kind"], found["metadata"]["name"]
            self.calls.append(("create", kind, name))
            if kind in self.refuse:
                raise self.refuse[kind]
            if (kind, name) in self.objects:
                raise ClusterRefusedError(f"{kind} {name} exists")
            made = copy.deepcopy(found)
            made["metadata"]["uid"] = f"uid-{next(self._uids)}"
            self.objects[kind, name] = made
            self._tell("ADDED", made)
            return copy.deepcopy(made)

    def get(self, kind: str, name: str) -> Json | None:
        with self._lock:
            return copy.deepcopy(self.objects.get((kind, name)))

    def list(self, kind: str, label_selector: str = "") -> list[Json]:
        with self._lock:
            return [copy.deepcopy(each) for (of, _), each in self.objects.items() if of == kind and _has(each, label_selector)]

    def patch(self, kind: str, name: str, patch: Json) -> Json:
        with self._lock:
            self.calls.append(("patch", kind, name))
            if (kind, name) not in self.objects:
                raise ClusterRefusedError(f"{kind} {name} is not there")
            _merge(self.objects[kind, name], patch)
            self._tell("MODIFIED", self.objects[kind, name])
            return copy.deepcopy(self.objects[kind, name])

    def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        with self._lock:
            self.calls.append(("delete", kind, name))
            if kind == "Pod" and self.keeps_ending_pods and grace_s != 0 and (kind, name) in self.objects:
                self.patch(kind, name, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
                return
            gone = self.objects.pop((kind, name), None)
            if gone is None:
                return
            self._tell("DELETED", gone)
            for (of, other), each in list(self.objects.items()):
                owners = each["metadata"].get("ownerReferences", [])
                if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners) and (of, other) in self.objects:
                    self.delete(of, other)

    def watch(self, kind: str, label_selector: str = "", *, field_selector: str = "") -> Queue:
        with self._lock:
            made = Queue()
            for each in self.list(kind, label_selector):
                if _is(each, field_selector):
                    made.put(("ADDED", each))
            self._watches.append((kind, label_selector, field_selector, made))
            return made

    def log_lines(self, pod: str, *, follow: bool, since_ns: int | None = None) -> Queue:
        assert follow
        with self._lock:
            return self.logs.setdefault(pod, Queue())

    def port_forward(self, pod: str, port: int) -> socket.socket:
        if port not in self.ports:
            raise ClusterRefusedError(f"nobody listens at {port} of {pod}")
        return socket.create_connection(self.ports[port])

    # --- what a kubelet and a scheduler say -----------------------------------------------------------------------------

    def set_status(self, pod: str, status: Json) -> None:
        with self._lock:
            self.objects["Pod", pod]["status"] = status
            self._tell("MODIFIED", self.objects["Pod", pod])

    def break_watches(self, error: UnavailableError) -> None:
        for _, _, _, made in self._watches:
            made.put(error)

    def names(self, kind: str) -> list[str]:
        with self._lock:
            return sorted(name for of, name in self.objects if of == kind)

    def _tell(self, change: str, found: Json) -> None:
        for kind, selector, fields, made in self._watches:
            if kind == found["kind"] and _has(found, selector) and _is(found, fields):
                made.put((change, copy.deepcopy(found)))


def _has(found: Json, selector: str) -> bool:
    labels = found["metadata"].get("labels", {})
    wanted = [part.partition("=") for part in selector.split(",") if part]
    return all(labels.get(name) == value for name, _, value in wanted)


def _is(found: Json, selector: str) -> bool:
    """Whether an event is about the object that a selector names."""
    return not selector or found.get("involvedObject", {}).get("name") == selector.removeprefix("involvedObject.name=")


def _merge(target: Json, patch: Json) -> None:
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = copy.deepcopy(value)
