"""A broker as a process that runs for years: signals, its certificate's renewal, the service manager's watchdog, an end in order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from confide.cli.output import Story
from confide.errors import ConfideError
from confide.keys.garbage import collect_rarely

if TYPE_CHECKING:
    from types import FrameType

    from confide.cli.service_manager import ServiceManager
    from confide.crypto.identity import Identity
    from confide.keys.server import BrokerServer

RENEW_EVERY_S: Final = 3600.0
"""How often the certificate is looked at: it is made anew 30 days before its end, whether or not anybody restarts the broker."""
STUCK_S: Final = 10.0
"""A server that has not looked for connections for so long is stuck: the service manager is not told that it is alive."""
_TICK_S: Final = 0.5


class BrokerProcess:
    """One server, the service manager that started it, and how its certificate is made."""

    def __init__(self, server: BrokerServer, manager: ServiceManager, identity: Callable[[], Identity], story: Story) -> None:
        self._server = server
        self._manager = manager
        self._identity = identity
        self._story = story
        self._reload = False  # set by a signal handler, which must not wait for an Event's lock
        self._ended = threading.Event()

    def serve(self, drain_s: float) -> None:
        """Serve until SIGTERM or Ctrl-C; requests in hand then have ``drain_s`` seconds, or until the second such signal."""
        collect_rarely()
        attendant = threading.Thread(target=self._attend, name="broker-attendant", daemon=True)
        attendant.start()
        try:
            self._manager.ready(f"serving on {self._server.url}")
            self._server.serve_forever()
        finally:
            self._manager.stopping()
            cut = self._server.stop(drain_s)
            self._ended.set()
            attendant.join()
        if cut:
            self._story.say(f"connections that had to be cut off: {cut}")

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While the block runs: Ctrl-C and SIGTERM end the server, SIGHUP has its certificate looked at."""
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            signal.SIGINT: lambda _number, _frame: self._server.end(),
            signal.SIGTERM: lambda _number, _frame: self._server.end(),
            signal.SIGHUP: self._ask_to_reload,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            self._server.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask_to_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload = True

    def _attend(self) -> None:
        renew_at = time.monotonic() + RENEW_EVERY_S
        alive_at = time.monotonic()
        while not self._ended.wait(_TICK_S):
            now = time.monotonic()
            if self._reload or now >= renew_at:
                self._reload = False
                self._renew()
                renew_at = now + RENEW_EVERY_S
            if self._manager.watchdog_s and now >= alive_at and now - self._server.looked < STUCK_S:
                self._manager.alive()
                alive_at = now + self._manager.watchdog_s / 2  # sd_watchdog_enabled(3) recommends half of it

    def _renew(self) -> None:
        self._manager.reloading()
        try:
            self._server.renew(self._identity())
        except ConfideError as error:  # it goes on with the one that it has
            self._story.say(f"the certificate cannot be renewed: {error.message}", mark="!!")
        self._manager.ready(f"serving on {self._server.url}")
