"""A broker that believes an issuer, with an owner who is known by its tokens; and a server in an issuer's place that answers anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from support.broker_world import World
from support.oidc_issuer import Issuer

from confide.attest.insecure import Installation
from confide.errors import ConfideError
from confide.keys.client import OwnerClient
from confide.keys.token_issuers import OwnerIssuer


class Broker:
    """A broker that believes an issuer, and its owner ``clinic`` whose tokens are those of ``clinic-app``."""

    def __init__(self, folder: Path, tee: Installation, issuer: Issuer, *issuers: OwnerIssuer) -> None:
        self.issuer = issuer
        self.world = World(folder, tee, issuers=issuers or (issuer.believed(),))
        self.by_key = self.world.owner("clinic")
        self.by_key.create_key("records")
        self.by_key.link_token(issuer.token())

    def by_token(self, token: str | Callable[[], str], who: str = "anybody", certificate: bytes | None = None) -> OwnerClient:
        source = token if callable(token) else lambda: token
        made = OwnerClient(
            self.world.server.url, self.world.server.spki, self.world.credential(who), token=source, certificate=certificate, timeout=20
        )
        return self.world._clean.enter_context(made)

    def refused(self, token: str, **options: Any) -> ConfideError:
        with pytest.raises(ConfideError) as caught:
            self.by_token(token, **options).keys()
        assert token not in str(caught.value) + str(self.world.store.audit())
        return caught.value


class Hostile:
    """A server (https, or http without ``tls``) in an issuer's place that answers what it is told to."""

    def __init__(self, tls: Any) -> None:
        self.reply: Callable[[BaseHTTPRequestHandler], None] = lambda handler: handler.send_error(500)
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.reply(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.for_server().wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, body: bytes, *, length: int | None = None, pause: float = 0.0) -> None:
        def reply(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(pause)
            handler.send_response(200)
            handler.send_header("content-length", str(len(body) if length is None else length))
            handler.end_headers()
            try:
                sent = 0
                while sent < (len(body) if length is None else length):
                    sent += handler.wfile.write(body)
            except OSError:
                return

        self.reply = reply
