"""The broker over HTTPS: connections, each served in a thread.  What is answered to requests on them is ``keys.routes``' affair.

TLS proves that a client holds the key that it shows; whose key that is, or whom a bearer token of one of the broker's issuers names, the
broker decides at each request.  What of the owners' rows auditors and operators may ask too, ``keys.roles`` says.  One thread a connection,
capped.  Prints nothing, logs no bodies.  What is not in ``keys.roles.ROUTES`` is not served; who may ask for what is decided there.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Final, Self

from confide.crypto.http import IDLE_TIMEOUT_S, LastCall, serve_connection
from confide.crypto.tls import AnyClientKey, Channel, Identity, Listener
from confide.errors import (
    ChannelError,
    ChannelTimeoutError,
    ConfideError,
    StoreError,
)
from confide.ids import SpkiDigest
from confide.keys.broker import Broker
from confide.keys.kbs.routes import KbsRoutes, takes_bytes
from confide.keys.observation import add_observer, remove_observer
from confide.keys.open_connections import JOIN_S, OpenConnections
from confide.keys.routes import Routes
from confide.keys.serving_threads import ServingThreads
from confide.keys.sessions import Peer

MAX_CONNECTIONS: Final = 2048
"""Connections served at once (a node has two while it holds keys); more are turned away at once, before their handshake."""
_ACCEPT_S: Final = 1.0
_log = logging.getLogger(__name__)


class BrokerServer:
    """Serves one broker on one address.  The TLS identity is the store's signing key, so clients pin :attr:`spki`."""

    def __init__(
        self,
        broker: Broker,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        idle_timeout: float = IDLE_TIMEOUT_S,
        identity: Identity | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        """Listen; port 0 takes a free one.  Nobody is served before :meth:`start` or :meth:`serve_forever`.

        ``sock`` listens already, in the place of ``host`` and ``port``; who else has it goes on when this server ends.
        ``identity`` is one of the store's signing key, with a certificate for guests; by default its certificate names ``host``.

        Raises:
            StoreError: the identity is of another key.
            ChannelError: the address cannot be listened on.
        """
        self._broker = broker
        self._identity = identity or Identity.generate("confide-broker", key=broker.store.signing_key, names=(host,))
        if self._identity.spki_der != broker.store.signing_key.spki_der:
            raise StoreError("a broker serves under its store's own key")
        self._listener = Listener(host, port, self._identity, trust=AnyClientKey(), sock=sock)
        self._idle_timeout = idle_timeout
        # Plain attributes: an Event's lock may be held by the very thread that a signal handler interrupts.
        self._stopping = self._hurrying = False
        self._serving = OpenConnections(MAX_CONNECTIONS)
        self._threads = ServingThreads(self._serve)
        self.looked = time.monotonic()
        """When connections were last looked for: while it serves, not longer ago than a few seconds."""
        self._acceptor: threading.Thread | None = None
        self._kbs = KbsRoutes(broker, lambda: len(self._serving), self._ends)
        add_observer(self._kbs.metrics)

    @property
    def url(self) -> str:
        """Where it listens, for clients."""
        host, port = self._listener.address
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    @property
    def spki(self) -> SpkiDigest:
        """The key that clients pin."""
        return self._identity.spki_digest

    @property
    def certificate_pem(self) -> bytes:
        """The certificate, for guests that trust it instead."""
        return self._identity.certificate_pem

    def start(self) -> Self:
        """Serve in a thread of its own."""
        self._acceptor = threading.Thread(target=self.serve_forever, name="broker-accept", daemon=True)
        self._acceptor.start()
        return self

    def serve_forever(self) -> None:
        """Serve until :meth:`end` or :meth:`stop` is called."""
        while not self._ends():
            self.looked = time.monotonic()
            try:
                channel = self._listener.accept(_ACCEPT_S)
            except ChannelTimeoutError:
                continue
            except ChannelError:
                if self._ends():
                    break
                raise
            self._take(channel)

    def renew(self, identity: Identity) -> None:
        """Show another certificate of the same key from now on.

        Raises:
            StoreError: it is of another key.
        """
        if identity.spki_der != self._identity.spki_der:
            raise StoreError("a broker serves under its store's own key")
        self._listener.renew(identity)
        self._identity = identity

    def end(self) -> None:
        """Take no more connections.  May be called in a signal handler; a second call lets :meth:`stop` wait no longer."""
        if self._stopping:
            self._hurrying = True
        self._stopping = True
        self._listener.close()

    def stop(self, within: float = 0.0) -> int:
        """End: no new connections; open ones are closed and their threads awaited for a few seconds.  Idempotent.

        Requests in hand, and those that were sent before, have ``within`` seconds to be answered; who waits for withdrawals is answered
        now.  Returns how many connections were cut off.
        """
        self._stopping = True
        self._listener.close()
        if self._acceptor is not None and self._acceptor is not threading.current_thread():
            self._acceptor.join(JOIN_S)
        if within > 0:
            self._serving.finish(within, lambda: self._hurrying)
        cut = self._serving.cut()
        self._threads.end()
        remove_observer(self._kbs.metrics)
        return cut

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _ends(self) -> bool:
        return self._stopping

    def _take(self, channel: Channel) -> None:
        last_call = LastCall(channel)
        if self._serving.add(channel, last_call):
            self._threads.take(channel, last_call)
        else:
            channel.close()

    def _serve(self, channel: Channel, last_call: LastCall) -> None:
        peer: Peer | None = None
        try:
            self._serving.begin(channel)
            channel.handshake()
            address = channel.peer_address.rpartition(":")[0]
            peer = Peer(channel.exporter(), channel.peer_spki, address, channel.peer_certificate)
            routes = Routes(self._broker, peer, self._kbs, going=lambda: not self._ends())
            serve_connection(channel, routes.handle, idle_timeout=self._idle_timeout, takes_bytes=takes_bytes, last_call=last_call)
        except ConfideError as cause:
            _log.debug("a connection was not served: %s", cause)
        finally:
            channel.close()
            if peer is not None:
                self._broker.end(peer)
            self._serving.remove(channel)
