"""A journal of what a command has finished, so that it can go on after it was killed.

It lies beside the encrypted files, in storage that nobody trusts, and holds nothing that a manifest does not show: paths, sizes, digests,
columns, and the dataset's key, wrapped.

Each line carries an HMAC over itself and the line before, under a key that is derived from the dataset's: no line can be changed, added,
left out or taken from another journal.  Lines can be missing at the end; what they say was done is then done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa

from confide.canonical import Json, b64url, canonical, from_b64url, parse_object
from confide.crypto.derive import check_data_path, journal_key
from confide.crypto.secret import SecretBytes
from confide.data.manifest import FileEntry
from confide.durable import sync_file
from confide.errors import ConfideError, IntegrityError, UsageError
from confide.ids import DatasetId

_FORMAT: Final = "confide-journal-v1"
_MAX_BYTES: Final = 256 << 20
"""Cap on a journal: some hundreds of thousands of files."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the first line says.  ``unverified`` until a :class:`Journal` was made of it with the right key.

    ``task`` is the digest of what is encrypted; ``wrapped`` is the dataset's key as its manifest will have it, and ``kept`` the same key
    under one of this user's own (both only if the dataset is new).  ``groups`` are a new table's column groups: each as the manifest will
    have it (``group``), with its key (``kept``).
    """

    dataset: DatasetId
    task: str
    wrapped: Json | None
    kept: Json | None
    groups: tuple[Json, ...] = ()

    def to_json(self) -> Json:
        """The first line."""
        more: Json = {"groups": list(self.groups)} if self.groups else {}
        return {"format": _FORMAT, "dataset": self.dataset, "task": self.task, "wrapped": self.wrapped, "kept": self.kept, **more}


@dataclass
class Journal:
    """An open, locked journal.  ``files`` are finished, in the order in which they were; ``columns`` those of a table.

    ``sent`` are the paths of those that a remote storage may have: the finished ones, and what was under way.
    """

    begun: Begun
    _file: BinaryIO
    _key: SecretBytes
    files: list[FileEntry] = field(default_factory=list)
    columns: pa.Schema | None = None
    sent: set[str] = field(default_factory=set)
    _last: bytes = b""

    @classmethod
    def begin(cls, path: Path, begun: Begun, dataset_key: SecretBytes) -> Journal:
        """Start a new one."""
        file = path.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal = cls(begun, file, journal_key(dataset_key, begun.dataset))
        journal._write({"begun": begun.to_json()})
        return journal

    def send(self, path: str) -> None:
        """Note that a file is sent from now on."""
        self._write({"sending": path})
        self.sent.add(path)

    def add(self, entry: FileEntry) -> None:
        """Note that a file is finished, and durable."""
        self._write({"file": [entry.path, entry.size, entry.sha256, entry.rows]})
        self.files.append(entry)

    def set_columns(self, columns: pa.Schema) -> None:
        """Note what columns the table has."""
        self._write({"columns": b64url(columns.serialize().to_pybytes())})
        self.columns = columns

    def forget(self, entries: Sequence[FileEntry]) -> None:
        """Note that files count as unfinished again."""
        if entries:
            self._write({"forget": [entry.path for entry in entries]})
            self.files = [entry for entry in self.files if entry not in entries]

    def close(self) -> None:
        """Close it, and let others have it."""
        self._file.close()

    def _write(self, body: Json) -> None:
        self._last = self._mac(body)
        self._file.write(canonical({"body": body, "mac": self._last.hex()}) + b"\n")
        sync_file(self._file)

    def _mac(self, body: Json) -> bytes:
        return hmac.digest(self._key.reveal(), self._last + canonical(body), hashlib.sha256)

    def replay(self, body: Json, mac: bytes) -> bool:
        """Take in what a line that is there already says, if it is authentic; else say that it is not, and take nothing in."""
        expected = self._mac(body)
        if not hmac.compare_digest(mac, expected):
            return False
        self._last = expected
        match body:
            case {"file": [str(path), int(size), str(digest), int() | None as rows]}:
                self.files.append(FileEntry(check_data_path(path), size, digest, rows))
            case {"sending": str(path)}:
                self.sent.add(check_data_path(path))
            case {"columns": str(text)}:
                self.columns = pa.ipc.read_schema(pa.py_buffer(from_b64url(text)))
            case {"forget": list(paths)}:
                self.files = [entry for entry in self.files if entry.path not in paths]
        return True


@dataclass
class OpenedJournal:
    """A journal that was found and locked.  What it claims is unverified until :meth:`resume`."""

    unverified: Begun
    _path: Path
    _file: BinaryIO
    _lines: list[bytes]

    @classmethod
    def open(cls, path: Path) -> OpenedJournal | None:
        """Open and lock a journal; ``None`` if its first line is not there: whoever began it did nothing.

        Raises:
            UsageError: whoever began it is still at work.
            IntegrityError: it is not a journal.
        """
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            file.close()
            raise UsageError("another command encrypts into this place right now", hint="wait for it, or end it", path=str(path)) from cause
        data = file.read(_MAX_BYTES + 1)
        lines = data.split(b"\n")[:-1]  # what follows the last end of a line was not written to its end
        if not lines:
            file.close()
            return None
        try:
            begun = parse_object(lines[0])["body"]["begun"]
            if begun["format"] != _FORMAT or len(data) > _MAX_BYTES:
                raise _changed(path)
            unverified = Begun(DatasetId(begun["dataset"]), begun["task"], begun["wrapped"], begun["kept"], tuple(begun.get("groups", ())))
        except (ConfideError, KeyError, TypeError, json.JSONDecodeError) as cause:
            file.close()
            raise _changed(path) from cause
        return cls(unverified, path, file, lines)

    def resume(self, dataset_key: SecretBytes) -> Journal:
        """The journal, every line of it authenticated; it goes on after the last whole one.

        Raises:
            IntegrityError: a line was changed, or is of another dataset.
        """
        journal = Journal(self.unverified, self._file, journal_key(dataset_key, self.unverified.dataset))
        for line in self._lines:
            try:
                said = parse_object(line)
                body, mac = said["body"], bytes.fromhex(said["mac"])
            except (ConfideError, KeyError, TypeError, ValueError) as cause:
                raise _changed(self._path) from cause
            if not journal.replay(body, mac):
                raise _changed(self._path)
        whole = sum(len(line) + 1 for line in self._lines)
        self._file.truncate(whole)
        self._file.seek(whole)
        return journal

    def close(self) -> None:
        """Let others have it."""
        self._file.close()


def _changed(path: Path) -> IntegrityError:
    hint = "remove the folder that it lies in (`confide data clean` does), and begin anew"
    return IntegrityError("the journal of an earlier command was changed, or is under another key", hint=hint, path=str(path))
