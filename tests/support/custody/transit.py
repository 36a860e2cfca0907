"""A stand-in for the transit engine of HashiCorp Vault and OpenBao, written from their API documentation alone.

No server of either can be installed where these tests run.  This is NOT Vault: it answers as "Transit secrets engine (API)"
("Encrypt data", "Decrypt data", "Rotate key"), "HTTP status codes" and "Authentication" of the Vault API documentation say that one
does: ``X-Vault-Token``, ``X-Vault-Namespace``, ``associated_data`` for AEAD keys, ciphertext ``vault:v<version>:<base64>``,
``{"errors": [...]}``.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.custody.tls import Tls

NAMESPACE = "team"


class TransitServer:
    """Keys by name, each a list of versions.  ``seen`` is what was asked for, for the tests to look at."""

    def __init__(self, tls: Tls, token: str) -> None:
        self.token = token
        self.keys: dict[str, list[bytes]] = {}
        self.seen: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = server.answer(self.path, dict(self.headers), body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.socket = tls.for_server().wrap_socket(self.http.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def rotate(self, name: str) -> None:
        self.keys.setdefault(name, []).append(secrets.token_bytes(32))

    def answer(self, path: str, headers: dict[str, str], body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.seen.append(body)
        _, version, mount, operation, name = path.split("/")
        if headers.get("X-Vault-Token") != self.token or headers.get("X-Vault-Namespace") != NAMESPACE:
            return 403, {"errors": ["permission denied"]}
        if (version, mount) != ("v1", "transit"):
            return 404, {"errors": [f'no handler for route "{mount}/{operation}/{name}". route entry not found.']}
        if name not in self.keys:
            return 400, {"errors": ["encryption key not found"]}
        associated = base64.b64decode(body.get("associated_data", ""), validate=True)
        if operation == "encrypt":
            versions, nonce = self.keys[name], secrets.token_bytes(12)
            sealed = nonce + AESGCM(versions[-1]).encrypt(nonce, base64.b64decode(body["plaintext"], validate=True), associated)
            text = f"vault:v{len(versions)}:{base64.b64encode(sealed).decode()}"
            return 200, {"data": {"ciphertext": text, "key_version": len(versions)}}
        return self._decrypt(self.keys[name], body["ciphertext"], associated)

    def _decrypt(self, versions: list[bytes], ciphertext: str, associated: bytes) -> tuple[int, dict[str, Any]]:
        parts = ciphertext.split(":")
        if len(parts) != 3 or parts[0] != "vault" or not parts[1].startswith("v") or not parts[1][1:].isdecimal():
            return 400, {"errors": ["invalid ciphertext: no prefix"]}
        if not 1 <= int(parts[1][1:]) <= len(versions):
            return 400, {"errors": ["invalid ciphertext: version is too new"]}
        try:
            sealed = base64.b64decode(parts[2], validate=True)
            plain = AESGCM(versions[int(parts[1][1:]) - 1]).decrypt(sealed[:12], sealed[12:], associated)
        except InvalidTag:
            return 400, {"errors": ["cipher: message authentication failed"]}
        except ValueError:
            return 400, {"errors": ["invalid ciphertext: could not decode base64"]}
        return 200, {"data": {"plaintext": base64.b64encode(plain).decode()}}

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
