"""A snapshot in a remote storage: each file is encrypted here, sent when it is finished and removed here; the manifest is sent last.

What is on this machine at one time is a file for each thread, encrypted.  Nobody sees a snapshot before its manifest is there, and of
several writers of one place only one puts a manifest there.  A writer that is stopped in order removes what it sent; one that is killed
leaves files that no manifest lists, and on S3 perhaps parts of one, which only a rule of the bucket removes (``docs/guides/storage.md``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from confide.canonical import canonical
from confide.crypto.secret import SecretBytes
from confide.data.folder import listed_files
from confide.data.journal import Begun
from confide.data.manifest import MANIFEST_NAME, MAX_BYTES, FileEntry
from confide.data.parallel import in_order
from confide.data.places import Place, RemoteFolder, is_there, open_place
from confide.data.sent_files import AT_ONCE, LEFT, SentFiles
from confide.data.snapshots import SignedManifest, history, load_manifest
from confide.data.staging import Attempt, attempt_beside, resumed_or_new
from confide.errors import ConfideError, OutputExistsError, UnavailableError
from confide.regular_file import open_regular


@dataclass
class RemoteAttempt(Attempt):
    """Work whose files are made in a ``scratch`` folder and go to ``target``.

    ``root`` holds the journal and the signed manifest, which the next command needs to go on: what is finished is at the storage.
    """

    target: RemoteFolder = field(kw_only=True)
    scratch: Path = field(kw_only=True)
    sent: SentFiles = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is sent yet."""
        self.sent = SentFiles(self.target)

    @property
    def files(self) -> Path:
        """In the scratch folder: encrypted files on their way."""
        return self.scratch / "dataset"

    @property
    def signed(self) -> Path:
        """Beside the journal."""
        return self.root

    @property
    def unsettled(self) -> bool:
        """A manifest was sent, and nobody knows whether it arrived."""
        return self.sent.in_doubt and not self.sent.committed

    def name_of(self, _: Path) -> str:
        """Its URL."""
        return str(self.target)

    def note(self, entry: FileEntry) -> None:
        """Send a finished file, and remove it here."""
        place = self.files / entry.path
        self.sent.sizes[entry.path] = entry.size
        if self.journal is not None:
            self.journal.send(entry.path)
        with open_regular(place) as file:
            self.target.write(entry.path, file)
        place.unlink()
        if self.journal is not None:
            self.journal.add(entry)

    def _whole(self, entries: Sequence[FileEntry]) -> list[FileEntry]:
        """Those that the storage has in their length.  They count as new there: `data clean` takes what is old and not listed."""
        self.sent.sizes.update((entry.path, entry.size) for entry in entries)

        def renewed(entry: FileEntry) -> bool:
            found = self.target.look(entry.path)
            return found is not None and found.size == entry.size and self.target.renew(entry.path, found)

        found = in_order(renewed, entries, threads=AT_ONCE)
        return [entry for entry, there in zip(entries, found, strict=True) if there]

    def _keep_only(self, whole: Sequence[FileEntry]) -> None:
        assert self.journal is not None  # noqa: S101 -- it was found by it
        paths = self.journal.sent - {entry.path for entry in whole}
        self.target.remove(self._unlisted(paths))
        for path in paths:
            self.sent.sizes.pop(path, None)

    def discard(self, *, failed: bool) -> None:
        """Remove what was sent for nothing, unless somebody may read it, and what is here."""
        if failed:
            with contextlib.suppress(ConfideError):  # what ended the work is what is told
                self.target.remove(self._unlisted(self.sent.needless))
        super().discard(failed=failed)

    def _unlisted(self, paths: Collection[str]) -> list[str]:
        """Those that no snapshot lists.  An earlier command's may have been committed: then they are others' by now."""
        if not paths or not self.resumed or not is_there(self.target / MANIFEST_NAME):
            return list(paths)
        newest = load_manifest(self.target)
        listed = listed_files(newest.unverified, *(one.unverified for one in history(newest)))
        return [path for path in paths if path not in listed]

    def publish(self, folder: Place) -> None:
        """Send the manifest: from then on there is a dataset in ``folder``.

        Raises:
            OutputExistsError: another writer was first.
            IntegrityError: what was sent is not there any more.
            UnavailableError: the storage refuses, or does not answer.
        """
        data = canonical(load_manifest(self.signed).envelope)
        self.sent.require_there()
        self.sent.doubt()
        try:
            self.target.create(MANIFEST_NAME, data)
        except OutputExistsError:
            self.sent.in_doubt = False
            raise
        except UnavailableError as error:
            if not self._shows(data):
                error.hint = f"see with `confide data inspect {folder}` whether the dataset is there; if not, {LEFT}"
                raise
        self.sent.committed = True

    def commit(self, made: SignedManifest, parent: SignedManifest) -> None:
        """As :meth:`confide.data.sent_files.SentFiles.commit`."""
        self.sent.commit(made, parent)

    def _shows(self, data: bytes) -> bool:
        """Whether the manifest is there: of a request that was not answered, or was refused in the end, nobody knows."""
        with contextlib.suppress(ConfideError, FileNotFoundError), open_place(self.target / MANIFEST_NAME, newest=True) as file:
            return file.read(MAX_BYTES + 1) == data
        return False


def attempt_at(folder: Place, *, journals: Path | None = None) -> AbstractContextManager[Attempt]:
    """Where to write a snapshot of the dataset in ``folder`` first; see :func:`confide.data.staging.attempt_beside` for one here.

    ``journals`` is the folder here for what is to be known of work at a URL if it is to be gone on with: then :meth:`Attempt.begin` may be
    called.
    """
    return attempt_beside(folder) if isinstance(folder, Path) else _attempt_here(folder, journals)


def resumed_at(
    folder: Place, task: str | None, *, journals: Path, open_key: Callable[[Begun], SecretBytes], done: SignedManifest | None
) -> AbstractContextManager[Attempt]:
    """What an earlier command left of the same work, or else as :func:`attempt_at`; see :func:`confide.data.staging.resumed_or_new`.

    At a URL, what is finished is what the storage has.
    """
    if isinstance(folder, Path):
        return resumed_or_new(folder, task, open_key=open_key, done=done)
    return _resumed_here(folder, task, journals, open_key, done)


def stand_in(journals: Path, target: RemoteFolder) -> Path:
    """The name beside which folders of work at a URL lie here, as those of a dataset here lie beside it."""
    return journals / hashlib.sha256(str(target).encode()).hexdigest()[:32]


@contextlib.contextmanager
def _attempt_here(target: RemoteFolder, journals: Path | None) -> Iterator[Attempt]:
    with _scratch() as scratch:
        beside = scratch / "work" if journals is None or not _may_write(journals) else stand_in(journals, target)
        with attempt_beside(beside, make=partial(RemoteAttempt, target=target, scratch=scratch)) as attempt:
            yield attempt


@contextlib.contextmanager
def _resumed_here(
    target: RemoteFolder, task: str | None, journals: Path, open_key: Callable[[Begun], SecretBytes], done: SignedManifest | None
) -> Iterator[Attempt]:
    with _scratch() as scratch:
        make = partial(RemoteAttempt, target=target, scratch=scratch)
        with resumed_or_new(stand_in(journals, target), task, open_key=open_key, done=done, make=make) as attempt:
            yield attempt


def _may_write(journals: Path) -> bool:
    with contextlib.suppress(OSError):
        journals.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.access(journals, os.W_OK | os.X_OK)
    return False


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="confide-") as made:  # mode 0700, and encrypted files only
        yield Path(made)
