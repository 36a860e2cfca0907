"""Signatures: ECDSA P-256 keys, private key files, and DSSE v1 envelopes.

A public key is named by the SHA-256 of its DER SubjectPublicKeyInfo.  Who stands behind a key is decided elsewhere (attestation,
the broker's list of owners).  Standards: FIPS 186-5, RFC 5480 (P-256 SPKI), DSSE v1 (github.com/secure-systems-lab/dsse).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from confide.canonical import Json, sha256_hex
from confide.crypto.secret import SecretBytes
from confide.durable import sync_file, sync_folder
from confide.errors import CredentialError, IntegrityError, ParseError, SecretLeakError
from confide.ids import SpkiDigest

_MAX_SPKI_BYTES: Final = 512
_MAX_PRIVATE_FILE_BYTES: Final = 16 * 1024
_KNOWN_KEYS: Final = 1024
_ECDSA: Final = ec.ECDSA(SHA256())
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A P-256 public key as its one DER SubjectPublicKeyInfo.  Make it with :meth:`from_spki`, which checks it."""

    spki_der: bytes

    @classmethod
    def from_spki(cls, der: bytes) -> PublicKey:
        """Read a DER SubjectPublicKeyInfo.

        Raises:
            ParseError: not P-256, not a point of the curve, or not the canonical encoding (one key has one digest).
        """
        _p256(der)
        return cls(der)

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """Read a PEM public key.

        Raises:
            ParseError: it is none, or as :meth:`from_spki`.
        """
        try:
            return cls.from_spki(load_pem_public_key(pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
            raise ParseError("not a PEM public key") from cause

    @property
    def pem(self) -> bytes:
        """The key in PEM."""
        return load_der_public_key(self.spki_der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def digest(self) -> SpkiDigest:
        """The key's name: SHA-256 of its SPKI, hex."""
        return SpkiDigest(sha256_hex(self.spki_der))

    def verify(self, signature: bytes, data: bytes) -> None:
        """Return if ``signature`` (DER, ECDSA over SHA-256) is this key's over ``data``.

        Raises:
            IntegrityError: it is not.
        """
        try:
            _p256(self.spki_der).verify(signature, data, _ECDSA)
        except ParseError as cause:
            raise IntegrityError("not a P-256 public key") from cause
        except InvalidSignature:
            raise IntegrityError("a signature does not verify", signer=self.digest) from None


@lru_cache(_KNOWN_KEYS)
def _p256(der: bytes) -> ec.EllipticCurvePublicKey:
    """See :meth:`PublicKey.from_spki`.  Keys that were read are remembered: the same few sign again and again."""
    if len(der) > _MAX_SPKI_BYTES:
        raise ParseError("a public key is too long", got=len(der))
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
        raise ParseError("not a DER public key") from cause
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ParseError("not a P-256 public key")
    if spki_of(key) != der:
        raise ParseError("a public key is not in its canonical encoding")
    return key


class SigningKey:
    """A P-256 private key.  Refuses to be printed, pickled or copied; :meth:`private_pem` and :meth:`save_private` are the ways out."""

    __slots__ = ("_key", "public")

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise CredentialError("not a P-256 private key")
        self._key = key
        self.public = PublicKey(spki_of(key.public_key()))

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's generator."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load_private(cls, path: Path) -> SigningKey:
        """Read a key that :meth:`save_private` wrote.

        Raises:
            CredentialError: no such file, open to other users, or not an unencrypted PEM P-256 private key.
        """
        try:
            key = load_pem_private_key(read_private_file(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise CredentialError(f"{path} is not an unencrypted PEM private key", path=str(path)) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CredentialError(f"{path} is not a P-256 private key", path=str(path))
        return cls(key)

    def save_private(self, path: Path) -> None:
        """Write the key to a new file of mode 0600, whole or not at all.

        Raises:
            CredentialError: the file exists (a private key is never overwritten) or cannot be written.
        """
        write_private_file(path, self.private_pem().reveal())

    def private_pem(self) -> SecretBytes:
        """The key as unencrypted PKCS#8 PEM: for memory-backed private folders of this node, nothing else."""
        return SecretBytes(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def unwrapped(self) -> ec.EllipticCurvePrivateKey:
        """The key as a ``cryptography`` object: for TLS contexts and certificate builders."""
        return self._key

    @property
    def spki_der(self) -> bytes:
        """DER SubjectPublicKeyInfo of the public half."""
        return self.public.spki_der

    @property
    def spki_digest(self) -> SpkiDigest:
        """The key's public name."""
        return self.public.digest

    def sign(self, data: bytes) -> bytes:
        """ECDSA over SHA-256 of ``data``, DER."""
        return self._key.sign(data, _ECDSA)

    def __repr__(self) -> str:
        return f"SigningKey({self.spki_digest})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a private key was about to be pickled or copied")


def spki_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """The canonical DER SubjectPublicKeyInfo (named curve, uncompressed point)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --- private files ------------------------------------------------------------------------------------------------


def write_private_file(path: Path, data: bytes) -> None:
    """Make a new file of mode 0600 that holds ``data``: whole or not at all, and never over another file.

    Raises:
        CredentialError: the file exists, or the folder cannot be written.
    """
    staging = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                sync_file(file)
            os.link(staging, path)  # unlike rename, fails if the name is taken
        finally:
            with contextlib.suppress(OSError):
                staging.unlink()
        sync_folder(path.parent)
    except FileExistsError:
        raise CredentialError(f"{path} exists", hint="a private key is never overwritten: choose another path", path=str(path)) from None
    except OSError as cause:
        raise CredentialError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause


def read_private_file(path: Path) -> bytes:
    """The bytes of a file that only this user can read.

    Raises:
        CredentialError: missing, not a plain file, another user's, or its mode lets others in.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO in its place must not block us
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CredentialError(f"{path} is not a plain file", path=str(path))
            if status.st_mode & 0o077 or status.st_uid not in {os.geteuid(), 0}:
                raise CredentialError(f"{path} is open to other users", hint=f"chmod 600 {path}", path=str(path))
            data = file.read(_MAX_PRIVATE_FILE_BYTES + 1)
    except OSError as cause:
        raise CredentialError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    if len(data) > _MAX_PRIVATE_FILE_BYTES:
        raise CredentialError(f"{path} is too long for a key file", path=str(path))
    return data


# --- DSSE v1 ------------------------------------------------------------------------------------------------------


def dsse_sign(key: SigningKey, payload_type: str, payload: bytes) -> Json:
    """A DSSE v1 envelope over ``payload`` with one signature, whose ``keyid`` is the key's SPKI digest."""
    signature = key.sign(_pre_authentication_encoding(payload_type, payload))
    return {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode("ascii"),
        "signatures": [{"keyid": key.spki_digest, "sig": base64.b64encode(signature).decode("ascii")}],
    }


def dsse_verify(envelope: Json, key: PublicKey, payload_type: str) -> bytes:
    """The payload, if ``key`` signed it as ``payload_type``.  What the payload says is not checked here.

    Raises:
        ParseError: not a DSSE envelope with exactly one signature.
        IntegrityError: another type, another key, or the signature does not verify.
    """
    found_type, payload, keyid, signature = _read_envelope(envelope)
    if found_type != payload_type:
        raise IntegrityError("a signed envelope holds another type of payload", expected=payload_type, got=ascii(found_type[:120]))
    if keyid != key.digest:
        raise IntegrityError("an envelope is signed by another key", expected=key.digest, got=keyid)
    key.verify(signature, _pre_authentication_encoding(payload_type, payload))
    return payload


def unverified_keyid(envelope: Json) -> SpkiDigest:
    """The key that the envelope *claims* to be signed by: to find the key to verify with, nothing else.

    Raises:
        ParseError: not a DSSE envelope with exactly one signature.
    """
    return _read_envelope(envelope)[2]


def unverified_payload(envelope: Json) -> bytes:
    """The payload before any signature was verified: to find out which key to verify with, nothing else.

    Raises:
        ParseError: not a DSSE envelope with exactly one signature.
    """
    return _read_envelope(envelope)[1]


def _read_envelope(envelope: Json) -> tuple[str, bytes, SpkiDigest, bytes]:
    match envelope:
        case {"payloadType": str(kind), "payload": str(payload), "signatures": [{"keyid": str(keyid), "sig": str(signature)} as entry]}:
            if len(envelope) == 3 and len(entry) == 2 and _DIGEST.fullmatch(keyid):  # exactly the fields just matched
                return kind, _from_base64(payload), SpkiDigest(keyid), _from_base64(signature)
    raise ParseError("not a DSSE envelope with exactly one signature")


def _from_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise ParseError("not base64") from cause
    if base64.b64encode(data).decode("ascii") != text:  # loose bits or padding: one payload has one encoding
        raise ParseError("not canonical base64")
    return data


def _pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1 protocol, "PAE": lengths in ASCII decimal keep type and payload apart."""
    name = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)
