"""Sealing: a secret that only one node can open, and only for the use it was sealed for.

A node makes a seal key in its memory and shows the public half in its attested context; the broker seals to it.  Whether that
public half is an attested node's is not checked here but by ``confide.keys`` before it seals.

The form is a compact JWE (RFC 7516), ECDH-ES+A256KW with A256GCM (RFC 7518).  ``context`` says what the secret is for; both sides
know it, so only its SHA-256 travels, as the agreement's PartyVInfo (``apv``, RFC 7518 section 4.6.2): it enters the key derivation,
and another context cannot open the secret.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from confide.canonical import Json, b64url, canonical, from_b64url, parse_object, sha256_hex
from confide.crypto.jwe import ECDH, ENC, decrypt, encrypt, public_jwk
from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, SecretLeakError, UnwrapError

_MAX_JWE_CHARS: Final = 64 * 1024
_COORDINATE_BYTES: Final = 32
_PUBLIC_FIELDS: Final = {"kty", "crv", "x", "y"}
_KNOWN_POINTS: Final = 1024
_HEADER_FIELDS: Final = {"alg", "enc", "epk", "apv"}


class SealKey:
    """A node's private P-256 key for opening what was sealed to it.  Lives in memory; cannot be printed, pickled or saved."""

    __slots__ = ("_key", "_public")

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise ParseError("a seal key is on P-256", got=key.curve.name)
        self._key = key
        self._public = public_jwk(key.public_key())

    @classmethod
    def generate(cls) -> SealKey:
        """A new key from the operating system's generator."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_private_pem(cls, pem: SecretBytes) -> SealKey:
        """A key that is kept somewhere (a broker's wrapping key): PKCS#8 PEM of a P-256 key.

        Raises:
            UnwrapError: it is none.
        """
        try:
            key = load_pem_private_key(pem.reveal(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UnwrapError("a kept seal key is damaged") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UnwrapError("a kept seal key is damaged")
        return cls(key)

    def public_jwk(self) -> Json:
        """The public half: ``kty``, ``crv``, ``x``, ``y`` and nothing else."""
        return dict(self._public)

    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the public half, hex."""
        return jwk_thumbprint(self._public)

    def open(self, sealed: str, *, context: Json) -> SecretBytes:
        """The secret that was sealed to this key for exactly this ``context``.

        Raises:
            UnwrapError: another form or algorithm, another key or context, or changed bytes.
        """
        header, info = _protected_header(sealed), _party_info(context)
        if header["apv"] != b64url(info):
            raise UnwrapError("a key was sealed for another use")
        secret = decrypt(sealed, self._key, _public_key(header["epk"]), apv=info)
        if not len(secret):
            raise UnwrapError("a sealed key is empty")
        return secret

    def __repr__(self) -> str:
        return f"SealKey({self.thumbprint})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a seal key was about to be pickled or copied")


def seal(secret: SecretBytes, public_jwk: Json, *, context: Json) -> str:
    """Encrypt ``secret`` so that only the holder of ``public_jwk`` opens it, and only for ``context``.

    Raises:
        ParseError: not a public P-256 JWK.
    """
    return encrypt(secret, _public_key(public_jwk), apv=_party_info(context))


def check_public_jwk(data: Json) -> Json:
    """Return ``data`` if it is a public P-256 key with exactly the fields ``kty``, ``crv``, ``x`` and ``y``.

    Raises:
        ParseError: another kind of key, a private key, other fields, or not a point of the curve.
    """
    _public_key(data)
    return dict(data)


def jwk_thumbprint(public_jwk: Json) -> str:
    """RFC 7638 SHA-256 thumbprint of a public P-256 JWK, hex.  RFC 8785 gives the same bytes as RFC 7638 section 3.3 here.

    Raises:
        ParseError: not a public P-256 JWK.
    """
    return sha256_hex(canonical(check_public_jwk(public_jwk)))


def _public_key(data: Json) -> ec.EllipticCurvePublicKey:
    match data:
        case {"kty": "EC", "crv": "P-256", "x": str(x), "y": str(y)} if set(data) == _PUBLIC_FIELDS:
            return _point(x, y)
    raise ParseError("not a public P-256 JWK")


@lru_cache(_KNOWN_POINTS)
def _point(x: str, y: str) -> ec.EllipticCurvePublicKey:
    """The key with these coordinates.  A broker seals to the same few again and again."""
    point = from_b64url(x), from_b64url(y)
    if {len(coordinate) for coordinate in point} != {_COORDINATE_BYTES}:
        raise ParseError("a JWK's coordinate does not have 32 bytes")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + b"".join(point))
    except ValueError as cause:
        raise ParseError("a JWK's point is not on the curve") from cause


def _party_info(context: Json) -> bytes:
    return hashlib.sha256(canonical(context)).digest()


def _protected_header(sealed: str) -> Json:
    """The JWE's header, if it is exactly the one that :func:`seal` makes: no compression, no other algorithm, no extension."""
    if len(sealed) > _MAX_JWE_CHARS or sealed.count(".") != 4:
        raise UnwrapError("not a sealed key")
    try:
        parts = [from_b64url(part) for part in sealed.split(".")]  # all five: one sealed key has one spelling
        header = parse_object(parts[0])
        if set(header) != _HEADER_FIELDS or header["alg"] != ECDH or header["enc"] != ENC:
            raise UnwrapError("a key was sealed in another way than agreed")
        check_public_jwk(header["epk"])
    except (ParseError, ValueError):
        raise UnwrapError("not a sealed key") from None
    return header
