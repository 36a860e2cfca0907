"""The agent's unix socket: newline-delimited JSON operations for the agent's own child processes, and nobody else.

The socket is mode 0600 in a private folder; on top, the kernel names each peer (``SO_PEERCRED``) and only processes of the same user
that descend from the agent are served (a broker's operator is no child of it: see ``only_children``).  Operations are given by the
caller; this module knows nothing of keys.
One request a line: ``{"op": ..., ...}`` -> ``{"ok": true, ...}`` or ``{"ok": false, "error": {code, message, hint, facts}}``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from confide.canonical import Json, canonical, parse_object
from confide.errors import ChannelError, ConfideError, CredentialError, ParseError, ProtocolError, UnavailableError, error_from_json

_log = logging.getLogger(__name__)
MAX_LINE = 64 * 1024 * 1024
"""Cap on one request or answer, in bytes: as much as a manifest may be, whose schema and files are the longest that is told here."""
_MAX_PATH = 107
"""Room for a path in ``sockaddr_un`` without its closing NUL, in bytes (unix(7))."""
_MAX_ANCESTORS = 64

Operation = Callable[[Json], Json]


def descends_from(pid: int, ancestor: int, *, proc: Path = Path("/proc")) -> bool:
    """Whether ``pid`` is ``ancestor`` or was started by it or its descendants, by walking parent ids.  Orphans do not count."""
    for _ in range(_MAX_ANCESTORS):
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        try:
            stat = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        # The command name stands in parentheses and may itself hold spaces and parentheses (proc(5)).
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


class LocalSocketServer:
    """Serves ``ops`` on a unix socket from ``start`` to ``close``; one thread a connection.

    Without ``only_children`` every process of this user is served.

    Raises:
        UnavailableError: the path is too long for a unix socket, or cannot be bound.
    """

    def __init__(self, path: Path, ops: Mapping[str, Operation], *, ancestor: int | None = None, only_children: bool = True) -> None:
        if len(os.fsencode(path)) > _MAX_PATH:
            raise UnavailableError("the path of the agent's socket is too long", path=str(path), limit=_MAX_PATH)
        self.path = path
        self._ops = dict(ops)
        self._ancestor = os.getpid() if ancestor is None else ancestor
        self._only_children = only_children
        self._server = _Server(str(path), self._handler(), bind_and_activate=False)
        try:
            self._server.server_bind()
            path.chmod(0o600)  # before it listens; umask would be everybody's in this process
            self._server.server_activate()
        except OSError as cause:
            self._server.server_close()
            raise UnavailableError("the agent's socket cannot be opened", path=str(path)) from cause

    def start(self) -> None:
        """Begin to serve, on a thread of its own."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="confide-socket", daemon=True).start()

    def close(self) -> None:
        """Stop serving and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def _handler(self) -> type[socketserver.StreamRequestHandler]:
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                server._serve(self)

        return Handler

    def _serve(self, peer: socketserver.StreamRequestHandler) -> None:
        try:
            self._check_peer(peer.connection)
        except ConfideError as error:
            _log.warning("refused a local peer: %s %s", error.message, error.facts)
            peer.wfile.write(_failure(error))
            return
        while line := peer.rfile.readline(MAX_LINE + 1):
            peer.wfile.write(self._answer(line))
            peer.wfile.flush()
            if len(line) > MAX_LINE:
                return

    def _check_peer(self, connection: socket.socket) -> None:
        """Refuse peers that are not our own children, or not of this user.

        The kernel's answer is as of connect(2); a process id that is reused between then and the walk would have to be reused by
        another descendant of this agent to pass.
        """
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if uid != os.getuid():
            raise CredentialError("the peer runs as another user", uid=uid)
        if self._only_children and not descends_from(pid, self._ancestor):
            raise CredentialError("the peer is not a process of this node", pid=pid)

    def _answer(self, line: bytes) -> bytes:
        try:
            if len(line) > MAX_LINE or not line.endswith(b"\n"):
                raise ProtocolError("a request is too long or not ended by a newline")
            request = parse_object(line)
            operation = self._ops.get(str(request.get("op")))
            if operation is None:
                raise ProtocolError("no such operation", op=str(request.get("op"))[:80])
            return canonical({**operation(request), "ok": True}) + b"\n"
        except ConfideError as error:
            return _failure(error)
        except Exception as error:  # noqa: BLE001  outermost edge: a bug here must not hand a traceback, or key bytes in one, to a child
            _log.error("an operation failed inside the agent: %s", type(error).__name__)
            return _failure(UnavailableError("the operation failed inside the agent"))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


def _failure(error: ConfideError) -> bytes:
    return json.dumps({"ok": False, "error": error.to_json()}).encode() + b"\n"


class LocalSocketClient:
    """A child's side of the agent's socket.  Keeps one connection; safe to use from several threads, one call at a time.

    The garbage collector may end a block that asks, too, in the middle of a call of the same thread: that asks on a connection of its own.
    """

    def __init__(self, path: Path, *, timeout_s: float = 60.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._busy = False
        self._socket: socket.socket | None = None
        self._reader: Any = None

    def call(self, op: str, **fields: object) -> Json:
        """Ask the agent for ``op`` and return its answer without ``ok``.

        Raises:
            ConfideError: the same leaf that the agent raised.
            ChannelError: the agent cannot be reached or does not answer.
            ProtocolError: the answer is not one.
        """
        with self._lock:
            if self._busy:
                with closing(LocalSocketClient(self._path, timeout_s=self._timeout_s)) as aside:
                    return aside.call(op, **fields)
            answer = self._ask(canonical({**fields, "op": op}) + b"\n")
        if answer.pop("ok", None) is True:
            return answer
        raise error_from_json(answer.get("error"))

    def _ask(self, request: bytes) -> Json:
        self._busy = True
        try:
            answer: Json = self._exchange(request)
        except (OSError, ConfideError):
            self._drop()
            raise
        finally:
            self._busy = False
        return answer

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def _exchange(self, request: bytes) -> Json:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(self._timeout_s)
                self._socket.connect(str(self._path))
                self._reader = self._socket.makefile("rb")
            with suppress(BrokenPipeError, ConnectionResetError):  # who refuses us has answered and closed: the answer says why
                self._socket.sendall(request)
            line = self._reader.readline(MAX_LINE + 1)
        except OSError as cause:
            raise ChannelError("the node's agent does not answer on its socket", path=str(self._path)) from cause
        if not line.endswith(b"\n"):
            raise ChannelError("the node's agent closed its socket", path=str(self._path))
        try:
            return parse_object(line)
        except ParseError as cause:
            raise ProtocolError("the node's agent gave an answer that is not one") from cause

    def _drop(self) -> None:
        for thing in (self._reader, self._socket):
            if thing is not None:
                thing.close()
        self._socket = self._reader = None
