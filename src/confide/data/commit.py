"""From written files to a dataset: describe them, sign the manifest, put it in place.  The folder becomes visible by its caller."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal, cast, get_args

import pyarrow as pa

from confide.canonical import Json
from confide.crypto.container import ContainerReader
from confide.crypto.envelope import WrappedKey
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.column_groups import ColumnGroup, NewGroup
from confide.data.files import TABLE_SUFFIXES, Written, encrypt_files, encrypt_table, open_parquet
from confide.data.folder import check_encrypted, data_files, describe, folder_beside, new_folder
from confide.data.manifest import FileEntry, Kind, Manifest, now_text, sign_manifest, verify_manifest
from confide.data.parquet_keys import no_key
from confide.data.schema import schema_json, storable
from confide.data.snapshots import SignedManifest, commit_snapshot, is_committed, load_manifest, write_manifest
from confide.data.sources import Source, plain_sources
from confide.durable import sync_file, sync_folder
from confide.errors import DataError, ManifestError, UnavailableError, UsageError
from confide.ids import DatasetId, RunId
from confide.regular_file import open_regular


def create_dataset(
    source: Path | pa.Table | Sequence[Source],
    folder: Path,
    *,
    name: str,
    owner: str,
    dataset: DatasetId,
    dataset_key: SecretBytes,
    wrapped: WrappedKey,
    signer: SigningKey,
    now: datetime,
    register: Callable[[Json], None] | None = None,
    protected: Sequence[NewGroup] = (),
) -> SignedManifest:
    """Encrypt a table (``.csv``, ``.parquet``, Arrow) or other files (one, a folder of them, sources) as a new dataset in ``folder``.

    ``register`` is given the signed manifest (for the broker) before the folder becomes visible; if it raises, nothing does.
    ``protected`` are column groups, of tables only.

    Raises:
        OutputExistsError: ``folder`` exists.
        DataError: the source cannot be read, or has a column type that Spark cannot read, or not the columns of a group.
        UnavailableError: the file system refuses.
    """
    with new_folder(folder) as staged:
        written = _encrypted(source, staged, dataset_key, dataset, protected=protected)
        manifest = _manifest(written, name=name, dataset=dataset, wrapped=wrapped, signer=signer, owner=owner, run=None, now=now)
        manifest = replace(manifest, groups=tuple(sorted((one.group for one in protected), key=lambda group: group.name)))
        envelope = sign_manifest(manifest, signer)
        write_manifest(staged, envelope)
        if register is not None:
            register(envelope)
    return SignedManifest(folder, envelope, manifest)


_IN_PLACE = "snapshot {} is in place and needs no second try: the broker hears of it when it is next used"
Mode = Literal["append", "overwrite"]
"""What a further snapshot does with the files of the one before: Spark's words."""


def add_snapshot(
    source: Path | pa.Table,
    parent: SignedManifest,
    mode: Mode,
    *,
    dataset_key: SecretBytes,
    signer: SigningKey,
    now: datetime,
    register: Callable[[Json], None] | None = None,
    group_keys: Mapping[str, SecretBytes] | None = None,
) -> SignedManifest:
    """Encrypt a table or other files as the snapshot after ``parent``, the newest one, of an owner's dataset.

    ``register`` is given the signed manifest (for the broker) once the snapshot is committed: what it raises is passed on.
    Column groups stay as they are, and ``group_keys`` has the keys of all of them.

    Raises:
        KeyAccessError: the key of a column group is missing.
        DataError: the source is of another kind than the dataset, or its columns are other ones (``append`` only).
        ManifestError: ``parent`` is not signed by the key that it names, or is a run's output.
        SnapshotConflictError: another writer was first; nothing of this one is visible.
        UnavailableError: the file system refuses; nothing of this is visible.
    """
    before, folder = verify_manifest(parent.envelope, parent.signer), parent.folder
    if before.owner is None:
        raise ManifestError("a run made this dataset: only its owner adds to a dataset", hint="encrypt it as a new one", run=before.run)
    if _is_table(source) != (before.kind == "parquet"):
        held, wanted = ("a table", "a .csv or .parquet file") if before.kind == "parquet" else ("files", "a folder, or another file")
        raise DataError(f"the dataset holds {held}, and this is something else", hint=f"give {wanted}; or make a new dataset of it")
    with folder_beside(folder) as staged:
        kept = before.files if mode == "append" else ()
        protected = _with_keys(before.groups, group_keys or {})
        written = _encrypted(source, staged, dataset_key, before.dataset, first=len(kept), protected=protected)
        if mode == "append":
            _require_same_columns(before.schema, written.schema)
        manifest = replace(
            before,
            snapshot=before.snapshot + 1,
            parent=parent.digest,
            created=now_text(now),
            schema=written.schema,
            files=tuple(sorted((*kept, *written.files), key=lambda entry: entry.path)),
            signer=signer.public,
        )
        made = SignedManifest(folder, sign_manifest(manifest, signer), manifest)
        with _moved(staged, made, written.files):
            commit_snapshot(parent, made)
    if register is not None:
        _tell(register, made)
    write_manifest(folder, load_manifest(folder).envelope)  # others may have been faster since the commit
    return made


def _with_keys(groups: Sequence[ColumnGroup], keys: Mapping[str, SecretBytes]) -> list[NewGroup]:
    for group in groups:
        if group.name not in keys:
            raise no_key(group.name)
    return [NewGroup(group, keys[group.name]) for group in groups]


def _tell(register: Callable[[Json], None], made: SignedManifest) -> None:
    """Tell the broker of a snapshot that is committed already."""
    try:
        register(made.envelope)
    except UnavailableError as error:
        number = made.unverified.snapshot
        error.hint = f"snapshot {number} is in place and needs no second try: the broker hears of it when it is next used"
        raise


def _is_table(source: Path | pa.Table | Sequence[Source]) -> bool:
    return isinstance(source, pa.Table) or (isinstance(source, Path) and source.suffix in TABLE_SUFFIXES)


def _encrypted(
    source: Path | pa.Table | Sequence[Source],
    folder: Path,
    dataset_key: SecretBytes,
    dataset: DatasetId,
    *,
    first: int = 0,
    protected: Sequence[NewGroup] = (),
) -> Written:
    """What is to be in a snapshot, encrypted into ``folder``; a table's files are numbered from ``first``."""
    if _is_table(source):
        return encrypt_table(cast("Path | pa.Table", source), folder, dataset_key, dataset=dataset, first=first, protected=protected)
    if protected:
        raise DataError("only tables have columns that keys of their own protect", hint="tables are .csv and .parquet files")
    sources = plain_sources(source) if isinstance(source, Path) else cast("Sequence[Source]", source)
    return encrypt_files(sources, folder, dataset_key, dataset=dataset)


@contextmanager
def _moved(staged: Path, made: SignedManifest, files: Sequence[FileEntry]) -> Iterator[None]:
    """A snapshot's new files in its folder, durable, so that it can be committed; taken away again if it was not."""
    places: list[Path] = []
    try:
        for entry in files:
            place = made.folder / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            os.utime(staged / entry.path)  # it may have been written long ago, and `data clean` takes what is old and not listed
            os.link(staged / entry.path, place)  # unlike rename, never replaces anything
            places.append(place)
        for parent in {above for place in places for above in place.parents if above.is_relative_to(made.folder)}:
            sync_folder(parent)
        yield
    except BaseException as error:
        if not is_committed(made):  # Ctrl-C may come in the very moment
            for place in places:
                place.unlink(missing_ok=True)
        elif isinstance(error, UnavailableError):
            error.hint = _IN_PLACE.format(made.unverified.snapshot)
        raise


def _require_same_columns(before: Json | None, now: Json | None) -> None:
    def columns(schema: Json | None) -> dict[str, str]:
        return {column["name"]: column["type"] for column in (schema or {}).get("columns", [])}

    there, here = columns(before), columns(now)
    if list(there.items()) != list(here.items()):
        other = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        facts = {name: f"{there.get(name, 'none')}, now {here.get(name, 'none')}" for name in other[:20]}
        message = f"the columns are not those of the dataset: {', '.join(other[:20]) if other else 'they stand in another order'}"
        raise DataError(message, hint="cast or rename them first, or write with --mode overwrite", columns=str(facts))


def commit_staged(
    folder: Path,
    *,
    kind: str,
    spark_schema: Json | None,
    name: str,
    run: RunId,
    dataset: DatasetId,
    dataset_key: SecretBytes,
    wrapped: WrappedKey,
    signer: SigningKey,
    now: datetime,
    check_paths: Callable[[Sequence[str]], None],
) -> SignedManifest:
    """Make what a job wrote into its staging folder a dataset: check every file, sign the manifest and write it there.

    Publishing the folder (a rename) and telling the broker are the caller's.  ``spark_schema`` is the data frame's, for tables.
    ``check_paths`` is given the files' relative paths before anything is signed, and raises if they are not what they must be.

    Raises:
        UsageError: ``kind`` is not a kind of dataset.
        PlaintextError: a file is not encrypted.
        IntegrityError: a file does not open under the dataset's key and its own path.
        DataError: a task's uncommitted file is left, or there is nothing.
    """
    if kind not in get_args(Kind):
        raise UsageError("not a kind of dataset", kind=kind[:40])
    written = collect_staged(folder, "parquet" if kind == "parquet" else "files", dataset_key, dataset=dataset, spark_schema=spark_schema)
    check_paths([entry.path for entry in written.files])
    manifest = _manifest(written, name=name, dataset=dataset, wrapped=wrapped, signer=signer, owner=None, run=run, now=now)
    envelope = sign_manifest(manifest, signer)
    write_manifest(folder, envelope)
    return SignedManifest(folder, envelope, manifest)


def collect_staged(folder: Path, kind: Kind, dataset_key: SecretBytes, *, dataset: DatasetId, spark_schema: Json | None = None) -> Written:
    """Describe what a job wrote into its staging folder: each file opens under its own path, and nothing else is there.

    Makes the files durable.

    Raises:
        PlaintextError: a file is not encrypted.
        IntegrityError: a file does not open under the dataset's key and its path.
        DataError: an uncommitted task's file is left, or there is nothing.
    """
    entries, columns = [], None
    for path in data_files(folder):
        check_encrypted(folder / path, kind)
        rows = None
        if kind == "parquet":
            meta = open_parquet(folder, path, dataset_key, dataset)
            rows, columns = meta.metadata.num_rows, meta.schema_arrow
        else:
            ContainerReader(open_regular(folder / path), dataset_key, dataset, path).close()
        with (folder / path).open("rb+") as file:
            sync_file(file)
        entries.append(describe(folder, path, rows=rows))
    if not entries:
        raise DataError("the job wrote no file", path=str(folder))
    return Written(kind, tuple(sorted(entries, key=lambda entry: entry.path)), _written_schema(columns, spark_schema))


def _written_schema(columns: pa.Schema | None, spark: Json | None) -> Json | None:
    if columns is None:
        return None
    return schema_json(storable(columns)) if spark is None else {**schema_json(storable(columns)), "spark": spark}


def _manifest(
    written: Written,
    *,
    name: str,
    dataset: DatasetId,
    wrapped: WrappedKey,
    signer: SigningKey,
    owner: str | None,
    run: RunId | None,
    now: datetime,
) -> Manifest:
    """The first snapshot's manifest."""
    return Manifest(
        dataset=dataset,
        name=name,
        snapshot=1,
        parent=None,
        created=now_text(now),
        kind=written.kind,
        schema=written.schema,
        files=written.files,
        wrapped=wrapped,
        signer=signer.public,
        owner=owner,
        run=run,
    )
