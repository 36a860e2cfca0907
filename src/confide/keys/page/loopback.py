"""Where the companion listens: 127.0.0.1, plain HTTP, for as long as somebody looks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from confide.crypto.http import serve_connection
from confide.crypto.http_messages import Request, Response
from confide.errors import ChannelError, ChannelTimeoutError

HOST: Final = "127.0.0.1"
IDLE_S: Final = 30 * 60.0
"""The companion ends when nothing was asked for so long."""
_MOST: Final = 16
"""Connections at once; a browser opens six."""
_KEPT_S: Final = 15.0
_ACCEPT_S: Final = 0.5


class Plain:
    """A TCP connection as ``crypto.http`` wants it."""

    def __init__(self, sock: socket.socket, peer_address: str) -> None:
        self._sock = sock
        self.peer_address = peer_address

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send all of ``data``."""
        try:
            self._sock.settimeout(timeout)
            self._sock.sendall(data)
        except OSError as cause:
            raise ChannelError("the browser has gone") from cause

    def recv(self, n: int, *, timeout: float | None = None) -> bytes:
        """The next bytes, at most ``n``; none at the end."""
        try:
            self._sock.settimeout(timeout)
            return self._sock.recv(n)
        except TimeoutError as cause:
            raise ChannelTimeoutError("the browser says nothing") from cause
        except OSError as cause:
            raise ChannelError("the browser has gone") from cause

    def close(self) -> None:
        """End it."""
        self._sock.close()


class Loopback:
    """A listener on 127.0.0.1.  ``host`` is what a browser must call it."""

    def __init__(self, port: int = 0, *, idle_s: float = IDLE_S) -> None:
        """Listen; port 0 takes a free one.

        Raises:
            ChannelError: the port is taken.
        """
        try:
            self._sock = socket.create_server((HOST, port))
        except (OSError, OverflowError) as cause:
            raise ChannelError(f"cannot listen on {HOST}:{port}", hint="choose another --port", port=port) from cause
        self._sock.settimeout(_ACCEPT_S)
        self.host = f"{HOST}:{self._sock.getsockname()[1]}"
        self._idle_s = idle_s
        self._asked = time.monotonic()
        self._ended = threading.Event()
        self._free = threading.Semaphore(_MOST)

    def serve(self, handle: Callable[[Request], Response]) -> None:
        """Serve until nobody has asked for long, or :meth:`close` is called; then listen no more."""

        def answer(request: Request) -> Response:
            self._asked = time.monotonic()
            return handle(request)

        with self._sock:
            while not self._ended.is_set() and time.monotonic() - self._asked < self._idle_s:
                try:
                    sock, (host, port) = self._sock.accept()
                except TimeoutError:
                    continue
                except OSError:
                    break
                if self._free.acquire(blocking=False):
                    threading.Thread(target=self._serve, args=(Plain(sock, f"{host}:{port}"), answer), daemon=True).start()
                else:
                    sock.close()

    def close(self) -> None:
        """End."""
        self._ended.set()
        self._sock.close()

    def _serve(self, connection: Plain, answer: Callable[[Request], Response]) -> None:
        try:
            serve_connection(connection, answer, idle_timeout=_KEPT_S, takes_bytes=lambda method, _path: method == "POST")
        finally:
            self._free.release()
