"""Frames between client, driver and workers, and the supervised link that carries them.

A link reads on one thread, sends a heartbeat on another, and calls ``on_lost`` once when the peer is silent for too long, the
channel breaks or the peer sends what the protocol does not allow.  Who the peer is was settled before (``session``, job CA).
Format: ``docs/formats/session-protocol.md``, sections 5 to 7.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from confide.errors import ChannelError, ConfideError, ProtocolError, error_from_json

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.crypto.tls import Channel

_log = logging.getLogger(__name__)
PROTOCOL = "confide-session-v1"


class Kind(StrEnum):
    """Every frame's ``kind``: a closed list."""

    # before the link: session protocol (confide.node.session, confide.node.bootstrap)
    HELLO = "hello"
    CHALLENGE = "challenge"
    EVIDENCE = "evidence"
    VERDICT = "verdict"
    JOB = "job"
    ENGINE_KEY = "engine-key"
    CERTIFICATE = "certificate"
    ERROR = "error"
    # client -> driver
    BUNDLE = "bundle"
    WORKER_ENDED = "worker-ended"
    # driver -> client
    ACCEPTED = "accepted"
    EVENT = "event"
    START_WORKERS = "start-workers"
    RESULT = "result"
    # driver -> worker
    WELCOME = "welcome"
    START_ENGINE = "start-engine"
    # worker -> driver (and EVENT)
    READY = "ready"
    ENGINE_STARTED = "engine-started"
    ENGINE_EXITED = "engine-exited"
    FAILED = "failed"
    REPORT = "report"
    # driver -> worker, the answer to a report
    HEARD = "heard"
    # between attested nodes, and client and driver: re-attestation (confide.node.reattest)
    REATTEST = "reattest"
    REATTEST_EVIDENCE = "reattest-evidence"
    REATTEST_VERDICT = "reattest-verdict"
    # any direction
    STOP = "stop"
    HEARTBEAT = "heartbeat"


class EventType(StrEnum):
    """Types of ``event`` frames that the agents send; workloads add their own."""

    DRIVER_READY = "driver-ready"
    JOB_ACCEPTED = "job-accepted"
    WORKER_ACCEPTED = "worker-accepted"
    WORKER_REFUSED = "worker-refused"
    WORKER_STARTED = "worker-started"
    WORKER_FAILED = "worker-failed"
    WORKER_LOST = "worker-lost"
    WORKER_CUT_OFF = "worker-cut-off"
    PROGRAM_STARTED = "program-started"
    PROGRAM_ENDED = "program-ended"


def read(frame: Json, *kinds: Kind) -> Json:
    """Return ``frame`` if it is of one of ``kinds``.

    Raises:
        ConfideError: the frame is an ``error``: the leaf that the peer reports.
        ProtocolError: the frame is of another kind.
    """
    kind = frame.get("kind")
    if kind in kinds:
        return frame
    if kind == Kind.ERROR:
        raise error_from_json(frame.get("error"))
    raise ProtocolError("a peer sent a frame that is not allowed here", expected=", ".join(kinds), got=str(kind)[:80])


def field(frame: Json, name: str, kind: type[Any]) -> Any:
    """A required field of the given type (``bool`` is not an ``int`` here).

    Raises:
        ProtocolError: it is missing or of another type.
    """
    value = frame.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError("a frame lacks a field", kind=str(frame.get("kind"))[:80], field=name)
    return value


class Link:
    """A channel to an authenticated peer, supervised.  ``on_frame`` and ``on_lost`` are called on the link's own threads."""

    def __init__(
        self,
        channel: Channel,
        *,
        heartbeat_s: float,
        lost_after_s: float,
        on_frame: Callable[[Json], None],
        on_lost: Callable[[ConfideError], None],
    ) -> None:
        self._channel = channel
        self._heartbeat_s = heartbeat_s
        self._lost_after_s = lost_after_s
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._ending = threading.Lock()

    def start(self) -> None:
        """Begin to read and to send heartbeats."""
        self._channel.settimeout(self._lost_after_s)
        threading.Thread(target=self._read, name="confide-link-read", daemon=True).start()
        threading.Thread(target=self._beat, name="confide-link-beat", daemon=True).start()

    def send(self, kind: Kind, **fields: object) -> None:
        """Send one frame; waits until it is written.

        Raises:
            ChannelError: the link is closed or breaks while sending.
        """
        if self._closed.is_set():
            raise ChannelError("the link is closed")
        with self._sending:
            self._channel.send_frame({"kind": str(kind), **fields})

    def close(self) -> None:
        """End the link; ``on_lost`` is not called for an end that this side wanted."""
        if self._end():
            self._channel.close()

    def _end(self) -> bool:
        with self._ending:
            first = not self._closed.is_set()
            self._closed.set()
        return first

    def _lose(self, error: ConfideError) -> None:
        if self._end():
            self._channel.close()
            self._on_lost(error)

    def _read(self) -> None:
        try:
            while not self._closed.is_set():
                frame = self._channel.recv_frame()
                if frame.get("kind") != Kind.HEARTBEAT:
                    self._on_frame(frame)
        except ConfideError as error:
            self._lose(error)
        except Exception:  # noqa: BLE001  outermost edge of this thread: nothing may end it silently
            _log.exception("a link's reader failed")
            self._lose(ProtocolError("a frame could not be handled"))

    def _beat(self) -> None:
        while not self._closed.wait(self._heartbeat_s):
            try:
                self.send(Kind.HEARTBEAT)
            except ConfideError as error:
                self._lose(error)
