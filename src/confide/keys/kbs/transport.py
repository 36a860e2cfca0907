"""A TLS connection to a key broker service: to one pinned key, or to a server with a certificate under a pinned CA.

Both know whom they speak to before a byte is sent.  There is no third way: no system store (whoever can get a certificate for a name
would be a KBS), and no unchecked server.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from typing import Self

from confide.crypto.http_messages import Duplex
from confide.crypto.tls import PinnedSpki, connect
from confide.crypto.wire import Deadline
from confide.errors import ChannelError, ChannelTimeoutError, UsageError
from confide.keys.connection import https_address


@dataclass(frozen=True, slots=True)
class PinnedCa:
    """Accept a server whose certificate goes back to one of these (PEM), is valid now, and is for the name or address in the URL."""

    pem: str = field(repr=False)

    def context(self) -> ssl.SSLContext:
        """How TLS checks such a server.

        Raises:
            UsageError: these are no certificates.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # demands a certificate and its name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cadata=self.pem)
        except (ssl.SSLError, ValueError) as cause:
            raise UsageError("the CA is given as PEM certificates") from cause
        return context


KbsTrust = PinnedSpki | PinnedCa


def open_channel(url: str, trust: KbsTrust, timeout: float) -> Duplex:
    """A connection whose server has been checked.

    Raises:
        UsageError: not an address, or not certificates.
        ChannelError: nobody listens, or the server is not the one that is trusted.
    """
    host, port = https_address(url, "key broker service")
    if isinstance(trust, PinnedSpki):
        return connect(host, port, None, trust=trust, timeout=timeout)
    return _CaChannel.open(host, port, trust.context(), Deadline.after(timeout))


class _CaChannel:
    """The standard library's TLS with the calls that ``crypto.http`` makes."""

    def __init__(self, sock: ssl.SSLSocket, peer_address: str) -> None:
        self._sock = sock
        self.peer_address = peer_address

    @classmethod
    def open(cls, host: str, port: int, context: ssl.SSLContext, deadline: Deadline) -> Self:
        """Connect and shake hands."""
        try:
            plain = socket.create_connection((host, port), max(deadline.remaining, 0.01))
        except (OSError, UnicodeError, OverflowError) as cause:
            raise ChannelError(f"cannot connect to {host}:{port}: {cause}", host=host, port=port) from cause
        try:
            plain.settimeout(max(deadline.remaining, 0.01))
            sock = context.wrap_socket(plain, server_hostname=host)
        except (OSError, ValueError) as cause:  # ssl.SSLError is an OSError
            plain.close()
            raise ChannelError(f"the server at {host}:{port} is not the one that is trusted: {cause}", host=host, port=port) from cause
        return cls(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send all of ``data`` within ``timeout`` seconds."""
        try:
            self._wait(timeout)
            self._sock.sendall(data)
        except TimeoutError as cause:
            raise ChannelTimeoutError("the server took nothing in time") from cause
        except OSError as cause:
            raise ChannelError(f"the connection broke: {cause}") from cause

    def recv(self, n: int, *, timeout: float | None = None) -> bytes:
        """The next bytes, at most ``n``; none when the server has ended its side.  That an answer was cut short shows in its body."""
        try:
            self._wait(timeout)
            return self._sock.recv(n)
        except TimeoutError as cause:
            raise ChannelTimeoutError("the server was silent for too long") from cause
        except OSError as cause:
            raise ChannelError(f"the connection broke: {cause}") from cause

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def _wait(self, timeout: float | None) -> None:
        if timeout is not None and timeout <= 0:
            raise TimeoutError
        self._sock.settimeout(timeout)
