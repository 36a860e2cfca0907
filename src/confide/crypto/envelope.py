"""Wrapped keys: a dataset key under its owner's key-encryption key, bound to the use it was wrapped for.

Pure.  The key-encryption key never leaves the broker (``confide.keys``); the wrapped form is public and travels in manifests.
AES-256-GCM (NIST SP 800-38D), random 96-bit nonce: one key-encryption key version must wrap fewer than 2^32 keys (section 8.3).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.canonical import Json, b64url, canonical, from_b64url
from confide.crypto.derive import KEY_BYTES
from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, UnwrapError

FORMAT: Final = "confide-wrapped-key-v1"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_MAX_TEXT: Final = 256
_MAX_SECRET: Final = 4096
_FIELDS: Final = {"format", "key", "version", "dataset", "nonce", "ciphertext"}


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A secret that only ``key`` (``owner/name``) in ``version`` opens, and only as the key of ``dataset``.  Public."""

    key: str
    version: int
    dataset: str
    nonce: bytes
    ciphertext: bytes

    def to_json(self) -> Json:
        """The form that manifests and broker messages carry."""
        return {**self._bound(), "nonce": b64url(self.nonce), "ciphertext": b64url(self.ciphertext)}

    @classmethod
    def from_json(cls, data: Json) -> WrappedKey:
        """The inverse of :meth:`to_json`.  Whether it opens is checked by :func:`unwrap`.

        Raises:
            ParseError: not a wrapped key of this format: a field is missing, unknown or malformed.
        """
        match data:
            case {
                "format": "confide-wrapped-key-v1",
                "key": str(key),
                "version": int(version),
                "dataset": str(dataset),
                "nonce": str(nonce),
                "ciphertext": str(ciphertext),
            } if set(data) == _FIELDS and not isinstance(version, bool):
                found = cls(key, version, dataset, from_b64url(nonce), from_b64url(ciphertext))
            case _:
                raise ParseError("not a wrapped key")
        found.check()
        return found

    def check(self) -> None:
        """Return if the fields have the documented form.

        Raises:
            ParseError: they do not.
        """
        texts_fit = 0 < len(self.key) <= _MAX_TEXT and 0 < len(self.dataset) <= _MAX_TEXT
        sealed_fits = len(self.nonce) == _NONCE_BYTES and _TAG_BYTES < len(self.ciphertext) <= _MAX_SECRET + _TAG_BYTES
        if not (texts_fit and sealed_fits and 1 <= self.version < 2**53):
            raise ParseError("a wrapped key's field is out of range", key=self.key[:_MAX_TEXT], version=self.version)

    def _bound(self) -> Json:
        return {"format": FORMAT, "key": self.key, "version": self.version, "dataset": self.dataset}

    @property
    def associated_data(self) -> bytes:
        """What the ciphertext is bound to: the RFC 8785 form of format, key, version and dataset."""
        return canonical(self._bound())


def wrap(kek: SecretBytes, secret: SecretBytes, *, key: str, version: int, dataset: str) -> WrappedKey:
    """Encrypt ``secret`` under ``kek`` (32 bytes), bound to key, version and dataset.

    Raises:
        UnwrapError: the key-encryption key is not 32 bytes.
        ParseError: a name is empty or too long, or the version is not positive.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    blank = WrappedKey(key, version, dataset, nonce, b"")
    wrapped = WrappedKey(key, version, dataset, nonce, _cipher(kek).encrypt(nonce, secret.reveal(), blank.associated_data))
    wrapped.check()
    return wrapped


def unwrap(kek: SecretBytes, wrapped: WrappedKey) -> SecretBytes:
    """The secret.  Whether the caller may have it is not checked here.

    Raises:
        UnwrapError: another key-encryption key, changed bytes, or bound to another key, version or dataset.
    """
    try:
        wrapped.check()
        return SecretBytes(_cipher(kek).decrypt(wrapped.nonce, wrapped.ciphertext, wrapped.associated_data))
    except (InvalidTag, ParseError):
        raise UnwrapError("a wrapped key does not open", key=wrapped.key[:_MAX_TEXT], version=wrapped.version) from None


def _cipher(kek: SecretBytes) -> AESGCM:
    if len(kek) != KEY_BYTES:
        raise UnwrapError("a key-encryption key has 32 bytes; this is something else", got=len(kek))
    return AESGCM(kek.reveal())
