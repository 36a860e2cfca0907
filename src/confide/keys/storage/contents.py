"""What a key store's database must hold: an older row that is put back into it, or one that is taken out, shows.

A row's own authentication tag says that the broker wrote it, not that it is the latest.  So rows are spread over *buckets* by a keyed
hash of their place, each bucket has a tag over the tags of all its rows, and the head of the store has a tag over those of all buckets.
A process keeps the buckets' tags in memory (32 bytes each, at most 2 MiB), reads a whole bucket when it needs one row of it, and learns of
others' writes from the buckets whose tags have changed.  Memory and the work for a row do not grow with the store until it has millions of
rows.

Pure: where buckets lie is ``keys.store``'s affair.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

BUCKETS: Final = 1 << 16
TAG_BYTES: Final = 32
_MODULUS: Final = 1 << 256
_KNOWN_PLACES: Final = 8192
"""Places whose buckets are remembered: a few hundred bytes each."""

Place = tuple[str, str]
"""A record's kind and id."""


class Contents:
    """The tag of each bucket that is not empty, and one over all of them."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._tags: dict[int, bytes] = {}
        self._total = 0
        self._places: dict[Place, int] = {}

    def bucket(self, place: Place) -> int:
        """The bucket that a record belongs to.  Keyed, so that nobody can choose names that crowd one."""
        found = self._places.get(place)
        if found is None:
            found = int.from_bytes(self._mac(f"place:{place[0]} {place[1]}".encode())[:4]) % BUCKETS
            if len(self._places) >= _KNOWN_PLACES:
                self._places.clear()
            self._places[place] = found
        return found

    def tag_of(self, bucket: int, macs: Mapping[Place, bytes]) -> bytes | None:
        """The tag of a bucket with these rows (their places and tags); None for an empty one."""
        if not macs:
            return None
        rows = b"".join(macs[place] for place in sorted(macs))
        return self._mac(b"bucket:%d:" % bucket + rows)

    def tag(self, bucket: int) -> bytes | None:
        """The tag that the bucket must have; None if it must be empty."""
        return self._tags.get(bucket)

    def used(self, start: int) -> Iterator[int]:
        """The buckets from ``start`` that must not be empty, in order.  Most stores use few of all: the empty ones are passed over in C."""
        return filter(self._tags.__contains__, range(start, BUCKETS))

    def set(self, bucket: int, tag: bytes | None) -> bytes | None:
        """From now on, this is the bucket's tag; returns the one before."""
        before = self._tags.pop(bucket, None)
        if before is not None:
            self._total -= self._number(bucket, before)
        if tag is not None:
            self._tags[bucket] = tag
            self._total += self._number(bucket, tag)
        return before

    def load(self, tags: Iterable[tuple[int, bytes]]) -> None:
        """Take over tags as they lie in the database: :meth:`seal` tells whether they are all there and the latest."""
        for bucket, tag in tags:
            self.set(bucket, tag)

    def seal(self, epoch: int) -> str:
        """A tag over all buckets, hex, for the store's head.

        The sum over buckets is an additive multiset hash (Clarke et al., ASIACRYPT 2003); it never leaves this object in the clear,
        since whoever knew sums could solve for another set of old buckets with the same one.
        """
        return self._mac(b"contents:%d:%064x" % (epoch, self._total % _MODULUS)).hex()

    def _number(self, bucket: int, tag: bytes) -> int:
        return int.from_bytes(self._mac(b"number:%d:" % bucket + tag))

    def _mac(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, hashlib.sha256)
