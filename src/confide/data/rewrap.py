"""A dataset's next snapshot with the same files, and its key in another wrapped form.  Neither reads nor writes a data file.

The dataset's key stays what it is.  Where the form comes from (the broker, or a new resource of a key broker service) is the caller's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey
from confide.crypto.sign import SigningKey
from confide.data.column_groups import ColumnGroup
from confide.data.commit import make_current
from confide.data.manifest import MANIFEST_NAME, now_text, sign_manifest, verify_manifest
from confide.data.places import Place, RemoteFolder
from confide.data.snapshots import SignedManifest, commit_snapshot, staged_beside
from confide.errors import ManifestError
from confide.ids import KeyRef

_AS_BEFORE: Final[Mapping[str, WrappedKey]] = MappingProxyType({})


def rewrap_dataset(
    parent: SignedManifest,
    wrapped: WrappedKey,
    *,
    groups: Mapping[str, WrappedKey] = _AS_BEFORE,
    signer: SigningKey,
    now: datetime,
    register: Callable[[Json], None] | None = None,
) -> SignedManifest:
    """Commit the snapshot after ``parent``, the newest one, that holds ``wrapped``; ``parent`` itself if it holds it already.

    ``groups``: wrapped forms of the keys of column groups, by name; those of others stay as they are.

    Whether ``wrapped`` opens to the dataset's key is not checked here: only who made it can.  ``register`` is given the signed manifest
    (for the broker) once the snapshot is committed: what it raises is passed on.

    Raises:
        ManifestError: ``parent`` is not signed by the key that it names, or is a run's output; a wrapped key is of another dataset.
        SnapshotConflictError: another writer was first; nothing of this one is visible.
        UnavailableError: the file system refuses.
    """
    before = verify_manifest(parent.envelope, parent.signer)
    if before.owner is None:
        hint = "its run's driver signed it and is gone: the broker's row, or an escrow, opens it"
        raise ManifestError("a run made this dataset: its manifest stays as it is", hint=hint, run=before.run)
    if wrapped.dataset != before.dataset or KeyRef.parse(wrapped.key).owner != KeyRef.parse(before.key).owner:
        raise ManifestError("the wrapped key is of another dataset, or another owner's", expected=before.dataset, got=wrapped.dataset)
    grouped = tuple(_with_form(group, groups.get(group.name, group.wrapped)) for group in before.groups)
    if (wrapped, grouped) == (before.wrapped, before.groups):
        return parent
    number, created = before.snapshot + 1, now_text(now)
    manifest = replace(
        before, snapshot=number, parent=parent.digest, created=created, wrapped=wrapped, groups=grouped, signer=signer.public, work=None
    )
    folder = parent.folder
    made = SignedManifest(folder, sign_manifest(manifest, signer), manifest)
    with staged_beside(folder) if isinstance(folder, Path) else nullcontext() as staged:
        commit_snapshot(parent, made, staged=staged)
        make_current(made, register, staged=staged)
    return made


def _with_form(group: ColumnGroup, wrapped: WrappedKey) -> ColumnGroup:
    if (wrapped.dataset, wrapped.key) != (group.wrapped.dataset, group.wrapped.key):
        raise ManifestError("the wrapped key is of another column group, or another key", expected=group.wrapped.key, got=wrapped.key)
    return replace(group, wrapped=wrapped)


def find_datasets(place: Place) -> Iterator[Place]:
    """The folders of datasets in and below ``place``, in the order of their names.  Follows no link; hidden folders are writers'.

    Raises:
        UnavailableError: a storage does not list what is there.
    """
    if not isinstance(place, Path):
        yield from _find_at(place)
        return
    for folder, inner, files in os.walk(place):
        if MANIFEST_NAME in files:
            inner.clear()
            yield Path(folder)
        inner[:] = sorted(name for name in inner if not name.startswith("."))


def _find_at(place: RemoteFolder) -> Iterator[RemoteFolder]:
    paths = [path.split("/")[:-1] for path in place.files() if path.split("/")[-1] == MANIFEST_NAME]
    last: list[str] | None = None
    for folder in sorted(path for path in paths if not any(name.startswith(".") for name in path)):
        if last is None or folder[: len(last)] != last:  # nothing in a dataset is one
            last = folder
            yield place.below("/".join(folder)) if folder else place
