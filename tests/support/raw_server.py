"""A server that says byte for byte what it is told, as slowly as it is told: what no well-made HTTP server does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable


class RawServer:
    """Reads a request, says each part of ``says`` with ``pause_s`` between them, and closes the connection."""

    def __init__(self, says: Iterable[bytes], *, pause_s: float = 0.0) -> None:
        self.says, self.pause_s = list(says), pause_s
        self.asked = 0
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            self.asked += 1
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            try:
                peer.recv(65536)
                for part in self.says:
                    peer.sendall(part)
                    if self._over.wait(self.pause_s):
                        return
            except OSError:
                return

    def close(self) -> None:
        """End the server and what it is still saying."""
        self._over.set()
        self._socket.close()
