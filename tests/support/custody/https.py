"""An HTTPS server of this machine that speaks JSON, for stand-ins."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.custody.tls import Tls


class JsonServer:
    """Subclasses say what is answered."""

    def __init__(self, tls: Tls) -> None:
        self.tls = tls
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                data = self.rfile.read(length)
                body = json.loads(data) if data[:1] == b"{" else data.decode()
                status, answer = server.answer(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                for name, value in server.more_headers(status).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST  # noqa: N815  http.server's name

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.socket = tls.for_server().wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_port
        self.address = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def more_headers(self, status: int) -> dict[str, str]:
        return {}

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
