"""Threads that serve connections, one after the other.

One is kept for a while when its connection has ended: to make a thread, and wait until it has begun, takes longer than to wake one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from confide.crypto.http import LastCall
from confide.crypto.tls import Channel

_KEPT_S: Final = 5.0
"""How long a thread waits for its next connection, in seconds."""


class ServingThreads:
    """As many threads as connections are served at once.  Safe to use from several threads."""

    def __init__(self, serve: Callable[[Channel, LastCall], None], *, kept_s: float = _KEPT_S) -> None:
        """A thread in which ``serve`` raises ends, and takes none with it."""
        self._serve = serve
        self._kept_s = kept_s
        self._lock = threading.Lock()
        self._coming: SimpleQueue[tuple[Channel, LastCall] | None] = SimpleQueue()
        self._free = 0
        """Threads that wait and that no connection in ``_coming`` is for."""
        self._ended = False

    def take(self, channel: Channel, last_call: LastCall) -> None:
        """Have a thread serve this connection, now."""
        with self._lock:
            waits = self._free > 0
            self._free -= waits
        if waits:
            self._coming.put((channel, last_call))
        else:
            threading.Thread(target=self._run, args=(channel, last_call), name="broker-connection", daemon=True).start()

    def end(self) -> None:
        """Let threads go that wait, and others once their connection has ended."""
        with self._lock:
            self._ended, free, self._free = True, self._free, 0
        for _ in range(free):
            self._coming.put(None)

    def _run(self, channel: Channel, last_call: LastCall) -> None:
        served: tuple[Channel, LastCall] | None = (channel, last_call)
        del channel, last_call
        while served is not None:
            self._serve(*served)
            served = None  # a connection that has ended is not kept
            with self._lock:
                if self._ended:
                    return
                self._free += 1
            served = self._next()

    def _next(self) -> tuple[Channel, LastCall] | None:
        try:
            return self._coming.get(timeout=self._kept_s)
        except Empty:
            with self._lock:
                if self._free:
                    self._free -= 1
                    return None
        return self._coming.get()  # meanwhile one was promised to this thread
