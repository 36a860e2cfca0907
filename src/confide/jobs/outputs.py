"""A run's outputs on the driver: staged by executors, committed with a signed manifest, published at the end, all or none.

A commit looks at every staged file: an unencrypted one ends the run, and so does one that no task wrote, or that a task wrote and
storage does not show.  Nothing is visible before :meth:`Outputs.publish`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from confide.data.commit import commit_staged
from confide.errors import DataError, JobFailedError, ProtocolError, UsageError
from confide.jobs.ledger import FileLedger
from confide.jobs.staging import discard, publish, staging_path
from confide.jobs.statement import DatasetEntry

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.crypto.sign import SigningKey
    from confide.data.manifest import Manifest
    from confide.ids import RunId
    from confide.keys.client import OutputKey


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
        return DatasetEntry(self.name, m.dataset, m.snapshot, self.digest, m.key, m.version, m.signer.digest)

    def summary(self) -> Json:
        """Public numbers, for the program and the client."""
        return {"files": len(self.manifest.files), "rows": self.manifest.rows, "manifest": self.digest}


class Outputs:
    """The outputs of one run.  Safe to use from several threads; :meth:`close` is idempotent."""

    def __init__(self, places: Mapping[str, Path], run: RunId, signer: SigningKey) -> None:
        self._places = dict(places)
        self._run = run
        self._signer = signer
        self._lock = threading.Lock()
        self._files = FileLedger()
        self._files_lock = threading.Lock()
        self._keys: dict[str, OutputKey] = {}
        self._renew: dict[str, Callable[[], OutputKey]] = {}
        self._staged: set[str] = set()
        self._committed: dict[str, CommittedOutput] = {}
        self._refusal: DataError | None = None
        self._published = False

    def hold(self, name: str, key: OutputKey, renew: Callable[[], OutputKey]) -> None:
        """Take the key of an output, to count its rows and to name it in its manifest; ``renew`` gets it again when its lease is over."""
        with self._lock:
            self._keys[name] = key
            self._renew[name] = renew

    def stage(self, name: str) -> Json:
        """Make the output's staging folder and answer its path.  An output is written once.

        Raises:
            UsageError: the job has no such output, or the program wrote it before.
        """
        with self._lock:
            if name not in self._places:
                raise UsageError(f"the job has no output {name[:80]!r}", hint=f"outputs: {', '.join(self._places) or 'none'}")
            if name in self._staged:
                raise UsageError(f"output {name!r} was written before", hint="an output is written once a run")
            folder = staging_path(self._places[name], self._run)
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            self._staged.add(name)
            return {"path": str(folder)}

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

    def commit(self, name: str, kind: str, schema: Any) -> Json:
        """Check every staged file, and sign the manifest that makes them a dataset.

        Raises:
            UsageError: nothing is staged under that name, or it was committed before.
            PlaintextError: a file is not encrypted.
            IntegrityError: the files are not exactly those that finished tasks wrote.
        """
        try:
            return self._commit(name, kind, schema).summary()
        except DataError as refusal:
            self._refusal = refusal
            raise

    def _commit(self, name: str, kind: str, schema: Any) -> CommittedOutput:
        with self._lock:
            key = self._keys.get(name)
            if key is None or name not in self._staged or name in self._committed:
                raise UsageError(f"output {name[:80]!r} is not being written")
            key = self._current(name, key)
            folder = staging_path(self._places[name], self._run)
            signed = commit_staged(
                folder,
                kind=kind,
                spark_schema=schema,
                name=name,
                run=self._run,
                dataset=key.dataset,
                dataset_key=key.secret,
                wrapped=key.wrapped,
                signer=self._signer,
                now=datetime.now(UTC),
                check_paths=lambda paths: self._require(folder, paths),
            )
            made = self._committed[name] = CommittedOutput(name, signed.envelope, signed.unverified, signed.digest)
            return made

    def _current(self, name: str, key: OutputKey) -> OutputKey:
        """The output's key within its lease: a program may run for longer than that before it commits."""
        if datetime.now(UTC) < key.expires:
            return key
        key.secret.wipe()
        again = self._keys[name] = self._renew[name]()
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
        """Check that the program wrote every output of the job.

        Raises:
            JobFailedError: it did not.
        """
        missing = sorted(set(self._places) - set(self._committed))
        if missing:
            raise JobFailedError(f"the program ended without writing {', '.join(missing)}", outputs=", ".join(missing))

    def committed(self) -> list[CommittedOutput]:
        """The committed outputs, by name."""
        return [self._committed[name] for name in sorted(self._committed)]

    def summary(self) -> Json:
        """What the client is told: public numbers."""
        return {"outputs": {output.name: output.summary() for output in self.committed()}}

    def publish(self) -> None:
        """Move all committed outputs into view, or none.

        Raises:
            OutputExistsError: something appeared in the place of one.
            DataError: one cannot be moved.
        """
        publish({staging_path(self._places[name], self._run): self._places[name] for name in sorted(self._committed)})
        self._published = True

    def close(self) -> None:
        """Wipe the keys, and remove what is staged and was not published."""
        with self._lock:
            for key in self._keys.values():
                key.secret.wipe()
        if not self._published:
            discard(self._places, self._run)
