"""Removes at a URL what no manifest lists: files of writers that were killed.  Needs no key.

What is younger than the caller says, or of unknown age, may be of a writer that is at work, and stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Final

from confide.data.cleaning import Cleaning
from confide.data.folder import listed_files
from confide.data.manifest import MANIFEST_NAME, verify_manifest
from confide.data.places import RemoteFolder, is_there
from confide.data.snapshots import history, load_manifest, manifest_path
from confide.errors import UsageError

_UUID: Final = r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"
_OURS: Final = re.compile(rf"v-{_UUID}/.+|part-[0-9]{{5,}}-{_UUID}\.parquet")
"""What writers name their files in a dataset that is made at a URL: nothing else there is taken for left behind without a manifest."""


def clean_remote(folder: RemoteFolder, *, keep: int | None, before: datetime, remove: bool) -> Cleaning:
    """Find, and with ``remove`` take away, what no snapshot lists and was written before ``before``.

    Where there is no manifest, that is what writers call their files, and nothing else: the URL may be of other things, or above datasets.

    Raises:
        UsageError: ``keep`` is given.
        ManifestError: the newest manifest is not signed as it says, or the snapshots do not follow one another.
        UnavailableError: the storage refuses, or does not answer.
    """
    if keep is not None:
        raise UsageError("a dataset in a remote storage is made once: it has no older snapshots to drop", hint="leave out --keep")
    listed = folder.files()
    is_left = _unlisted(folder)
    found = Cleaning()
    for path, version in sorted(listed.items()):
        if not is_left(path):
            continue
        if version.written is None or version.written >= before:
            found.young += 1
        else:
            found.files.append(path)
            found.size += version.size
    if remove:
        folder.remove(found.files)
    return found


def _unlisted(folder: RemoteFolder) -> Callable[[str], bool]:
    """Tells which files no snapshot lists.  Asked for the manifest by name: a listing may be older than it."""
    if not is_there(folder / MANIFEST_NAME):
        return lambda path: _OURS.fullmatch(path) is not None
    newest = load_manifest(folder)
    verify_manifest(newest.envelope, newest.signer)
    chain = [one.unverified for one in (newest, *history(newest))]
    needed = {MANIFEST_NAME, *listed_files(*chain), *map(manifest_path, chain)}
    return lambda path: path not in needed
