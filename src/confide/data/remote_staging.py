"""A new dataset in a remote storage: each file is encrypted here, sent when it is finished and removed here; the manifest is sent last.

What is on this machine at one time is a file for each thread, encrypted.  Nobody sees a dataset before its manifest is there, and of
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

import pyarrow as pa

from confide.canonical import canonical
from confide.data.manifest import MANIFEST_NAME, FileEntry
from confide.data.places import Place, RemoteFolder
from confide.data.snapshots import load_manifest
from confide.data.staging import Attempt, attempt_beside
from confide.errors import ConfideError, OutputExistsError, UnavailableError
from confide.regular_file import open_regular


@dataclass
class RemoteAttempt(Attempt):
    """A scratch folder whose files go to ``target``.  It cannot be taken up again."""

    target: RemoteFolder = field(kw_only=True)
    sent: list[str] = field(default_factory=list, kw_only=True)
    in_doubt: bool = field(default=False, kw_only=True)
    """Whether a manifest may be there that lists what was sent."""

    def note(self, entry: FileEntry) -> None:
        """Send a finished file, and remove it here."""
        place = self.files / entry.path
        self.sent.append(entry.path)
        with open_regular(place) as file:
            self.target.write(entry.path, file)
        place.unlink()

    def publish(self, folder: Place) -> None:
        """Send the manifest: from then on there is a dataset in ``folder``.

        Raises:
            OutputExistsError: another writer was first.
            UnavailableError: the storage refuses, or does not answer.
        """
        envelope = load_manifest(self.files).envelope
        self.in_doubt = True
        try:
            self.target.create(MANIFEST_NAME, canonical(envelope))
        except OutputExistsError:
            self.in_doubt = False
            raise
        except UnavailableError as error:
            error.hint = f"see with `confide data inspect {folder}` whether the dataset is there; if not, remove the rest and try again"
            raise

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
    """Where to write a new dataset first; see :func:`confide.data.staging.attempt_beside` for one here."""
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
