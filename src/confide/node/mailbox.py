"""One thread that decides, fed by others: every change of an agent's state runs on the thread that pumps its mailbox.

Letters are functions; one that raises ends the pump, and with it the run.  Knows nothing of nodes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from confide.errors import ConfideError, UnavailableError

_log = logging.getLogger(__name__)
T = TypeVar("T")
_TICK_S = 0.25


class Mailbox:
    """Letters for one thread.  ``post`` may be called from anywhere, signal handlers included."""

    def __init__(self) -> None:
        self._letters: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unanswered: set[Future[Any]] = set()
        self._closed = False

    def post(self, letter: Callable[[], object]) -> None:
        """Have ``letter`` run on the pumping thread; what it raises ends the pump."""
        self._letters.put(letter)

    def post_error(self, error: ConfideError) -> None:
        """End the pump with ``error``."""

        def letter() -> None:
            raise error

        self.post(letter)

    def ask(self, question: Callable[[], T]) -> T:
        """Run ``question`` on the pumping thread and return its answer, or raise what it raised, here and only here.

        Raises:
            UnavailableError: nobody pumps any more.
        """
        answer: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise _ending()
            self._unanswered.add(answer)
        self.post(lambda: self._answer(question, answer))
        return answer.result()

    def close(self) -> None:
        """Leave every question unanswered from now on.  Called by the pumping thread when it has pumped for the last time."""
        with self._lock:
            self._closed = True
            left, self._unanswered = self._unanswered, set()
        for answer in left:
            answer.set_exception(_ending())

    def _answer(self, question: Callable[[], T], answer: Future[T]) -> None:
        with self._lock:
            self._unanswered.discard(answer)
        try:
            answer.set_result(question())
        except ConfideError as error:
            answer.set_exception(error)
        except BaseException as error:
            answer.set_exception(error)
            raise

    def background(self, work: Callable[[], T], then: Callable[[T], object], *, name: str) -> None:
        """Run ``work`` on a thread of its own and ``then``, with its value, on the pumping thread; a failure ends the pump."""

        def body() -> None:
            try:
                value = work()
            except ConfideError as error:
                self.post_error(error)
            except Exception as error:  # noqa: BLE001  outermost edge of this thread
                _log.exception("%s failed", name)
                self.post_error(UnavailableError(f"{name} failed inside the node: {type(error).__name__}", hint="see the node's log"))
            else:
                self.post(lambda: then(value))

        threading.Thread(target=body, name=f"confide-{name}", daemon=True).start()

    def pump(self, until: Callable[[], bool], *, timeout_s: float | None = None, tick: Callable[[], object] | None = None) -> bool:
        """Run letters until ``until()`` holds; whether it did before the time was over.  ``tick`` runs a few times a second."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not until():
            left = _TICK_S if end is None else min(_TICK_S, end - time.monotonic())
            if left <= 0:
                return False
            self._read_one(left)
            if tick is not None:
                tick()
        return True

    def _read_one(self, wait_s: float) -> None:
        try:
            letter = self._letters.get(timeout=wait_s)
        except queue.Empty:
            return
        letter()


def _ending() -> UnavailableError:
    return UnavailableError("the node is ending")
