"""A :class:`~confide.keys.custody.protocol.Kms` over any service that can encrypt 32 bytes.

Each secret is encrypted here, under a key of its own, and only that key is sent to the service.  So the context is bound in the same
way whether or not the service knows associated data, secrets may be longer than the service takes, and the service never sees one.

Layout: ``"CKE1"``, length of the service's bytes (2, big-endian), the service's bytes, nonce (12), AES-256-GCM ciphertext and tag.
Everything before the nonce, and the context, is the associated data: no byte can be changed.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.canonical import Json, canonical
from confide.crypto.secret import SecretBytes
from confide.errors import CustodyOfflineError, UnwrapError
from confide.keys.custody.protocol import KeyService

_MAGIC: Final = b"CKE1"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_LENGTH_BYTES: Final = 2
_MAX_WRAPPED: Final = 2**16 - 1
_LABEL: Final = b"confide-custody-v1\0"


class EnvelopeKms:
    """See the module."""

    def __init__(self, service: KeyService) -> None:
        self._service = service

    def wrap(self, secret: SecretBytes, *, context: Json) -> bytes:
        """See :meth:`Kms.wrap`."""
        key = SecretBytes.random(_KEY_BYTES)
        binding = _binding(context)
        wrapped = self._service.wrap_key(key, binding)
        if not 0 < len(wrapped) <= _MAX_WRAPPED:
            raise CustodyOfflineError("the custody gave an answer that is not one", bytes=len(wrapped))
        head = _MAGIC + len(wrapped).to_bytes(_LENGTH_BYTES, "big") + wrapped
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(key.reveal()).encrypt(nonce, secret.reveal(), head + binding)
        key.wipe()
        return head + nonce + sealed

    def unwrap(self, wrapped: bytes, *, context: Json) -> SecretBytes:
        """See :meth:`Kms.unwrap`."""
        start = len(_MAGIC) + _LENGTH_BYTES
        end = start + int.from_bytes(wrapped[len(_MAGIC) : start], "big")
        if wrapped[: len(_MAGIC)] != _MAGIC or end == start or len(wrapped) < end + _NONCE_BYTES + _TAG_BYTES:
            raise _refused()
        binding = _binding(context)
        key = self._service.unwrap_key(wrapped[start:end], binding)
        if len(key) != _KEY_BYTES:
            raise _refused()
        nonce, sealed = wrapped[end : end + _NONCE_BYTES], wrapped[end + _NONCE_BYTES :]
        try:
            return SecretBytes(AESGCM(key.reveal()).decrypt(nonce, sealed, wrapped[:end] + binding))
        except InvalidTag:
            raise _refused() from None
        finally:
            key.wipe()


def _binding(context: Json) -> bytes:
    return hashlib.sha256(_LABEL + canonical(context)).digest()


def _refused() -> UnwrapError:
    return UnwrapError("a wrapped key does not open: another custody key, another use, or changed bytes")
