"""Watches and logs that go on over lost connections, full minutes of silence and restarts of the API server.

Made by :class:`~confide.jobs.kubernetes.client.Cluster`.  Both are iterators that another thread may close.  They ask for short answers
again and again, so that a connection that is dead without saying so is noticed.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Generic, NamedTuple, Protocol, Self, TypeVar

from urllib3.exceptions import HTTPError

from confide.errors import ChannelTimeoutError, ClusterRefusedError, UnavailableError
from confide.jobs.kubernetes.api_errors import GONE, broken, status_of
from confide.jobs.kubernetes.changes import Change, Json, Known, Patience, lines_of, parse_event, version_of

_TURN_S: Final = 60
"""Seconds after which the server is to end its answer to a watch."""
_GRACE_S: Final = 15
"""Seconds of silence beyond that, after which the connection counts as dead."""
_PIECE: Final = 65536
_PAUSE_S: Final = 0.2
"""Between answers that end at once."""


class Body(Protocol):
    """An answer that comes bit by bit; urllib3's."""

    def stream(self, amt: int, decode_content: bool | None) -> Iterator[bytes]:  # noqa: FBT001  # urllib3's
        """What comes, in pieces of at most ``amt`` bytes."""

    def shutdown(self) -> None:
        """Whoever waits for the next piece waits no more."""

    def close(self) -> None:
        """Give up the connection."""


Item = TypeVar("Item")
Open = Callable[[Mapping[str, str], float], Body]
"""Ask with this query, and this many seconds of silence at most.

Raises:
    UnavailableError: there is no answer, or a refusal.
"""


class Following(Iterator[Item], Generic[Item]):
    """An iterator over what a server tells in many answers.  One thread iterates, any may close."""

    def __init__(self, ask: Open, *, what: str, server: str, patience_s: float) -> None:
        self._ask, self._what, self._server, self._patience = ask, what, server, Patience(patience_s)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._body: Body | None = None
        self._items = self._all()

    def __next__(self) -> Item:
        """The next; waits for it.

        Raises:
            UnavailableError: nothing has worked for as long as patience lasts, or the server refused at first.
        """
        return next(self._items)

    def close(self) -> None:
        """End it: whoever waits for the next gets no more."""
        self._over.set()
        with self._lock:
            body = self._body
        if body is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                body.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _all(self) -> Iterator[Item]:
        while not self._over.is_set():
            begun = time.monotonic()
            try:
                if (yield from self._turn()):
                    return
                self._patience.worked()
                wait: float | None = _PAUSE_S if time.monotonic() - begun < 1 else 0
            except UnavailableError as error:
                if self._over.is_set():
                    return
                wait = self._after(error)
                if wait is None:
                    raise
            self._over.wait(wait)

    def _after(self, error: UnavailableError) -> float | None:
        """Seconds to wait after ``error``, ``None`` to raise it.  A server that has just started may refuse whom it knows."""
        if isinstance(error, ClusterRefusedError) and not self._patience.has_worked:
            return None
        return self._patience.failed(time.monotonic())

    def _turn(self) -> Generator[Item, None, bool]:
        """One answer's items; whether that was all."""
        raise NotImplementedError

    def _lines(self, query: Mapping[str, str], silence_s: float) -> Iterator[bytes]:
        body = self._ask(query, silence_s)
        with self._lock:
            self._body = body
        try:
            if not self._over.is_set():
                yield from lines_of(body.stream(_PIECE, decode_content=False))
        except (HTTPError, OSError) as cause:
            raise broken(cause, f"go on reading {self._what}", self._server) from cause
        finally:
            with self._lock:
                self._body = None
            body.close()


class Watch(Following[Change]):
    """What there is of a kind, and then each change.  After a gap that the server cannot fill, the difference to what is there."""

    def __init__(self, ask: Open, listed: Callable[[], tuple[list[Json], str]], *, what: str, server: str, patience_s: float) -> None:
        super().__init__(ask, what=what, server=server, patience_s=patience_s)
        self._listed, self._known, self._version = listed, Known(), ""

    def _turn(self) -> Generator[Change, None, bool]:
        if not self._version:
            found, self._version = self._listed()
            self._patience.worked()
            yield from self._known.listed(found)
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_TURN_S), "resourceVersion": self._version}
        try:
            for line in self._lines(query, _TURN_S + _GRACE_S):
                kind, found_now = parse_event(line, f"go on reading {self._what}")
                self._patience.worked()
                self._version = version_of(found_now) or self._version
                if kind is not None:
                    yield self._known.changed(kind, found_now)
        except ClusterRefusedError as error:
            if status_of(error) != GONE:
                raise
            self._version = ""
        return False


class LogLine(NamedTuple):
    """One line that a container wrote; ``at_ns`` (since 1970, by the node's clock) is what to go on from, where there is one."""

    at_ns: int | None
    text: str


class Log(Following[LogLine]):
    """A container's lines, to the end that the API server tells: of the container, or of the server itself (see whether the pod runs)."""

    def __init__(self, ask: Open, *, what: str, server: str, patience_s: float, follow: bool, since_ns: int | None) -> None:
        super().__init__(ask, what=what, server=server, patience_s=patience_s)
        self._follow, self._since_ns = follow, since_ns

    def _turn(self) -> Generator[LogLine, None, bool]:
        query = {"timestamps": "true", "follow": str(self._follow).lower()}
        if self._since_ns is not None:
            query["sinceTime"] = datetime.fromtimestamp(self._since_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            for line in self._lines(query, _TURN_S + _GRACE_S):
                self._patience.worked()
                found = parse_log_line(line)
                if found.at_ns is not None and self._since_ns is not None and found.at_ns <= self._since_ns:
                    continue
                self._since_ns = found.at_ns or self._since_ns
                yield found
        except ChannelTimeoutError:
            if not self._follow:
                raise
            return False
        return True


_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")


def parse_log_line(line: bytes) -> LogLine:
    """A line with its RFC 3339 time before it; one that has none is a kubelet's own words."""
    text = line.decode("utf-8", "replace")
    found = _STAMP.match(text)
    if found is None:
        return LogLine(None, text)
    try:
        second = datetime.fromisoformat(found[1] + found[3])
    except ValueError:
        return LogLine(None, text)
    return LogLine(int(second.timestamp()) * 10**9 + int((found[2] or "0").ljust(9, "0")), text[found.end() :])
