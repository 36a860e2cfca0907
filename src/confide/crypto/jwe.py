"""Encryption of one secret to one public key as a compact JWE (RFC 7516): what a broker does for each key that it gives.

ECDH-ES+A256KW on P-256 and P-521, or RSA-OAEP-256, with A256GCM (RFC 7518, sections 4.3, 4.6 and 5.3).  Encryption only, of these forms
only, from the primitives of ``cryptography``: a general library takes ten times as long to find out what was asked for.  What is made here
is opened by general libraries, in nodes and in the tests.

Checks nothing of whose key it is.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.canonical import Json, b64url
from confide.crypto.secret import SecretBytes

ECDH: Final = "ECDH-ES+A256KW"
RSA_OAEP: Final = "RSA-OAEP-256"
ENC: Final = "A256GCM"
_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp521r1": "P-521"}
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
"""96 bits (RFC 7518, section 5.3).  Random: each content key encrypts once."""
_OAEP: Final = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
_FIRST_ROUND: Final = (1).to_bytes(4)
"""Concat KDF's counter (NIST SP 800-56A, section 5.8.1): one round of SHA-256 is a whole key."""
_KEY_BITS: Final = (8 * _KEY_BYTES).to_bytes(4)


def encrypt(secret: SecretBytes, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, *, apv: bytes | None = None) -> str:
    """``secret`` as a JWE that only the holder of ``key`` opens.

    ``apv`` is PartyVInfo of the key agreement (RFC 7518, section 4.6.1.3), for elliptic curves: another one does not open it.
    The header's members are in the order ``alg``, ``enc``, ``apv``, ``epk``, without spaces, each one protected.
    """
    content_key = secrets.token_bytes(_KEY_BYTES)
    if isinstance(key, rsa.RSAPublicKey):
        if apv is not None:
            raise ValueError("RSA-OAEP agrees on no key: there is nothing to bind to")
        header: Json = {"alg": RSA_OAEP, "enc": ENC}
        wrapped = key.encrypt(content_key, _OAEP)
    else:
        ephemeral = ec.generate_private_key(key.curve)
        header = {"alg": ECDH, "enc": ENC, **({} if apv is None else {"apv": b64url(apv)}), "epk": _jwk(ephemeral.public_key())}
        wrapped = aes_key_wrap(_agreed(ephemeral.exchange(ec.ECDH(), key), apv or b""), content_key)
    protected, iv = b64url(_ENCODER.encode(header).encode()), secrets.token_bytes(_IV_BYTES)
    sealed = AESGCM(content_key).encrypt(iv, secret.reveal(), protected.encode())  # ciphertext, and its tag of 16 bytes
    return ".".join((protected, b64url(wrapped), b64url(iv), b64url(sealed[:-16]), b64url(sealed[-16:])))


def _agreed(shared: bytes, apv: bytes) -> bytes:
    """The key-wrapping key: Concat KDF over algorithm, PartyUInfo (none), PartyVInfo and length (RFC 7518, section 4.6.2)."""
    info = b"".join((_sized(ECDH.encode()), _sized(b""), _sized(apv), _KEY_BITS))
    return hashlib.sha256(_FIRST_ROUND + shared + info).digest()


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def _jwk(key: ec.EllipticCurvePublicKey) -> Json:
    """Coordinates in full length (RFC 7518, section 6.2.1.2), members sorted."""
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    half = len(point) // 2
    return {"crv": _CURVE_NAMES[key.curve.name], "kty": "EC", "x": b64url(point[:half]), "y": b64url(point[half:])}
