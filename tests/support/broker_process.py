"""``confide broker serve`` as a service manager starts it: on a socket that it inherits, with somebody who listens to what it says.

For tests of starting, ending and restarting.  ``cli_broker`` is the command as an operator types it; ``several_brokers`` is the server
without the command line, several times on one store.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_START_S = 60.0


class Notices:
    """A service manager's notification socket, and what was said on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.words: list[str] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while word := self._sock.recv(4096):
            self.words += word.decode().splitlines()

    def count(self, word: str) -> int:
        return self.words.count(word)

    def wait_for(self, word: str, times: int = 1) -> None:
        end = time.monotonic() + _START_S
        while self.count(word) < times:
            assert time.monotonic() < end, f"{word} was not said: {self.words}"
            time.sleep(0.02)


class Manager:
    """Holds one listening socket, and starts brokers of one home folder on it."""

    def __init__(self, home: Path, *words: str, watchdog_s: float = 0.0) -> None:
        self.home = home
        self.words = words
        self.watchdog_s = watchdog_s
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.begun: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.sock.getsockname()[1]}"

    @property
    def log(self) -> str:
        return (self.home / "serve.log").read_text()

    def start(self, *more: str, fds: int = 1) -> tuple[subprocess.Popen[bytes], Notices]:
        """A broker that may not serve yet.  The shell in between knows its own process id, as the conventions want it."""
        notices = Notices(self.home / f"notify-{len(self.begun)}")
        command = [sys.executable, "-m", "confide.cli.main", "--home", str(self.home), "broker", "serve", *self.words, *more]
        shell = ["bash", "-c", 'exec 3<&"$1"; shift; LISTEN_PID=$$ exec "$@"', "bash", str(self.sock.fileno()), *command]
        environ = {**os.environ, "LISTEN_FDS": str(fds), "NOTIFY_SOCKET": str(notices.path)}
        if self.watchdog_s:
            environ["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1e6))
        with (self.home / "serve.log").open("ab") as log:
            inherit = (self.sock.fileno(),)
            self.begun.append(subprocess.Popen(shell, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, pass_fds=inherit))
        return self.begun[-1], notices

    def serve(self, *more: str, seconds: float = _START_S) -> tuple[subprocess.Popen[bytes], Notices]:
        """A broker that serves."""
        process, notices = self.start(*more)
        end = time.monotonic() + seconds
        while not notices.count("READY=1"):
            assert process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.02)
        return process, notices

    def close(self) -> None:
        for one in self.begun:
            with contextlib.suppress(ProcessLookupError):
                one.send_signal(signal.SIGKILL)
            one.wait(10)
        self.sock.close()


@contextlib.contextmanager
def manager(home: Path, *words: str, watchdog_s: float = 0.0) -> Iterator[Manager]:
    made = Manager(home, *words, watchdog_s=watchdog_s)
    try:
        yield made
    finally:
        made.close()
