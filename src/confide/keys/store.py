"""The broker's memory: one SQLite file in which every row is authenticated and every secret is encrypted under the master key.

Who can write the file but lacks the master key cannot change a row, take one out, put an older one back, cut the audit log or add a grant
without the store refusing to go on.  What such a writer can do is put back an older copy of the whole file while no broker has it open:
only audit heads that others kept (receipts) show that.
Decides nothing: who may have what is ``keys.broker``'s affair.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from confide.canonical import Json, b64url, canonical, from_b64url, parse_object
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.errors import AuditError, ParseError, StoreError, UnwrapError
from confide.keys.audit import GENESIS, AuditEntry, AuditHead, digest_of_event, link, verify_chain
from confide.keys.kms import Kms, Unlock
from confide.keys.mirror import Mirror
from confide.keys.records import Record

FORMAT: Final = "confide-store-v1"
_BUSY_S: Final = 10.0
"""How long one process waits for another's transaction, in seconds."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS records (
  kind TEXT NOT NULL, id TEXT NOT NULL, ref TEXT NOT NULL, body TEXT NOT NULL, mac BLOB NOT NULL, PRIMARY KEY (kind, id)) STRICT;
CREATE INDEX IF NOT EXISTS records_by_ref ON records (kind, ref);
CREATE TABLE IF NOT EXISTS audit (seq INTEGER PRIMARY KEY, event TEXT NOT NULL, hash TEXT NOT NULL) STRICT;
"""
_SELECT: Final = "SELECT id, ref, body, mac FROM records"
_HEAD: Final = ("audit-head", "head", "")
"""The row that says how far the audit log has come and which rows there are.  It changes with every step that changes anything."""

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class _Head:
    """The audit log's length and last hash, and the authentication tag of the row that says so (none before there is one)."""

    size: int = 0
    hash: str = GENESIS
    tag: bytes | None = None


class Store:
    """An unlocked store.  Safe to use from several threads and processes; :meth:`transaction` makes several calls one step."""

    def __init__(self, database: sqlite3.Connection, kms: Kms, row_key: SecretBytes, signing_key: SigningKey) -> None:
        self._database = database
        self._lock = threading.RLock()
        self._row_key = row_key.reveal()
        self._mirror = Mirror(self._row_key)
        self._head = _Head()
        self._appended = False
        self.kms = kms
        self.signing_key = signing_key
        """The broker's own key: its TLS identity and the signer of audit heads, so that one pin covers both."""

    # --- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, unlock: Unlock) -> Self:
        """Make a new store (mode 0600) and open it.

        Raises:
            StoreError: something is there already, or it cannot be written.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as cause:
            raise StoreError(f"cannot make a key store at {path}: {cause.strerror}", path=str(path)) from cause
        parameters = unlock.new_parameters()
        kms = unlock.unlock(parameters)
        wrapped = {
            "format": FORMAT,
            "master": parameters,
            "row_key": b64url(kms.wrap(SecretBytes.random(), context={"use": "rows"})),
            "signing_key": b64url(kms.wrap(SigningKey.generate().private_pem(), context={"use": "signing"})),
        }
        with _as_store_error(path):
            database = _connect(path)
            try:
                database.executescript(_SCHEMA)
                database.execute("INSERT INTO meta VALUES ('store', ?)", (json.dumps(wrapped),))
            finally:
                database.close()
        return cls.open(path, unlock)

    @classmethod
    def open(cls, path: Path, unlock: Unlock) -> Self:
        """Open a store, and check its audit log from the start.

        Raises:
            StoreError: there is none, it is damaged or of another version, or the passphrase or key file is not the one it was made with.
            AuditError: the audit log was changed or cut.
        """
        if not path.is_file():
            raise StoreError(f"there is no key store at {path}", hint="`confide broker serve` makes one when first started", path=str(path))
        with _as_store_error(path):
            database = _connect(path)
        try:
            return cls._unlock(database, path, unlock)
        except BaseException:
            database.close()
            raise

    @classmethod
    def open_or_create(cls, path: Path, unlock: Unlock) -> Self:
        """Open the store at ``path``, or make it if there is none."""
        return cls.open(path, unlock) if path.exists() else cls.create(path, unlock)

    @classmethod
    def _unlock(cls, database: sqlite3.Connection, path: Path, unlock: Unlock) -> Self:
        with _as_store_error(path):
            row = database.execute("SELECT value FROM meta WHERE name = 'store'").fetchone()
        try:
            meta = parse_object(row[0]) if row else {}
            if meta.get("format") != FORMAT:
                raise StoreError(f"{path} is not a key store of this version", path=str(path))
            kms = unlock.unlock(meta["master"])
            row_key = kms.unwrap(from_b64url(meta["row_key"]), context={"use": "rows"})
            signing_key = _signing_key(kms.unwrap(from_b64url(meta["signing_key"]), context={"use": "signing"}))
        except UnwrapError:
            raise StoreError("the passphrase or key file is not the one that this key store was made with", path=str(path)) from None
        except (ParseError, KeyError, TypeError) as cause:
            raise StoreError(f"{path} is damaged", path=str(path)) from cause
        found = cls(database, kms, row_key, signing_key)
        found.audit()
        return found

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    # --- records ---------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside happens, or nothing does, and nobody else writes meanwhile.  May be nested.

        Raises:
            StoreError: the file cannot be written, or another process holds it for too long.
        """
        with self._lock, _as_store_error(None):
            if self._database.in_transaction:
                yield
                return
            self._database.execute("BEGIN IMMEDIATE")
            before = self._head
            try:
                self._catch_up()
                before = self._head
                yield
                self._write_head()
                self._database.execute("COMMIT")
            except BaseException:
                self._undo(before)
                raise
            self._mirror.commit()
            self._appended = False

    def _undo(self, before: _Head) -> None:
        self._mirror.rollback()
        self._head, self._appended = before, False
        self._end()

    def _end(self) -> None:
        if self._database.in_transaction:  # sqlite has ended it itself after some failures
            self._database.execute("ROLLBACK")

    def get(self, kind: type[R], name: str) -> R | None:
        """The record of that kind and id, if there is one.

        Raises:
            StoreError: the row was changed by somebody without the master key, taken out, or replaced by an older one.
        """
        with self._reading():
            row = self._one(f"{_SELECT} WHERE kind = ? AND id = ?", (kind.kind, name))
            if row is None and self._mirror.tag(kind.kind, name) is not None:
                raise _not_latest(kind.kind, name)
            return None if row is None else self._read(kind, row)

    def find(self, kind: type[R], ref: str) -> list[R]:
        """All records of that kind and ref, by id.  Raises as :meth:`get`."""
        with self._reading():
            rows = self._all(f"{_SELECT} WHERE kind = ? AND ref = ? ORDER BY id", (kind.kind, ref))
            found = [self._read(kind, row) for row in rows]
            if {record.id for record in found} != self._mirror.ids(kind.kind, ref):
                raise _not_latest(kind.kind, ref)
            return found

    def put(self, record: Record) -> None:
        """Keep ``record``, in place of the one with the same kind and id."""
        self._put((record.kind, record.id, record.ref), record.to_json())

    # --- audit -----------------------------------------------------------------------------------------------------

    def append_audit(self, event: Json) -> AuditEntry:
        """Add ``event`` to the audit log; it is on the disk when this returns (or when the surrounding transaction ends)."""
        with self.transaction():
            digest = digest_of_event(event)
            entry = AuditEntry(self._head.size + 1, digest, link(self._head.hash, digest), event)
            text = canonical(event).decode()
            self._database.execute("INSERT INTO audit VALUES (?, ?, ?)", (entry.seq, text, entry.hash))
            self._head, self._appended = _Head(entry.seq, entry.hash), True
        return entry

    def audit(self) -> tuple[AuditEntry, ...]:
        """The whole log, checked.

        Raises:
            AuditError: it was changed or cut.
        """
        with self._reading():
            rows = self._all("SELECT seq, event, hash FROM audit ORDER BY seq", ())
            head = self._head
        try:
            events = [(seq, parse_object(text), last) for seq, text, last in rows]
        except ParseError as cause:
            raise AuditError("the audit log is damaged") from cause
        entries = tuple(AuditEntry(seq, digest_of_event(event), last, event) for seq, event, last in events)
        if (head.size, head.hash) != (len(entries), verify_chain(entries)):
            raise AuditError("the audit log was cut", expected=head.size, got=len(entries))
        return entries

    def signed_head(self, now: datetime) -> Json:
        """The audit log's head as it stands, signed by the broker's key (DSSE envelope)."""
        with self._reading():
            head = self._head
        return AuditHead(head.size, head.hash, now.isoformat()).sign(self.signing_key)

    # --- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What is read inside is of one moment, and of the latest."""
        with self._lock, _as_store_error(None):
            if self._database.in_transaction:
                yield
                return
            self._database.execute("BEGIN")
            try:
                self._catch_up()
                yield
            finally:
                self._end()

    def _catch_up(self) -> None:
        """Take note of what another process has written since the last look, if it continues what this one knows."""
        row = self._one(f"{_SELECT} WHERE kind = ? AND id = ?", _HEAD[:2])
        if row is not None and row[3] == self._head.tag:
            return
        head, mirror = self._load(row)
        known = self._head
        if known.size:
            there = self._one("SELECT hash FROM audit WHERE seq = ?", (known.size,))
            if head.size < known.size or there != (known.hash,):
                raise AuditError("the audit log was cut", expected=known.size, got=head.size)
        self._head, self._mirror = head, mirror

    def _load(self, head: tuple[Any, ...] | None) -> tuple[_Head, Mirror]:
        """Every row, authenticated, and all of them those that the head was written for."""
        mirror = Mirror(self._row_key)
        for kind, *row in self._all("SELECT kind, id, ref, body, mac FROM records", ()):
            if (kind, row[0]) != _HEAD[:2]:
                self._authentic(kind, tuple(row))
                mirror.set(kind, row[0], row[1], row[3])
        mirror.commit()
        if head is None:
            if self._head.tag is not None or mirror.rows or self._one("SELECT seq FROM audit LIMIT 1", ()) is not None:
                raise AuditError("the audit log has lost its head")
            return _Head(), mirror
        body = self._authentic(_HEAD[0], head)
        if not mirror.has_total(str(body["rows"]), str(body["nonce"])):
            raise StoreError("an older row was put back into the key store, or a row was taken out of it")
        return _Head(int(body["size"]), str(body["hash"]), head[3]), mirror

    def _write_head(self) -> None:
        if not (self._appended or self._mirror.changed):
            return
        rows, nonce = self._mirror.sealed_total()
        tag = self._insert(_HEAD, {"size": self._head.size, "hash": self._head.hash, "rows": rows, "nonce": nonce})
        self._head = _Head(self._head.size, self._head.hash, tag)

    def _put(self, place: tuple[str, str, str], body: Json) -> None:
        with self.transaction():
            self._mirror.set(*place, self._insert(place, body))

    def _insert(self, place: tuple[str, str, str], body: Json) -> bytes:
        tag = self._mac(place, body)
        text = json.dumps(body, sort_keys=True)
        self._database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", (*place, text, tag))
        return tag

    def _read(self, kind: type[R], row: tuple[Any, ...]) -> R:
        body = self._authentic(kind.kind, row)
        try:
            record = kind.from_json(body)
        except (KeyError, TypeError, ValueError, ParseError) as cause:
            raise StoreError("a row of the key store is of another version", kind=kind.kind, id=row[0]) from cause
        if (record.id, record.ref) != row[:2]:
            raise StoreError("a row of the key store is in the wrong place", kind=kind.kind, id=row[0])
        if row[3] != self._mirror.tag(kind.kind, record.id):
            raise _not_latest(kind.kind, record.id)
        return record

    def _authentic(self, kind: str, row: tuple[Any, ...]) -> Json:
        name, ref, text, mac = row
        try:
            body = parse_object(text)
        except ParseError:
            body = {}
        if not hmac.compare_digest(self._mac((kind, name, ref), body), mac):
            raise StoreError("a row of the key store was changed by somebody else than the broker", kind=kind, id=str(name)[:120])
        return body

    def _mac(self, place: tuple[str, str, str], body: Json) -> bytes:
        return hmac.digest(self._row_key, canonical([FORMAT, *place, body]), hashlib.sha256)

    def _one(self, sql: str, values: tuple[str | int, ...]) -> tuple[Any, ...] | None:
        with self._lock, _as_store_error(None):
            row: tuple[Any, ...] | None = self._database.execute(sql, values).fetchone()
            return row

    def _all(self, sql: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
        with self._lock, _as_store_error(None):
            return self._database.execute(sql, values).fetchall()


def _not_latest(kind: str, name: str) -> StoreError:
    return StoreError("an older row was put back into the key store, or a row was taken out of it", kind=kind, id=name[:120])


def _connect(path: Path) -> sqlite3.Connection:
    # The RLock in Store serialises threads; sqlite's own check would forbid sharing the connection.
    database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF", "secure_delete = ON"):
        database.execute(f"PRAGMA {pragma}")
    return database


@contextmanager
def _as_store_error(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as cause:
        # sqlite's texts name tables and columns, never values.
        raise StoreError(f"the key store cannot be used: {cause}", path=str(path) if path else None) from cause


def _signing_key(pem: SecretBytes) -> SigningKey:
    try:
        key = load_pem_private_key(pem.reveal(), password=None)
    except ValueError:
        raise StoreError("the key store's signing key is damaged") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StoreError("the key store's signing key is damaged")
    return SigningKey(key)
