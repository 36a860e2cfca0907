"""Takes connections at one address and serves each on a thread of its own, so that no peer can hold up another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from confide.crypto.tls import Channel, Listener
from confide.errors import ChannelTimeoutError, ConfideError

if TYPE_CHECKING:
    from confide.crypto.identity import Identity, Trust

_log = logging.getLogger(__name__)
MAX_AT_ONCE = 256
"""Connections that may be in their handshake or attestation at the same time; more wait in the backlog."""
_POLL_S = 1.0


class Reception:
    """A listener with its accept loop.  ``serve`` gets each channel after its TLS handshake and keeps or closes it.

    ``serve`` may raise :class:`ConfideError`: the channel is closed and the error logged (code and facts are public).
    """

    def __init__(
        self, host: str, identity: Identity, trust: Trust, serve: Callable[[Channel], None], *, name: str, port: int = 0
    ) -> None:
        self._listener = Listener(host, port, identity, trust=trust)
        self._serve = serve
        self._name = name
        self._slots = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._closed = threading.Event()
        self.host, self.port = self._listener.address

    def start(self) -> None:
        """Begin to take connections."""
        threading.Thread(target=self._loop, name=f"confide-{self._name}", daemon=True).start()

    def close(self) -> None:
        """Take no more connections.  Channels that were handed over live on."""
        self._closed.set()
        self._listener.close()

    def _loop(self) -> None:
        while not self._closed.is_set():
            try:
                channel = self._listener.accept(_POLL_S)
            except ChannelTimeoutError:
                continue
            except ConfideError as error:
                if not self._closed.is_set():
                    _log.error("%s cannot take connections any more: %s", self._name, error.message)
                return
            self._slots.acquire()
            threading.Thread(target=self._handle, args=(channel,), name=f"confide-{self._name}-peer", daemon=True).start()

    def _handle(self, channel: Channel) -> None:
        try:
            channel.handshake()
            self._serve(channel)
        except ConfideError as error:
            _log.warning("%s: a peer was turned away: %s: %s %s", self._name, error.code, error.message, error.facts)
            channel.close()
        except Exception:  # noqa: BLE001  outermost edge of this thread
            _log.exception("%s: serving a peer failed", self._name)
            channel.close()
        finally:
            self._slots.release()
