"""A stand-in for Azure Key Vault and its token service, for Microsoft's own libraries to speak to: real RSA-OAEP.

Written from the Key Vault REST API reference ("Get Key", "Unwrap Key", "Sign", "Authentication, requests and responses") and the OAuth 2.0
client credentials flow of the Microsoft identity platform.  It is NOT Azure: it shows that the libraries are called rightly, as far as
they can tell.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from support.custody.https import JsonServer
from support.custody.tls import Tls

TENANT, CLIENT = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class AzureServer(JsonServer):
    def __init__(self, tls: Tls, secret: str) -> None:
        self.secret = secret
        self.keys: dict[str, dict[str, rsa.RSAPrivateKey]] = {}
        self.disabled: set[str] = set()
        self._token = secrets.token_urlsafe(16)
        super().__init__(tls)

    def rotate(self, name: str) -> None:
        self.keys.setdefault(name, {})[secrets.token_hex(16)] = rsa.generate_private_key(65537, 2048)

    def more_headers(self, status: int) -> dict[str, str]:
        if status != 401:
            return {}
        # The library wants the resource to be a parent of the vault's domain: of 127.0.0.1, that is 0.0.1.
        return {"WWW-Authenticate": f'Bearer authorization="{self.address}/{TENANT}", resource="https://0.0.1:{self.port}"'}

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if path == f"/{TENANT}/v2.0/.well-known/openid-configuration":
            base = f"{self.address}/{TENANT}"
            return 200, {"token_endpoint": f"{base}/oauth2/v2.0/token", "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                         "issuer": f"{base}/v2.0"}  # fmt: skip
        if path == f"/{TENANT}/oauth2/v2.0/token":
            asked = parse_qs(body)
            if (asked.get("client_id"), asked.get("client_secret")) != ([CLIENT], [self.secret]):
                return 400, {"error": "invalid_client", "error_description": "no"}
            return 200, {"token_type": "Bearer", "expires_in": 3600, "access_token": self._token}
        if headers.get("authorization") != f"Bearer {self._token}":
            return 401, _error("Unauthorized")
        return self._key(path.strip("/").split("/"), body)

    def _key(self, path: list[str], body: Any) -> tuple[int, Any]:
        name, version, operation = path[1], path[2] if len(path) > 2 else "", path[3] if len(path) > 3 else ""
        versions = self.keys.get(name, {})
        if not versions or (version and version not in versions):
            return 404, _error("KeyNotFound")
        version = version or list(versions)[-1]
        key = versions[version]
        if not operation:
            numbers = key.public_key().public_numbers()
            jwk = {"kid": f"{self.address}/keys/{name}/{version}", "kty": "RSA", "key_ops": ["wrapKey", "unwrapKey", "sign", "verify"],
                   "n": _b64(numbers.n.to_bytes(256, "big")), "e": _b64(numbers.e.to_bytes(3, "big"))}  # fmt: skip
            return 200, {"key": jwk, "attributes": {"enabled": name not in self.disabled}}
        if name in self.disabled:
            return 403, _error("Forbidden")
        if operation == "sign":
            salted = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
            signed = key.sign(base64.urlsafe_b64decode(body["value"] + "=="), salted, Prehashed(hashes.SHA256()))
            return 200, {"kid": f"{self.address}/keys/{name}/{version}", "value": _b64(signed)}
        try:
            sealed = base64.urlsafe_b64decode(body["value"] + "==")
            plain = key.decrypt(sealed, OAEP)
        except ValueError:
            return 400, _error("BadParameter")
        return 200, {"kid": f"{self.address}/keys/{name}/{version}", "value": _b64(plain)}


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _error(code: str) -> Any:
    return {"error": {"code": code, "message": "no"}}
