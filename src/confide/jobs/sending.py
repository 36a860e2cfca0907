"""Outputs of a run that go to URLs: their files are sent when the program has succeeded, and count once their manifest is made there.

Nodes stage them in a folder, as all outputs, and the driver commits them there.  What is sent is encrypted, lies under names that no other
writer uses, and is read back before the manifest is made, which only one of several writers of a place can do (a conditional write).
A run that goes on with a dataset there sends its own files beside those that there are, and makes the next snapshot's manifest.
A run that ends before that removes what it sent; one that is killed leaves files that no manifest lists, which no reader sees and
``confide data clean`` removes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confide.canonical import canonical
from confide.data.folder import verify_files
from confide.data.manifest import MANIFEST_NAME, MAX_BYTES
from confide.data.parallel import in_order
from confide.data.places import RemoteFolder, open_place
from confide.data.sent_files import SentFiles, refuse_existing
from confide.errors import ConfideError, IntegrityError, JobError, JobFailedError, OutputExistsError, UnavailableError
from confide.jobs.storage import place_of
from confide.regular_file import open_regular

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.canonical import Json
    from confide.data.manifest import FileEntry, Manifest
    from confide.data.snapshots import SignedManifest
    from confide.job import Job

_AT_ONCE: Final = 4
"""Files that are sent at one time, each with one part in memory."""
_LEFT: Final = "remove what an ended run left there with `confide data clean`, or choose another place"
_TAKEN: Final = f"say in the job file which `dataset` the output goes on with, if that is there; {_LEFT}"


class Sending:
    """What goes to which folders.  :meth:`stop` and :meth:`end` may be called from another thread."""

    def __init__(self, folders: Mapping[str, RemoteFolder], further: Collection[str] = ()) -> None:
        """``folders`` by the outputs' names; ``further`` are those of outputs that go on with the dataset that is there."""
        self.folders = dict(folders)
        self._further = frozenset(further)
        self._sent = {name: SentFiles(folder) for name, folder in folders.items()}
        self._whole: set[str] = set()
        self._shown: dict[str, bytes] = {}
        self._settled = False
        self._over = threading.Event()

    def __contains__(self, name: str) -> bool:
        return name in self.folders

    def require_free(self) -> None:
        """Check that nothing is where new outputs go.

        Raises:
            OutputExistsError: something is.
            UnavailableError: a storage refuses to say, or does not answer.
        """
        for name, folder in self.folders.items():
            try:
                if name not in self._further:
                    refuse_existing(folder)
            except OutputExistsError as error:
                error.hint = _TAKEN
                error.facts["name"] = name
                raise

    def send(self, name: str, staged: Path, manifest: Manifest, files: Sequence[FileEntry]) -> None:
        """Send the ``files`` of a manifest that the run wrote, and read them back: what is here is gone when the run has ended.

        Raises:
            IntegrityError: the storage holds something else than was sent.
            UnavailableError: it refuses, or does not answer; or the run is ending.
        """
        folder, sent = self.folders[name], self._sent[name]

        def one(entry: FileEntry) -> None:
            if self._over.is_set():
                raise UnavailableError("the run is ending")
            sent.sizes[entry.path] = entry.size
            with open_regular(staged / entry.path) as file:
                folder.write(entry.path, file)

        for _ in in_order(one, files, threads=_AT_ONCE):
            pass
        try:
            verify_files(folder, replace(manifest, files=tuple(files)))
        except IntegrityError as error:
            error.hint = f"{folder} holds something else than was sent to it"
            raise
        self._whole.add(name)

    def show(self, name: str, envelope: Json) -> None:
        """Make the manifest of an output whose files are there: from then on it is a dataset.

        Raises:
            JobFailedError: its files were not sent.
            OutputExistsError: another writer was first.
            IntegrityError: the storage holds another manifest than was sent.
            UnavailableError: the storage refuses, or does not answer, so that nobody knows whether it is there.
        """
        self._require_sent(name)
        folder, data = self.folders[name], canonical(envelope)
        self._shown[name] = data
        try:
            folder.create(MANIFEST_NAME, data)
        except OutputExistsError:
            del self._shown[name]
            raise
        except UnavailableError as error:  # its answer may be what was lost
            error.hint = f"see with `confide data inspect {folder}` whether the dataset is there; if not, {_LEFT}"
            if _manifest_at(folder) != data:
                raise
        if _manifest_at(folder) != data:
            raise IntegrityError(f"{folder} holds another manifest than was sent to it", path=str(folder))

    def commit(self, name: str, made: SignedManifest, parent: SignedManifest) -> None:
        """Make the next snapshot of the dataset that an output goes on with: from then on nothing of it is taken back.

        Raises:
            JobFailedError: its files were not sent.
            SnapshotConflictError: another writer was first.
            ManifestError, IntegrityError: what it goes on from, or what was sent, is not there any more.
            UnavailableError: the storage refuses, does not answer, or does not know conditional writes.
        """
        self._require_sent(name)
        self._sent[name].commit(made, parent)

    def _require_sent(self, name: str) -> None:
        if name not in self._whole:
            raise JobFailedError(f"the files of output {name!r} were not sent", outputs=name)

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Remove what was sent if the work within fails, as far as the storage lets that be done."""
        try:
            yield
        except BaseException:
            self._take_back()
            self._settled = True  # once is enough: a storage that is gone keeps each request waiting
            raise

    def keep(self) -> None:
        """All is published: :meth:`end` takes nothing back."""
        self._settled = True

    def stop(self) -> None:
        """Send no further file."""
        self._over.set()

    def end(self) -> None:
        """Remove what was sent unless it is to be kept, as far as the storage lets that be done.  Idempotent."""
        if not self._settled:
            self._take_back()

    def _take_back(self) -> None:
        for name, folder in self.folders.items():
            with contextlib.suppress(ConfideError):  # what ended the work is what is told
                self._take_one_back(name, folder)

    def _take_one_back(self, name: str, folder: RemoteFolder) -> None:
        made = self._shown.get(name)
        if made is not None and _manifest_at(folder) == made:
            folder.remove([MANIFEST_NAME])  # first: nobody may find a manifest without its files
        folder.remove(self._sent[name].needless)


def open_sending(job: Job, attester: Attester | None) -> Sending:
    """Find the storages that outputs go to, with this node's credentials, and check that the places of new ones are free.

    An output may go on with a dataset that is an input, too.

    Raises:
        JobError: two lie in each other, or one in an input.
        OutputExistsError: something is at the place of one.
        ConfideError: a credential is not given, or a storage cannot be used (:func:`confide.jobs.storage.place_of`).
    """
    urls = {name: f"{spec.path.rstrip('/')}/" for name, spec in job.outputs.items() if spec.remote}
    inputs = {name: f"{spec.path.rstrip('/')}/" for name, spec in job.inputs.items()}
    further = {name for name in urls if job.outputs[name].dataset}
    for name, url in urls.items():
        for other, place in {**inputs, **urls}.items():
            same = name in further and other in inputs and url == place
            if other != name and not same and (url.startswith(place) or place.startswith(url)):
                raise JobError(f"output {name!r} and {other!r} lie in each other", hint="separate them", field=f"outputs.{name}.path")
    folders = {name: place_of(job.outputs[name], attester) for name in urls}
    sending = Sending({name: folder for name, folder in folders.items() if isinstance(folder, RemoteFolder)}, further)
    sending.require_free()
    return sending


def _manifest_at(folder: RemoteFolder) -> bytes | None:
    try:
        with open_place(folder / MANIFEST_NAME, newest=True) as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
