"""A stand-in for the transit engine of HashiCorp Vault and OpenBao, written from their API documentation alone.

No server of either can be installed where these tests run.  This is NOT Vault: it answers as "Transit secrets engine (API)"
("Encrypt data", "Decrypt data", "Rotate key"), "HTTP status codes" and "Authentication" of the Vault API documentation say that one
does: ``X-Vault-Token``, ``X-Vault-Namespace``, ``associated_data`` for AEAD keys, ciphertext ``vault:v<version>:<base64>``,
``{"errors": [...]}``.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.custody.https import JsonServer
from support.custody.tls import Tls

NAMESPACE = "team"


class TransitServer(JsonServer):
    """Keys by name, each a list of versions.  ``seen`` is what was asked for, for the tests to look at."""

    def __init__(self, tls: Tls, token: str) -> None:
        self.token = token
        self.keys: dict[str, list[bytes]] = {}
        self.seen: list[dict[str, Any]] = []
        super().__init__(tls)

    def rotate(self, name: str) -> None:
        self.keys.setdefault(name, []).append(secrets.token_bytes(32))

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, dict[str, Any]]:
        self.seen.append(body)
        _, version, mount, operation, name = path.split("/")
        if headers.get("x-vault-token") != self.token or headers.get("x-vault-namespace") != NAMESPACE:
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
