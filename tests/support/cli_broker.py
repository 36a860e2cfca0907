"""``confide broker serve`` as an operator types it: a process of its own, with its home folder and whatever options a test gives it.

For tests of what else is typed beside it.  ``broker_process`` starts it as a service manager does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


class Broker:
    """A broker's process, and what it said."""

    def __init__(self, home: Path, *words: str | Path) -> None:
        self.home = home
        command = [sys.executable, "-m", "confide.cli.main", "--home", str(home), "broker", "serve", "--listen", "127.0.0.1:0"]
        self.log = home / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *map(str, words)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for(self, name: str) -> None:
        for _ in range(600):
            if (self.home / "broker" / name).exists():
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    @property
    def serves(self) -> bool:
        return (self.home / "broker" / "address.json").exists()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(20)
