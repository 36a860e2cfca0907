"""Channels over loopback for the tests of this folder."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from confide.crypto.tls import AnyClientKey, Channel, Identity, Listener, PinnedSpki, Trust, connect


@dataclass
class Server:
    """A listener with one thread a channel; what a thread raised is kept."""

    listener: Listener
    identity: Identity
    failures: list[BaseException] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def connect(self, identity: Identity | None = None, timeout: float = 5.0) -> Channel:
        return connect(*self.listener.address, identity, trust=PinnedSpki(self.identity.spki_digest), timeout=timeout)

    def wait(self) -> None:
        for _ in range(200):  # a client may be done before its connection was accepted
            if self.threads:
                break
            time.sleep(0.01)
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


ServerOf = Callable[..., Server]


@pytest.fixture
def server_of() -> Iterator[ServerOf]:
    """``server_of(handle, trust=..., handshake_timeout=...)`` serves each accepted channel in a thread of its own."""
    with contextlib.ExitStack() as stack:

        def make(handle: Callable[[Channel], None], *, trust: Trust | None = None, identity: Identity | None = None) -> Server:
            identity = identity or Identity.generate("server")
            server = Server(Listener("127.0.0.1", 0, identity, trust=trust or AnyClientKey()), identity)

            def serve(channel: Channel) -> None:
                with channel:
                    try:
                        channel.handshake(2)
                        handle(channel)
                    except BaseException as error:  # noqa: BLE001 - kept for the test to look at
                        server.failures.append(error)

            def accept() -> None:
                with contextlib.suppress(Exception):
                    while True:
                        thread = threading.Thread(target=serve, args=(server.listener.accept(20),), daemon=True)
                        server.threads.append(thread)
                        thread.start()

            acceptor = threading.Thread(target=accept, daemon=True)
            acceptor.start()
            stack.callback(acceptor.join, 5)
            stack.callback(server.listener.close)
            return server

        yield make
