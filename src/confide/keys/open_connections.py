"""The connections that a server serves now: counted, and ended in order or at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from confide.crypto.http import LastCall
from confide.crypto.tls import Channel

JOIN_S: Final = 3.0
"""How long is waited until connections that were cut off are done with, in seconds."""
_LOOK_S: Final = 0.05


class OpenConnections:
    """At most ``limit`` connections.  Safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Condition(threading.Lock())
        self._served: dict[Channel, LastCall] = {}
        self._inside = threading.local()
        self._finishing = self._over = False

    def __len__(self) -> int:
        return len(self._served)

    def add(self, channel: Channel, last_call: LastCall) -> bool:
        """Take note of a connection; whether there was room for it.

        One that was accepted just before the end has one request, as those that were there; after all were cut off, there is room for none.
        """
        with self._lock:
            if self._over or len(self._served) >= self._limit:
                return False
            self._served[channel] = last_call
            if self._finishing:
                last_call.announce()
        return True

    def begin(self, channel: Channel) -> None:
        """This thread serves that connection from now on."""
        self._inside.channel = channel

    def remove(self, channel: Channel) -> None:
        """A connection is done with."""
        self._inside.channel = None
        with self._lock:
            self._served.pop(channel, None)
            self._lock.notify_all()

    def finish(self, within: float, hurry: Callable[[], bool]) -> None:
        """Let each end after the request in hand; return when all have, after ``within`` seconds, or when ``hurry()`` says so."""
        until = time.monotonic() + within
        with self._lock:
            self._finishing, found = True, dict(self._served)
        for last_call in found.values():
            last_call.announce()
        while self._served and time.monotonic() < until and not hurry():
            time.sleep(_LOOK_S)

    def cut(self) -> int:
        """Close all at once, and wait a little until they are done with; how many there were."""
        with self._lock:
            self._over, found = True, list(self._served)
        for channel in found:
            channel.close()
        others = {*found} - {getattr(self._inside, "channel", None)}
        with self._lock:
            self._lock.wait_for(lambda: others.isdisjoint(self._served), JOIN_S)
        return len(found)
