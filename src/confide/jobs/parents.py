"""The dataset of an earlier run that a run goes on with, at the snapshot that was the newest when the run began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from confide.data.manifest import verify_manifest
from confide.data.snapshots import SignedManifest, load_manifest
from confide.errors import ManifestError, SnapshotConflictError, UsageError

if TYPE_CHECKING:
    from confide.data.next_snapshot import Mode
    from confide.data.places import RemoteFolder
    from confide.job import Job
    from confide.jobs.saves import Save

_HERE: Final[Mapping[str, RemoteFolder]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Parent:
    """The snapshot that an output's next one comes after, and what becomes of its files.

    That the manifest is the newest, and by the right signer, the broker says when it is asked for the output's key.
    """

    manifest: SignedManifest
    mode: Mode

    def require_meant(self, save: Save, name: str, *, first: bool) -> None:
        """Check that a program's save and the job say the same of what is in the dataset: the job's word is what owners have granted.

        Raises:
            UsageError: they do not.
        """
        fits = {"error", self.mode} if first else {"error", "ignore", "append", self.mode}
        if save.mode not in fits:
            hint = f'save with mode "{self.mode}" or without one, or change the job file'
            raise UsageError(f"the job file says {self.mode} for output {name!r}, and the program {save.mode}", hint=hint)

    def require_unchanged(self) -> None:
        """Check that the dataset's newest manifest is still the one that the run began with.

        Raises:
            SnapshotConflictError: another writer committed the next snapshot meanwhile.
            ManifestError: it is another one, although nothing was committed after it.
        """
        newest = load_manifest(self.manifest.folder)
        if newest.digest == self.manifest.digest:
            return
        number = self.manifest.unverified.snapshot
        if newest.unverified.snapshot > number:
            raise SnapshotConflictError(
                f"another writer committed snapshot {number + 1} first",
                hint="nothing of this run is visible; look at the new snapshot and run it again",
                path=str(newest.folder),
                snapshot=number + 1,
            )
        raise ManifestError("the dataset's manifest was exchanged while the run went on", expected=self.manifest.digest, got=newest.digest)


def open_parents(job: Job, remote: Mapping[str, RemoteFolder] = _HERE) -> dict[str, Parent]:
    """The datasets that the job's outputs go on with, by the outputs' names, as they are now.  ``remote``: where those at URLs are.

    Raises:
        ManifestError: one is missing, is another dataset than the job pins, or is not signed by the key that it names.
        UnavailableError: a storage refuses, or does not answer.
    """
    found = {}
    for name, spec in job.outputs.items():
        if spec.mode == "error" or not spec.dataset:
            continue
        newest = load_manifest(remote[name] if spec.remote else Path(spec.path))
        manifest = verify_manifest(newest.envelope, newest.signer)
        if manifest.dataset != spec.dataset:
            message = f"output {name!r} is another dataset than the job pins"
            raise ManifestError(message, name=name, expected=spec.dataset, got=manifest.dataset)
        found[name] = Parent(newest, spec.mode)
    return found
