"""What a service manager (systemd, or anything that keeps its conventions) gives a service and wants to hear of it.

Sockets: sd_listen_fds(3).  Words: sd_notify(3).  Watchdog: sd_watchdog_enabled(3).  Without one, all of this does nothing.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import CLOCK_MONOTONIC, clock_gettime_ns
from typing import Final

from confide.errors import UsageError

_FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START."""
_WAITS_S: Final = 60.0
"""How much longer each word that the service still waits lets its start take: one that is said no more is ended so much later."""


def inherited_socket(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The one listening TCP socket that this process was started with, if there is one.  Child processes do not inherit it.

    Raises:
        UsageError: there are several, or it is another kind of socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return None
    if count != "1":
        raise UsageError("a broker listens on one socket", hint="its socket unit has one ListenStream=", got=count[:10])
    try:
        os.set_inheritable(_FIRST_FD, False)  # noqa: FBT003 -- the standard library's
        found = socket.socket(fileno=_FIRST_FD)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as cause:
        raise UsageError(f"the socket that the broker was started with cannot be used: {cause.strerror}") from cause
    if found.family not in {socket.AF_INET, socket.AF_INET6} or found.type != socket.SOCK_STREAM or not listens:
        raise UsageError("the socket that the broker was started with is not a listening TCP socket")
    return found


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Whom to tell, and how often it wants to hear that the service is alive (seconds; 0: not at all)."""

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """The one that started this process.  Child processes are not told of it."""
        address, every, pid = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        ours = every.isdecimal() and pid in {"", str(os.getpid())}
        return cls(address, int(every) / 1e6 if ours else 0.0)

    def ready(self, what: str) -> None:
        """The service serves (again)."""
        self._tell("READY=1", f"STATUS={what}")

    @contextmanager
    def waits(self, what: Callable[[], str], *, every_s: float = _WAITS_S / 6) -> Iterator[None]:
        """While the block runs, the service waits for others before it can begin, however long its start may take: it says for what."""
        begun = threading.Event()

        def tell() -> None:
            while True:
                self._tell(f"EXTEND_TIMEOUT_USEC={int(_WAITS_S * 1e6)}", f"STATUS={what()}")
                if begun.wait(every_s):
                    return

        teller = threading.Thread(target=tell, name="service-manager", daemon=True)
        teller.start()
        try:
            yield
        finally:
            begun.set()
            teller.join()

    def reloading(self) -> None:
        """What can be loaded anew is being loaded; :meth:`ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._tell("STOPPING=1", "STATUS=requests in hand are answered")

    def alive(self) -> None:
        """The service is not stuck."""
        self._tell("WATCHDOG=1")

    def _tell(self, *words: str) -> None:
        if self.address[:1] not in {"/", "@"}:
            return
        place = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:  # a manager that is gone ends no service
            sock.settimeout(1.0)
            # A line is a word: what others have said, and stands in a status, makes none.
            sock.sendto("\n".join(" ".join(word.splitlines()) for word in words).encode(), place)
