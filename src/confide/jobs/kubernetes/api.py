"""What the backend, a driver and the doctor use of an API server, in plain JSON (:class:`~confide.jobs.kubernetes.client.Cluster`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from confide.canonical import Json


class Changes(Iterator[tuple[str, Json]], Protocol):
    """What changed, ``ADDED``, ``MODIFIED`` or ``DELETED``, and the object.  One thread iterates, any may close."""

    def close(self) -> None:
        """No more."""
        ...


class Line(Protocol):
    """A line of a log; ``at_ns``: when it was written, by the node's clock, in nanoseconds since 1970."""

    @property
    def at_ns(self) -> int | None:
        """When it was written."""
        ...

    @property
    def text(self) -> str:
        """The line without its end."""
        ...


class Lines(Iterator[Line], Protocol):
    """Lines of a log.  One thread iterates, any may close."""

    def close(self) -> None:
        """No more."""
        ...


class Stream(Protocol):
    """A forwarded connection."""

    def recv(self, size: int, /) -> bytes:
        """Some bytes; none at the end."""
        ...

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Api(Protocol):
    """Objects of one namespace.  Everything raises a leaf of ``UnavailableError`` when the server refuses or does not answer.

    ``server``: its address, a URL.
    """

    server: str

    def create(self, found: Json, /) -> Json:
        """Create an object; as it is now."""
        ...

    def get(self, kind: str, name: str) -> Json | None:
        """One object, if there is one of that name."""
        ...

    def list(self, kind: str, label_selector: str = "") -> list[Json]:
        """All objects of a kind with these labels."""
        ...

    def patch(self, kind: str, name: str, patch: Json) -> Json:
        """Merge a patch (RFC 7386) into an object; as it is now."""
        ...

    def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        """Delete an object, if there is one of that name, and in time all that it owns.

        ``grace_s``: how long a pod's processes may take to end, if not as the pod says; 0: the pod has ended.
        """
        ...

    def watch(self, kind: str, label_selector: str = "", *, field_selector: str = "") -> Changes:
        """All objects of a kind with these labels and fields, and what becomes of them."""
        ...

    def log_lines(self, pod: str, *, follow: bool, since_ns: int | None = None) -> Lines:
        """The lines of a pod's log after ``since_ns``, and with ``follow`` those that come."""
        ...

    def port_forward(self, pod: str, port: int) -> Stream:
        """A connection to a port of a pod."""
        ...
