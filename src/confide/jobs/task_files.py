"""A worker's account of the files that its executor writes into outputs: told to the driver before Spark counts a task as finished.

Storage could otherwise delete a file between the task's commit and the driver's, or bring back one of a task that failed, and nobody
would miss or notice it.  Executors announce renames and deletions (``EncryptedOnlyFileSystem``, ``ConfideFileSystem``) before they do them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from confide.jobs.ledger import PENDING, FileLedger
from confide.jobs.reports import files_deleted, files_written
from confide.node.control import field

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.node.local_socket import Operation
    from confide.node.workload import Tell


class TaskFiles:
    """The agent's operations for an executor's files.  ``write_key`` is the keyring's: every file of an output begins with its key."""

    def __init__(self, write_key: Operation, tell: Tell) -> None:
        self._write_key = write_key
        self._tell = tell
        self._lock = threading.Lock()
        self._unfinished = FileLedger()
        self._in_place: set[str] = set()

    def operations(self) -> Mapping[str, Operation]:
        """``write-key``, ``file-renamed`` (``from``, ``to``) and ``file-deleted`` (``path``); the driver has heard when they answer."""
        unknown: Operation = lambda _: {"names": []}  # noqa: E731 - only the driver knows all files, and it alone reads a query's log
        return {"write-key": self._begin, "file-renamed": self._renamed, "file-deleted": self._deleted, "output-listing": unknown}

    def _begin(self, request: Json) -> Json:
        answer = self._write_key(request)
        path = field(request, "path", str)
        if PENDING in PurePosixPath(path).parts:
            with self._lock:
                self._unfinished.add([path])
        else:
            with self._lock:
                self._in_place.add(path)
            self._tell(files_written([path]))  # written in its place, without a committer
        return answer

    def _renamed(self, request: Json) -> Json:
        source, target = field(request, "from", str), field(request, "to", str)
        with self._lock:
            moved = self._unfinished.take(source, target)
            known = source in self._in_place
            self._in_place.discard(source)
        if moved:
            self._tell(files_written(moved))
        elif known:  # told of when it was begun: the state of a streaming query, whole now
            self._tell(files_written([target]))
            self._tell(files_deleted(source))
        return {}

    def _deleted(self, request: Json) -> Json:
        path = field(request, "path", str)
        with self._lock:
            self._unfinished.remove(path)
            self._in_place.discard(path)
        self._tell(files_deleted(path))
        return {}
