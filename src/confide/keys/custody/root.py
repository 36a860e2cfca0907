"""Unlocks a store whose root key is wrapped by a custody.  In the store's file there is only what the custody made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from confide.canonical import Json, b64url, from_b64url
from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, StoreError
from confide.keys.custody.protocol import Kms
from confide.keys.custody.seal_state import Patience, SealableKms

_KIND = "custody"


@dataclass(frozen=True)
class Custody:
    """An :class:`Unlock` by ``kms``, which is called ``service`` in the store's parameters."""

    kms: Kms
    service: str
    patience: Patience = field(default_factory=Patience)

    @property
    def called(self) -> str:
        """See :class:`~confide.keys.custody.protocol.Unlock`."""
        return f"the key in the custody of {self.service}"

    def new_parameters(self) -> Json:
        """A new root key, wrapped by the custody."""
        wrapped = self.kms.wrap(SecretBytes.random(), context=self._context())
        return {"kind": _KIND, "service": self.service, "root_key": b64url(wrapped)}

    def unlock(self, parameters: Json) -> SealableKms:
        """The root key, as long as the custody lets this process have it.

        Raises:
            StoreError: the store is not in this custody, or its parameters are damaged.
            UnwrapError: the custody's key is not the one that the store was made with.
            CustodyError: the custody refuses, or cannot be reached.
        """
        match parameters:
            case {"kind": "custody", "service": self.service, "root_key": str(text), **rest} if not rest:
                try:
                    wrapped = from_b64url(text)
                except ParseError as cause:
                    raise StoreError("the store's custody parameters are damaged") from cause
                return SealableKms(lambda: self.kms.unwrap(wrapped, context=self._context()), self.patience, service=self.service)
        raise StoreError(f"the store is not in the custody of {self.service}", hint="use what it was made with")

    def _context(self) -> Json:
        return {"use": "root", "service": self.service}
