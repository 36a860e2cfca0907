"""Key bytes that do not travel by accident.  Knows nothing of where a key came from."""

from __future__ import annotations

import secrets
from typing import Any, NoReturn

from confide.errors import SecretLeakError


class SecretBytes:
    """Holds key bytes; refuses to be printed, pickled, copied or compared by ``==``.

    ``reveal()`` is the one way out, so that every use of the bytes can be found by its name.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = bytearray(data)

    @classmethod
    def random(cls, length: int = 32) -> SecretBytes:
        """New key bytes from the operating system's generator."""
        return cls(secrets.token_bytes(length))

    def reveal(self) -> bytes:
        """The bytes.  Raises ``SecretLeakError`` after :meth:`wipe`, also if another thread wipes them just now."""
        data = self._data
        found = bytes(data)
        if not found or self._data is not data:
            raise SecretLeakError("this secret was wiped", hint="open the key again")
        return found

    def wipe(self) -> None:
        """Overwrite the held bytes.  Copies that CPython made of them are beyond reach: this narrows a window, no more."""
        data, self._data = self._data, bytearray()  # first: nobody takes zeros for a key
        data[:] = bytes(len(data))  # of the same length: in place

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._data)} bytes>)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        raise SecretLeakError("secrets are not compared by ==", hint="use hmac.compare_digest on purpose")

    __hash__ = None  # type: ignore[assignment]  # unhashable on purpose: no secret in a set or as a key

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a secret was about to be pickled or copied")
