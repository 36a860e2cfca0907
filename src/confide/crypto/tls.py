"""TLS 1.3 channels between nodes, broker, owners and clients: one implementation for all of them.

A channel gives what attestation needs and the standard library lacks: the session's exporter (RFC 9266) and the peer's key.
Who the peer *is* follows from the :data:`Trust` that the caller chose; with :class:`AnyKeyUntilAttested` it is nobody yet.

TLS 1.3 only (RFC 8446); no resumption and no early data, so each channel has an exporter of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from threading import Lock, get_ident
from types import TracebackType
from typing import Final, Self

from OpenSSL import SSL
from OpenSSL.crypto import X509

from confide.crypto.channel import DEFAULT_TIMEOUT_S, HANDSHAKE_TIMEOUT_S, MAX_FRAME_BYTES, Channel
from confide.crypto.identity import (
    AnyClientKey,
    AnyKeyUntilAttested,
    Identity,
    IssuedBy,
    PeerTrust,
    PinnedSpki,
    Trust,
    one_certificate,
)
from confide.crypto.wire import Deadline
from confide.errors import ChannelError

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "HANDSHAKE_TIMEOUT_S",
    "MAX_FRAME_BYTES",
    "AnyClientKey",
    "AnyKeyUntilAttested",
    "Channel",
    "Identity",
    "IssuedBy",
    "Listener",
    "PeerTrust",
    "PinnedSpki",
    "Trust",
    "connect",
]

_SUITES: Final = b"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_ACCEPT_PAUSE_S: Final = 0.05
_LEAVE_S: Final = 1.0
_BACKLOG: Final = 256
_MAX_CONTEXTS: Final = 8
"""TLS contexts that an identity keeps; nodes need two or three."""


def connect(host: str, port: int, identity: Identity | None, *, trust: PeerTrust, timeout: float = HANDSHAKE_TIMEOUT_S) -> Channel:
    """Open a channel to a server and check its key against ``trust``; both within ``timeout`` seconds.

    Raises:
        ChannelError: nothing listens there, or the handshake failed.
        BindingError: the server showed our own key.
    """
    if isinstance(trust, AnyClientKey):
        raise TypeError("a client must know whom it trusts")
    deadline = Deadline.after(timeout)
    context = _context(identity, trust)
    try:
        sock = socket.create_connection((host, port), timeout)
    except (OSError, UnicodeError, OverflowError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise ChannelError(f"cannot connect to {host}:{port}: {reason}", host=host, port=port) from cause
    channel = Channel(sock, context, identity, trust, server=False)
    try:
        channel.handshake(deadline.remaining)
    except BaseException:
        channel.close()
        raise
    return channel


def _no_listener(host: str, port: int, cause: Exception) -> ChannelError:
    number = cause.errno if isinstance(cause, OSError) and cause.errno and cause.errno > 0 else None  # below zero: a name was not found
    why = os.strerror(number) if number else str(getattr(cause, "strerror", None) or cause).partition(" (while")[0]
    hints = {
        errno.EADDRINUSE: "another program listens there, perhaps a broker that runs already: end it, or choose another port",
        errno.EACCES: "ports below 1024 need a privilege: choose a higher one",
    }
    here = "listen on an address of this machine, or on 0.0.0.0 for all of them"
    return ChannelError(f"cannot listen on {host}:{port}: {why}", hint=hints.get(number or 0, here), host=host, port=port)


class Listener:
    """Accepts connections.  The TLS handshake is left to the thread that serves the channel, so no peer can hold up the others."""

    def __init__(self, host: str, port: int, identity: Identity, *, trust: Trust, sock: socket.socket | None = None) -> None:
        """Listen on ``host``; port 0 takes a free one (see :attr:`address`).

        ``sock`` is a socket that listens already and that other processes may have too: then neither host nor port is looked at, and what
        waits in its queue when this listener closes is theirs.

        Raises:
            ChannelError: the address cannot be listened on.
        """
        self._context = _context(identity, trust)
        self._identity = identity
        self._trust = trust
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._sock = sock or socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except (OSError, OverflowError) as cause:
            raise _no_listener(host, port, cause) from cause
        self._sock.settimeout(0)
        self.address: tuple[str, int] = self._sock.getsockname()[:2]
        """Where it listens: host and port."""
        self._woken, self._waker = socket.socketpair()
        self._closed = False
        self._accepting = Lock()
        self._acceptor = 0

    def renew(self, identity: Identity) -> None:
        """Show this identity in handshakes from now on.  Channels that were accepted keep theirs."""
        self._context, self._identity = _context(identity, self._trust), identity

    def accept(self, timeout: float) -> Channel:
        """The next connection, before its handshake: call :meth:`Channel.handshake` in the thread that will serve it.

        A shortage of descriptors or memory does not end a listener: it is waited out.

        Raises:
            ChannelTimeoutError: nobody came in time.
            ChannelError: the listener was closed.
        """
        deadline = Deadline.after(timeout)
        with self._accepting:
            self._acceptor = get_ident()
            while not self._closed:
                sock = self._next(deadline)
                if sock is not None:
                    return Channel(sock, self._context, self._identity, self._trust, server=True)
            self._free()
        raise ChannelError("the listener is closed")

    def _next(self, deadline: Deadline) -> socket.socket | None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        if not poller.poll(deadline.remaining * 1000):
            raise deadline.expired("waiting for a connection")
        try:
            return self._sock.accept()[0]
        except BlockingIOError:  # it was the waker, or the client has gone again
            return None
        except OSError:
            time.sleep(min(_ACCEPT_PAUSE_S, deadline.remaining))
            return None

    def close(self) -> None:
        """Stop listening and wake a thread in :meth:`accept`.  Channels that were accepted live on.  May be called in a signal handler."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                self._waker.send(b"x")
        # In a signal handler the interrupted accept() may be our own thread's: it frees the sockets itself when it goes on.
        if self._accepting.acquire(timeout=0 if self._acceptor == get_ident() else _LEAVE_S):
            try:
                self._free()
            finally:
                self._accepting.release()

    def _free(self) -> None:
        for sock in (self._sock, self._woken, self._waker):
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _context(identity: Identity | None, trust: Trust) -> SSL.Context:
    """The TLS context for this key and this trust: made once and kept with the identity, because making it costs as much as a key exchange.

    A context holds the identity's key and certificate (which never change), whether a peer must show a key, and the CA, whose certificates
    OpenSSL judges at each handshake, dates included.  Pins and names are checked after the handshake and are not in it.
    """
    demand = SSL.VERIFY_PEER | (0 if isinstance(trust, AnyClientKey) else SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    ca = trust.ca_pem if isinstance(trust, IssuedBy) else None
    if identity is None:
        return _new_context(None, demand, ca)
    known = identity.contexts.get((demand, ca))
    if known is None:
        known = _new_context(identity, demand, ca)
        if len(identity.contexts) >= _MAX_CONTEXTS:
            identity.contexts.clear()
        identity.contexts[demand, ca] = known
    return known


def _new_context(identity: Identity | None, demand: int, ca: bytes | str | None) -> SSL.Context:
    """A new context.  Without ``ca`` its peers may show a certificate of anybody's."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(_SUITES)
    # No resumption: OpenSSL keeps no session, so the two empty-handed tickets that it still sends open nothing.
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if identity is not None:
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key.unwrapped())
        context.check_privatekey()
    if ca is not None:
        store = context.get_cert_store()
        if store is None:
            raise ChannelError("TLS has no certificate store")
        store.add_cert(X509.from_cryptography(one_certificate(ca)))
        context.set_verify_depth(0)  # issued directly: no intermediate CA
        context.set_verify(demand)  # by OpenSSL: signature, dates, extended key usage
    else:
        # The certificate only carries the key (module identity): proof of possession is checked by TLS, the key by check_trust.
        context.set_verify(demand, _key_is_checked_after)
    return context


def _key_is_checked_after(*_: object) -> bool:
    return True
