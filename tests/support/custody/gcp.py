"""A stand-in for Google Cloud KMS, for Google's own client library to speak to: real AES-GCM, and signed tokens that are verified.

Written from the Cloud KMS API reference (``cryptoKeys.encrypt``, ``cryptoKeys.decrypt``) and the error model of Google's API design guide.
It is NOT Cloud KMS: it shows that the library is called rightly, as far as the library itself can tell.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path
from typing import Any

import jwcrypto.jwk
import jwcrypto.jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from support.custody.https import JsonServer
from support.custody.tls import Tls, private_file

PARENT = "projects/p/locations/global/keyRings/r/cryptoKeys"
_STATUS = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "UNAUTHENTICATED": 401, "NOT_FOUND": 404}


def account_file(path: Path, private_key: Path) -> Path:
    """A service account's key as Google hands it out."""
    account = {"type": "service_account", "private_key_id": "1", "private_key": private_key.read_text(), "client_email": "broker@p.example",
               "token_uri": "https://127.0.0.1:1/token"}  # fmt: skip
    return private_file(path, json.dumps(account))


class GcpServer(JsonServer):
    def __init__(self, tls: Tls, account_key: Path) -> None:
        self.keys: dict[str, list[bytes]] = {}
        self.disabled: set[str] = set()
        public = load_pem_private_key(account_key.read_bytes(), None).public_key()
        self._account = jwcrypto.jwk.JWK.from_pyca(public)
        super().__init__(tls)

    def rotate(self, name: str) -> None:
        self.keys.setdefault(f"{PARENT}/{name}", []).append(secrets.token_bytes(32))

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        name, _, operation = path.partition("?")[0].removeprefix("/v1/").partition(":")
        try:
            jwcrypto.jwt.JWT(jwt=headers["authorization"].removeprefix("Bearer "), key=self._account, algs=["RS256"])
        except (KeyError, ValueError, jwcrypto.common.JWException):
            return _error("UNAUTHENTICATED")
        if name not in self.keys:
            return _error("NOT_FOUND")
        if name in self.disabled:
            return _error("FAILED_PRECONDITION")
        associated = base64.b64decode(body.get("additionalAuthenticatedData", ""))
        versions = self.keys[name]
        if operation == "encrypt":
            nonce = secrets.token_bytes(12)
            sealed = bytes([len(versions)]) + nonce + AESGCM(versions[-1]).encrypt(nonce, base64.b64decode(body["plaintext"]), associated)
            return 200, {"name": f"{name}/cryptoKeyVersions/{len(versions)}", "ciphertext": base64.b64encode(sealed).decode()}
        try:
            sealed = base64.b64decode(body["ciphertext"])
            plain = AESGCM(versions[sealed[0] - 1]).decrypt(sealed[1:13], sealed[13:], associated)
        except (InvalidTag, IndexError, ValueError):
            return _error("INVALID_ARGUMENT")
        return 200, {"plaintext": base64.b64encode(plain).decode()}


def _error(code: str) -> tuple[int, Any]:
    return _STATUS[code], {"error": {"code": _STATUS[code], "message": "no", "status": code}}
