"""A port of this machine that leads to a pod's, through the API server and the kubelet: ciphertext of the session passes, nothing else."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from confide.errors import ConfideError

if TYPE_CHECKING:
    from confide.jobs.kubernetes.api import Api, Stream

_log = logging.getLogger(__name__)
_PIECE = 64 * 1024
HOST = "127.0.0.1"


class Forward:
    """Listens on loopback until :meth:`close`; each connection is one of its own to the pod."""

    def __init__(self, api: Api, pod: str, port: int) -> None:
        self._api = api
        self._pod = pod
        self._to = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="confide-forward", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are open end with their ends."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(here,), name="confide-forward-peer", daemon=True).start()

    def _serve(self, here: socket.socket) -> None:
        with here:
            try:
                there = self._api.port_forward(self._pod, self._to)
            except ConfideError as error:
                _log.warning("the pod's port cannot be reached: %s: %s", error.code, error.message)
                return
            threading.Thread(target=_copy, args=(here, there), name="confide-forward-up", daemon=True).start()
            _copy(there, here)


def _copy(source: Stream, target: Stream) -> None:
    """Copy until either ends, then end both."""
    with suppress(OSError, ConfideError):
        while data := source.recv(_PIECE):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError, ConfideError):
            if isinstance(end, socket.socket):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
