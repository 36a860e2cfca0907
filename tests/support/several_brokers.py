"""Brokers in processes of their own on one store, and a proxy before them that takes the next one for each connection.

The server without the command line, so that a test can take a defence out of it, and kill it.  ``broker_process`` and ``cli_broker`` run
the command.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from confide.attest.insecure import Installation
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.keys.broker import Broker
from confide.keys.custody.local import KeyFile
from confide.keys.kbs.sessions import GuestSessions
from confide.keys.server import BrokerServer
from confide.keys.storage.locations import Location, Postgres, SqliteFile
from confide.keys.store import Store

_START_S = 30.0


@dataclass(frozen=True)
class BrokerProcess:
    """One broker process; ``url`` and ``spki`` as a client needs them."""

    process: subprocess.Popen[str]
    url: str
    spki: str

    @classmethod
    def start(cls, world: Any, *, forgets_nonces: bool = False) -> Self:
        """A broker on the world's store.  ``forgets_nonces`` takes the defence out: no nonce is ever known as used."""
        place = world.place
        where = {"postgres": place.url} if isinstance(place, Postgres) else {"sqlite": str(getattr(place, "path", place))}
        asked = {**where, "key": str(world.unlock.path), "tee": str(world.installation.folder), "forgets_nonces": forgets_nonces}
        # Asked over standard input, so that no path of a test is in its command line; it ends when that does, so that it outlives no test.
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            process.kill()
            raise RuntimeError("a broker process did not start")
        return cls(process, **json.loads(line))

    def kill(self) -> None:
        """As a power cut: SIGKILL."""
        self.process.kill()
        self.process.wait(_START_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class RoundRobin:
    """A TCP proxy on loopback: each connection goes to the next broker that answers.  It sees ciphertext only."""

    def __init__(self, brokers: list[BrokerProcess]) -> None:
        self._ports = [int(broker.url.rpartition(":")[2]) for broker in brokers]
        self._turn = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.spki = brokers[0].spki
        self.served = [0] * len(brokers)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        with client, self._next() as server, selectors.DefaultSelector() as ready, contextlib.suppress(OSError):
            for source, target in ((client, server), (server, client)):
                ready.register(source, selectors.EVENT_READ, target)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    key.data.sendall(data)

    def _next(self) -> socket.socket:
        for _ in self._ports:
            at = next(self._turn) % len(self._ports)
            with contextlib.suppress(OSError):
                found = socket.create_connection(("127.0.0.1", self._ports[at]))
                self.served[at] += 1
                return found
        raise OSError("no broker answers")


def main(text: str) -> None:
    """Serve until standard input ends."""
    asked = json.loads(text)
    place: Location = Postgres(asked["postgres"]) if "postgres" in asked else SqliteFile(Path(asked["sqlite"]))
    tee = Installation.open(Path(asked["tee"]))
    if asked["forgets_nonces"]:
        GuestSessions._use_up = lambda *_: None  # type: ignore[method-assign]
    with contextlib.closing(Store.open(place, KeyFile(Path(asked["key"])))) as store:
        verifier = Verifier(TrustRoots(simulated=tee.root_der), tee.collateral_source())
        with BrokerServer(Broker(store, verifier)) as server:
            sys.stdout.write(json.dumps({"url": server.url, "spki": server.spki}) + "\n")
            sys.stdout.flush()
            sys.stdin.read()


if __name__ == "__main__":
    main(sys.stdin.readline())
