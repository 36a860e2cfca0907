"""Removes from a dataset's folder what no snapshot lists (left by writers that were stopped), and snapshots that nobody wants any more.

Needs no key.  What is younger than the caller says may be of a writer that is at work, or in use by a reader, and stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from confide.data.folder import data_files, listed_files
from confide.data.manifest import verify_manifest
from confide.data.snapshots import SignedManifest, history, load_manifest, manifest_path, write_manifest
from confide.errors import UnavailableError, UsageError

_STAGED: Final = re.compile(r"\.(?P<name>.+)\.new-[0-9a-f]{16}")
"""What :func:`confide.data.staging.attempt_beside` and :func:`confide.data.snapshots.staged_beside` make beside a dataset's folder."""


@dataclass(slots=True)
class Cleaning:
    """What was or would be removed: snapshots by number, files by path, bytes; and how many files are too young to tell."""

    snapshots: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    size: int = 0
    young: int = 0


def clean(folder: Path, *, keep: int | None, before: datetime, remove: bool) -> Cleaning:
    """Find, and with ``remove`` take away, what no snapshot needs and nobody has touched since ``before``.

    ``keep`` is how many snapshots stay, with the newest; ``None`` keeps all.  Older ones are dropped if they were superseded before
    ``before``.  Snapshots go oldest first and before their files, so that a clean-up that is stopped leaves a whole dataset.

    Raises:
        UsageError: ``keep`` is less than one.
        ManifestError: the newest manifest is not signed as it says, or the snapshots do not follow one another.
        UnavailableError: something cannot be removed.
    """
    check_keep(keep)
    newest = load_manifest(folder)
    verify_manifest(newest.envelope, newest.signer)
    chain = [newest, *history(newest)]
    try:
        dropped = _superseded(chain, keep, before.timestamp())
        found, staged = _find(folder, chain[: len(chain) - len(dropped)], dropped, before.timestamp())
        if remove:
            if dropped:  # readers go on from the copy through each snapshot after it: it may be older than those that go
                write_manifest(folder, newest.envelope)
            _remove(folder, found.files[: len(found.files) - len(staged)], staged)
    except OSError as cause:
        raise UnavailableError(f"cannot clean {folder}: {cause.strerror}", path=str(folder)) from cause
    return found


def check_keep(keep: int | None) -> None:
    """Return if so many snapshots can stay.

    Raises:
        UsageError: there would be none.
    """
    if keep is not None and keep < 1:
        raise UsageError("the newest snapshot always stays", hint="keep at least 1")


def _find(
    folder: Path, kept: Sequence[SignedManifest], dropped: Sequence[SignedManifest], before: float
) -> tuple[Cleaning, list[Path]]:
    """What is to go: the account of it, files in the order in which they go, and writers' folders, the last of the files."""
    needed, given_up = all_paths(kept), all_paths(dropped)
    found = Cleaning([one.unverified.snapshot for one in dropped], [manifest_path(one.unverified) for one in reversed(dropped)])
    settled = needed.union(found.files)
    for path in data_files(folder):
        if path in settled:
            continue
        if path in given_up or (folder / path).stat().st_mtime < before:
            found.files.append(path)
        else:
            found.young += 1
    staged = left_beside(folder, before)
    found.size = sum((folder / path).stat().st_size for path in found.files) + sum(size_of(place) for place in staged)
    found.files += [f"../{place.name}" for place in staged]
    return found, staged


def all_paths(snapshots: Sequence[SignedManifest]) -> set[str]:
    """All paths at which these snapshots have something."""
    return {*listed_files(*(one.unverified for one in snapshots)), *(manifest_path(one.unverified) for one in snapshots)}


def _superseded(chain: Sequence[SignedManifest], keep: int | None, before: float) -> list[SignedManifest]:
    """Snapshots beyond the newest ``keep``, newest first, of which the one after was committed before ``before``."""
    if keep is None:
        return []
    for index in range(keep, len(chain)):
        after = chain[index - 1]
        if (after.local / manifest_path(after.unverified)).stat().st_mtime < before:
            return list(chain[index:])
    return []


def left_beside(folder: Path, before: float) -> list[Path]:
    """Folders of writers of this dataset, beside it, in which nothing has changed since ``before``."""
    parent = folder.absolute().parent
    beside = ((place, _STAGED.fullmatch(place.name)) for place in (parent.iterdir() if parent.is_dir() else ()))
    found = (place for place, form in beside if form and form["name"] == folder.name and place.is_dir() and not place.is_symlink())
    return sorted(place for place in found if _is_left(place, before))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder of a writer's."""
    return sum(place.stat().st_size for place in folder.rglob("*") if place.is_file() and not place.is_symlink())


def _is_left(folder: Path, before: float) -> bool:
    """Whether nothing in a writer's folder has changed since: a large file keeps its writer at work for long, and the folder as it is."""
    try:
        return all(place.lstat().st_mtime < before for place in (folder, *folder.rglob("*")))
    except FileNotFoundError:  # its writer has just cleared it away
        return False


def _remove(folder: Path, paths: Sequence[str], staged: Sequence[Path]) -> None:
    for path in paths:
        _unlink(folder, Path(path))
    for path in paths:
        for above in Path(path).parents:
            with contextlib.suppress(OSError):  # others are in it
                if above.name:
                    (folder / above).rmdir()
    for place in staged:
        shutil.rmtree(place)


def _unlink(folder: Path, path: Path) -> None:
    """Take a file away for good, and never through a link: storage may have put one in a folder's place since it was looked at."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in path.parent.parts:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        os.unlink(path.name, dir_fd=descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
