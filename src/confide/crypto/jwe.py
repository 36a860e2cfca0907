"""One secret encrypted to one public key as a compact JWE (RFC 7516): what a broker does for each key that it gives, and a node opens.

ECDH-ES+A256KW on P-256 and P-521, or RSA-OAEP-256, with A256GCM (RFC 7518, sections 4.3, 4.6 and 5.3); opening for P-256 and P-521.  These
forms only, from the primitives of ``cryptography``: a general library takes ten times as long to find out what was asked for.  In the
tests general libraries open what is made here, and what they make is opened here.

Checks nothing of whose key it is, and nothing of the header when it opens: that is ``crypto.seal``'s affair.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.canonical import Json, b64url, from_b64url, json_writer
from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, UnwrapError

ECDH: Final = "ECDH-ES+A256KW"
RSA_OAEP: Final = "RSA-OAEP-256"
ENC: Final = "A256GCM"
_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp521r1": "P-521"}
_write: Final = json_writer()
_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
"""96 bits (RFC 7518, section 5.3).  Random: each content key encrypts once."""
_TAG_BYTES: Final = 16
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
        header = {"alg": ECDH, "enc": ENC, **({} if apv is None else {"apv": b64url(apv)}), "epk": public_jwk(ephemeral.public_key())}
        wrapped = aes_key_wrap(_agreed(ephemeral.exchange(ec.ECDH(), key), apv or b""), content_key)
    protected, iv = b64url(_write(header).encode()), secrets.token_bytes(_IV_BYTES)
    sealed = AESGCM(content_key).encrypt(iv, secret.reveal(), protected.encode())
    return ".".join((protected, b64url(wrapped), b64url(iv), b64url(sealed[:-_TAG_BYTES]), b64url(sealed[-_TAG_BYTES:])))


def decrypt(token: str, key: ec.EllipticCurvePrivateKey, epk: ec.EllipticCurvePublicKey, *, apv: bytes = b"") -> SecretBytes:
    """The secret that was encrypted to ``key`` by ECDH-ES+A256KW and A256GCM.

    ``epk`` and ``apv`` are those of the header, which is authenticated here and has been read by the caller: that it names these
    algorithms, and nothing else that would have to be understood.

    Raises:
        UnwrapError: not five parts, to another key, with another ``epk`` or ``apv``, or with a changed part.
    """
    try:
        protected, *parts = token.split(".")
        wrapped, iv, text, tag = map(from_b64url, parts)
        content_key = aes_key_unwrap(_agreed(key.exchange(ec.ECDH(), epk), apv), wrapped)
        if (len(content_key), len(iv), len(tag)) != (_KEY_BYTES, _IV_BYTES, _TAG_BYTES):
            raise UnwrapError("a sealed key does not open")
        return SecretBytes(AESGCM(content_key).decrypt(iv, text + tag, protected.encode()))
    except (InvalidTag, InvalidUnwrap, ParseError, ValueError):
        raise UnwrapError("a sealed key does not open") from None


def _agreed(shared: bytes, apv: bytes) -> bytes:
    """The key-wrapping key: Concat KDF over algorithm, PartyUInfo (none), PartyVInfo and length (RFC 7518, section 4.6.2)."""
    info = b"".join((_sized(ECDH.encode()), _sized(b""), _sized(apv), _KEY_BITS))
    return hashlib.sha256(_FIRST_ROUND + shared + info).digest()


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def public_jwk(key: ec.EllipticCurvePublicKey) -> Json:
    """A key on P-256 or P-521 as a JWK.  Coordinates in full length (RFC 7518, section 6.2.1.2), members sorted."""
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    half = len(point) // 2
    return {"crv": _CURVE_NAMES[key.curve.name], "kty": "EC", "x": b64url(point[:half]), "y": b64url(point[half:])}
