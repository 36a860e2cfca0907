"""Backups: all rows of a store in one file, from one kind of database into another.

The file is worth what the database is worth: rows are authenticated and secrets wrapped under the master key, which is not in it.  A store
that is restored is an older copy: witnesses and receipts show that, until the owners' operator has accepted it in the audit log
(``keys.witness``).

Lines of JSON, compressed (gzip): ``{"format", "revision"}``, then ``[table, [value, …]]`` for each row with its columns in the
order of the schema (bytes as ``{"hex": …}``), then ``{"rows", "sha256"}`` over all lines before.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import insert, select

from confide.errors import StoreError
from confide.keys.storage.database import Database, newest_revision
from confide.keys.storage.locations import Location
from confide.keys.storage.schema import METADATA
from confide.keys.storage.statements import Statement

FORMAT: Final = "confide-backup-v1"
_MAX_LINE: Final = 16 * 1024**2
_PAGE: Final = 1000

Progress = Callable[[int], None]
"""Is told how many rows are done."""


def backup(location: Location, target: Path, progress: Progress = lambda _: None) -> int:
    """Write all rows of a store, as they are at one moment, to the new file ``target`` (mode 0600); returns how many.

    Brokers may go on serving.

    Raises:
        StoreError: there is no store of this version, ``target`` is there or cannot be written.  Then no file is left.
    """
    if not location.exists():
        raise StoreError(f"there is no key store at {location.name}", path=location.name)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    database = Database.open(location)
    try:
        database.begin_read()
        if database.revision() != newest_revision():
            hint = "`confide broker upgrade` changes those of an older one"
            raise StoreError(f"the key store at {location.name} has the tables of another version", hint=hint, path=location.name)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as raw:
            rows = _write(database, raw, progress)
            raw.flush()
            os.fsync(raw.fileno())
        os.link(draft, target)  # unlike a rename, never in place of something
        return rows
    except OSError as cause:
        taken = isinstance(cause, FileExistsError)
        hint = "name a new file: no backup is overwritten" if taken else "name a file in a folder that is there and can be written to"
        raise StoreError(f"cannot write a backup to {target}: {cause.strerror}", hint=hint, path=str(target)) from cause
    finally:
        database.end()
        database.close()
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def restore(source: Path, location: Location, progress: Progress = lambda _: None) -> int:
    """Make a new store at ``location`` from a backup; returns how many rows it has.  What they hold is not checked: opening it does.

    Raises:
        StoreError: there is a store already, or the file is no whole backup of this version.  Then nothing is left.
    """
    location.prepare()
    database = Database.open(location)
    done = False
    try:
        database.begin_write()
        if database.has_tables():
            raise StoreError(f"there is a key store at {location.name} already", path=location.name)
        database.migrate()
        rows = _read(source, database, progress)
        database.commit()
        done = True
        return rows
    except (OSError, EOFError) as cause:
        raise StoreError(f"cannot read the backup {source}", path=str(source)) from cause
    except (ValueError, KeyError, TypeError, OverflowError) as cause:
        raise StoreError(f"{source} is damaged", path=str(source)) from cause
    finally:
        database.end()
        database.close()
        if not done:
            location.discard()


def _write(database: Database, raw: Any, progress: Progress) -> int:
    rows, digest = 0, hashlib.sha256()
    with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as file:

        def line(value: object) -> None:
            data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
            digest.update(data)
            file.write(data)

        line({"format": FORMAT, "revision": newest_revision()})
        for table in METADATA.sorted_tables:
            for row in database.stream(select(table), _PAGE):
                line([table.name, [_plain(value) for value in row]])
                rows += 1
                if rows % _PAGE == 0:
                    progress(rows)
        file.write(json.dumps({"rows": rows, "sha256": digest.hexdigest()}).encode() + b"\n")
    progress(rows)
    return rows


def _read(source: Path, database: Database, progress: Progress) -> int:
    tables = {table.name: ([column.name for column in table.columns], Statement(insert(table))) for table in METADATA.sorted_tables}
    lines = _lines(source)
    match next(lines, None):
        case {"format": str(form), "revision": str(revision)} if (form, revision) == (FORMAT, newest_revision()):
            pass
        case _:
            raise StoreError(f"{source} is no backup of this version", path=str(source))
    rows = 0
    for value in lines:
        match value:
            case [str(name), list(cells)] if name in tables and len(cells) == len(tables[name][0]):
                columns, statement = tables[name]
                database.run(statement, dict(zip(columns, map(_stored, cells), strict=True)))
            case _:
                raise StoreError(f"{source} is damaged", path=str(source))
        rows += 1
        if rows % _PAGE == 0:
            progress(rows)
    progress(rows)
    return rows


def _lines(source: Path) -> Iterator[Any]:
    """The lines but the last, which must fit them: nothing may be kept before all have come."""
    digest, rows, last = hashlib.sha256(), -1, b""
    try:
        with gzip.open(source, "rb") as file:
            while line := file.readline(_MAX_LINE):
                if last:
                    digest.update(last)
                    rows += 1
                    yield json.loads(last)
                last = line
        end = json.loads(last or b"{}")
    except (ValueError, gzip.BadGzipFile, RecursionError) as cause:
        raise StoreError(f"{source} is damaged", path=str(source)) from cause
    if end != {"rows": rows, "sha256": digest.hexdigest()}:
        raise StoreError(f"{source} is damaged, or was cut", path=str(source))


def _plain(value: Any) -> Any:
    return {"hex": bytes(value).hex()} if isinstance(value, bytes | memoryview) else value


def _stored(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
