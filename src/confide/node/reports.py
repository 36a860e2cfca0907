"""A worker's reports to its driver: each is answered, so that whoever reported knows that the driver has taken note."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

from confide.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from confide.canonical import Json


class Reports:
    """Reports that are under way.  ``send(seq, report)`` puts one on the wire.  Safe to use from several threads."""

    def __init__(self, send: Callable[[int, Json], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, threading.Event] = {}
        self._closed = False

    def tell(self, report: Json) -> None:
        """Send ``report`` and wait for its answer.

        Raises:
            ChannelError: the driver is gone, before or while it was waited for.
        """
        answered = threading.Event()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = answered
        try:
            if not self._closed:
                self._send(number, report)
                answered.wait()
        finally:
            with self._lock:
                self._waiting.pop(number)
        if self._closed:
            raise ChannelError("the driver cannot be told any more")

    def heard(self, number: int) -> None:
        """The driver's answer has come."""
        with self._lock:
            answered = self._waiting.get(number)
        if answered is not None:
            answered.set()

    def close(self) -> None:
        """The driver is gone: whoever waits learns it, and so does whoever reports from now on."""
        self._closed = True
        with self._lock:
            waiting = list(self._waiting.values())
        for answered in waiting:
            answered.set()
