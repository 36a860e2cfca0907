"""All rows of a store under another row key: each has another tag, and lies in another bucket.

Written in the middle of one step, so that either all rows are under the new key or all are under the old one.  What is in memory at a time
is some buckets, and two numbers for each *ref*.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from sqlalchemy import bindparam, delete, select, update

from confide.canonical import Json
from confide.keys.storage.contents import BUCKETS as BUCKET_COUNT
from confide.keys.storage.contents import Place
from confide.keys.storage.database import Statement, upsert
from confide.keys.storage.rows import REF_KIND, Row, Rows, not_latest
from confide.keys.storage.schema import BUCKETS, RECORDS

Change = Callable[[str, Json], Json | None]
"""What becomes of a record's body (kind, body): another one; or nothing, and it stays."""
_MODULUS: Final = 1 << 256
_NONCE_BYTES: Final = 16
_AT_ONCE: Final = 1000
_LEFT: Final = select(RECORDS.c.id).where(RECORDS.c.bucket < bindparam("count")).limit(1)
_SETTLE: Final = Statement(update(RECORDS).values(bucket=RECORDS.c.bucket - bindparam("count")))
_IN_BUCKET: Final = Statement(
    select(RECORDS.c.kind, RECORDS.c.id, RECORDS.c.ref, RECORDS.c.body, RECORDS.c.mac, RECORDS.c.expires).where(
        RECORDS.c.bucket == bindparam("bucket")
    )
)
_FORGET: Final = Statement(delete(BUCKETS))
_KEEP: Final = upsert(RECORDS)


class RekeyedRows(Rows):
    """The rows of a store once they have another key."""

    def take_over(self, old: Rows, change: Change) -> int:
        """Write all of ``old`` anew; how many records.  Inside the transaction; if that fails, these rows are of no use.

        Until all are written, the new ones are told apart by bucket numbers that no old one has.

        Raises:
            StoreError: an old row was changed, taken out or replaced by an older one, or there is one that nothing accounts for.
        """
        done = 0
        used: set[int] = set()
        totals: dict[tuple[str, str], tuple[int, int]] = {}
        for bucket in range(BUCKET_COUNT):
            if old.contents.tag(bucket) is None:
                continue
            rows = [(place, self._anew(place, row, change)) for place, row in old.in_bucket(bucket).items() if place[0] != REF_KIND]
            for place, row in rows:
                count, total = totals.get((place[0], row.ref), (0, 0))
                totals[place[0], row.ref] = (count + 1, (total + self._number("row:" + row.mac.hex())) % _MODULUS)
            self._write_apart(rows, used)
            done += len(rows)
        indexes = [self._index(kind, ref, *found) for (kind, ref), found in totals.items()]
        for start in range(0, len(indexes), _AT_ONCE):
            self._write_apart(indexes[start : start + _AT_ONCE], used)
        if self._database.rows(_LEFT, {"count": BUCKET_COUNT}):
            raise not_latest()
        self._database.run(_SETTLE, {"count": BUCKET_COUNT})
        self._database.run(_FORGET, {})
        self._take_tags(used)
        return done

    def _anew(self, place: Place, row: Row, change: Change) -> Row:
        body = change(place[0], row.body())
        text = row.text if body is None else json.dumps(body, sort_keys=True, separators=(",", ":"))
        return self._row_to_write(place, row.ref, text, row.expires)

    def _index(self, kind: str, ref: str, count: int, total: int) -> tuple[Place, Row]:
        place, nonce = (REF_KIND, f"{kind} {ref}"), secrets.token_hex(_NONCE_BYTES)
        body = {"count": count, "total": f"{(total + self._number('mask:' + nonce)) % _MODULUS:064x}", "nonce": nonce}
        return place, self._row_to_write(place, "", json.dumps(body), None)

    def _write_apart(self, rows: Sequence[tuple[Place, Row]], used: set[int]) -> None:
        values = []
        for (kind, name), row in rows:
            bucket = self.contents.bucket((kind, name))
            used.add(bucket)
            fields = {"kind": kind, "id": name, "ref": row.ref, "body": row.text, "mac": row.mac, "expires": row.expires}
            values.append({**fields, "bucket": bucket + BUCKET_COUNT})
        if values:
            self._database.run(_KEEP, *values)

    def _take_tags(self, used: Iterable[int]) -> None:
        """What each bucket holds now is what it must hold."""
        for bucket in used:
            rows = self._select(_IN_BUCKET, {"bucket": bucket})
            self.contents.set(bucket, self.contents.tag_of(bucket, {place: row.mac for place, row in rows.items()}))
            self._dirty.add(bucket)
