"""The driver's word on how its nodes stand, for people: written by a thread of its own.  Knows nothing of clusters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from confide.canonical import canonical
from confide.errors import ConfideError

if TYPE_CHECKING:
    from confide.canonical import Json


class Board:
    """What was last said of each node.  Who tells never waits, and what comes at once is written at once.

    ``write`` may fail: the word is for people.
    """

    def __init__(self, write: Callable[[str], None], *, every_s: float = 1.0) -> None:
        self._write = write
        self._every_s = every_s
        self._said: dict[str, Json] = {}
        self._lock = threading.Lock()
        self._news, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, kind: str, node: str, code: object) -> None:
        """Take note of the last thing that happened to a node."""
        with self._lock:
            self._said[node] = {"type": kind} | ({} if code is None else {"code": str(code)})
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="confide-standing", daemon=True)
                self._thread.start()
        self._news.set()

    def close(self) -> None:
        """Write no more."""
        self._over.set()
        self._news.set()

    def _run(self) -> None:
        while self._news.wait() and not self._over.is_set():
            self._news.clear()
            with self._lock:
                text = canonical(self._said).decode()
            with suppress(ConfideError):  # the next news brings all of it
                self._write(text)
            self._over.wait(self._every_s)
