"""Seeds of what services outside answer: as their documentation has it, or as our own writers make it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from confide.canonical import b64url
from confide.crypto.secret import SecretBytes
from confide.keys.custody import kmip, ttlv
from confide.keys.custody.envelope import EnvelopeKms
from confide.keys.custody.shares import SharedRoot

from .custody_targets import AZURE_VERSION, KEY_NAME, OpenService
from .peer_targets import doors


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _answer(body: bytes, status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _vendor() -> list[bytes]:
    busy = _answer(b"", "503 Busy", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT")
    return [_answer(b"{}", "200 OK", "TCB-Info-Issuer-Chain: a"), _answer(b"", "404 Not Found"), busy,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]  # fmt: skip


def _witness() -> list[bytes]:
    store = doors().broker.store
    head = store.head(datetime.now(UTC)).sign(store.signing_key)
    return [_answer(_dump(head)), base64.b64decode(str(head["payload"]))]


def _vault() -> list[bytes]:
    data = {"ciphertext": "vault:v1:AAAA", "plaintext": base64.b64encode(bytes(32)).decode()}
    errors = [("400 Bad Request", "invalid ciphertext: no prefix"), ("403 Forbidden", "permission denied")]
    return [_answer(_dump({"data": data})), _dump({"data": data}), *(_answer(_dump({"errors": [text]}), status) for status, text in errors)]


def _kmip() -> list[bytes]:
    """Responses to Encrypt and to Decrypt, and a refusal (KMIP 1.4, section 7.2)."""
    fields = [ttlv.byte_string(kmip._DATA, bytes(32)), ttlv.byte_string(kmip._TAG, bytes(16))]
    payload = ttlv.structure(kmip._RESPONSE_PAYLOAD, ttlv.text(kmip._NAME, KEY_NAME), *fields)
    items = [[ttlv.enumeration(kmip._OPERATION, one), ttlv.enumeration(kmip._STATUS, 0), payload] for one in (kmip._ENCRYPT, kmip._DECRYPT)]
    items.append([ttlv.enumeration(kmip._STATUS, 1), ttlv.enumeration(kmip._REASON, kmip._CRYPTOGRAPHIC_FAILURE)])
    return [ttlv.structure(kmip._RESPONSE, ttlv.structure(kmip._BATCH_ITEM, *item)) for item in items]


def _aws() -> list[bytes]:
    answer = {"CiphertextBlob": "AAAA", "Plaintext": base64.b64encode(bytes(32)).decode(), "KeyId": KEY_NAME}
    return [_dump(answer), _dump({"__type": "InvalidCiphertextException", "message": "no"})]


def _gcp() -> list[bytes]:
    answer = {"name": KEY_NAME, "ciphertext": "AAAA", "plaintext": base64.b64encode(bytes(32)).decode()}
    # The library refuses fields that the message of an operation has not: so there is one seed for each.
    each = [_dump({"name": KEY_NAME, "ciphertext": answer["ciphertext"]}), _dump({"plaintext": answer["plaintext"]})]
    return [*each, _dump({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "no"}})]


def _azure() -> list[bytes]:
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    kid = f"https://v.vault.azure.net/keys/{KEY_NAME}/{AZURE_VERSION}"
    jwk = {"kid": kid, "kty": "RSA", "key_ops": ["wrapKey", "unwrapKey", "sign", "verify"],
           "n": b64url(numbers.n.to_bytes(256, "big")), "e": b64url(numbers.e.to_bytes(3, "big"))}  # fmt: skip
    everything = {"key": jwk, "attributes": {"enabled": True}, "kid": kid, "value": b64url(bytes(256))}
    return [_dump(everything), _dump({"error": {"code": "BadParameter", "message": "no"}})]


class _KmipForm(OpenService):
    """What it wraps has the form of a KMIP server's."""

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        return bytes([len(KEY_NAME)]) + KEY_NAME.encode() + bytes(60)


def _envelopes() -> list[bytes]:
    return [EnvelopeKms(one).wrap(SecretBytes(bytes(32)), context={}) for one in (OpenService(), _KmipForm())]


def _shares() -> tuple[SharedRoot, list[bytes]]:
    root, shares = SharedRoot.create(threshold=2, count=3)
    return root, [one.to_text().reveal() for one in shares]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "vendor-http": _vendor,
    "witness": _witness,
    "custody-vault": _vault,
    "custody-kmip": _kmip,
    "custody-aws": _aws,
    "custody-gcp": _gcp,
    "custody-azure": _azure,
    "custody-envelope": _envelopes,
    "share": lambda: _shares()[1],
    "share-set": lambda: [_dump(_shares()[0].new_parameters())],
}
