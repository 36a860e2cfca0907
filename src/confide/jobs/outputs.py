"""A run's outputs on the driver: staged by executors, committed with a signed manifest, published at the end, all or none.

An output that goes on with an earlier run's dataset is staged as any other, and published as that dataset's next snapshot.

A commit looks at every staged file: an unencrypted one ends the run, and so does one that no task wrote, or that a task wrote and
storage does not show.  Nothing is visible before :meth:`Outputs.publish`, and no manifest leaves the driver before it: a run may save into
an output again, and of the manifests that it signed meanwhile storage must not get hold.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from confide.data.manifest import Written
from confide.data.snapshots import SignedManifest, load_manifest, write_manifest
from confide.errors import ConfideError, DataError, JobFailedError, ProtocolError, UnavailableError, UsageError
from confide.jobs.ledger import FileLedger
from confide.jobs.saves import Save
from confide.jobs.sending import Sending
from confide.jobs.staging import Presence, discard, discard_untouched, drop_pending, keep_only, publish, staging_path
from confide.jobs.statement import DatasetEntry

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.crypto.sign import SigningKey
    from confide.data.manifest import FileEntry, Manifest
    from confide.ids import RunId
    from confide.jobs.parents import Parent
    from confide.keys.released_keys import OutputKey


@dataclass(frozen=True, slots=True)
class CommittedOutput:
    """An output with its manifest, still in its staging folder.  ``digest`` is SHA-384 of the signed manifest."""

    name: str
    envelope: Json
    manifest: Manifest
    digest: str

    def entry(self) -> DatasetEntry:
        """The receipt's row."""
        m = self.manifest
        return DatasetEntry(self.name, m.dataset, m.snapshot, self.digest, m.key, m.version, m.signer.digest, m.parent or "")

    def summary(self) -> Json:
        """Public numbers, for the program and the client."""
        return {"files": len(self.manifest.files), "rows": self.manifest.rows, "manifest": self.digest}


@dataclass(slots=True)
class _Staged:
    """An output that the program has begun: its folder, the save that is under way, and what is committed so far.

    ``written`` is what the run itself put into it.
    """

    folder: Path
    saving: Save | None = None
    saved: Save = field(default_factory=Save)
    committed: CommittedOutput | None = None
    written: Written | None = None

    def paths(self) -> set[str]:
        """The files of the run that were committed."""
        return {entry.path for entry in self.written.files} if self.written is not None else set()


class Outputs:
    """The outputs of one run.  Safe to use from several threads; :meth:`close` is idempotent."""

    def __init__(
        self,
        places: Mapping[str, Path],
        run: RunId,
        signer: SigningKey,
        parents: Mapping[str, Parent] | None = None,
        sending: Sending | None = None,
    ) -> None:
        """``parents``: the datasets that outputs go on with, by the outputs' names.  ``sending``: those that go to URLs."""
        self._places = dict(places)
        self._parents = dict(parents or {})
        self._sending = Sending({}) if sending is None else sending
        self._run = run
        self._signer = signer
        self._lock = threading.Lock()
        self._files = FileLedger()
        self._files_lock = threading.Lock()
        self._keys: dict[str, OutputKey] = {}
        self._renew: dict[str, Callable[[], OutputKey]] = {}
        self._staged: dict[str, _Staged] = {}
        self._refusal: DataError | None = None
        self._closed = False
        self._presence = Presence()

    def hold(self, name: str, key: OutputKey, renew: Callable[[], OutputKey]) -> None:
        """Take the key of an output, to count its rows and to name it in its manifest; ``renew`` gets it again when its lease is over.

        Raises:
            UnavailableError: the run is ending.
        """
        with self._lock:
            self._renew[name] = renew
            self._take(name, key)

    def _take(self, name: str, key: OutputKey) -> None:
        """Hold a key: who ends the run either sees it, or is seen."""
        self._keys[name] = key
        if self._closed:
            key.secret.wipe()
            self._require_open()

    def _require_open(self) -> None:
        if self._closed:
            raise UnavailableError("the run is ending")

    def stage(self, name: str, save: Save | None = None) -> Json:
        """Begin a save into an output: answer the ``path`` of its staging folder, or what is ``committed`` if the mode says to leave it.

        Raises:
            UsageError: the job has no such output; it was saved before and the mode does not allow that, or the save does not fit; or
                another save into it is under way.
            UnavailableError: the run is ending.
        """
        save = save or Save()
        with self._lock:
            self._require_open()
            if name not in self._places:
                raise UsageError(f"the job has no output {name[:80]!r}", hint=f"outputs: {', '.join(self._places) or 'none'}")
            staged = self._staged.get(name)
            if staged is None:
                staged = self._staged[name] = _Staged(self._make_folder(name))
            elif staged.saving is not None:
                raise UsageError(f"output {name!r} is being written", hint="one save into an output at a time")
            if staged.committed is not None:
                if save.mode == "ignore":
                    return {"path": None, "committed": staged.committed.summary()}
                if save.mode == "error":
                    hint = "an output is saved once in a run, unless a program with Spark names a mode: append, overwrite or ignore"
                    raise UsageError(f"output {name!r} was written before", hint=hint)
                if save.mode == "append":
                    save.require_fits(staged.saved, name)
            parent = self._parents.get(name)
            if parent is not None:
                parent.require_meant(save, name, first=staged.committed is None)
            self._forget_unfinished(staged)
            staged.saving = save
            own = parent is not None or name in self._sending  # nobody else's file in that place has its path
            return {"path": str(_unused_folder(staged.folder) if own else staged.folder)}

    def _forget_unfinished(self, staged: _Staged) -> None:
        """What tasks of a failed save were about to tell is not of the next one."""
        with self._files_lock:
            self._files.keep(str(staged.folder), staged.paths())

    def _make_folder(self, name: str) -> Path:
        folder = staging_path(self._places[name], self._run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        self._presence.add(folder)
        discard_untouched(self._places[name], folder)
        return folder

    def abandon(self, name: str) -> None:
        """A save failed: take away what it wrote.  What was committed before stays as it is, and the program may save again.

        Raises:
            UsageError: no save into that output is under way.
            DataError: what it wrote cannot be removed.
        """
        with self._lock:
            staged = self._saving(name)
            keep_only(staged.folder, staged.paths())
            self._forget_unfinished(staged)
            staged.saving = None

    def written(self, paths: Sequence[str]) -> None:
        """Finished tasks left these files; a task is finished for Spark only after this has returned.

        Raises:
            ProtocolError: one is not in the staging folder of an output.
        """
        folders = {PurePosixPath(staging_path(place, self._run)) for place in self._places.values()}
        for path in paths:
            if folders.isdisjoint(PurePosixPath(path).parents):
                raise ProtocolError("a file was written that is in no output", path=path[:400])
        with self._files_lock:
            self._files.add(paths)

    def renamed(self, source: str, target: str) -> None:
        """A committer on the driver moved a file or a folder."""
        with self._files_lock:
            self._files.move(source, target)

    def deleted(self, path: str) -> None:
        """A committer, or the program, deleted a file or a folder."""
        with self._files_lock:
            self._files.remove(path)

    def names(self, folder: str) -> list[str]:
        """The files that are directly in ``folder``, by what nodes did."""
        with self._files_lock:
            return self._files.names(folder)

    def commit(self, name: str, kind: str, schema: Any) -> Json:
        """Check every file that the save wrote, and sign the manifest that makes them, and those it adds to, a dataset.

        Raises:
            UsageError: no save into that output is under way, or it announced another kind of files.
            PlaintextError: a file is not encrypted.
            IntegrityError: the files are not exactly those that finished tasks wrote.
        """
        try:
            return self._commit(name, kind, schema).summary()
        except DataError as refusal:
            self._refusal = refusal
            raise

    def _saving(self, name: str) -> _Staged:
        staged = self._staged.get(name)
        if staged is None or staged.saving is None:
            raise UsageError(f"output {name[:80]!r} is not being written")
        return staged

    def _commit(self, name: str, kind: str, schema: Any) -> CommittedOutput:
        from confide.data.commit import commit_staged  # noqa: PLC0415 - it loads Arrow, for which no program should wait to begin

        with self._lock:
            staged, key = self._saving(name), self._keys.get(name)
            save = staged.saving
            if key is None or save is None or kind not in {"parquet", "files"} or save.kind not in {None, kind}:
                raise UsageError(f"output {name[:80]!r} is not being written as {kind[:40]}")
            key = self._current(name, key)
            drop_pending(staged.folder)
            if save.mode == "overwrite":
                self._take_away(staged)
            parent = self._parents.get(name)
            signed = commit_staged(
                staged.folder,
                kind=kind,
                spark_schema=schema,
                name=name,
                run=self._run,
                dataset=key.dataset,
                dataset_key=key.secret,
                wrapped=key.wrapped,
                signer=self._signer,
                now=datetime.now(UTC),
                check_paths=lambda paths: self._require(staged.folder, paths),
                kept=staged.written,
                after=None if parent is None else (parent.manifest, parent.mode),
            )
            made = CommittedOutput(name, signed.envelope, signed.unverified, signed.digest)
            staged.committed, staged.saved, staged.saving = made, save, None
            staged.written = _own(made.manifest, parent)
            return made

    def _take_away(self, staged: _Staged) -> None:
        """Remove the files of earlier saves, now that those of another one are there in their place."""
        with self._files_lock:
            for path in staged.paths():
                (staged.folder / path).unlink(missing_ok=True)
                self._files.remove(str(staged.folder / path))
        staged.committed = staged.written = None

    def _current(self, name: str, key: OutputKey) -> OutputKey:
        """The output's key within its lease: a program may run for longer than that before it commits."""
        if datetime.now(UTC) < key.expires:
            return key
        key.secret.wipe()
        again = self._renew[name]()
        self._take(name, again)
        if again.dataset != key.dataset:
            raise ProtocolError("the broker answered with another output's key", expected=key.dataset, got=again.dataset)
        return again

    def _require(self, folder: Path, paths: Sequence[str]) -> None:
        with self._files_lock:
            self._files.require(str(folder), paths)

    def require_unharmed(self) -> None:
        """Check that no commit was refused, whatever the program made of it.

        Raises:
            DataError: the last refusal.
        """
        if self._refusal is not None:
            raise self._refusal

    def require_all(self) -> None:
        """Check that the program wrote every output of the job, and finished what it began.

        Raises:
            JobFailedError: it did not.
        """
        missing = sorted(set(self._places) - {output.name for output in self.committed()})
        if missing:
            raise JobFailedError(f"the program ended without writing {', '.join(missing)}", outputs=", ".join(missing))
        unfinished = sorted(name for name, staged in self._staged.items() if staged.saving is not None)
        if unfinished:
            raise JobFailedError(f"the program ended while it wrote {', '.join(unfinished)}", outputs=", ".join(unfinished))

    def committed(self) -> list[CommittedOutput]:
        """The committed outputs, by name."""
        return [staged.committed for _, staged in sorted(self._staged.items()) if staged.committed is not None]

    def summary(self) -> Json:
        """What the client is told: public numbers."""
        return {"outputs": {output.name: output.summary() for output in self.committed()}}

    def send(self) -> None:
        """Send the files of what goes to URLs: nothing of it is a dataset before :meth:`publish`.  Takes as long as it takes.

        Raises:
            UnavailableError: a storage refuses, or does not answer; or the run is ending.
            IntegrityError: a storage holds something else than was sent.
            SnapshotConflictError: another writer has committed the next snapshot of a dataset that the run goes on with already.
            ManifestError: that dataset's manifest is not the one any more that the run began with.
        """
        with self._sending.all_or_none():
            for output in self.committed():
                if output.name in self._sending:
                    if output.name in self._parents:
                        self._parents[output.name].require_unchanged()  # it would be sent for nothing
                    folder, files = self._staged[output.name].folder, self._files_of(output.name)
                    self._sending.send(output.name, folder, output.manifest, files)

    def _files_of(self, name: str) -> Sequence[FileEntry]:
        """What the run itself wrote."""
        written = self._staged[name].written
        return () if written is None else written.files

    def publish(self) -> None:
        """Put the manifests of all committed outputs into their folders, and move those into view, or none.

        What went to URLs (:meth:`send`) counts there once its manifest is made, after the folders are moved.

        The next snapshot of a dataset that a run goes on with is committed last, in one step that only one of several writers can do: what
        comes after it undoes nothing.

        Raises:
            OutputExistsError: something appeared in the place of one.
            SnapshotConflictError: another writer committed the next snapshot first.
            ManifestError: the dataset's manifest is not the one any more that the run began with.
            UnavailableError: a manifest cannot be written, or a storage refuses, does not answer, or does not know conditional writes.
            IntegrityError: a storage holds another manifest than was sent, or not what was sent.
            DataError: an output cannot be moved.
        """
        new = [output for output in self.committed() if output.name not in self._parents]
        folders = {}
        with self._sending.all_or_none():
            for output in new:
                folder = self._staged[output.name].folder
                if output.name not in self._sending:
                    drop_pending(folder)
                    write_manifest(folder, output.envelope, staged=folder)  # it is hidden itself
                    folders[folder] = self._places[output.name]
            publish(folders, self._commit_last)
        self._sending.keep()

    def _commit_last(self) -> None:
        for output in self.committed():
            if output.name in self._sending and output.name not in self._parents:
                self._sending.show(output.name, output.envelope)
        self._commit_further()

    def _commit_further(self) -> None:
        for output in self.further():
            staged, parent = self._staged[output.name], self._parents[output.name]
            parent.require_unchanged()
            drop_pending(staged.folder)
            made = SignedManifest(parent.manifest.folder, output.envelope, output.manifest)
            if output.name in self._sending:
                self._sending.commit(output.name, made, parent.manifest)
            else:
                from confide.data.next_snapshot import commit_files  # noqa: PLC0415 - it loads Arrow, too

                commit_files(staged.folder, made, self._files_of(output.name), parent.manifest)
            with contextlib.suppress(ConfideError):  # readers go on from the manifest before to what was committed since
                newest = load_manifest(made.folder).envelope  # others may have been faster since then
                write_manifest(made.folder, newest, staged=staged.folder)

    def further(self) -> list[CommittedOutput]:
        """Those that go on with a dataset."""
        return [output for output in self.committed() if output.name in self._parents]

    def close(self) -> None:
        """Wipe the keys, and remove what is staged: what was published is not there any more.  What was sent for nothing is taken back."""
        self._closed = True
        self._sending.stop()
        for key in [*self._keys.values()]:  # without the lock, which a commit of large files may hold: that ends by it
            key.secret.wipe()
        with self._lock:
            self._presence.close()
            discard(self._places, self._run)
        self._sending.end()  # last: a storage may keep it waiting


def _own(manifest: Manifest, parent: Parent | None) -> Written:
    """What the run wrote, of all that a manifest lists: no path of it is one of an earlier snapshot's."""
    before = set() if parent is None else {entry.path for entry in parent.manifest.unverified.files}
    return Written(manifest.kind, tuple(entry for entry in manifest.files if entry.path not in before), manifest.schema)


def _unused_folder(staged: Path) -> Path:
    """A folder in a staging folder whose name no other snapshot of the dataset has used: a path is used once under one key."""
    folder = staged / f"v-{uuid.uuid4()}"
    folder.mkdir()
    return folder
