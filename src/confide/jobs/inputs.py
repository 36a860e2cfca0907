"""A job's inputs on a node: manifests that are signed by whom the job pins, before any file is named to anybody."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confide.crypto.sign import PublicKey
from confide.data.column_groups import ColumnGroup, groups_named
from confide.data.folder import size_of_file, verify_files
from confide.data.manifest import Manifest, verify_manifest
from confide.data.places import Place
from confide.data.snapshots import SignedManifest, history, load_manifest, snapshot_numbered
from confide.errors import IntegrityError, JobError, ManifestError
from confide.jobs.statement import DatasetEntry
from confide.jobs.storage import place_of

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.canonical import Json
    from confide.crypto.envelope import WrappedKey
    from confide.job import InputSpec, Job

REMOTE: Final = "/confide-remote"
"""What the names of files begin with that lie in no folder of this node."""
PAGE: Final = 400
"""Files in one answer; a path has at most 1024 bytes."""


@dataclass(frozen=True)
class VerifiedInput:
    """An input whose manifest was verified against the job's pin.  Its files are checked as they are read (authenticated encryption).

    ``signer`` is the key that signed it; its digest is the job's pin.  ``groups`` are the column groups that the job reads.
    """

    name: str
    folder: Place
    envelope: Json
    manifest: Manifest
    digest: str
    signer: PublicKey
    groups: tuple[ColumnGroup, ...] = ()

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Lengths of the files in bytes, by their paths, as the manifest has them."""
        return {file.path: file.size for file in self.manifest.files}

    @property
    def root(self) -> str:
        """The folder by which this node's processes name its files: for one in a remote storage a name that no folder has."""
        return str(self.folder) if isinstance(self.folder, Path) else f"{REMOTE}/{self.manifest.dataset}"

    @property
    def key_name(self) -> str:
        """The key that the dataset is under, with its version."""
        return f"{self.manifest.key}@{self.manifest.version}"

    @property
    def entry(self) -> DatasetEntry:
        """The receipt's row."""
        m = self.manifest
        return DatasetEntry(self.name, m.dataset, m.snapshot, self.digest, m.key, m.version, self.signer.digest)

    def vouched(self) -> Json:
        """The manifest to show to the broker, which gives keys for the newest snapshot only: the newest one there is *now*.

        The key of a dataset opens all its snapshots.  That this input is one of them is in the digests from the newest one on.

        Raises:
            ManifestError: the newest is not signed by the key that it names, or this input is not a snapshot before it.
        """
        return self._vouching(None if self.manifest.run is not None else self.signer).envelope

    def wrapped(self) -> WrappedKey:
        """The dataset's key in its newest form: an older snapshot's may be under a key that is gone.  Raises as :meth:`vouched`.

        There is no broker to say who signs, so it is the input's signer.
        """
        return self._vouching(self.signer).unverified.wrapped

    def _vouching(self, signer: PublicKey | None) -> SignedManifest:
        newest = load_manifest(self.folder)
        if newest.unverified.snapshot <= self.manifest.snapshot:
            return SignedManifest(self.folder, self.envelope, self.manifest)
        verify_manifest(newest.envelope, signer or newest.signer)  # each run has its own: the broker knows who signs for the dataset
        if self._at(newest, self.digest) is None:
            raise ManifestError(f"input {self.name!r} is not a snapshot before the newest one", name=self.name)
        return newest

    def at(self, digest: str) -> VerifiedInput | None:
        """The same input at the snapshot whose manifest has this digest, if it is this one or one before it."""
        found = self._at(SignedManifest(self.folder, self.envelope, self.manifest), digest)
        return None if found is None else _verified(self.name, found, self.signer, [group.name for group in self.groups])

    @staticmethod
    def _at(newest: SignedManifest, digest: str) -> SignedManifest | None:
        return next((one for one in (newest, *history(newest)) if one.digest == digest), None)

    def info(self, *, files: bool = True) -> Json:
        """What the user's program needs to read it (``confide.data.spark``).  Without ``files``, it asks for them by the :meth:`page`.

        Of a table with column groups also ``hidden``: columns of groups that the job does not read, each with its group's name.
        """
        m = self.manifest
        remote = not isinstance(self.folder, Path)
        said: Json = {"kind": m.kind, "schema": m.schema, "path": self.root, "remote": remote, "dataset": m.dataset}
        if m.groups:
            said["hidden"] = {column: group.name for group in m.groups if group not in self.groups for column in group.columns}
        return {**said, "files": [file.path for file in m.files]} if files else said

    def page(self, start: int) -> list[Json]:
        """At most PAGE files of the manifest, from number ``start`` on: one answer of the agent's socket has room for them."""
        return [{"path": file.path, "size": file.size, "rows": file.rows} for file in self.manifest.files[max(0, start) :][:PAGE]]


def open_inputs(job: Job, attester: Attester | None = None) -> dict[str, VerifiedInput]:
    """Verify every input's manifest against the job.  ``attester`` is this node's, for credentials of remote storages.

    Raises:
        ManifestError: one is missing, signed by another key than the job pins, or of another dataset.
        UsageError: the snapshot that the job names is not there, or a column group.
        JobError: two inputs are of one table, and ask for other column groups of it: there is one folder, and one set of keys for it.
        IntegrityError: a file that a manifest lists is missing or has another length.
        ConfideError: a credential is not given, or a storage cannot be used (:func:`confide.jobs.storage.place_of`).
    """
    found = {}
    for name, spec in job.inputs.items():
        newest = load_manifest(place_of(spec, attester))
        verify_manifest(newest.envelope, newest.signer)
        signed = _wanted(newest, spec)
        key = signed.signer
        if key.digest != spec.signer or (signed.unverified.run is None and newest.signer != key):  # owners' datasets have one signer
            message = f"input {name!r} is signed by another key than the job pins"
            raise ManifestError(message, name=name, expected=spec.signer, got=key.digest)
        manifest = verify_manifest(signed.envelope, key)
        if manifest.dataset != spec.dataset:
            message = f"input {name!r} is another dataset than the job pins"
            raise ManifestError(message, name=name, expected=spec.dataset, got=manifest.dataset)
        found[name] = _verified(name, signed, key, spec.columns)
    _check_same_groups(job)
    return found


def _wanted(newest: SignedManifest, spec: InputSpec) -> SignedManifest:
    """The snapshot that the job asks for, or else the newest one that the key of its pin has signed: later runs sign with other keys.

    That there is no newer one than the driver reads, the broker says.
    """
    if spec.snapshot is not None:
        return snapshot_numbered(newest, spec.snapshot)
    return next((one for one in (newest, *history(newest)) if one.signer.digest == spec.signer), newest)


def _check_same_groups(job: Job) -> None:
    asked: dict[str, tuple[str, ...]] = {}
    for name, spec in job.inputs.items():
        if asked.setdefault(spec.dataset, spec.columns) != spec.columns:
            raise JobError(f"inputs of one table read the same columns, and {name!r} asks for others", field=f"inputs.{name}.columns")


def _verified(name: str, signed: SignedManifest, key: PublicKey, columns: Iterable[str]) -> VerifiedInput:
    manifest = verify_manifest(signed.envelope, key)
    _check_sizes(signed.folder, manifest)
    groups = groups_named(manifest.groups, columns, what=f"input {name!r}")
    return VerifiedInput(name, signed.folder, signed.envelope, manifest, signed.digest, key, groups)


def verify_whole(inputs: Iterable[VerifiedInput]) -> None:
    """Read all files of all inputs and compare them with their manifests.

    Changed bytes never reach a program (every read authenticates); this notices those that it would not read, and gives a failure of
    the program its right name.  Files that no manifest lists are never read: they may be of a snapshot that is being written.

    Raises:
        DataError: an input's file is missing or has other bytes.
    """
    for found in inputs:
        verify_files(found.folder, found.manifest)


def _check_sizes(folder: Place, manifest: Manifest) -> None:
    """Notice missing and cut files on every node, before it names them to anybody; :func:`verify_whole` reads them."""
    listed = None if isinstance(folder, Path) else folder.files()  # one request for a thousand files
    for file in manifest.files:
        try:
            size = size_of_file(folder / file.path) if listed is None else listed[file.path].size
        except (OSError, KeyError) as cause:
            raise IntegrityError(f"a file of dataset {manifest.name} is missing: {file.path}", path=file.path) from cause
        if size != file.size:
            raise IntegrityError(
                f"a file has another length than its manifest says: {file.path}", path=file.path, expected=file.size, got=size
            )


class InputLengths:
    """Lengths of input files as their manifests have them, for the agent's socket.

    Engines plan with lengths before they read: a storage that shows a short file for that moment would have the rest of it left out,
    and every byte that is read would still be authentic.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._inputs: list[VerifiedInput] = []
        self._folders: dict[str, list[str]] | None = None

    def know(self, inputs: Iterable[VerifiedInput]) -> None:
        """Take in the files of verified inputs."""
        for found in inputs:
            self._inputs.append(found)
            self._files |= {f"{found.root}/{file.path}": file.size for file in found.manifest.files}
        self._folders = None

    def operation(self, request: Json) -> Json:
        """``input-length``: the ``length`` in bytes of the input file at ``path``, or -1 for a path that is none."""
        return {"length": self._files.get(str(request.get("path")), -1)}

    def listing(self, request: Json) -> Json:
        """``input-listing``: the ``names`` of what the manifests have in the folder ``path``, sorted, or ``None`` if no input has it.

        At most 4096 names, those after ``after``: ask again after the last one until there are none.
        """
        folders = self._folders
        if folders is None:
            folders = self._folders = _folders(self._inputs)
        names = folders.get(str(request.get("path")))
        if names is None:
            return {"names": None}
        first = bisect_right(names, str(request.get("after", "")))
        return {"names": names[first : first + _NAMES_AT_ONCE]}


_NAMES_AT_ONCE: Final = 4096


def _folders(inputs: Iterable[VerifiedInput]) -> dict[str, list[str]]:
    """What is in each folder of the inputs, by the folder's path."""
    found: dict[str, set[str]] = {}
    for one in inputs:
        root = one.root
        found.setdefault(root, set())
        for file in one.manifest.files:
            *above, name = file.path.split("/")
            folder = root
            for part in above:
                found.setdefault(folder, set()).add(part)
                folder = f"{folder}/{part}"
            found.setdefault(folder, set()).add(name)
    return {folder: sorted(names) for folder, names in found.items()}


def digests(inputs: Mapping[str, VerifiedInput]) -> dict[str, str]:
    """The manifests' digests by input name: what all nodes of a run must agree on."""
    return {name: found.digest for name, found in inputs.items()}


def as_on_driver(inputs: Mapping[str, VerifiedInput], expected: Mapping[str, object]) -> dict[str, VerifiedInput]:
    """This node's inputs at the snapshots that the driver reads: one may have been committed since the driver looked.

    Raises:
        ManifestError: a manifest of the driver's is not here: storage may show different ones to different nodes.
    """
    agreed = {}
    for name, found in inputs.items():
        same = found.at(str(expected.get(name)))
        if same is None:
            facts = {"name": name, "expected": str(expected.get(name)), "got": found.digest}
            raise ManifestError(f"input {name!r} has another manifest here than on the driver", **facts)
        agreed[name] = same
    return agreed
