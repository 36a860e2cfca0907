"""The files that the driver's own JVM writes into outputs and reads back: logs and checkpoints of streaming queries.

Tables and files of a batch are the executors'.  A program that does not stream never asks, and then the driver's JVM has no key at all;
keys of inputs it is never given.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from confide.node.control import field

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.jobs.broker_keys import BrokerKeys
    from confide.jobs.outputs import Outputs
    from confide.node.local_socket import Operation


class DriverFiles:
    """The agent's operations for the driver's files.  Safe to use from several threads."""

    def __init__(self, keys: BrokerKeys, outputs: Outputs, names: list[str]) -> None:
        """``names``: the job's outputs."""
        self._keys = keys
        self._outputs = outputs
        self._unopened = names
        self._lock = threading.Lock()

    def operations(self) -> Mapping[str, Operation]:
        """What the driver's JVM and the program's session may ask for.

        ``read-key`` and ``write-key`` as the keyring's, of outputs; ``file-renamed`` (``from``, ``to``); ``file-deleted`` (``path``);
        ``abandon``: the save into the output ``name`` has failed.
        ``output-listing`` answers the ``names`` of files in a folder (``path``) of an output as nodes made them: for logs of queries.
        """
        return {
            "read-key": self._read,
            "write-key": self._write,
            "file-renamed": self._renamed,
            "file-deleted": self._deleted,
            "abandon": self._abandoned,
            "output-listing": self._listing,
        }

    def _read(self, request: Json) -> Json:
        self._open()
        return self._keys.operations()["read-key"](request)

    def _write(self, request: Json) -> Json:
        self._open()
        answer = self._keys.operations()["write-key"](request)
        self._outputs.written([field(request, "path", str)])
        return answer

    def _renamed(self, request: Json) -> Json:
        self._outputs.renamed(field(request, "from", str), field(request, "to", str))
        return {}

    def _deleted(self, request: Json) -> Json:
        self._outputs.deleted(field(request, "path", str))
        return {}

    def _abandoned(self, request: Json) -> Json:
        self._outputs.abandon(field(request, "name", str))
        return {}

    def _listing(self, request: Json) -> Json:
        return {"names": self._outputs.names(field(request, "path", str))}

    def _open(self) -> None:
        with self._lock:
            while self._unopened:
                self._keys.open_output(self._unopened[0])
                self._unopened = self._unopened[1:]
