"""Custody by the transit engine of HashiCorp Vault or OpenBao, over its HTTP API.

Vault HTTP API, "Transit secrets engine": "Encrypt data" and "Decrypt data" (``/transit/encrypt/:name``, ``/transit/decrypt/:name``), and
"HTTP status codes".  The key's type must be one with associated data (``aes256-gcm96``, ``chacha20-poly1305``).  Rotation is
Vault's: its ciphertext names the version.  TLS is always verified; redirects (to another node of a cluster) are not followed: name a
load balancer or the active node.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import urllib3

from confide.canonical import Json, canonical, parse_object
from confide.crypto.secret import SecretBytes
from confide.crypto.timed_http import end_in_time, read_by
from confide.errors import CredentialError, CustodyError, CustodyOfflineError, ParseError, UnwrapError
from confide.keys.custody.credential_file import read_credential
from confide.keys.custody.verified_tls import verified_context

_MAX_ANSWER: Final = 64 * 1024
_CALL_S: Final = 10.0
_DAMAGED: Final = ("message authentication failed", "invalid ciphertext")
"""How Vault's error texts begin or end for bytes that are not of the key's making; any other 400 is a refusal."""


@dataclass(frozen=True)
class VaultTransit:
    """One key of one transit engine.  ``ca`` is a file of certificates [default: the system's]."""

    address: str
    key: str
    token_file: Path
    mount: str = "transit"
    namespace: str | None = None
    ca: Path | None = None
    timeout_s: float = _CALL_S
    _pool: urllib3.PoolManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        timeout = urllib3.Timeout(total=self.timeout_s)
        pool = urllib3.PoolManager(ssl_context=verified_context(self.ca), retries=False, timeout=timeout)
        end_in_time(pool)
        object.__setattr__(self, "_pool", pool)

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        """See :meth:`KeyService.wrap_key`."""
        answer = self._call("encrypt", {"plaintext": _b64(key.reveal()), "associated_data": _b64(binding)})
        ciphertext = answer.get("ciphertext")
        if not isinstance(ciphertext, str) or not ciphertext.isascii():
            raise _no_answer()
        return ciphertext.encode()

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        """See :meth:`KeyService.unwrap_key`."""
        try:
            ciphertext = wrapped.decode("ascii")
        except UnicodeDecodeError:
            raise _damaged() from None
        answer = self._call("decrypt", {"ciphertext": ciphertext, "associated_data": _b64(binding)})
        try:
            return SecretBytes(base64.b64decode(str(answer.get("plaintext", "")), validate=True))
        except ValueError:  # binascii.Error is one; text that is not ASCII gives another
            raise _no_answer() from None

    def _call(self, operation: str, body: Json) -> Json:
        url = f"{self.address}/v1/{self.mount}/{operation}/{self.key}"
        token = read_credential(self.token_file).reveal()
        if not token.isascii() or not token.decode().isprintable():  # http.client would quote it in its error
            raise CredentialError(f"{self.token_file} holds no token", path=str(self.token_file))
        headers = {"X-Vault-Token": token.decode(), "X-Vault-Request": "true", "Content-Type": "application/json"}
        if self.namespace is not None:
            headers["X-Vault-Namespace"] = self.namespace
        status, data = exchange(self._pool, url, headers, canonical(body), self.timeout_s)
        if status != 200:
            raise _failure(status, data)
        found = _object(data).get("data")
        if not isinstance(found, dict):
            raise _no_answer()
        return found


def exchange(pool: urllib3.PoolManager, url: str, headers: dict[str, str], body: bytes, timeout_s: float) -> tuple[int, bytes]:
    """One POST: the status and the whole body, if it came in time and is no longer than it may be.  ``pool`` ends in time.

    Raises:
        CustodyOfflineError: no, or not such, an answer.
    """
    ends = time.monotonic() + timeout_s
    try:
        answer = pool.request("POST", url, headers=headers, body=body, redirect=False, preload_content=False)
        try:
            data = read_by(answer, ends, _MAX_ANSWER)
        finally:
            answer.close()
    except (urllib3.exceptions.HTTPError, TimeoutError) as cause:
        # Their texts name the address and the reason, never headers or bodies; the chain is cut all the same.
        raise CustodyOfflineError("the key service cannot be reached", reason=type(cause).__name__) from None
    if len(data) > _MAX_ANSWER:
        raise _no_answer()
    return answer.status, data


def _failure(status: int, data: bytes) -> CustodyError | UnwrapError:
    """4xx is Vault's decision, except for 412, 429 and 472 and 473 (a standby that is asked too early, or too often); the rest is none."""
    if status in {412, 429, 472, 473} or not 400 <= status < 500:
        return CustodyOfflineError("the key service answered with an error", status=status)
    try:
        errors: Any = _object(data).get("errors")
    except CustodyOfflineError:
        errors = None
    texts = [text for text in errors if isinstance(text, str)] if isinstance(errors, list) else []
    if status == 400 and any(sign in text for text in texts for sign in _DAMAGED):
        return _damaged()
    return CustodyError("the key service refuses", hint="see its audit log: the token's policy, and the key", status=status)


def _object(data: bytes) -> Json:
    try:
        return parse_object(data)
    except ParseError:
        raise _no_answer() from None


def _no_answer() -> CustodyOfflineError:
    return CustodyOfflineError("the key service gave an answer that is not one")


def _damaged() -> UnwrapError:
    return UnwrapError("the key service does not open this wrapped key: another key, another use, or changed bytes")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
