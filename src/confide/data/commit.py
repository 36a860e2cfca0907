"""From written files to a dataset: describe them, sign the manifest, put it in place.  The folder becomes visible by its caller."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeAlias, get_args

import pyarrow as pa

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.column_groups import ColumnGroup, NewGroup
from confide.data.files import NO_KEYS, encrypt_files, encrypt_table
from confide.data.manifest import MANIFEST_NAME, Kind, Manifest, Written, now_text, sign_manifest, verify_manifest
from confide.data.next_snapshot import IN_PLACE, Mode, commit_files, following
from confide.data.parallel import Progress, silent
from confide.data.parquet_keys import no_key
from confide.data.places import Place
from confide.data.remote_staging import RemoteAttempt, attempt_at
from confide.data.schema import schema_of
from confide.data.sent_files import refuse_existing
from confide.data.snapshots import SignedManifest, load_manifest, write_manifest
from confide.data.sources import Source, plain_sources
from confide.data.staged_files import collect_staged
from confide.data.staging import Attempt
from confide.data.tables import TableInput, first_names, format_of
from confide.data.work import work_of
from confide.errors import DataError, ManifestError, UnavailableError, UsageError
from confide.ids import DatasetId, RunId

Input: TypeAlias = "Path | pa.Table | TableInput | Sequence[Source]"
"""What can be encrypted: a file or folder by its name, an Arrow table, the files of a table, other files."""


def create_dataset(
    source: Input,
    folder: Place,
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
    attempt: Attempt | None = None,
    progress: Progress = silent,
) -> SignedManifest:
    """Encrypt a table (``.csv``, ``.parquet``, Arrow, ...) or other files (one, a folder of them, sources) as a new dataset in ``folder``.

    ``register`` is given the signed manifest (for the broker) before the folder becomes visible; if it raises, nothing does.
    ``attempt`` is where to write first; one that was taken up again goes on where it was.
    ``protected`` are column groups, of tables only.

    Raises:
        OutputExistsError: ``folder`` exists.
        DataError: the source cannot be read, or has a column type that Spark cannot read, or not the columns of a group.
        UnavailableError: the file system refuses.
    """
    if attempt is None:
        refuse_existing(folder)
        with attempt_at(folder) as made:
            return create_dataset(
                source, folder, name=name, owner=owner, dataset=dataset, dataset_key=dataset_key, wrapped=wrapped, signer=signer,
                now=now, register=register, protected=protected, attempt=made, progress=progress,
            )  # fmt: skip
    refuse_existing(folder, sent=attempt.sent.sizes if isinstance(attempt, RemoteAttempt) else ())
    written = _encrypted(prepared(source), attempt, dataset_key, dataset, protected=protected, progress=progress)
    groups = tuple(sorted((one.group for one in protected), key=lambda group: group.name))
    signed = _signed_before(attempt, written, groups, signer)
    if signed is None:
        manifest = _manifest(written, name=name, dataset=dataset, wrapped=wrapped, signer=signer, owner=owner, run=None, now=now)
        manifest = replace(manifest, groups=groups, work=_work(attempt, dataset_key, dataset))
        signed = SignedManifest(attempt.signed, sign_manifest(manifest, signer), manifest)
        write_manifest(attempt.signed, signed.envelope, staged=attempt.root)
    if register is not None:
        register(signed.envelope)
    attempt.publish(folder)
    return replace(signed, folder=folder)


def _work(attempt: Attempt, dataset_key: SecretBytes, dataset: DatasetId) -> str | None:
    """What the manifest says of the work that made its snapshot."""
    return None if attempt.task is None else work_of(attempt.task, dataset_key, dataset)


def _signed_before(
    attempt: Attempt, written: Written, groups: tuple[ColumnGroup, ...], signer: SigningKey
) -> SignedManifest | None:
    """The manifest that an earlier command had signed of these very files: the broker may know it, and would refuse another one."""
    if not attempt.resumed or not os.path.lexists(attempt.signed / MANIFEST_NAME):
        return None
    found = load_manifest(attempt.signed)
    manifest = verify_manifest(found.envelope, signer.public)
    same = (manifest.files, manifest.schema, manifest.groups) == (written.files, written.schema, groups)
    return found if same else None


def add_snapshot(
    source: Input,
    parent: SignedManifest,
    mode: Mode,
    *,
    dataset_key: SecretBytes,
    signer: SigningKey,
    now: datetime,
    register: Callable[[Json], None] | None = None,
    group_keys: Mapping[str, SecretBytes] = NO_KEYS,
    attempt: Attempt | None = None,
    progress: Progress = silent,
) -> SignedManifest:
    """Encrypt a table or other files as the snapshot after ``parent``, the newest one, of an owner's dataset.

    ``register`` is given the signed manifest (for the broker) once the snapshot is committed: what it raises is passed on.
    ``attempt`` is where to write first; one that was taken up again goes on where it was, and what it says is done is not done again.
    Column groups stay as they are, and ``group_keys`` has the keys of all of them.

    Raises:
        KeyAccessError: the key of a column group is missing.
        DataError: the source is of another kind than the dataset, or its columns are other ones (``append`` only).
        ManifestError: ``parent`` is not signed by the key that it names, or is a run's output.
        SnapshotConflictError: another writer was first; nothing of this one is visible.
        UnavailableError: the file system refuses; nothing of this is visible.
    """
    if attempt is None:
        with attempt_at(parent.folder) as made:
            return add_snapshot(
                source, parent, mode, dataset_key=dataset_key, signer=signer, now=now, register=register, group_keys=group_keys,
                attempt=made, progress=progress,
            )  # fmt: skip
    before, intake = verify_manifest(parent.envelope, parent.signer), prepared(source)
    if before.owner is None:
        raise ManifestError("a run made this dataset: only its owner adds to a dataset", hint="encrypt it as a new one", run=before.run)
    if is_table(intake) != (before.kind == "parquet"):
        held, wanted = ("a table", "a .csv or .parquet file") if before.kind == "parquet" else ("files", "a folder, or another file")
        raise DataError(f"the dataset holds {held}, and this is something else", hint=f"give {wanted}; or make a new dataset of it")
    if attempt.done is not None:
        make_current(parent, register, staged=attempt.root)  # it may have been killed before that
        return attempt.done
    protected = _with_keys(before.groups, group_keys)
    signed = _add(
        intake, parent, before, mode, attempt=attempt, dataset_key=dataset_key, protected=protected, signer=signer, now=now,
        progress=progress,
    )  # fmt: skip
    make_current(signed, register, staged=attempt.root)
    return signed


def make_current(made: SignedManifest, register: Callable[[Json], None] | None, *, staged: Path | None) -> None:
    """What is left to do once a snapshot is committed: tell the broker, and have readers find it at once.  May be done again.

    ``staged`` is the caller's folder beside the dataset, if that is in a folder here.

    Raises:
        UnavailableError: the broker or the storage does not answer, or the file system refuses: the snapshot is in place all the same.
    """
    if register is not None:
        _tell(register, made)
    try:
        write_manifest(made.folder, load_manifest(made.folder).envelope, staged=staged)  # others may have been faster
    except UnavailableError as error:
        error.hint = IN_PLACE.format(made.unverified.snapshot)
        raise


def _add(
    source: pa.Table | TableInput | Sequence[Source],
    parent: SignedManifest,
    before: Manifest,
    mode: Mode,
    *,
    attempt: Attempt,
    dataset_key: SecretBytes,
    protected: Sequence[NewGroup],
    signer: SigningKey,
    now: datetime,
    progress: Progress,
) -> SignedManifest:
    first = len(before.files) if mode == "append" else 0
    if mode == "append" and isinstance(source, TableInput):
        source = _typed_as_before(source, before)
    written = _encrypted(source, attempt, dataset_key, before.dataset, first=first, protected=protected, progress=progress)
    made = following(written, parent, mode, signer=signer, now=now, work=_work(attempt, dataset_key, before.dataset))
    if isinstance(attempt, RemoteAttempt):
        attempt.commit(made, parent)
    else:
        commit_files(attempt.files, made, written.files, parent)
    return made


def _with_keys(groups: Sequence[ColumnGroup], keys: Mapping[str, SecretBytes]) -> list[NewGroup]:
    for group in groups:
        if group.name not in keys:
            raise no_key(group.name)
    return [NewGroup(group, keys[group.name]) for group in groups]


def _typed_as_before(source: TableInput, before: Manifest) -> TableInput:
    """Text has no types of its own: in a dataset that has, it is read as these, if its columns have the same names."""
    if source.columns is not None or source.format not in {"csv", "jsonl"} or before.schema is None:
        return source
    columns = schema_of(before.schema["columns"])
    return source if columns is None or first_names(source) not in {None, tuple(columns.names)} else replace(source, columns=columns)


def _tell(register: Callable[[Json], None], made: SignedManifest) -> None:
    """Tell the broker of a snapshot that is committed already."""
    try:
        register(made.envelope)
    except UnavailableError as error:
        error.hint = IN_PLACE.format(made.unverified.snapshot)
        raise


def prepared(source: Input) -> pa.Table | TableInput | Sequence[Source]:
    """A name as what it stands for: a table if its suffix says so, else files."""
    if not isinstance(source, Path):
        return source
    found = plain_sources(source)
    form = format_of(source.name)
    return TableInput(tuple(found), form) if form is not None and not source.is_dir() else found


def is_table(source: pa.Table | TableInput | Sequence[Source]) -> bool:
    """Whether it becomes a table."""
    return isinstance(source, pa.Table | TableInput)


def _encrypted(
    source: pa.Table | TableInput | Sequence[Source],
    attempt: Attempt,
    dataset_key: SecretBytes,
    dataset: DatasetId,
    *,
    first: int = 0,
    protected: Sequence[NewGroup] = (),
    progress: Progress,
) -> Written:
    """What is to be in a snapshot, encrypted into a staged folder; a table's files are numbered from ``first``."""
    if isinstance(source, pa.Table | TableInput):
        return encrypt_table(source, attempt, dataset_key, dataset=dataset, first=first, protected=protected, progress=progress)
    if protected:
        raise DataError("only tables have columns that keys of their own protect", hint="tables are .csv, .jsonl, .orc or .parquet files")
    return encrypt_files(source, attempt, dataset_key, dataset=dataset, progress=progress)


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
    kept: Written | None = None,
    after: tuple[SignedManifest, Mode] | None = None,
) -> SignedManifest:
    """Make what a job wrote into its staging folder a dataset: check every file that is not ``kept``, and sign the manifest.

    Or the snapshot ``after`` an earlier one, of the same dataset: :func:`commit_files` puts it in place.

    Putting the manifest into the folder, publishing the folder (a rename) and telling the broker are the caller's: what was signed and is
    then written anew must never have been where storage could keep it.  ``spark_schema`` is the data frame's, for tables.  ``check_paths``
    is given the relative paths of all files before anything is signed, and raises if they are not what they must be.

    Raises:
        UsageError: ``kind`` is not a kind of dataset.
        PlaintextError: a file is not encrypted.
        IntegrityError: a file does not open under the dataset's key and its own path.
        DataError: a task's uncommitted file is left, or there is nothing; or as :func:`following`.
        ManifestError: the snapshot before is of another dataset than the key.
    """
    if kind not in get_args(Kind):
        raise UsageError("not a kind of dataset", kind=kind[:40])
    held: Kind = "parquet" if kind == "parquet" else "files"
    written = collect_staged(folder, held, dataset_key, dataset=dataset, spark_schema=spark_schema, kept=kept)
    check_paths([entry.path for entry in written.files])
    if after is not None:
        parent, mode = after
        if parent.unverified.dataset != dataset:
            raise ManifestError("the key is another dataset's than the manifest", expected=parent.unverified.dataset, got=dataset)
        return following(written, parent, mode, signer=signer, now=now, run=run, wrapped=wrapped)
    manifest = _manifest(written, name=name, dataset=dataset, wrapped=wrapped, signer=signer, owner=None, run=run, now=now)
    return SignedManifest(folder, sign_manifest(manifest, signer), manifest)


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
