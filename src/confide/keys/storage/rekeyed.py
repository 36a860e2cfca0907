"""All rows of a store under another row key: each has another tag, and lies in another bucket.

Written in the middle of one step, so that either all rows are under the new key or all are under the old one.  What is in memory at a time
is some buckets, and two numbers for each *ref*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy import bindparam, delete, select, update

from confide.canonical import Json
from confide.keys.storage.contents import BUCKETS as BUCKET_COUNT
from confide.keys.storage.contents import Place
from confide.keys.storage.rows import REF_KIND, Row, Rows, index_place, not_latest, parts, text_of
from confide.keys.storage.schema import BUCKETS, RECORDS
from confide.keys.storage.statements import Statement

Change = Callable[[str, Json], Json | None]
"""What becomes of a record's body (kind, body): another one; or nothing, and it stays."""
_LEFT: Final = select(RECORDS.c.id).where(RECORDS.c.bucket < bindparam("count")).limit(1)
_SETTLE: Final = Statement(update(RECORDS).values(bucket=RECORDS.c.bucket - bindparam("count")))
_FORGET: Final = Statement(delete(BUCKETS))


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
        totals: dict[Place, tuple[int, int]] = {}
        for bucket in old.contents.used(0):
            rows = [(place, self._anew(place, row, change)) for place, row in old.in_bucket(bucket).items() if place[0] != REF_KIND]
            for place, row in rows:
                index = index_place(place[0], row.ref)
                count, total = totals.get(index, (0, 0))
                totals[index] = (count + 1, total + self._weight(row.mac))
            self._write_apart(rows, used)
            done += len(rows)
        for some in parts(totals.items()):
            self._write_apart([(place, self._index(place, *found)) for place, found in some], used)
        if self._database.rows(_LEFT, {"count": BUCKET_COUNT}):
            raise not_latest()
        self._database.run(_SETTLE, {"count": BUCKET_COUNT})
        self._database.run(_FORGET, {})
        self._take_tags(used)
        return done

    def _anew(self, place: Place, row: Row, change: Change) -> Row:
        body = change(place[0], row.body())
        text = row.text if body is None else text_of(body)
        return self._row_to_write(place, row.ref, text, row.expires)

    def _write_apart(self, rows: list[tuple[Place, Row]], used: set[int]) -> None:
        used.update(self.contents.bucket(place) for place, _ in rows)
        self._write(rows, beyond=BUCKET_COUNT)

    def _take_tags(self, used: Iterable[int]) -> None:
        """What each bucket holds now is what it must hold."""
        for bucket in used:
            rows = self._written_in(bucket)
            self.contents.set(bucket, self.contents.tag_of(bucket, {place: row.mac for place, row in rows.items()}))
            self._dirty.add(bucket)
