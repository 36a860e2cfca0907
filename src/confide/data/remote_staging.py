"""A snapshot in a remote storage: each file is encrypted here, sent when it is finished and removed here; the manifest is sent last.

What is on this machine at one time is a file for each thread, encrypted.  Nobody sees a snapshot before its manifest is there, and of
several writers of one place only one puts a manifest there.  A writer that is stopped in order removes what it sent; one that is killed
leaves files that no manifest lists, and on S3 perhaps parts of one, which only a rule of the bucket removes (``docs/guides/storage.md``).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa

from confide.canonical import canonical
from confide.data.manifest import MANIFEST_NAME, MAX_BYTES, FileEntry
from confide.data.places import Place, RemoteFolder, open_place
from confide.data.snapshots import SignedManifest, commit_snapshot, load_manifest
from confide.data.staging import Attempt, attempt_beside
from confide.errors import ConfideError, IntegrityError, OutputExistsError, SnapshotConflictError, UnavailableError
from confide.regular_file import open_regular

_LEFT: Final = "remove what was sent with `confide data clean`, and try again"

@dataclass
class RemoteAttempt(Attempt):
    """A scratch folder whose files go to ``target``.  It cannot be taken up again."""

    target: RemoteFolder = field(kw_only=True)
    sent: dict[str, int] = field(default_factory=dict, kw_only=True)
    """Paths and sizes."""
    in_doubt: bool = field(default=False, kw_only=True)
    """Whether a manifest may be there that lists what was sent."""

    def note(self, entry: FileEntry) -> None:
        """Send a finished file, and remove it here."""
        place = self.files / entry.path
        self.sent[entry.path] = entry.size
        with open_regular(place) as file:
            self.target.write(entry.path, file)
        place.unlink()

    def publish(self, folder: Place) -> None:
        """Send the manifest: from then on there is a dataset in ``folder``.

        Raises:
            OutputExistsError: another writer was first.
            IntegrityError: what was sent is not there any more.
            UnavailableError: the storage refuses, or does not answer.
        """
        data = canonical(load_manifest(self.files).envelope)
        self._require_sent()
        self._doubt()
        try:
            self.target.create(MANIFEST_NAME, data)
        except OutputExistsError:
            self.in_doubt = False
            raise
        except UnavailableError as error:
            if not self._shows(data):
                error.hint = f"see with `confide data inspect {folder}` whether the dataset is there; if not, {_LEFT}"
                raise

    def commit(self, made: SignedManifest, parent: SignedManifest) -> None:
        """Send the manifest of the snapshot after ``parent``: from then on it is the newest of the dataset.

        Raises:
            SnapshotConflictError: another writer was first.
            ManifestError, IntegrityError: what it goes on from, or what was sent, is not there any more.
            UnavailableError: the storage refuses, or does not answer.
        """
        self._require_sent()
        try:
            commit_snapshot(parent, made, at_last=self._doubt)
        except SnapshotConflictError:
            self.in_doubt = False
            raise
        except UnavailableError as error:
            if self.in_doubt:
                number = made.unverified.snapshot
                error.hint = f"see with `confide data log {self.target}` whether snapshot {number} is there; if not, {_LEFT}"
            raise

    def _doubt(self) -> None:
        self.in_doubt = True

    def _require_sent(self) -> None:
        """Return if the storage has what was sent: ``confide data clean`` may have taken for left behind what is a day old."""
        for path, size in self.sent.items():
            found = self.target.look(path)
            if found is None or found.size != size:
                hint = "was it removed there meanwhile, as by `confide data clean`? do it again"
                raise IntegrityError(f"{self.target} does not have what was sent to it", hint=hint, path=path)

    def _shows(self, data: bytes) -> bool:
        """Whether the manifest is there: of a request that was not answered, or was refused in the end, nobody knows."""
        with contextlib.suppress(ConfideError, FileNotFoundError), open_place(self.target / MANIFEST_NAME, newest=True) as file:
            return file.read(MAX_BYTES + 1) == data
        return False

    def withdraw(self) -> None:
        """Remove what was sent, unless somebody may read it."""
        if not self.in_doubt:
            with contextlib.suppress(ConfideError):  # what ended the work is what is told
                self.target.remove(self.sent)


def refuse_existing(folder: Place) -> None:
    """Return if nothing is at ``folder``.

    Raises:
        OutputExistsError: something is.
        UnavailableError: a storage refuses to say, or does not answer.
    """
    there = os.path.lexists(folder) if isinstance(folder, Path) else bool(folder.files())
    if there:
        raise OutputExistsError(f"{folder} exists", path=str(folder))


def attempt_at(folder: Place) -> AbstractContextManager[Attempt]:
    """Where to write a snapshot of the dataset in ``folder`` first; see :func:`confide.data.staging.attempt_beside` for one here."""
    return attempt_beside(folder) if isinstance(folder, Path) else _attempt_here(folder)


@contextlib.contextmanager
def _attempt_here(target: RemoteFolder) -> Iterator[Attempt]:
    with tempfile.TemporaryDirectory(prefix="confide-") as scratch:  # mode 0700, and encrypted files only
        attempt = RemoteAttempt(Path(scratch), target=target)
        try:
            attempt.files.mkdir()
            yield attempt
        except (OSError, pa.ArrowException) as cause:
            attempt.withdraw()
            reason = getattr(cause, "strerror", None) or str(cause)
            raise UnavailableError(f"cannot write {target}: {reason}", path=str(target)) from cause
        except BaseException:
            attempt.withdraw()
            raise
