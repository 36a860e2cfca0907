"""A way to moto's S3 that says no when it is told to, as a busy storage or one that takes a permission back does."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_LEFT_OUT = frozenset({"connection", "transfer-encoding", "server", "date"})


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that does not trust the certificate leaves: nothing to print."""


class S3Gate:
    """Passes requests on to the server at ``target``; the first of ``refusals`` (status, S3's code) are answered here instead.

    ``always``: what every request is answered with.  ``passed`` counts those that went through.  ``before`` is told of each of them
    (method, path) before it goes through, and ``after`` before it is answered: what they raise cuts the connection, and what ``before``
    returns is the answer.  ``drops`` are headers, in lower case, of which the server hears nothing.
    """

    def __init__(self, target: str, tls: ssl.SSLContext | None = None) -> None:
        self.refusals: list[tuple[int, str]] = []
        self.always: tuple[int, str] | None = None
        self.passed = 0
        self.drops: frozenset[str] = frozenset()
        self.before: Callable[[str, str], tuple[int, str] | None] = lambda _method, _path: None
        self.after: Callable[[str, str], None] = lambda _method, _path: None
        self._server = _Server(("127.0.0.1", 0), self._handler(str(urlsplit(target).netloc)))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def be_busy(self, *names: str, times: int) -> dict[str, int]:
        """Refuse so many writes of each of these, by a part of its path; what is returned counts them down."""
        left = dict.fromkeys(names, times)

        def now_and_then(method: str, path: str) -> tuple[int, str] | None:
            for name in left:
                if method == "PUT" and name in path and left[name]:
                    left[name] -= 1
                    return 503, "SlowDown"
            return None

        self.before = now_and_then
        return left

    def close(self) -> None:
        """End the gate."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self, target: str) -> type[BaseHTTPRequestHandler]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                refusal = gate.always or (gate.refusals.pop(0) if gate.refusals else None)
                refusal = refusal or gate.before(self.command, urlsplit(self.path).path)
                if refusal is not None:
                    status, said = refusal
                    return self._say(status, {}, f"<Error><Code>{said}</Code></Error>".encode())
                gate.passed += 1
                connection = http.client.HTTPConnection(target)
                told = {name: value for name, value in self.headers.items() if name.lower() not in gate.drops}
                connection.request(self.command, self.path, body, told)
                found = connection.getresponse()
                data = found.read()
                headers = {name: value for name, value in found.getheaders() if name.lower() not in _LEFT_OUT}
                connection.close()
                gate.after(self.command, urlsplit(self.path).path)
                return self._say(found.status, headers, data)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815 - names of BaseHTTPRequestHandler

            def _say(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
