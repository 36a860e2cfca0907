"""What answers in the place of a broker that has not come up, because its custody is away: every request with 503, and why.

The broker's own TLS key is in its store, which is closed, so this serves under a key of the moment: nodes and owners, who pin the broker's,
do not speak to it.  It is for whoever looks after the machine (``GET /healthz`` without a check of the certificate), and knows nothing.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import Final, Self

from confide.crypto.http import serve_connection
from confide.crypto.http_messages import Request, Response, problem
from confide.crypto.tls import AnyClientKey, Channel, Identity, Listener
from confide.errors import ChannelError, ChannelTimeoutError, ConfideError, SealedError

MAX_CONNECTIONS: Final = 64
_ACCEPT_S: Final = 0.5
_IDLE_S: Final = 5.0
_log = logging.getLogger(__name__)


class SealedServer:
    """Serves while inside of its ``with``.  ``reason`` may change meanwhile."""

    def __init__(self, host: str, port: int, reason: str, *, sock: socket.socket | None = None) -> None:
        """Listen; port 0 takes a free one.  ``sock`` listens already, in the place of ``host`` and ``port``.

        Raises:
            ChannelError: the address cannot be listened on.
        """
        self.reason = reason
        identity = Identity.generate("confide-broker-sealed", names=(host,))
        self._listener = Listener(host, port, identity, trust=AnyClientKey(), sock=sock)
        self._stopping = threading.Event()
        self._room = threading.Semaphore(MAX_CONNECTIONS)
        self._acceptor = threading.Thread(target=self._accept, name="broker-sealed", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._listener.address

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._listener.close()
        self._acceptor.join(2 * _ACCEPT_S)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                channel = self._listener.accept(_ACCEPT_S)
            except ChannelTimeoutError:
                continue
            except ChannelError:
                return
            if self._room.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(channel,), name="broker-sealed-connection", daemon=True).start()
            else:
                channel.close()

    def _serve(self, channel: Channel) -> None:
        try:
            channel.handshake()
            serve_connection(channel, self._answer, idle_timeout=_IDLE_S)
        except ConfideError as cause:
            _log.debug("a connection was not served: %s", cause)
        finally:
            channel.close()
            self._room.release()

    def _answer(self, _request: Request) -> Response:
        return problem(SealedError(f"the broker is sealed: {self.reason}"), 503)
