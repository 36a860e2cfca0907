"""The key of a guest that answers are encrypted to: the attested public half, and the private half of our own client.

``tee-pubkey`` is a JWK of exactly the members that KBS protocol 0.4.0 has ("Key Format"): EC P-256 or P-521 with ECDH-ES+A256KW, or RSA of
2048 to 4096 bits with RSA-OAEP-256.  Content is A256GCM.  RSA1_5 is refused: its padding is an oracle (RFC 8017, section 7.2).
Answers are flattened JWEs (RFC 7516, section 7.2.2) with every header field protected, in the order in which readers that serialise the
header anew write it: ``alg``, ``enc``, ``epk``, each object's members sorted, no spaces.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn, Self

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwcrypto.common import JWException
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from confide.canonical import Json, from_b64url, parse_object
from confide.crypto.jwe import ECDH, ENC, RSA_OAEP, encrypt
from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, SecretLeakError, UnwrapError

MAX_ANSWER_CHARS: Final = 8 * 1024 * 1024
_COORDINATES: Final = {"P-256": 32, "P-521": 66}
_CURVES: Final[dict[str, ec.EllipticCurve]] = {"P-256": ec.SECP256R1(), "P-521": ec.SECP521R1()}
_RSA_BYTES: Final = range(256, 513)
_EXPONENT: Final = "AQAB"
_ANSWER_FIELDS: Final = ("protected", "encrypted_key", "iv", "ciphertext", "tag")


class KeyKind(StrEnum):
    """The kinds of key that guests use."""

    P256 = "P-256"
    P521 = "P-521"
    RSA = "RSA"


@dataclass(frozen=True, slots=True)
class TeePublicKey:
    """A guest's public key, checked.  Whether it is an attested guest's is checked by ``keys.kbs.sessions``."""

    jwk: Json = field(hash=False)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read a ``tee-pubkey``.

        Raises:
            ParseError: another kind, size or algorithm, a member missing, unknown or not in its one encoding, or not a point of the curve.
        """
        match data:
            case {"kty": "EC", "crv": str(curve), "alg": str(algorithm), "x": str(x), "y": str(y), **rest} if not rest:
                jwk = {"kty": "EC", "crv": curve, "alg": algorithm, "x": x, "y": y}
                _check_point(curve, algorithm, from_b64url(x), from_b64url(y))
            case {"kty": "RSA", "alg": str(algorithm), "n": str(n), "e": str(e), **rest} if not rest:
                jwk = {"kty": "RSA", "alg": algorithm, "n": n, "e": e}
                _check_modulus(algorithm, from_b64url(n), e)
            case _:
                raise ParseError("a tee-pubkey is a public JWK of KBS protocol 0.4.0, EC or RSA, with its algorithm and no other member")
        return cls(jwk)

    def encrypt(self, secret: SecretBytes) -> Json:
        """``secret`` as the answer that only the holder of this key opens."""
        return dict(zip(_ANSWER_FIELDS, encrypt(secret, self._key()).split("."), strict=True))

    def _key(self) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
        jwk = self.jwk
        if jwk["alg"] == RSA_OAEP:
            return rsa.RSAPublicNumbers(*(int.from_bytes(from_b64url(jwk[name])) for name in "en")).public_key()
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[jwk["crv"]], b"\x04" + from_b64url(jwk["x"]) + from_b64url(jwk["y"]))


class TeeKey:
    """A guest's private key, in memory.  Cannot be printed, pickled or saved."""

    __slots__ = ("_key", "public")

    def __init__(self, key: JWK, public: TeePublicKey) -> None:
        self._key = key
        self.public = public

    @classmethod
    def generate(cls, kind: KeyKind = KeyKind.P256) -> TeeKey:
        """A new key from the operating system's generator."""
        if kind is KeyKind.RSA:
            private: Any = rsa.generate_private_key(65537, 3072)
            names, algorithm = ["n", "e"], RSA_OAEP
        else:
            private = ec.generate_private_key(_CURVES[kind.value])
            names, algorithm = ["crv", "x", "y"], ECDH
        key = JWK.from_pyca(private)
        exported = json.loads(key.export_public())
        return cls(key, TeePublicKey.from_json({"kty": exported["kty"], "alg": algorithm, **{name: exported[name] for name in names}}))

    def open(self, answer: object) -> SecretBytes:
        """The secret in an answer.  ``aad`` beside the header is refused unless it is empty: the protocol's is the header itself.

        Raises:
            UnwrapError: not an answer of the agreed form and algorithm, for another key, or changed.
        """
        parts = _answer_parts(answer, str(self.public.jwk["alg"]))
        opened = JWE(algs=[self.public.jwk["alg"], ENC])
        try:
            opened.deserialize(".".join(parts), key=self._key)
            payload = opened.payload
        except (JWException, ValueError, TypeError, KeyError):
            raise UnwrapError("a resource does not open with this guest's key") from None
        if not isinstance(payload, bytes) or not payload:
            raise UnwrapError("a resource is empty")
        return SecretBytes(payload)

    def __repr__(self) -> str:
        return f"TeeKey({self.public.jwk['kty']})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a guest's key was about to be pickled or copied")


def _check_point(curve: str, algorithm: str, x: bytes, y: bytes) -> None:
    if algorithm != ECDH or curve not in _COORDINATES or {len(x), len(y)} != {_COORDINATES[curve]}:
        raise ParseError("an EC tee-pubkey is on P-256 or P-521, in full, for ECDH-ES+A256KW", got=f"{curve} {algorithm}"[:60])
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve], b"\x04" + x + y)
    except ValueError as cause:
        raise ParseError("a tee-pubkey's point is not on the curve") from cause


def _check_modulus(algorithm: str, modulus: bytes, exponent: str) -> None:
    fits = len(modulus) in _RSA_BYTES and modulus[0] >= 0x80 and modulus[-1] & 1
    if algorithm != RSA_OAEP or exponent != _EXPONENT or not fits:
        raise ParseError("an RSA tee-pubkey has 2048 to 4096 bits, exponent 65537 and RSA-OAEP-256", alg=algorithm[:20])


def _answer_parts(answer: object, algorithm: str) -> list[str]:
    """The five parts of an answer whose header is exactly the agreed one: no compression, no other algorithm, no extension."""
    if not isinstance(answer, dict) or not set(_ANSWER_FIELDS) <= set(answer) <= {*_ANSWER_FIELDS, "aad"} or answer.get("aad"):
        raise UnwrapError("not an encrypted resource of KBS protocol 0.4.0")
    parts = [answer[name] for name in _ANSWER_FIELDS]
    try:
        if not all(isinstance(part, str) and from_b64url(part) for part in parts) or sum(map(len, parts)) > MAX_ANSWER_CHARS:
            raise UnwrapError("an encrypted resource has an empty part, or is too large")
        header = parse_object(from_b64url(parts[0]))
    except (ParseError, UnicodeError):
        raise UnwrapError("not an encrypted resource of KBS protocol 0.4.0") from None
    fields = {"alg", "enc", "epk"} if algorithm == ECDH else {"alg", "enc"}
    if set(header) != fields or (header["alg"], header["enc"]) != (algorithm, ENC):
        raise UnwrapError("a resource is encrypted in another way than agreed")
    return parts
