"""The broker's memory: a database in which every row is authenticated and every secret is encrypted under the master key.

Who can write the database but lacks the master key cannot change a row, take one out, put an older one back, cut the audit log or add a
grant without the store refusing to go on.  What such a writer can do is put back an older copy of the whole database while no broker has it
open: heads of the audit log that others kept (receipts, witnesses) show that.

Several brokers may share one database, and several threads one store.  Steps that wait for each other are committed together.
Decides nothing: who may have what is ``keys.broker``'s affair.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self, TypeVar

from sqlalchemy import insert

from confide.canonical import Json, from_b64url
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.errors import AuditError, ParseError, StoreError, UnwrapError, UsageError
from confide.keys.audit import AuditEntry, AuditHead, AuditProof
from confide.keys.custody.protocol import Kms, Unlock
from confide.keys.records import Record, Swept
from confide.keys.storage.contents import BUCKETS
from confide.keys.storage.database import Database
from confide.keys.storage.locations import Location, SqliteFile
from confide.keys.storage.log import Log
from confide.keys.storage.parameters import FORMAT, parameters_of, parameters_text, signing_key_of
from confide.keys.storage.rekeyed import Change, RekeyedRows
from confide.keys.storage.rows import REF_KIND, Rows, not_latest, subkey
from confide.keys.storage.schema import META
from confide.keys.storage.statements import Statement, upsert
from confide.keys.storage.steps import Head, Steps

_KEEP_META: Final = upsert(META)
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
R = TypeVar("R", bound=Record)


class Store:
    """An unlocked store.  Safe to use from several threads and processes; :meth:`transaction` makes several calls one step."""

    def __init__(self, database: Database, kms: Kms, row_key: SecretBytes, signing_key: SigningKey) -> None:
        self._database = database
        self._rows = Rows(database, row_key.reveal(), FORMAT)
        self._log = Log(database)
        self._steps = Steps(database, self._rows, self._log, subkey(row_key.reveal(), "head"))
        self._tag_key = subkey(row_key.reveal(), "tags")
        self.kms = kms
        self.signing_key = signing_key
        """The broker's own key: its TLS identity and the signer of audit heads, so that one pin covers both."""

    # --- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, location: Location | Path, unlock: Unlock) -> Self:
        """Make a new store and open it.  A path is a SQLite file, made with mode 0600.

        Raises:
            StoreError: something is there already, or it cannot be written.
        """
        place = _location(location)
        place.prepare()
        try:
            parameters = unlock.new_parameters()
            text = parameters_text(parameters, unlock.unlock(parameters), SecretBytes.random(), SigningKey.generate())
            with _schema_step(place) as database:
                if database.has_tables():
                    raise StoreError(f"there is a key store at {place.name} already", path=place.name)
                database.migrate()
                database.run(Statement(insert(META)), {"name": "store", "value": text})
        except BaseException:
            place.discard()
            raise
        return cls.open(place, unlock)

    @classmethod
    def open(cls, location: Location | Path, unlock: Unlock) -> Self:
        """Open a store.  Its head is checked now; a row is when it is read, and all of them by :meth:`check`.

        Whoever had it open last may have been killed right before it was scrubbed (:meth:`scrub`): that is done now.

        Raises:
            StoreError: there is none, it is damaged or of another version, or ``unlock`` is not what it was made with.
            AuditError: the store has lost its head.
        """
        place = _location(location)
        if not place.exists():
            hint = "`confide broker serve` makes one when first started"
            raise StoreError(f"there is no key store at {place.name}", hint=hint, path=place.name)
        database = Database.open(place)
        try:
            return cls._unlock(database, place.name, unlock)
        except BaseException:
            database.close()
            raise

    @classmethod
    def open_or_create(cls, location: Location | Path, unlock: Unlock) -> Self:
        """Open the store at ``location``, or make it if there is none."""
        return cls.open(location, unlock) if _location(location).exists() else cls.create(location, unlock)

    @staticmethod
    def upgrade(location: Location | Path) -> None:
        """Change an older store's tables to those of this version.  Needs no key: rows stay as they are.

        Raises:
            StoreError: there is no store of this kind, or its database cannot be changed.
        """
        place = _location(location)
        with _schema_step(place) as database:
            if database.revision() is None:
                raise StoreError(f"{place.name} is not a key store of this version", path=place.name)
            database.migrate()

    @classmethod
    def _unlock(cls, database: Database, name: str, unlock: Unlock) -> Self:
        meta = parameters_of(database, name)
        try:
            if meta.get("format") != FORMAT:
                raise StoreError(f"{name} is not a key store of this version", path=name)
            kms = unlock.unlock(meta["master"])
            row_key = kms.unwrap(from_b64url(meta["row_key"]), context={"use": "rows"})
            signing_key = signing_key_of(kms.unwrap(from_b64url(meta["signing_key"]), context={"use": "signing"}))
        except UnwrapError:
            message = f"{unlock.called} is not what this key store was made with"
            raise StoreError(message, hint="use what it was made with, or a backup of this store", path=name) from None
        except (ParseError, KeyError, TypeError) as cause:
            raise StoreError(f"{name} is damaged", path=name) from cause
        found = cls(database, kms, row_key, signing_key)
        with found._steps.reading():
            pass
        found._steps.scrub(wait=False)  # others may be at work: this is no reason to wait
        return found

    def close(self) -> None:
        """End the connection to the database."""
        self._steps.close()

    def check(self) -> int:
        """Read every row and every audit entry: all are genuine, the latest, and none is missing.  Returns the number of records.

        Raises:
            StoreError: a row was changed, taken out, or replaced by an older one.
            AuditError: the audit log was changed or cut.
        """
        found = 0
        with self._steps.reading():
            used = list(self._rows.contents.used(0))
        for bucket in used:
            with self._steps.reading():
                found += sum(kind != REF_KIND for kind, _ in self._rows.in_bucket(bucket))
        with self._steps.reading():
            if self._rows.stray():
                raise not_latest()
            for _ in self._log.walk(self._steps.head.log):
                pass
        return found

    def rekey(self, unlock: Unlock, change_to: Callable[[Kms], Change], event: Json) -> int:
        """Put the store under a new root key, which ``unlock`` opens from then on, and its rows under a new row key: how many there are.

        ``change_to`` says how records come under the new one; ``event`` is for the audit log.  One step; afterwards it is to be
        scrubbed and opened anew.  ``keys.master_key`` knows the records.

        Raises:
            StoreError: the store cannot be read or written: nothing has happened.
            StepUnknownError: as :meth:`transaction`.
        """
        parameters, row_key = unlock.new_parameters(), SecretBytes.random()
        kms = unlock.unlock(parameters)
        text = parameters_text(parameters, kms, row_key, self.signing_key)
        with self.transaction():
            self.append_audit(event)
            rows = RekeyedRows(self._database, row_key.reveal(), FORMAT)
            done = rows.take_over(self._rows, change_to(kms))
            self._database.run(_KEEP_META, {"name": "store", "value": text})
            self._steps.take_over(rows, subkey(row_key.reveal(), "head"))
        return done

    def transaction(self) -> AbstractContextManager[None]:
        """Everything inside happens, or nothing does, and nobody else writes meanwhile.  May be nested.

        It is on the disk when the outermost block has ended.

        Raises:
            StoreError: the database cannot be written, or another process holds it for too long: nothing has happened.
            StepUnknownError: the database was lost in the middle of its commit, and cannot be asked what has become of it.
        """
        return self._steps.transaction()

    # --- records ---------------------------------------------------------------------------------------------------

    def get(self, kind: type[R], name: str) -> R | None:
        """The record of that kind and id, if there is one.

        Raises:
            StoreError: the row was changed by somebody without the master key, taken out, or replaced by an older one.
        """
        if self._steps.is_writing:
            return self._rows.get(kind, name)
        with self._steps.reading():
            return self._rows.get(kind, name)

    def find(self, kind: type[R], ref: str) -> list[R]:
        """All records of that kind and ref, by id.  Raises as :meth:`get`."""
        if self._steps.is_writing:
            return self._rows.find(kind, ref)
        with self._steps.reading():
            return self._rows.find(kind, ref)

    def some_under(self, kind: type[R], ref: str, limit: int) -> list[R]:
        """At most ``limit`` of the records of that kind and ref, and at least one if there is any.  Raises as :meth:`get`."""
        with self._steps.reading():
            return self._rows.some_under(kind, ref, limit)

    def count(self, kind: type[R], ref: str) -> int:
        """How many records of that kind and ref there are.  Raises as :meth:`get`."""
        if self._steps.is_writing:
            return self._rows.count(kind, ref)
        with self._steps.reading():
            return self._rows.count(kind, ref)

    def walk(self, kind: type[R], *, start: int = 0) -> Iterator[tuple[int, list[R]]]:
        """All records of a kind, a part at a time, each with where to ``start`` in order to go on behind it.

        The parts are of different moments; a record that is there throughout is in exactly one.  Raises as :meth:`get`.
        """
        while start < BUCKETS:
            with self._steps.reading():
                start, found = self._rows.some(kind, start)
            if found:
                yield start, found

    def put(self, record: Record, *, expires: datetime | None = None) -> None:
        """Keep ``record``, in place of the one with the same kind and id.  After ``expires``, :meth:`sweep` removes it."""
        self.put_all((record,), expires=expires)

    def put_all(self, records: Iterable[Record], *, expires: datetime | None = None) -> None:
        """As :meth:`put`, for many: what they have in common is written once."""
        with self.transaction():
            self._rows.put(records, None if expires is None else int(expires.timestamp()))

    def delete(self, kind: type[Record], name: str) -> bool:
        """Remove a record; whether there was one."""
        with self.transaction():
            return self._rows.delete((kind.kind, name))

    def sweep(self, now: datetime, *, limit: int = 1000) -> int:
        """Remove records that have expired, at most ``limit``; returns how many."""
        with self.transaction():
            due = self._rows.due(int(now.timestamp()), limit)
            for place in due:
                self._rows.delete(place)
            if due:
                before = self.swept()
                self.put(Swept(now if before is None else max(before, now)))
        return len(due)

    def swept(self) -> datetime | None:
        """Up to when records that expired may have been removed.  That one which expired by then is not there says nothing."""
        found = self.get(Swept, Swept.ONLY)
        return None if found is None else found.until

    def is_writable(self) -> bool:
        """Whether steps are kept, as far as is known; after one could not be, a small one is tried, which changes nothing."""
        if self._steps.failing:
            with suppress(StoreError):
                self.put(Swept(self.swept() or _LONG_AGO))
        return not self._steps.failing

    def scrub(self) -> None:
        """Have the database overwrite what rows held before, as far as it can (:meth:`Database.scrub`).  Not inside a transaction."""
        self._steps.scrub()

    def tag(self, use: str, data: bytes) -> bytes:
        """32 bytes that only who has opened this store can make of ``data``, for one use; the same in each process."""
        return hmac.digest(self._tag_key, use.encode() + b"\0" + data, hashlib.sha256)

    # --- audit -----------------------------------------------------------------------------------------------------

    @property
    def latest(self) -> datetime | None:
        """The latest time at which anything was written to the audit log, as far as this store has heard (see ``keys.clock``)."""
        return self._steps.head.time

    def append_audit(self, event: Json, *, sets_clock: bool = False) -> AuditEntry:
        """Add ``event`` to the audit log; it is on the disk when this returns (or when the surrounding transaction ends).

        With ``sets_clock``, its time is the :attr:`latest` from now on, though there be later ones.
        """
        time = datetime.fromisoformat(str(event["time"]))
        with self.transaction():
            before = self._steps.head
            entry, log = self._log.append(before.log, event)
            self._steps.log_is_now(log, time if sets_clock or before.time is None else max(before.time, time))
        return entry

    def audit(self) -> tuple[AuditEntry, ...]:
        """The whole log, checked.

        Raises:
            AuditError: it was changed or cut.
        """
        with self._steps.reading():
            return tuple(self._log.walk(self._steps.head.log))

    def audit_page(self, first: int, limit: int, now: datetime) -> tuple[tuple[AuditEntry, ...], AuditHead]:
        """At most ``limit`` entries from number ``first``, checked against the head as it is on the disk, and that head.

        Raises as :meth:`audit`.
        """
        with self._steps.reading():
            head = self._steps.on_disk
            return self._log.page(head.log, first, first + limit - 1), _public(head, now)

    def prove(self, seq: int, now: datetime) -> AuditProof:
        """Entry ``seq`` with the proof that it is in the log of a head that is signed now.

        Raises:
            UsageError: there is no such entry.
            AuditError: the log was changed.
        """
        with self._steps.reading():
            head = self._steps.on_disk
            if not 1 <= seq <= head.log.size:
                hint = "`confide audit show` numbers them"
                raise UsageError("there is no such entry in the audit log", hint=hint, entries=head.log.size, got=seq)
            entry, path = self._log.inclusion(seq, head.log)
        return AuditProof(entry, path, _public(head, now).sign(self.signing_key))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log of ``new`` entries continues the one of ``old``.

        Raises:
            AuditError: these are not lengths that the log has had.
        """
        with self._steps.reading():
            size = self._steps.on_disk.log.size
            if not 0 <= old <= new <= size:
                raise AuditError("the audit log has not had these lengths", expected=size, got=new)
            return self._log.consistency(old, new)

    def head(self, now: datetime) -> AuditHead:
        """The audit log's head as it is on the disk."""
        with self._steps.reading():
            return _public(self._steps.on_disk, now)

    def signed_head(self, now: datetime) -> Json:
        """:meth:`head`, signed by the broker's key (DSSE envelope)."""
        return self.head(now).sign(self.signing_key)


def _public(head: Head, now: datetime) -> AuditHead:
    return AuditHead(head.log.size, head.log.root.hex(), head.epoch, now.isoformat())


def _location(location: Location | Path) -> Location:
    return SqliteFile(location) if isinstance(location, Path) else location


@contextmanager
def _schema_step(location: Location) -> Iterator[Database]:
    """A transaction that may change the tables."""
    database = Database.open(location)
    try:
        database.begin_write()
        yield database
        database.commit()
    finally:
        database.end()
        database.close()
