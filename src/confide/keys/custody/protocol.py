"""What a custody is: it wraps the few keys that open everything else, and may stop doing so.

One protocol, so that an HSM or a key service can stand where the local master key stands.  Knows no custody in particular.
"""

from __future__ import annotations

from typing import Protocol

from confide.canonical import Json
from confide.crypto.secret import SecretBytes


class Kms(Protocol):
    """Wraps and unwraps small secrets; ``context`` is authenticated and must be the same both times."""

    def wrap(self, secret: SecretBytes, *, context: Json) -> bytes:
        """``secret`` encrypted, bound to ``context``.

        Raises:
            CustodyError: the custody refuses, or cannot be reached.
            SealedError: its key is not in this process now.
        """
        ...

    def unwrap(self, wrapped: bytes, *, context: Json) -> SecretBytes:
        """The inverse of :meth:`wrap`.

        Raises:
            UnwrapError: another master key, another context, or changed bytes.
            CustodyError: the custody refuses, or cannot be reached.
            SealedError: its key is not in this process now.
        """
        ...


class Unlock(Protocol):
    """A way to open a store: makes what a new store keeps in the clear, and from it, later, the :class:`Kms` again."""

    @property
    def called(self) -> str:
        """What it is called where it is not the one that a store was made with."""
        ...

    def new_parameters(self) -> Json:
        """What a new store keeps in the clear so that the same way opens it again."""
        ...

    def unlock(self, parameters: Json) -> Kms:
        """The key under a store's parameters.

        Raises:
            StoreError: the store was made to be opened in another way, or its parameters are damaged.
            CustodyError: the custody refuses, or cannot be reached.
        """
        ...


class KeyService(Protocol):
    """A service or device that encrypts 32 bytes under a key that it never gives away.  ``envelope`` makes a :class:`Kms` of it."""

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        """``key`` encrypted.  ``binding`` (32 bytes) goes along as associated data where the service has such a thing.

        Raises:
            CustodyError: the service refuses, or cannot be reached.
        """
        ...

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        """The inverse of :meth:`wrap_key`.

        Raises:
            UnwrapError: the service says that these bytes are not of its making, or not for this binding.
            CustodyError: the service refuses, or cannot be reached.
        """
        ...
