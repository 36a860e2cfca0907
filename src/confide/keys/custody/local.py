"""The local master key: from a passphrase (scrypt, RFC 7914) or a key file, held in memory only.

Also what every other custody ends in: the key that it gave, once it gave it.  Knows nothing of what the wrapped bytes are for.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from confide.canonical import Json, b64url, canonical, from_b64url
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import read_private_file, write_private_file
from confide.errors import CredentialError, ParseError, StoreError, UnwrapError
from confide.keys.custody.protocol import Kms

KEY_BYTES: Final = 32
MIN_PASSPHRASE_BYTES: Final = 8
"""Shortest passphrase, in bytes of UTF-8.  scrypt slows guessing down; it does not make a short one good."""
_FORMAT: Final = b"confide-kms-v1"
_NONCE_BYTES: Final = 12
_SALT_BYTES: Final = 16
_SCRYPT_N: Final = 2**17
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
"""128 MiB and about 0.3 s: OWASP Password Storage Cheat Sheet, scrypt."""
_MAX_SCRYPT_BYTES: Final = 1024**3
"""Cap on the memory that a store file may ask for (128 * N * r): the file is not trusted before it is unlocked."""


class MasterKey:
    """The local :class:`Kms`: AES-256-GCM under a key that this process holds, a random nonce each time."""

    def __init__(self, key: SecretBytes) -> None:
        if len(key) != KEY_BYTES:
            what = "a master key has 32 bytes: this is not a key file of `confide broker`"
            raise StoreError(what, hint="give the file that `confide broker serve --key-file` has made, or a copy of it", got=len(key))
        self._aead = AESGCM(key.reveal())

    def wrap(self, secret: SecretBytes, *, context: Json) -> bytes:
        """See :meth:`Kms.wrap`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, secret.reveal(), _associated(context))

    def unwrap(self, wrapped: bytes, *, context: Json) -> SecretBytes:
        """See :meth:`Kms.unwrap`."""
        try:
            return SecretBytes(self._aead.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _associated(context)))
        except (InvalidTag, ValueError):
            raise UnwrapError("a stored key does not open: wrong master key, or changed bytes") from None


def _associated(context: Json) -> bytes:
    return _FORMAT + b"\0" + canonical(context)


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Unlocks a store by a passphrase: UTF-8, at least 8 bytes."""

    secret: SecretBytes

    @property
    def called(self) -> str:
        """See :class:`~confide.keys.custody.protocol.Unlock`."""
        return "the passphrase"

    def __post_init__(self) -> None:
        if len(self.secret) < MIN_PASSPHRASE_BYTES:
            raise StoreError("the passphrase is too short", hint=f"use at least {MIN_PASSPHRASE_BYTES} characters")

    def new_parameters(self) -> Json:
        """What a new store keeps in the clear so that the passphrase opens it again."""
        return {"kind": "scrypt", "salt": b64url(secrets.token_bytes(_SALT_BYTES)), "n": _SCRYPT_N, "r": _SCRYPT_R, "p": _SCRYPT_P}

    def unlock(self, parameters: Json) -> Kms:
        """The master key under a store's parameters.  Whether it is the right one is not known before it has opened something.

        Raises:
            StoreError: the store was not made with a passphrase, or its parameters are damaged.
        """
        match parameters:
            case {"kind": "scrypt", "salt": str(text), "n": int(n), "r": int(r), "p": int(p)} if 0 < n * r * p * 128 <= _MAX_SCRYPT_BYTES:
                try:
                    key = Scrypt(salt=from_b64url(text), length=KEY_BYTES, n=n, r=r, p=p).derive(self.secret.reveal())
                except (ParseError, ValueError) as cause:
                    raise StoreError("the store's passphrase parameters are damaged") from cause
                return MasterKey(SecretBytes(key))
        raise StoreError("the store is not opened by a passphrase", hint="use the key file that it was made with")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Unlocks a store by a file of 32 random bytes, mode 0600 (:meth:`create` makes one)."""

    path: Path

    @property
    def called(self) -> str:
        """See :class:`~confide.keys.custody.protocol.Unlock`."""
        return f"the key file {self.path}"

    @classmethod
    def create(cls, path: Path) -> KeyFile:
        """Make a new key file.

        Raises:
            CredentialError: the file exists or cannot be written.
        """
        write_private_file(path, SecretBytes.random(KEY_BYTES).reveal())
        return cls(path)

    def new_parameters(self) -> Json:
        """What a new store keeps in the clear: only that a key file opens it."""
        return {"kind": "key-file"}

    def unlock(self, parameters: Json) -> Kms:
        """The master key.  Whether it is the right one is not known before it has opened something.

        Raises:
            StoreError: the file is missing, open to others or not 32 bytes, or the store was not made with a key file.
        """
        if parameters != {"kind": "key-file"}:
            raise StoreError("the store is not opened by a key file", hint="use the passphrase that it was made with")
        try:
            return MasterKey(SecretBytes(read_private_file(self.path)))
        except CredentialError as cause:
            hint = cause.hint or "give the key file that this store was made with, or a copy of it"
            raise StoreError(cause.message, hint=hint, path=str(self.path)) from cause
