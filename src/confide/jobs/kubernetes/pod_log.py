"""A copy of a pod's log in the run's folder, as the API server gives it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from confide.errors import ConfideError
from confide.node.child import open_log

if TYPE_CHECKING:
    from confide.jobs.kubernetes.api import Api, Lines

_log = logging.getLogger(__name__)
_CLOSE_S = 2.0
_AGAIN_S = 0.5
"""How soon a log that the server ended while its pod went on is asked for again."""


class PodLog:
    """Copies from its making on, until the pod is ``over`` and its log has ended, or :meth:`finish`."""

    def __init__(self, api: Api, pod: str, path: Path, *, over: Callable[[], bool]) -> None:
        self._api = api
        self._pod = pod
        self._path = path
        self._is_over = over
        self._finished = threading.Event()
        self._lines: Lines | None = None
        self._thread = threading.Thread(target=self._copy, name="confide-pod-log", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether nothing more comes than what the pod has written."""
        return self._is_over()

    def _copy(self) -> None:
        last: int | None = None
        try:
            with open_log(self._path) as file:
                while not self._finished.is_set():
                    over = self.over
                    last = self._copy_from(last, file)
                    if over:
                        return
                    self._finished.wait(_AGAIN_S)
        except (ConfideError, OSError) as error:
            if not (self.over or self._finished.is_set()):  # a pod that is over takes its log along
                _log.warning("the log of pod %s cannot be kept: %s", self._pod, error)

    def _copy_from(self, last: int | None, file: IO[bytes]) -> int | None:
        lines = self._lines = self._api.log_lines(self._pod, follow=True, since_ns=last)
        for line in lines:
            file.write(line.text.encode("utf-8", "surrogateescape") + b"\n")
            file.flush()
            last = line.at_ns or last
        return last

    def finish(self, wait_s: float) -> None:
        """Take what is still on its way, for at most so long, and no more."""
        self._thread.join(wait_s)
        self._finished.set()
        if self._lines is not None:
            self._lines.close()
        self._thread.join(_CLOSE_S)
