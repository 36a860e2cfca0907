"""Removes at a URL what no snapshot lists (files of writers that were killed), and snapshots that nobody wants any more.  Needs no key.

What is younger than the caller says, or of unknown age, may be of a writer that is at work, and stays.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from confide.data.cleaning import Cleaning, all_paths, check_keep, left_beside, size_of
from confide.data.manifest import MANIFEST_NAME, verify_manifest
from confide.data.places import RemoteFolder, Version, is_there
from confide.data.remote_staging import stand_in
from confide.data.snapshots import SignedManifest, history, load_manifest, manifest_path, write_manifest
from confide.errors import UsageError

_UUID: Final = r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"
_OURS: Final = re.compile(rf"v-{_UUID}/.+|part-[0-9]{{5,}}-{_UUID}\.parquet")
"""What writers name their files in a dataset that is made at a URL: nothing else there is taken for left behind without a manifest."""


def clean_remote(folder: RemoteFolder, *, keep: int | None, before: datetime, remove: bool, journals: Path | None = None) -> Cleaning:
    """Find, and with ``remove`` take away, what no snapshot lists and was written before ``before``; ``keep`` as in a folder here.

    ``journals``: also what this machine knows there of work at that URL which nobody has gone on with since.

    Where there is no manifest, that is what writers call their files, and nothing else: the URL may be of other things, or above datasets.

    Raises:
        UsageError: ``keep`` is less than one, or there is no dataset.
        ManifestError: the newest manifest is not signed as it says, or the snapshots do not follow one another.
        UnavailableError: the storage refuses, or does not answer.
    """
    found = _clean_there(folder, keep=keep, before=before, remove=remove)
    for place in left_beside(stand_in(journals, folder), before.timestamp()) if journals is not None else ():
        found.files.append(str(place))
        found.size += size_of(place)
        if remove:
            shutil.rmtree(place, ignore_errors=True)
    return found


def _clean_there(folder: RemoteFolder, *, keep: int | None, before: datetime, remove: bool) -> Cleaning:
    check_keep(keep)
    listed = folder.files()  # first: what is committed after that is not among what may go
    if not is_there(folder / MANIFEST_NAME):  # asked for by name: a listing may be older than it
        if keep is not None:
            raise UsageError(f"there is no dataset in {folder}: it has no snapshots to drop", hint="leave out --keep")
        found = _found({path: version for path, version in listed.items() if _OURS.fullmatch(path)}, [], [], before)
        if remove:
            folder.remove(found.files)
        return found
    newest = load_manifest(folder)
    verify_manifest(newest.envelope, newest.signer)
    chain = [newest, *history(newest)]
    dropped = _superseded(chain, keep, before, listed)
    found = _found(listed, chain[: len(chain) - len(dropped)], dropped, before)
    if remove:
        if dropped:  # readers go on from the copy through each snapshot after it: it may be older than those that go
            write_manifest(folder, newest.envelope)
        folder.remove(found.files)
    return found


def _found(
    listed: Mapping[str, Version], kept: Sequence[SignedManifest], dropped: Sequence[SignedManifest], before: datetime
) -> Cleaning:
    """What is to go, in the order in which it goes: manifests first, the oldest of them before the others."""
    needed, given_up = {MANIFEST_NAME, *all_paths(kept)}, all_paths(dropped)
    found = Cleaning([one.unverified.snapshot for one in dropped], [manifest_path(one.unverified) for one in reversed(dropped)])
    settled = needed.union(found.files)
    for path, version in sorted(listed.items()):
        if path in settled:
            continue
        if path in given_up or (version.written is not None and version.written < before):
            found.files.append(path)
        else:
            found.young += 1
    found.size = sum(listed[path].size for path in found.files if path in listed)
    return found


def _superseded(
    chain: Sequence[SignedManifest], keep: int | None, before: datetime, listed: Mapping[str, Version]
) -> list[SignedManifest]:
    """Snapshots beyond the newest ``keep``, newest first, of which the one after was committed before ``before``.

    Where the storage does not say when it was, the date in its manifest counts.
    """
    if keep is None:
        return []
    for index in range(keep, len(chain)):
        after = chain[index - 1].unverified
        version = listed.get(manifest_path(after))
        if ((version.written if version is not None else None) or datetime.fromisoformat(after.created)) < before:
            return list(chain[index:])
    return []
