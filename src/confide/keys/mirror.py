"""What the key store's file must hold: an older row that is put back into it, or one that is taken out, shows.

A row's own authentication tag says that the broker wrote it, not that it is the latest.  So the store keeps a *mirror* in memory, the
tag of each row that there must be, and in the file a *total* over these tags, with which the next process to open it starts.  The total is
``Σ HMAC-SHA-256(row key, "contents:" ‖ tag) mod 2^256`` (an additive multiset hash; Clarke et al., ASIACRYPT 2003), kept under a
fresh mask each time: who could read totals could solve for another set of old rows with the same one.  Knows nothing of what rows mean.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final

_MODULUS: Final = 1 << 256
_NONCE_BYTES: Final = 16


class Mirror:
    """The tag of each row by kind and id, which rows are under a ref, and the total.  Changes can be taken back until :meth:`commit`."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._rows: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._ids: dict[tuple[str, str], set[str]] = {}
        self._total = 0
        self._undo: list[Callable[[], None]] = []

    @property
    def changed(self) -> bool:
        """Whether anything was set since the last :meth:`commit`."""
        return bool(self._undo)

    @property
    def rows(self) -> int:
        """How many rows there must be."""
        return len(self._rows)

    def tag(self, kind: str, name: str) -> bytes | None:
        """The tag of the row that there must be; None if there must be none."""
        row = self._rows.get((kind, name))
        return None if row is None else row[1]

    def ids(self, kind: str, ref: str) -> set[str]:
        """The ids of all rows of that kind and ref."""
        return self._ids.get((kind, ref), set())

    def set(self, kind: str, name: str, ref: str, tag: bytes) -> None:
        """From now on, this row must be there in place of the one with the same kind and id."""
        before = self._rows.get((kind, name))
        self._replace(kind, name, (ref, tag))
        self._undo.append(lambda: self._replace(kind, name, before))

    def commit(self) -> None:
        """Changes so far stay."""
        self._undo.clear()

    def rollback(self) -> None:
        """Take back what was set since the last :meth:`commit`."""
        while self._undo:
            self._undo.pop()()

    def sealed_total(self) -> tuple[str, str]:
        """The total as it may lie in the file: masked, and the nonce of its mask (both hex)."""
        nonce = secrets.token_hex(_NONCE_BYTES)
        return f"{(self._total + self._number('mask:' + nonce)) % _MODULUS:064x}", nonce

    def has_total(self, masked: str, nonce: str) -> bool:
        """Whether these are exactly the rows whose :meth:`sealed_total` this was."""
        return int(masked, 16) == (self._total + self._number("mask:" + nonce)) % _MODULUS

    def _replace(self, kind: str, name: str, row: tuple[str, bytes] | None) -> None:
        before = self._rows.pop((kind, name), None)
        if before is not None:
            self._ids[kind, before[0]].discard(name)
            self._total -= self._number("contents:" + before[1].hex())
        if row is not None:
            self._rows[kind, name] = row
            self._ids.setdefault((kind, row[0]), set()).add(name)
            self._total += self._number("contents:" + row[1].hex())

    def _number(self, text: str) -> int:
        return int.from_bytes(hmac.digest(self._key, text.encode(), hashlib.sha256))
