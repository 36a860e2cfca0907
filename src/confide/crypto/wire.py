"""One TCP connection as bytes with deadlines: no call waits longer than it was told to, and closing wakes every waiter.

Knows nothing of TLS.  Sockets are non-blocking and waited for with ``poll`` (``select`` fails above 1024 descriptors).
A waiter polls a descriptor *number*, so the descriptor is only closed when no call is inside: see :meth:`Wire.close`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from dataclasses import dataclass
from threading import Lock

from confide.errors import ChannelError, ChannelTimeoutError

READ_BYTES = 64 * 1024
_LEAVE_S = 2.0
"""How long :meth:`Wire.close` waits for calls on a connection that was shut down; they return at once."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which a call must have ended."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """``seconds`` from now."""
        return cls(time.monotonic() + seconds, seconds)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        left = self.at - time.monotonic()
        return left if left > 0 else 0.0

    def expired(self, doing: str) -> ChannelTimeoutError:
        """The error that says so."""
        return ChannelTimeoutError(f"timed out {doing}", timeout_s=self.seconds)


class Wire:
    """A connected stream socket.  One thread may read while another writes; any thread may close."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        with contextlib.suppress(OSError):  # not TCP (a socket pair in tests), or already reset by the peer
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.peer_address = _address_of(sock)
        self._sock = sock
        self._closed = False
        self._reading = Lock()
        self._writing = Lock()

    @property
    def closed(self) -> bool:
        """Whether this side has shut the connection down."""
        return self._closed

    @property
    def readable(self) -> bool:
        """Whether :meth:`read` would return or raise at once."""
        poller = select.poll()
        try:
            poller.register(self._sock, select.POLLIN)
        except ValueError:  # its descriptor is free already
            return True
        return self._closed or bool(poller.poll(0))

    def read(self, deadline: Deadline) -> bytes:
        """The next bytes, at most 64 KiB; ``b""`` when the peer has ended its side.

        Raises:
            ChannelError: the connection broke or was closed here.
            ChannelTimeoutError: nothing came in time.
        """
        with self._reading:
            while True:
                self._check_open()
                if not deadline.remaining:  # also when bytes keep coming: a peer that dribbles must not stretch a call
                    raise deadline.expired("reading from the peer")
                self._wait(select.POLLIN, deadline, "waiting for the peer")
                self._check_open()  # what woke us may have been our own shut()
                try:
                    data = self._sock.recv(READ_BYTES)
                except BlockingIOError:  # the kernel thought better of it
                    continue
                except OSError as cause:
                    self._check_open()  # what the peer sent after our own shut() reads as a reset,
                    raise ChannelError(f"the connection broke: {cause.strerror}") from cause
                if not data:
                    self._check_open()  # and shut() itself as an end
                return data

    def write(self, data: bytes, deadline: Deadline) -> int:
        """Send some of ``data``; returns how many bytes went out, at least one.

        Raises:
            ChannelError: the connection broke or was closed here.
            ChannelTimeoutError: the peer did not take any byte in time.
        """
        with self._writing:
            while True:
                self._check_open()
                if not deadline.remaining:
                    raise deadline.expired("sending to the peer")
                try:
                    return self._sock.send(data)
                except BlockingIOError:
                    self._wait(select.POLLOUT, deadline, "sending to the peer")
                except OSError as cause:
                    raise ChannelError(f"the connection broke: {cause.strerror}") from cause

    def write_now(self, data: bytes) -> int:
        """Send what goes out without waiting; 0 if nothing does, for whatever reason."""
        if not self._writing.acquire(blocking=False):
            return 0
        try:
            return 0 if self._closed else self._sock.send(data)
        except OSError:
            return 0
        finally:
            self._writing.release()

    def shut(self) -> None:
        """End both directions and wake every call that waits; each then raises.  The descriptor stays until :meth:`close`."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Shut down, and free the descriptor once no call uses it.

        A descriptor number that was freed under a waiting call could be given to another connection, whose bytes that call
        would then take.  If a call does not leave in time the descriptor is left to the garbage collector.
        """
        self.shut()
        if self._reading.acquire(timeout=_LEAVE_S):
            try:
                if self._writing.acquire(timeout=_LEAVE_S):
                    try:
                        self._sock.close()
                    finally:
                        self._writing.release()
            finally:
                self._reading.release()

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelError("this channel is closed")

    def _wait(self, event: int, deadline: Deadline, doing: str) -> None:
        poller = select.poll()
        poller.register(self._sock.fileno(), event)
        if not poller.poll(deadline.remaining * 1000):
            raise deadline.expired(doing)


def _address_of(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except (OSError, ValueError):  # reset already, or not an internet socket
        return "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
