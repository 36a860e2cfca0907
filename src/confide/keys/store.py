"""The broker's memory: one SQLite file in which every row is authenticated and every secret is encrypted under the master key.

Who can write the file but lacks the master key cannot change a row, cut the audit log or add a grant without the store refusing
to go on.  What such a writer can do is put back an older copy of the whole file: only audit heads that others kept (receipts) show that.
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

R = TypeVar("R", bound=Record)


class Store:
    """An unlocked store.  Safe to use from several threads and processes; :meth:`transaction` makes several calls one step."""

    def __init__(self, database: sqlite3.Connection, kms: Kms, row_key: SecretBytes, signing_key: SigningKey) -> None:
        self._database = database
        self._lock = threading.RLock()
        self._row_key = row_key.reveal()
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
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        if self._database.in_transaction:  # sqlite has ended it itself after some failures
            self._database.execute("ROLLBACK")

    def get(self, kind: type[R], name: str) -> R | None:
        """The record of that kind and id, if there is one.

        Raises:
            StoreError: the row was changed by somebody without the master key.
        """
        row = self._one(f"{_SELECT} WHERE kind = ? AND id = ?", (kind.kind, name))
        return None if row is None else self._read(kind, row)

    def find(self, kind: type[R], ref: str) -> list[R]:
        """All records of that kind and ref, by id.  Raises as :meth:`get`."""
        return [self._read(kind, row) for row in self._all(f"{_SELECT} WHERE kind = ? AND ref = ? ORDER BY id", (kind.kind, ref))]

    def all(self, kind: type[R]) -> list[R]:
        """All records of that kind, by id.  Raises as :meth:`get`."""
        return [self._read(kind, row) for row in self._all(f"{_SELECT} WHERE kind = ? ORDER BY id", (kind.kind,))]

    def put(self, record: Record) -> None:
        """Keep ``record``, in place of the one with the same kind and id."""
        self._put((record.kind, record.id, record.ref), record.to_json())

    # --- audit -----------------------------------------------------------------------------------------------------

    def append_audit(self, event: Json) -> AuditEntry:
        """Add ``event`` to the audit log; it is on the disk when this returns (or when the surrounding transaction ends)."""
        with self.transaction():
            size, last = self._audit_head()
            digest = digest_of_event(event)
            entry = AuditEntry(size + 1, digest, link(last, digest), event)
            text = canonical(event).decode()
            self._database.execute("INSERT INTO audit VALUES (?, ?, ?)", (entry.seq, text, entry.hash))
            self._put(_HEAD, {"size": entry.seq, "hash": entry.hash})
        return entry

    def audit(self) -> tuple[AuditEntry, ...]:
        """The whole log, checked.

        Raises:
            AuditError: it was changed or cut.
        """
        with self.transaction():
            rows = self._all("SELECT seq, event, hash FROM audit ORDER BY seq", ())
            head = self._audit_head()
        try:
            events = [(seq, parse_object(text), last) for seq, text, last in rows]
        except ParseError as cause:
            raise AuditError("the audit log is damaged") from cause
        entries = tuple(AuditEntry(seq, digest_of_event(event), last, event) for seq, event, last in events)
        if head != (len(entries), verify_chain(entries)):
            raise AuditError("the audit log was cut", expected=head[0], got=len(entries))
        return entries

    def signed_head(self, now: datetime) -> Json:
        """The audit log's head as it stands, signed by the broker's key (DSSE envelope)."""
        size, last = self._audit_head()
        return AuditHead(size, last, now.isoformat()).sign(self.signing_key)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _audit_head(self) -> tuple[int, str]:
        kind, name, _ = _HEAD
        row = self._one(f"{_SELECT} WHERE kind = ? AND id = ?", (kind, name))
        if row is None:
            if self._one("SELECT seq FROM audit LIMIT 1", ()) is not None:
                raise AuditError("the audit log has lost its head")
            return 0, GENESIS
        body = self._authentic(kind, row)
        return int(body["size"]), str(body["hash"])

    def _put(self, place: tuple[str, str, str], body: Json) -> None:
        with self.transaction():
            mac = self._mac(place, body)
            text = json.dumps(body, sort_keys=True)
            self._database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", (*place, text, mac))

    def _read(self, kind: type[R], row: tuple[Any, ...]) -> R:
        body = self._authentic(kind.kind, row)
        try:
            record = kind.from_json(body)
        except (KeyError, TypeError, ValueError, ParseError) as cause:
            raise StoreError("a row of the key store is of another version", kind=kind.kind, id=row[0]) from cause
        if (record.id, record.ref) != row[:2]:
            raise StoreError("a row of the key store is in the wrong place", kind=kind.kind, id=row[0])
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

    def _one(self, sql: str, values: tuple[str, ...]) -> tuple[Any, ...] | None:
        with self._lock, _as_store_error(None):
            row: tuple[Any, ...] | None = self._database.execute(sql, values).fetchone()
            return row

    def _all(self, sql: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
        with self._lock, _as_store_error(None):
            return self._database.execute(sql, values).fetchall()


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
