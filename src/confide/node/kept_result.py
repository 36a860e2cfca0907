"""A run's result as it is kept for a client that is not there: only the client that brought the job can read it.

A receipt is signed and not secret among those who may have it; but it holds the job's arguments, which whoever runs the nodes has not
been told.  ``{"key": <JWE to the client's key, a content key>, "body": <base64url: nonce, AES-256-GCM>}``; both are bound to the run.

The client's one P-256 key signs its TLS handshakes and opens this: ECDSA and ECIES with one key are as safe as each alone (Degabriele,
Lehmann, Paterson, Smart, Strefler: "On the Joint Security of Encryption and Signature in EMV", CT-RSA 2012).
"""

from __future__ import annotations

import gzip
import io
import secrets
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

from confide.canonical import Json, b64url, canonical, from_b64url, parse_object
from confide.crypto.jwe import public_jwk
from confide.crypto.seal import SealKey, seal
from confide.crypto.secret import SecretBytes
from confide.errors import ConfideError, ParseError, ProtocolError

if TYPE_CHECKING:
    from confide.crypto.sign import SigningKey
    from confide.ids import RunId

MOST: Final = 64 * 1024 * 1024
"""Bytes of an unpacked result."""
_NONCE_BYTES: Final = 12


def seal_result(result: Json, client: bytes, run: RunId) -> str:
    """The result for the holder of the key ``client`` (SubjectPublicKeyInfo, DER) alone.

    Raises:
        ParseError: not a P-256 key.
    """
    key = load_der_public_key(client)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ParseError("not a P-256 public key")
    content_key, nonce = SecretBytes(secrets.token_bytes(32)), secrets.token_bytes(_NONCE_BYTES)
    context = _context(run)
    body = nonce + AESGCM(content_key.reveal()).encrypt(nonce, gzip.compress(canonical(result), mtime=0), canonical(context))
    return canonical({"key": seal(content_key, public_jwk(key), context=context), "body": b64url(body)}).decode()


def open_result(kept: str, client: SigningKey, run: RunId, *, most: int = MOST) -> Json:
    """The inverse of :func:`seal_result`, of at most ``most`` bytes.  Whoever kept it may have put another one there: the receipt says.

    Raises:
        ProtocolError: it is no result, or of another run or client.
    """
    try:
        fields = parse_object(kept.encode())
        content_key = SealKey(client.unwrapped()).open(str(fields.get("key")), context=_context(run))
        body = from_b64url(str(fields.get("body")))
        packed = AESGCM(content_key.reveal()).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], canonical(_context(run)))
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ProtocolError("the run's result is too large", most=most)
        return parse_object(data)
    except ProtocolError:
        raise
    except (ConfideError, InvalidTag, OSError, ValueError, EOFError) as cause:
        raise ProtocolError("what was kept of the run is no result for this client") from cause


def _context(run: RunId) -> Json:
    return {"purpose": "result", "run": run}
