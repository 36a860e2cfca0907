"""Stands between a broker and its PostgreSQL server (unix sockets), and loses what the test says of a commit."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from support.databases import PostgresServer

from confide.keys.storage.locations import Postgres

Cut = Literal["answer", "request", "late request", "answer and server"]
"""What is lost of the next commit.  ``late request``: the broker loses its connection at once, the server commits a second later."""
_COMMIT = b"COMMIT\0"
_LATE_S = 1.0


class CutProxy:
    """Passes everything on until :attr:`cut` is set, and loses one commit then."""

    def __init__(self, folder: Path, server: PostgresServer, name: str) -> None:
        self.cut: Cut | None = None
        self.commits_cut = 0
        self.away = threading.Event()
        path = folder / ".s.PGSQL.5432"
        self.location = Postgres(f"postgresql://confide@localhost/{name}?socket={path}")
        self._server = str(server.folder / path.name)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.away.is_set():
                client.close()
                continue
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, contextlib.suppress(OSError):
            server.connect(self._server)
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client and self.cut is not None and _COMMIT in data:
                        self._lose(client, server, data)
                        return
                    (server if source is client else client).sendall(data)

    def _lose(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        cut, self.cut = self.cut, None
        self.commits_cut += 1
        if cut == "request":
            return
        if cut == "answer and server":
            self.away.set()
        if cut == "late request":
            client.shutdown(socket.SHUT_RDWR)
            threading.Event().wait(_LATE_S)
        server.sendall(data)
        answer = b""
        while _COMMIT not in answer:  # the command's tag in the answer: it is durable now
            answer += server.recv(65536)


@contextlib.contextmanager
def cut_proxy(server: PostgresServer, name: str = "postgres") -> Iterator[CutProxy]:
    """A proxy for the block.  Its folder is short: a socket's path has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="confide-cut-"))
    proxy = CutProxy(folder, server, name)
    try:
        yield proxy
    finally:
        proxy.close()
        shutil.rmtree(folder, ignore_errors=True)
