"""A server that says byte for byte what it is told, as slowly as it is told: what no well-made HTTP server does."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterable
from typing import Final

_PIECE: Final = 4096
_GONE: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class RawServer:
    """Reads a request, says each part of ``says`` with ``pause_s`` between them, and closes the connection.

    ``repeat``: answers the next request of the same connection, too.  ``asked`` counts connections; ``cut`` says that a peer closed one
    while it was spoken to.  ``tls``: over HTTPS, with the certificate of ``localhost`` that this has.
    """

    def __init__(self, says: Iterable[bytes], *, pause_s: float = 0.0, repeat: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self.says, self.pause_s, self.repeat, self.tls = list(says), pause_s, repeat, tls
        self.asked = 0
        self.cut = threading.Event()
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            self.asked += 1
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, accepted: socket.socket) -> None:
        try:
            peer = self.tls.wrap_socket(accepted, server_side=True) if self.tls else accepted
        except OSError:
            self.cut.set()
            return
        with peer:
            try:
                while peer.recv(65536):
                    for part in self.says:
                        _say(peer, part)
                        if self._over.wait(self.pause_s):
                            return
                    if not self.repeat:
                        return
            except OSError:
                self.cut.set()

    def close(self) -> None:
        """End the server and what it is still saying."""
        self._over.set()
        self._socket.close()


def _say(peer: socket.socket, data: bytes) -> None:
    """Send it unless the peer is gone: one that was cut with its window full would be written to for a minute, until its kernel says so."""
    ready = select.poll()
    ready.register(peer, select.POLLOUT | _GONE)
    for start in range(0, len(data), _PIECE):
        if any(event & _GONE for _, event in ready.poll()):
            raise ConnectionResetError
        peer.sendall(data[start : start + _PIECE])
