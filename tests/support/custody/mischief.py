"""A server with a key service's own certificate that answers anything: bytes as they are, late, drop by drop, or nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from support.custody.tls import Tls


class MischiefServer:
    """Reads a first piece of each request, then sends ``answer`` in ``parts`` pieces, each ``pause_s`` after the one before, and closes."""

    def __init__(self, tls: Tls, answer: bytes, *, pause_s: float = 0, parts: int = 1) -> None:
        self._answer, self._pause_s, self._parts = answer, pause_s, parts
        self._context = tls.for_server()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                threading.Thread(target=self._misbehave, args=(connection,), daemon=True).start()

    def _misbehave(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as channel:
            channel.recv(64 * 1024)
            step = max(1, len(self._answer) // self._parts)
            for start in range(0, max(1, len(self._answer)), step):
                self._ended.wait(self._pause_s)
                channel.sendall(self._answer[start : start + step])
            time.sleep(0.05)  # what was sent is read before the end of the connection is

    def stop(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
