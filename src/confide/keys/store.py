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
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import insert, select

from confide.canonical import Json, b64url, from_b64url, parse_object
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.errors import AuditError, ParseError, StoreError, UnwrapError
from confide.keys.audit import AuditEntry, AuditHead, AuditProof
from confide.keys.custody.protocol import Kms, Unlock
from confide.keys.records import Record
from confide.keys.storage.contents import BUCKETS
from confide.keys.storage.database import Database, Location, SqliteFile, Statement, newest_revision, upsert
from confide.keys.storage.log import Extent, Log
from confide.keys.storage.rows import REF_KIND, Rows, not_latest, subkey
from confide.keys.storage.schema import HEAD, META

FORMAT: Final = "confide-store-v2"
MAX_BATCH: Final = 128
"""Steps that are committed together at most."""
_PATIENCE_S: Final = 0.05
"""How long a step waits for others to commit it before it sees to that itself."""
_READ_HEAD: Final = Statement(select(HEAD.c.body, HEAD.c.mac))
_KEEP_HEAD: Final = upsert(HEAD)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class _Head:
    """The store's newest state: how many commits there were, how far the audit log is, and the head row's own tag (none at first)."""

    epoch: int = 0
    log: Extent = Extent()  # noqa: RUF009 -- frozen, so one for all is right
    tag: bytes | None = None


class _Batch:
    """Steps that are committed together.  Whoever did one waits for ``done``; ``error`` is why none of them has happened."""

    def __init__(self, before: _Head) -> None:
        self.before = before
        self.steps = 0
        self.done = threading.Event()
        self.error: BaseException | None = None


class Store:
    """An unlocked store.  Safe to use from several threads and processes; :meth:`transaction` makes several calls one step."""

    def __init__(self, database: Database, kms: Kms, row_key: SecretBytes, signing_key: SigningKey) -> None:
        self._database = database
        self._lock = threading.RLock()
        self._queue = threading.Lock()
        self._waiting = 0
        self._inside = threading.local()
        self._head_key = subkey(row_key.reveal(), "head")
        self._rows = Rows(database, row_key.reveal(), FORMAT)
        self._log = Log(database)
        self._head = _Head()
        self._batch: _Batch | None = None
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
        parameters = unlock.new_parameters()
        kms = unlock.unlock(parameters)
        wrapped = {
            "format": FORMAT,
            "master": parameters,
            "row_key": b64url(kms.wrap(SecretBytes.random(), context={"use": "rows"})),
            "signing_key": b64url(kms.wrap(SigningKey.generate().private_pem(), context={"use": "signing"})),
        }
        try:
            with _schema_step(place) as database:
                if database.has_tables():
                    raise StoreError(f"there is a key store at {place.name} already", path=place.name)
                database.migrate()
                database.run(Statement(insert(META)), {"name": "store", "value": json.dumps(wrapped)})
        except BaseException:
            place.discard()
            raise
        return cls.open(place, unlock)

    @classmethod
    def open(cls, location: Location | Path, unlock: Unlock) -> Self:
        """Open a store.  Its head is checked now; a row is when it is read, and all of them by :meth:`check`.

        Raises:
            StoreError: there is none, it is damaged or of another version, or the passphrase or key file is not the one it was made with.
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
        meta = _meta(database, name)
        try:
            if meta.get("format") != FORMAT:
                raise StoreError(f"{name} is not a key store of this version", path=name)
            kms = unlock.unlock(meta["master"])
            row_key = kms.unwrap(from_b64url(meta["row_key"]), context={"use": "rows"})
            signing_key = _signing_key(kms.unwrap(from_b64url(meta["signing_key"]), context={"use": "signing"}))
        except UnwrapError:
            raise StoreError("the passphrase or key file is not the one that this key store was made with", path=name) from None
        except (ParseError, KeyError, TypeError) as cause:
            raise StoreError(f"{name} is damaged", path=name) from cause
        found = cls(database, kms, row_key, signing_key)
        with found._reading():
            return found

    def close(self) -> None:
        """End the connection to the database."""
        with self._lock:
            if self._batch is not None:
                self._commit(self._batch)
            self._database.close()

    def check(self) -> int:
        """Read every row and every audit entry: all are genuine, the latest, and none is missing.  Returns the number of records.

        Raises:
            StoreError: a row was changed, taken out, or replaced by an older one.
            AuditError: the audit log was changed or cut.
        """
        found = 0
        for bucket in range(BUCKETS):
            with self._lock:
                if self._rows.contents.tag(bucket) is None:
                    continue
            with self._reading():
                found += sum(kind != REF_KIND for kind, _ in self._rows.in_bucket(bucket))
        with self._reading():
            if self._rows.stray():
                raise not_latest()
            for _ in self._log.walk(self._head.log):
                pass
        return found

    # --- steps -----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside happens, or nothing does, and nobody else writes meanwhile.  May be nested.

        It is on the disk when the outermost block has ended.

        Raises:
            StoreError: the database cannot be written, or another process holds it for too long.
        """
        if self._is_writing:
            yield
            return
        with self._turn():
            batch = self._batch or self._begin()
            mark, head = self._rows.mark(), self._head
            self._inside.writing = True
            try:
                if batch.steps:
                    self._database.savepoint()
                yield
                if batch.steps:
                    self._database.release()
                batch.steps += 1
            except BaseException:
                self._take_back(batch, mark, head)
                raise
            finally:
                self._inside.writing = False
                self._commit_if_last(batch)
        self._await(batch)

    @property
    def _is_writing(self) -> bool:
        return getattr(self._inside, "writing", False)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """This thread alone uses the connection.  Who waits for that is counted: a batch stays open for them."""
        self._count(1)
        try:
            self._lock.acquire()
        finally:
            self._count(-1)
        try:
            yield
        finally:
            self._lock.release()

    def _count(self, more: int) -> None:
        with self._queue:
            self._waiting += more

    def _begin(self) -> _Batch:
        self._database.begin_write()
        try:
            self._catch_up()
        except BaseException:
            self._database.end()
            raise
        self._batch = _Batch(self._head)
        return self._batch

    def _take_back(self, batch: _Batch, mark: int, head: _Head) -> None:
        """Undo one step; if the database cannot, the whole batch has failed."""
        self._rows.restore(mark)
        self._head = head
        if batch.steps == 0:
            self._database.end()
            self._batch = None
            return
        try:
            self._database.take_back()
        except StoreError as cause:
            self._fail(batch, cause)

    def _commit_if_last(self, batch: _Batch) -> None:
        if self._batch is batch and (self._waiting == 0 or batch.steps >= MAX_BATCH):
            self._commit(batch)

    def _commit(self, batch: _Batch) -> None:
        try:
            if self._rows.changed or self._head != batch.before:
                self._write_head(batch.before.epoch + 1)
                self._database.commit()
            else:
                self._database.end()
        except BaseException as cause:  # noqa: BLE001 -- each of those who wait for the batch raises it
            self._fail(batch, cause)
            return
        self._batch = None
        self._rows.keep()
        batch.done.set()

    def _fail(self, batch: _Batch, cause: BaseException) -> None:
        self._batch = None
        self._rows.restore(0)
        self._head = batch.before
        self._database.end()
        batch.error = cause
        batch.done.set()

    def _await(self, batch: _Batch) -> None:
        """Wait until the batch has been committed; whoever was expected to do it may have been interrupted."""
        while not batch.done.wait(_PATIENCE_S):
            with self._lock:
                if self._batch is batch:
                    self._commit(batch)
        if isinstance(batch.error, StoreError):
            raise StoreError(batch.error.message, hint=batch.error.hint) from batch.error
        if batch.error is not None:
            raise StoreError("the key store could not keep this step: nothing of it has happened") from batch.error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What is read inside is of one moment, and of the latest (steps that wait for their commit included)."""
        with self._turn():
            if self._is_writing:
                yield
            elif self._batch is not None:
                try:
                    yield
                finally:
                    self._commit_if_last(self._batch)
            else:
                self._database.begin_read()
                try:
                    self._catch_up()
                    yield
                finally:
                    self._database.end()

    # --- records ---------------------------------------------------------------------------------------------------

    def get(self, kind: type[R], name: str) -> R | None:
        """The record of that kind and id, if there is one.

        Raises:
            StoreError: the row was changed by somebody without the master key, taken out, or replaced by an older one.
        """
        with self._reading():
            return self._rows.get(kind, name)

    def find(self, kind: type[R], ref: str) -> list[R]:
        """All records of that kind and ref, by id.  Raises as :meth:`get`."""
        with self._reading():
            return self._rows.find(kind, ref)

    def count(self, kind: type[R], ref: str) -> int:
        """How many records of that kind and ref there are.  Raises as :meth:`get`."""
        with self._reading():
            return self._rows.count(kind, ref)

    def walk(self, kind: type[R], *, start: int = 0) -> Iterator[tuple[int, list[R]]]:
        """All records of a kind, a part at a time, each with where to ``start`` in order to go on behind it.

        The parts are of different moments; a record that is there throughout is in exactly one.  Raises as :meth:`get`.
        """
        while start < BUCKETS:
            with self._reading():
                start, found = self._rows.some(kind, start)
            if found:
                yield start, found

    def put(self, record: Record, *, expires: datetime | None = None) -> None:
        """Keep ``record``, in place of the one with the same kind and id.  After ``expires``, :meth:`sweep` removes it."""
        with self.transaction():
            self._rows.put(record, None if expires is None else int(expires.timestamp()))

    def delete(self, kind: type[Record], name: str) -> bool:
        """Remove a record; whether there was one."""
        with self.transaction():
            return self._rows.delete((kind.kind, name))

    def sweep(self, now: datetime, *, limit: int = 1000) -> int:
        """Remove records that have expired, at most ``limit``; returns how many."""
        with self.transaction():
            return sum(self._rows.delete(place) for place in self._rows.due(int(now.timestamp()), limit))

    # --- audit -----------------------------------------------------------------------------------------------------

    def append_audit(self, event: Json) -> AuditEntry:
        """Add ``event`` to the audit log; it is on the disk when this returns (or when the surrounding transaction ends)."""
        with self.transaction():
            entry, log = self._log.append(self._head.log, event)
            self._head = replace(self._head, log=log)
        return entry

    def audit(self) -> tuple[AuditEntry, ...]:
        """The whole log, checked.

        Raises:
            AuditError: it was changed or cut.
        """
        with self._reading():
            return tuple(self._log.walk(self._head.log))

    def audit_page(self, first: int, limit: int, now: datetime) -> tuple[tuple[AuditEntry, ...], AuditHead]:
        """At most ``limit`` entries from number ``first``, checked against the head as it is on the disk, and that head.

        Raises as :meth:`audit`.
        """
        with self._reading():
            head = self._on_disk()
            return self._log.page(head.log, first, first + limit - 1), _public(head, now)

    def prove(self, seq: int, now: datetime) -> AuditProof:
        """Entry ``seq`` with the proof that it is in the log of a head that is signed now.

        Raises:
            AuditError: there is no such entry, or the log was changed.
        """
        with self._reading():
            head = self._on_disk()
            if not 1 <= seq <= head.log.size:
                raise AuditError("no such entry in an audit log of that size", expected=head.log.size, got=seq)
            (entry,) = self._log.page(head.log, seq, seq)
            path = tuple(self._log.inclusion(seq, head.log))
        return AuditProof(entry, path, _public(head, now).sign(self.signing_key))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log of ``new`` entries continues the one of ``old``.

        Raises:
            AuditError: these are not lengths that the log has had.
        """
        with self._reading():
            size = self._on_disk().log.size
            if not 0 <= old <= new <= size:
                raise AuditError("the audit log has not had these lengths", expected=size, got=new)
            return self._log.consistency(old, new)

    def head(self, now: datetime) -> AuditHead:
        """The audit log's head as it is on the disk."""
        with self._reading():
            return _public(self._on_disk(), now)

    def signed_head(self, now: datetime) -> Json:
        """:meth:`head`, signed by the broker's key (DSSE envelope)."""
        return self.head(now).sign(self.signing_key)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _on_disk(self) -> _Head:
        """The newest state that no failure can undo: a head that is signed must stay true."""
        return self._batch.before if self._batch is not None else self._head

    def _catch_up(self) -> None:
        """Take note of what another process has written since the last look, if it continues what this one knows."""
        rows = self._database.rows(_READ_HEAD)
        if not rows:
            if self._head.tag is not None or not self._log.is_empty() or self._rows.stray():
                raise AuditError("the audit log has lost its head")
            return
        text, tag = str(rows[0][0]), bytes(rows[0][1])
        if tag == self._head.tag:
            return
        if not hmac.compare_digest(self._mac(text), tag):
            raise StoreError("the head of the key store was changed by somebody else than the broker")
        body = parse_object(text)
        peaks = tuple(bytes.fromhex(peak) for peak in body["peaks"])
        head = _Head(int(body["epoch"]), Extent(int(body["size"]), peaks), tag)
        if head.epoch <= self._head.epoch:
            raise AuditError("the key store went back to an earlier state: its audit log was cut", seen=self._head.epoch, got=head.epoch)
        self._log.check_continues(self._head.log, head.log)
        mark = self._rows.mark()
        self._rows.load_tags(self._head.epoch)
        if not hmac.compare_digest(self._rows.contents.seal(head.epoch), str(body["contents"])):
            self._rows.restore(mark)
            raise not_latest()
        self._rows.keep()
        self._head = head

    def _write_head(self, epoch: int) -> None:
        self._rows.write_tags(epoch)
        log = self._head.log
        body = {
            "epoch": epoch,
            "size": log.size,
            "peaks": [peak.hex() for peak in log.peaks],
            "contents": self._rows.contents.seal(epoch),
        }
        text = json.dumps(body, sort_keys=True)
        tag = self._mac(text)
        self._database.run(_KEEP_HEAD, {"place": 0, "body": text, "mac": tag})
        self._head = _Head(epoch, log, tag)

    def _mac(self, text: str) -> bytes:
        return hmac.digest(self._head_key, text.encode(), hashlib.sha256)


def _public(head: _Head, now: datetime) -> AuditHead:
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


def _meta(database: Database, name: str) -> Json:
    """The store's parameters, if its tables are of this version."""
    there, newest = database.revision(), newest_revision()
    if there is None:
        raise StoreError(f"{name} is not a key store of this version", path=name)
    if there != newest:
        hint = "`confide broker upgrade` changes those of an older one"
        raise StoreError(f"the key store at {name} has the tables of another version", hint=hint, path=name)
    rows = database.rows(select(META.c.value).where(META.c.name == "store"))
    try:
        return parse_object(rows[0][0]) if rows else {}
    except ParseError as cause:
        raise StoreError(f"{name} is damaged", path=name) from cause


def _signing_key(pem: SecretBytes) -> SigningKey:
    try:
        key = load_pem_private_key(pem.reveal(), password=None)
    except ValueError:
        raise StoreError("the key store's signing key is damaged") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StoreError("the key store's signing key is damaged")
    return SigningKey(key)
