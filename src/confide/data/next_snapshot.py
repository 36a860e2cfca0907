"""The snapshot after another one: its manifest of what was written, and how its files come into the dataset's folder and count.

Knows nothing of who writes: an owner's command, or a run (``data.commit``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey
from confide.crypto.sign import SigningKey
from confide.data.manifest import FileEntry, Kind, Written, now_text, sign_manifest
from confide.data.partitions import path_values
from confide.data.snapshots import SignedManifest, commit_snapshot, history, is_committed
from confide.durable import sync_folder
from confide.errors import DataError, IntegrityError, UnavailableError
from confide.ids import RunId

IN_PLACE: Final = "snapshot {} is in place and needs no second try: the broker hears of it when it is next used"
_HOLDS: Final[Mapping[Kind, str]] = {"parquet": "a table", "files": "files"}
Mode = Literal["append", "overwrite"]
"""What a further snapshot does with the files of the one before: Spark's words."""


def following(
    written: Written,
    parent: SignedManifest,
    mode: Mode,
    *,
    signer: SigningKey,
    now: datetime,
    run: RunId | None = None,
    wrapped: WrappedKey | None = None,
    work: str | None = None,
) -> SignedManifest:
    """The signed manifest of the snapshot after ``parent``, of what was written; by ``run``, if one did, with its form of the key.

    ``work``: which task did (``confide.data.work``).

    Raises:
        DataError: it is not of the dataset's kind, or has other columns (``append`` only).
        IntegrityError: a file has a path that one of an earlier snapshot has, which is under the same key.
    """
    before = parent.unverified
    if written.kind != before.kind:
        raise DataError(f"the dataset holds {_HOLDS[before.kind]}, and this is something else", kind=before.kind, got=written.kind)
    if mode == "append":
        _require_same_columns(before.schema, written.schema)
        _require_same_folders(before.files, written.files)
    used = {entry.path for one in (parent, *history(parent)) for entry in one.unverified.files}
    again = sorted(used & {entry.path for entry in written.files})
    if again:
        raise IntegrityError("a file has the path of an earlier snapshot's", path=again[0])
    kept = before.files if mode == "append" else ()
    manifest = replace(
        before,
        snapshot=before.snapshot + 1,
        parent=parent.digest,
        created=now_text(now),
        schema=written.schema if mode == "overwrite" else _of_both(before.schema, written.schema),
        files=tuple(sorted((*kept, *written.files), key=lambda entry: entry.path)),
        signer=signer.public,
        run=run or before.run,
        wrapped=wrapped or before.wrapped,
        work=work,
    )
    return SignedManifest(parent.folder, sign_manifest(manifest, signer), manifest)


def commit_files(staged: Path, made: SignedManifest, files: Sequence[FileEntry], parent: SignedManifest) -> None:
    """Put a snapshot's new ``files`` from a staged folder into the dataset's, and commit it.

    Raises:
        SnapshotConflictError: another writer was first; nothing of this one is visible.
        UnavailableError: the file system refuses; nothing of this is visible.
    """
    with _moved(staged, made, files):
        commit_snapshot(parent, made, staged=staged)


@contextmanager
def _moved(staged: Path, made: SignedManifest, files: Sequence[FileEntry]) -> Iterator[None]:
    """A snapshot's new files in its folder, durable, so that it can be committed; taken away again if it was not."""
    places: list[Path] = []
    try:
        for entry in files:
            place = made.local / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            os.utime(staged / entry.path)  # it may have been written long ago, and `data clean` takes what is old and not listed
            _link(staged / entry.path, place)
            places.append(place)
        for parent in {above for place in places for above in place.parents if above.is_relative_to(made.local)}:
            sync_folder(parent)
        yield
    except BaseException as error:
        if not is_committed(made):  # Ctrl-C may come in the very moment
            for place in places:
                place.unlink(missing_ok=True)
        elif isinstance(error, UnavailableError):
            error.hint = IN_PLACE.format(made.unverified.snapshot)
        raise


def _link(file: Path, place: Path) -> None:
    """Give a file a second name: unlike rename, this never replaces anything.  An earlier command may have done it before it was killed."""
    try:
        os.link(file, place)
    except FileExistsError:
        if not file.samefile(place):
            raise


def _of_both(before: Json | None, now: Json | None) -> Json | None:
    """The schema of what is there and what is added, whose columns are the same: one that may be null in either may be null."""
    if before is None or now is None:
        return now
    made: Json = {
        "columns": [{**b, "nullable": a["nullable"] or b["nullable"]} for a, b in zip(before["columns"], now["columns"], strict=True)],
        "spark": {**now["spark"]},
    }
    fields = zip(before["spark"]["fields"], now["spark"]["fields"], strict=True)
    made["spark"]["fields"] = [{**b, "nullable": a["nullable"] or b["nullable"]} for a, b in fields]
    return made


def _require_same_folders(before: Sequence[FileEntry], now: Sequence[FileEntry]) -> None:
    """Columns that are in the names of folders are in those of all files, or of none: readers look for them in one place."""
    there, here = ({tuple(path_values(entry.path)) for entry in files} for files in (before, now))
    if there and not here <= there:
        old, new = (", ".join(sorted({name for names in found for name in names})) or "nothing" for found in (there, here))
        message = "the columns that name folders are not those of the dataset"
        raise DataError(message, hint="write with the same partitionBy", before=old, now=new)


def _require_same_columns(before: Json | None, now: Json | None) -> None:
    def columns(schema: Json | None) -> dict[str, str]:
        return {column["name"]: column["type"] for column in (schema or {}).get("columns", [])}

    there, here = columns(before), columns(now)
    if list(there.items()) != list(here.items()):
        other = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        facts = {name: f"{there.get(name, 'none')}, now {here.get(name, 'none')}" for name in other[:20]}
        message = f"the columns are not those of the dataset: {', '.join(other[:20]) if other else 'they stand in another order'}"
        raise DataError(message, hint="cast or rename them first, or write with --mode overwrite", columns=str(facts))
