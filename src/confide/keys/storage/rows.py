"""The store's records as rows: authenticated, the latest, and none missing, whether asked for by id or by ref.

See ``storage.contents`` for how that is known.  Which records are under a *ref* is itself a row (of kind ``#ref``): their number, and a
masked additive hash over their tags.  Callers hold the transaction; :meth:`Rows.restore` takes changes back in memory when it is undone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import bindparam, delete, select

from confide.canonical import Json, json_writer, parse_object
from confide.errors import ParseError, StoreError
from confide.keys.records import Record
from confide.keys.storage.contents import BUCKETS as BUCKET_COUNT
from confide.keys.storage.contents import Contents, Place
from confide.keys.storage.database import Database
from confide.keys.storage.schema import BUCKETS, RECORDS
from confide.keys.storage.statements import Row as Fields
from confide.keys.storage.statements import Statement, upsert

REF_KIND: Final = "#ref"
_CACHED_BUCKETS: Final = 4096
_CACHED_REFS: Final = 1024
_WRITTEN_AT_ONCE: Final = 500
"""Rows that are known in memory before they are written; far fewer than buckets are kept there, or one would be read as it was before."""
_PART: Final = 100
"""Records that a walk takes at a time, at least."""
_MODULUS: Final = 1 << 256
_NONCE_BYTES: Final = 16
_bound: Final = json_writer(separators=(", ", ": "))
"""As rows were always authenticated."""
_write: Final = json_writer(sort_keys=True)
_ROWS: Final = select(RECORDS.c.kind, RECORDS.c.id, RECORDS.c.ref, RECORDS.c.body, RECORDS.c.mac, RECORDS.c.expires)
_IN_BUCKET: Final = Statement(_ROWS.where(RECORDS.c.bucket == bindparam("bucket")))
_UNDER_REF: Final = Statement(_ROWS.where((RECORDS.c.kind == bindparam("kind")) & (RECORDS.c.ref == bindparam("ref"))))
_REMOVE: Final = Statement(delete(RECORDS).where((RECORDS.c.kind == bindparam("kind")) & (RECORDS.c.id == bindparam("id"))))
_KEEP: Final = upsert(RECORDS)
_KEEP_TAG: Final = upsert(BUCKETS)

R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """An authentic row.  ``made`` holds the record once somebody has asked for it."""

    ref: str
    text: str
    mac: bytes
    expires: int | None
    made: list[Any] = field(default_factory=list, compare=False)

    def body(self) -> Json:
        """The body as JSON."""
        return parse_object(self.text)


class Rows:
    """The records' tables, and what is known of them."""

    def __init__(self, database: Database, row_key: bytes, version: str) -> None:
        self._database = database
        self._version = version
        self._mac_key, self._ref_key = subkey(row_key, "rows"), subkey(row_key, "refs")
        self.contents = Contents(subkey(row_key, "contents"))
        self._undo: list[tuple[int, bytes | None]] = []
        self._dirty: set[int] = set()
        self._buckets: OrderedDict[int, tuple[bytes | None, dict[Place, Row]]] = OrderedDict()
        self._refs: OrderedDict[tuple[str, str], tuple[bytes, list[Any]]] = OrderedDict()

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, kind: type[R], name: str) -> R | None:
        """The record of that kind and id, if there is one.

        Raises:
            StoreError: a row beside it, or it itself, was changed, taken out or replaced by an older one.
        """
        place = (kind.kind, name)
        row = self._row(place)
        return None if row is None else _record(kind, place, row)

    def find(self, kind: type[R], ref: str) -> list[R]:
        """All records of that kind and ref, by id.  Raises as :meth:`get`."""
        index = self._row(index_place(kind.kind, ref))
        if index is None:
            return []
        cached = self._refs.get((kind.kind, ref))
        if cached is None or cached[0] != index.mac:
            cached = (index.mac, self._under(kind, ref, index))
            _keep(self._refs, (kind.kind, ref), cached, _CACHED_REFS)
        return list(cached[1])

    def some_under(self, kind: type[R], ref: str, limit: int) -> list[R]:
        """At most ``limit`` of the records of that kind and ref, and at least one if there is any.  Raises as :meth:`get`.

        Each is read with its bucket: the work is in proportion to ``limit``, however many there are.
        """
        query = select(RECORDS.c.id).where((RECORDS.c.kind == kind.kind) & (RECORDS.c.ref == ref)).limit(limit)
        names = [str(name) for (name,) in self._database.rows(query)]
        found = [record for record in (self.get(kind, name) for name in names) if record is not None and record.ref == ref]
        if len(found) != len(names) or bool(found) != bool(self.count(kind, ref)):
            raise not_latest()
        return found

    def count(self, kind: type[R], ref: str) -> int:
        """How many records of that kind and ref there are.  Raises as :meth:`get`."""
        index = self._row(index_place(kind.kind, ref))
        return 0 if index is None else int(index.body()["count"])

    def in_bucket(self, bucket: int) -> Mapping[Place, Row]:
        """All rows of a bucket, checked.  Raises as :meth:`get`."""
        tag = self.contents.tag(bucket)
        cached = self._buckets.get(bucket)
        if cached is not None and cached[0] == tag:
            return cached[1]
        found = {} if tag is None else self._written_in(bucket)
        if self.contents.tag_of(bucket, {place: row.mac for place, row in found.items()}) != tag:
            raise not_latest()
        _keep(self._buckets, bucket, (tag, found), _CACHED_BUCKETS)
        return found

    def some(self, kind: type[R], start: int) -> tuple[int, list[R]]:
        """The records of a kind in the next buckets from ``start``, and the bucket behind them.  Raises as :meth:`get`."""
        found: list[R] = []
        for bucket in self.contents.used(start):
            found += [_record(kind, place, row) for place, row in sorted(self.in_bucket(bucket).items()) if place[0] == kind.kind]
            if len(found) >= _PART:
                return bucket + 1, found
        return BUCKET_COUNT, found

    def stray(self) -> bool:
        """Whether there is a row in a bucket that must be empty."""
        used = self._database.rows(select(RECORDS.c.bucket).distinct())
        return any(self.contents.tag(bucket) is None for (bucket,) in used)

    # --- writing -----------------------------------------------------------------------------------------------------

    def put(self, records: Iterable[Record], expires: int | None) -> None:
        """Keep ``records``, each in place of the one with the same kind and id.

        What is under a ref is written once for all of them that come to it or leave it.
        """
        moves: _Moves = {}
        for some in parts(records):
            changed = []
            for record in some:
                place, ref = (record.kind, record.id), record.ref
                row = self._row_to_write(place, ref, text_of(record.to_json()), expires)
                before = self._row(place)
                if before is None or before.mac != row.mac:
                    changed.append((place, row))
                    self._set(place, row)
                    _move(moves, place[0], before, row)
            self._write(changed)
        for (kind, ref), tags in moves.items():
            self._shift(kind, ref, tags)

    def delete(self, place: Place) -> bool:
        """Remove a record; whether there was one."""
        before = self._row(place)
        if before is None:
            return False
        self._database.run(_REMOVE, {"kind": place[0], "id": place[1]})
        self._set(place, None)
        if place[0] != REF_KIND:
            self._shift(place[0], before.ref, [(before.mac, None)])
        return True

    def due(self, now: int, limit: int) -> list[Place]:
        """The places of records that have expired."""
        query = select(RECORDS.c.kind, RECORDS.c.id).where(RECORDS.c.expires < now).limit(limit)
        return [(kind, name) for kind, name in self._database.rows(query)]

    def write_tags(self, epoch: int) -> None:
        """Write the tags of the buckets that have changed since the last :meth:`keep`."""
        tags = [{"bucket": bucket, "tag": self.contents.tag(bucket) or b"", "epoch": epoch} for bucket in sorted(self._dirty)]
        self._database.run(_KEEP_TAG, *tags)

    def load_tags(self, after: int) -> None:
        """Take over the tags that others have written after epoch ``after``; :meth:`Contents.seal` tells whether they are right."""
        for bucket, tag in self._database.rows(select(BUCKETS.c.bucket, BUCKETS.c.tag).where(BUCKETS.c.epoch > after)):
            self._undo.append((bucket, self.contents.set(bucket, bytes(tag) or None)))

    # --- undoing -----------------------------------------------------------------------------------------------------

    @property
    def changed(self) -> bool:
        """Whether a bucket has changed since the last :meth:`keep`."""
        return bool(self._dirty)

    def mark(self) -> int:
        """A moment to which :meth:`restore` can go back."""
        return len(self._undo)

    def restore(self, mark: int) -> None:
        """Take back what has changed since ``mark``.  The database undoes it itself."""
        while len(self._undo) > mark:
            bucket, tag = self._undo.pop()
            self.contents.set(bucket, tag)
            self._buckets.pop(bucket, None)
        if not self._undo:
            self._dirty.clear()

    def keep(self) -> None:
        """Changes so far stay."""
        self._undo.clear()
        self._dirty.clear()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _row(self, place: Place) -> Row | None:
        return self.in_bucket(self.contents.bucket(place)).get(place)

    def _written_in(self, bucket: int) -> dict[Place, Row]:
        return self._select(_IN_BUCKET, {"bucket": bucket})

    def _select(self, query: Statement, values: Mapping[str, object]) -> dict[Place, Row]:
        return {(fields[0], fields[1]): self._authentic(fields) for fields in self._database.rows(query, values)}

    def _under(self, kind: type[R], ref: str, index: Row) -> list[R]:
        rows = self._select(_UNDER_REF, {"kind": kind.kind, "ref": ref})
        total = sum(self._weight(row.mac) for row in rows.values()) % _MODULUS
        if (len(rows), total) != self._counted(index):
            raise not_latest()
        return [_record(kind, place, row) for place, row in sorted(rows.items())]

    def _row_to_write(self, place: Place, ref: str, text: str, expires: int | None) -> Row:
        return Row(ref, text, self._mac(place, ref, text, expires), expires)

    def _write(self, rows: Iterable[tuple[Place, Row]], *, beyond: int = 0) -> None:
        """Write rows that are known in memory already; so many buckets ``beyond`` their own, if they are to be told from others there."""
        values = [
            {
                "kind": place[0],
                "id": place[1],
                "ref": row.ref,
                "body": row.text,
                "mac": row.mac,
                "expires": row.expires,
                "bucket": self.contents.bucket(place) + beyond,
            }
            for place, row in rows
        ]
        self._database.run(_KEEP, *values)

    def _set(self, place: Place, row: Row | None) -> None:
        bucket = self.contents.bucket(place)
        rows = {other: kept for other, kept in self.in_bucket(bucket).items() if other != place}
        if row is not None:
            rows[place] = row
        tag = self.contents.tag_of(bucket, {other: kept.mac for other, kept in rows.items()})
        self._undo.append((bucket, self.contents.set(bucket, tag)))
        self._dirty.add(bucket)
        _keep(self._buckets, bucket, (tag, rows), _CACHED_BUCKETS)

    def _shift(self, kind: str, ref: str, tags: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Take note of the tags of rows under ``ref`` that have gone, and of those that have come."""
        place = index_place(kind, ref)
        index = self._row(place)
        count, total = self._counted(index) if index else (0, 0)
        for gone, come in tags:
            for mac, sign in ((gone, -1), (come, 1)):
                if mac is not None:
                    count, total = count + sign, total + sign * self._weight(mac)
        if count == 0:
            self.delete(place)
            return
        row = self._index(place, count, total)
        self._set(place, row)
        self._write([(place, row)])

    def _index(self, place: Place, count: int, total: int) -> Row:
        """The row that says how many are under a ref, and what their weights come to."""
        nonce = secrets.token_hex(_NONCE_BYTES)
        body = {"count": count, "total": f"{(total + self._number('mask:' + nonce)) % _MODULUS:064x}", "nonce": nonce}
        return self._row_to_write(place, "", json.dumps(body), None)

    def _counted(self, index: Row) -> tuple[int, int]:
        body = index.body()
        return int(body["count"]), (int(body["total"], 16) - self._number("mask:" + str(body["nonce"]))) % _MODULUS

    def _authentic(self, fields: Fields) -> Row:
        kind, name, ref, text, mac, expires = fields
        if not hmac.compare_digest(self._mac((kind, name), ref, text, expires), bytes(mac)):
            raise StoreError("a row of the key store was changed by somebody else than the broker", kind=str(kind)[:40], id=str(name)[:120])
        return Row(ref, text, bytes(mac), expires)

    def _mac(self, place: Place, ref: str, text: str, expires: int | None) -> bytes:
        data = _bound([self._version, *place, ref, text, expires]).encode()
        return hmac.digest(self._mac_key, data, hashlib.sha256)

    def _weight(self, mac: bytes) -> int:
        """What a row adds to the total of its ref."""
        return self._number("row:" + mac.hex())

    def _number(self, text: str) -> int:
        return int.from_bytes(hmac.digest(self._ref_key, text.encode(), hashlib.sha256))


def subkey(key: bytes, use: str) -> bytes:
    """A key for one use, from the store's row key."""
    return hmac.digest(key, f"confide store {use}".encode(), hashlib.sha256)


def text_of(body: Json) -> str:
    """A record's body as it is kept."""
    return _write(body)


def not_latest() -> StoreError:
    """The refusal of rows that are genuine, but not those that there must be."""
    return StoreError("an older row was put back into the key store, or a row was taken out of it")


def index_place(kind: str, ref: str) -> Place:
    """Where the row lies that knows what is under a ref."""
    return REF_KIND, f"{kind} {ref}"


_Moves = dict[tuple[str, str], list[tuple[bytes | None, bytes | None]]]
"""By kind and ref: the tags of rows that have gone from there, and of those that have come."""


def _move(moves: _Moves, kind: str, before: Row | None, row: Row) -> None:
    if before is not None and before.ref != row.ref:
        moves.setdefault((kind, before.ref), []).append((before.mac, None))
        before = None
    moves.setdefault((kind, row.ref), []).append((before.mac if before else None, row.mac))


def parts(rows: Iterable[T]) -> Iterator[list[T]]:
    """A few at a time: their buckets are all in memory until they are written."""
    rest = iter(rows)
    while part := list(islice(rest, _WRITTEN_AT_ONCE)):
        yield part


def _record(kind: type[R], place: Place, row: Row) -> R:
    if not row.made:
        try:
            record = kind.from_json(row.body())
        except (KeyError, TypeError, ValueError, ParseError) as cause:
            raise StoreError("a row of the key store is of another version", kind=kind.kind, id=place[1][:120]) from cause
        if (record.id, record.ref) != (place[1], row.ref):
            raise StoreError("a row of the key store is in the wrong place", kind=kind.kind, id=place[1][:120])
        row.made.append(record)
    found: R = row.made[0]
    return found


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _keep(cache: OrderedDict[K, V], name: K, value: V, most: int) -> None:
    cache[name] = value
    cache.move_to_end(name)
    while len(cache) > most:
        cache.popitem(last=False)
