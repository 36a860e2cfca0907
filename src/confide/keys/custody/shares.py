"""The root key in several people's hands: any ``threshold`` shares of ``count`` give it back, fewer say nothing about it.

Shamir, "How to share a secret" (1979), byte by byte over GF(2^8) with the polynomial of AES (FIPS 197, section 4).
A share's text is base32 with a checksum, for people; against people there is a digest of each share in the store, so that a wrong share is
known, and whose it is, before it is used.  Those digests say nothing of use about shares, which are 32 random bytes.
A wrong root key would still be noticed after that: it opens nothing in the store.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import xor
from typing import Final

from confide.canonical import Json, b64url, canonical, from_b64url
from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, ShareError, StoreError, UsageError
from confide.keys.custody.local import KEY_BYTES, MasterKey

PREFIX: Final = "confide-share-1-"
MAX_SHARES: Final = 255
"""Shares are the values at 1..255; the value at 0 is the secret."""
_SET_BYTES: Final = 8
_CHECK_BYTES: Final = 5
_HEAD_BYTES: Final = _SET_BYTES + 3
_SHARE_BYTES: Final = _HEAD_BYTES + KEY_BYTES + _CHECK_BYTES
_GROUP: Final = 8
_FIELD: Final = 0x11B
_DIGEST_LABEL: Final = b"confide-share-digest-v1"
_KIND: Final = "shares"


@dataclass(frozen=True, slots=True)
class ShareSet:
    """What a store keeps about a set of shares: enough to know its own, not to make one."""

    id: bytes
    threshold: int
    digests: tuple[bytes, ...]

    @property
    def count(self) -> int:
        """How many shares there are."""
        return len(self.digests)

    def to_json(self) -> Json:
        """As in a store's parameters."""
        return {"kind": _KIND, "set": self.id.hex(), "threshold": self.threshold, "digests": [b64url(one) for one in self.digests]}

    @classmethod
    def from_json(cls, data: Json) -> ShareSet:
        """The inverse of :meth:`to_json`.

        Raises:
            StoreError: the store is not opened by shares, or what it keeps about them is damaged.
        """
        match data:
            case {"kind": "shares", "set": str(name), "threshold": int(threshold), "digests": list(digests), **rest} if not rest:
                try:
                    found = cls(bytes.fromhex(name), threshold, tuple(from_b64url(str(one)) for one in digests))
                except (ValueError, ParseError) as cause:
                    raise StoreError("what the store keeps about its shares is damaged") from cause
                if len(found.id) == _SET_BYTES and 2 <= threshold <= found.count <= MAX_SHARES:
                    return found
                raise StoreError("what the store keeps about its shares is damaged")
        raise StoreError("the store is not opened by shares", hint="use what it was made with")


@dataclass(frozen=True, slots=True)
class Share:
    """One holder's share.  Its text is a secret: read it from a terminal or a private file only."""

    set_id: bytes
    threshold: int
    count: int
    index: int
    value: SecretBytes = field(repr=False)

    def to_text(self) -> SecretBytes:
        """``confide-share-1-`` and groups of eight characters."""
        body = self.set_id + bytes([self.threshold, self.count, self.index]) + self.value.reveal()
        text = base64.b32encode(body + _checksum(body)).decode().rstrip("=").lower()
        return SecretBytes((PREFIX + "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))).encode())

    @classmethod
    def parse(cls, text: SecretBytes) -> Share:
        """The inverse of :meth:`to_text`.  White space, capitals and where the hyphens are do not matter: people type it.

        Raises:
            ShareError: it is not a share, or was mistyped.
        """
        plain = "".join(text.reveal().decode("ascii", "replace").lower().split())
        if not plain.startswith(PREFIX):
            raise ShareError("this is not a share of a master key", hint=f"it begins with {PREFIX}")
        letters = plain.removeprefix(PREFIX).replace("-", "").upper()
        try:
            data = base64.b32decode(letters + "=" * (-len(letters) % 8))
        except ValueError:  # binascii.Error is one; letters that are not ASCII give another
            data = b""
        if base64.b32encode(data).decode().rstrip("=") != letters:  # the last letter has a bit that decoding does not look at
            data = b""
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if len(data) != _SHARE_BYTES or not hmac.compare_digest(_checksum(body), check):
            raise ShareError("the share is mistyped or cut", hint="type it again: each character counts")
        threshold, count, index = body[_SET_BYTES:_HEAD_BYTES]
        if not (2 <= threshold <= count and 1 <= index <= count):
            raise ShareError("the share is not one that this program made")
        return cls(body[:_SET_BYTES], threshold, count, index, SecretBytes(body[_HEAD_BYTES:]))

    def digest(self) -> bytes:
        """What the store knows this share by."""
        return hashlib.sha256(canonical([_DIGEST_LABEL.decode(), self.set_id.hex(), self.threshold, self.count, self.index,
                                         b64url(self.value.reveal())])).digest()  # fmt: skip


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + body).digest()[:_CHECK_BYTES]


def split(secret: SecretBytes, *, threshold: int, count: int) -> list[Share]:
    """``count`` shares of a 32-byte secret, ``threshold`` of which give it back.

    Raises:
        UsageError: fewer than two would be enough, or there would be more than there can be.
    """
    if not 2 <= threshold <= count <= MAX_SHARES:
        hint = f"at least 2 are needed, of at most {MAX_SHARES}"
        raise UsageError("such shares cannot be made", hint=hint, threshold=threshold, count=count)
    if len(secret) != KEY_BYTES:
        raise UsageError("only a key of 32 bytes is shared")
    # One polynomial a byte: the secret at 0, and uniform coefficients (zero included: fewer shares must leave every secret as likely).
    rows = [secret.reveal(), *(secrets.token_bytes(KEY_BYTES) for _ in range(threshold - 1))]
    name = secrets.token_bytes(_SET_BYTES)
    return [Share(name, threshold, count, x, SecretBytes(bytes(_value(column, x) for column in zip(*rows, strict=True))))
            for x in range(1, count + 1)]  # fmt: skip


def combine(shares: Sequence[Share]) -> SecretBytes:
    """The secret that the shares are of.  Whether each is genuine is for :class:`Collected` to say.

    Raises:
        ShareError: too few (one that is there twice counts once), or of different sets.
    """
    first = shares[0] if shares else None
    if first is None or len({share.index for share in shares}) < first.threshold:
        raise ShareError("there are too few shares", needed=first.threshold if first else None, got=len(shares))
    if any((share.set_id, share.threshold, share.count) != (first.set_id, first.threshold, first.count) for share in shares):
        raise ShareError("the shares are of different sets")
    used = list({share.index: share for share in shares}.values())[: first.threshold]
    at = [share.index for share in used]
    weights = [_weight(x, at) for x in at]
    values = [share.value.reveal() for share in used]
    return SecretBytes(bytes(reduce(xor, map(_times, weights, column)) for column in zip(*values, strict=True)))


@dataclass
class Collected:
    """Shares of one set as their holders bring them, until there are enough."""

    wanted: ShareSet
    _held: dict[int, Share] = field(default_factory=dict, repr=False)

    @property
    def missing(self) -> int:
        """How many more are needed."""
        return max(0, self.wanted.threshold - len(self._held))

    def add(self, share: Share) -> None:
        """Take a share that is of this set, genuine and not here yet.

        Raises:
            ShareError: it is not.  Those that are here stay.
        """
        wanted = self.wanted
        if (share.set_id, share.threshold, share.count) != (wanted.id, wanted.threshold, wanted.count):
            raise ShareError("the share is of another set: of another store, or from before the shares were made anew", share=share.index)
        if not hmac.compare_digest(share.digest(), wanted.digests[share.index - 1]):
            raise ShareError("the share is not the one that was made: it was changed", share=share.index)
        if share.index in self._held:
            raise ShareError("this share was given already", share=share.index)
        self._held[share.index] = share

    def take(self) -> SecretBytes:
        """The secret; the shares are wiped.

        Raises:
            ShareError: there are too few.
        """
        secret = combine(list(self._held.values()))
        for share in self._held.values():
            share.value.wipe()
        self._held.clear()
        return secret


@dataclass(frozen=True)
class SharedRoot:
    """An :class:`Unlock` by a root key that was just made, or just put together, and the set that its shares are."""

    root: SecretBytes
    shares: ShareSet

    @property
    def called(self) -> str:
        """See :class:`~confide.keys.custody.protocol.Unlock`."""
        return "the key that these shares make"

    @classmethod
    def create(cls, *, threshold: int, count: int) -> tuple[SharedRoot, list[Share]]:
        """A new root key, and its shares for their holders."""
        root = SecretBytes.random(KEY_BYTES)
        made = split(root, threshold=threshold, count=count)
        return cls(root, ShareSet(made[0].set_id, threshold, tuple(share.digest() for share in made))), made

    def new_parameters(self) -> Json:
        """What the store keeps about the shares."""
        return self.shares.to_json()

    def unlock(self, parameters: Json) -> MasterKey:
        """The root key, for the store that the shares are of."""
        if ShareSet.from_json(parameters) != self.shares:
            raise StoreError("the shares are of another store")
        return MasterKey(self.root)


# --- GF(2^8) -------------------------------------------------------------------------------------------------------


def _times(a: int, b: int) -> int:
    """The product, without tables and without branches on secrets (as far as Python goes)."""
    product = 0
    for bit in range(8):
        product ^= (a << bit) * (b >> bit & 1)
    for bit in range(14, 7, -1):
        product ^= (_FIELD << bit - 8) * (product >> bit & 1)
    return product


def _inverse(a: int) -> int:
    """a^254 (FIPS 197, section 5.1.1), by squaring: 254 = 2 + 4 + ... + 128."""
    power, product = a, 1
    for _ in range(7):
        power = _times(power, power)
        product = _times(product, power)
    return product


def _value(coefficients: Sequence[int], x: int) -> int:
    """The polynomial at ``x`` (Horner)."""
    total = 0
    for coefficient in reversed(coefficients):
        total = _times(total, x) ^ coefficient
    return total


def _weight(x: int, others: Sequence[int]) -> int:
    """The Lagrange weight at 0 of the point at ``x``: indices are public."""
    product = 1
    for other in others:
        if other != x:
            product = _times(product, _times(other, _inverse(other ^ x)))
    return product
