"""Encrypts tables and files into dataset folders and reads them back.  The key comes from the caller.

Tables become Parquet with Parquet Modular Encryption, other files containers (both: ``docs/formats/container.md``).  A folder appears as a
whole, by one rename, or not at all.  That a manifest is signed by the right key is checked by ``confide.data.manifest``; what this module
reads is checked against the manifest's digests (:func:`confide.data.folder.verify_files`) and by authenticated encryption.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from pyarrow.parquet import encryption

from confide.canonical import Json
from confide.crypto.container import ContainerReader, seal_stream
from confide.crypto.derive import check_data_path, file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.data.column_groups import NewGroup, require_columns
from confide.data.folder import check_encrypted, describe, new_folder
from confide.data.manifest import FileEntry, Kind, Manifest
from confide.data.parquet_keys import TableKeys, grouped_writer, open_grouped, readable
from confide.data.schema import schema_json, storable
from confide.data.sources import Source
from confide.durable import sync_file
from confide.errors import DataError, IntegrityError, ManifestError, OutputExistsError, UnavailableError
from confide.ids import DatasetId
from confide.regular_file import open_regular

ROWS_PER_FILE: Final = 262_144
"""Rows in one Parquet file: several files let executors share a table that fits one."""
ROWS_PER_GROUP: Final = 65_536
_BLOCK: Final = 1 << 20
_NO_KEYS: Final[Mapping[str, SecretBytes]] = MappingProxyType({})
TABLE_SUFFIXES: Final = frozenset({".csv", ".parquet"})


@dataclass(frozen=True, slots=True)
class Written:
    """What was written into a folder: entries for the manifest, sorted by path, and for tables the schema."""

    kind: Kind
    files: tuple[FileEntry, ...]
    schema: Json | None


# --- writing ------------------------------------------------------------------------------------------------------


def encrypt_table(
    source: Path | pa.Table,
    folder: Path,
    dataset_key: SecretBytes,
    *,
    dataset: DatasetId,
    first: int = 0,
    protected: Sequence[NewGroup] = (),
) -> Written:
    """Write a table (CSV or Parquet file, or Arrow table) as encrypted Parquet files with new random names into ``folder``.

    Files are numbered from ``first``: readers take them in the order of their names, so a table that is appended to keeps its order.
    A CSV file is read as a whole (its types come from all of its rows); a Parquet file streams.  ``protected``: its column groups.

    Raises:
        DataError: the source cannot be read as a table, or has a column type that Spark cannot read, or lacks a column of a group.
    """
    schema, batches = _open_table(source)
    target = storable(schema)
    require_columns([one.group for one in protected], target.names)
    keys = TableKeys(dataset, dataset_key, {one.group.name: one.key for one in protected})
    entries = []
    for index, table in enumerate(_slices(batches, schema), first):
        path = f"part-{index:05d}-{uuid.uuid4()}.parquet"
        with _open_writer(folder / path, target, keys, path, protected) as writer:
            writer.write_table(table.cast(target), row_group_size=ROWS_PER_GROUP)
        entries.append(describe(folder, path, rows=table.num_rows))
    return Written("parquet", tuple(sorted(entries, key=lambda entry: entry.path)), schema_json(target))


def encrypt_files(sources: Iterable[Source], folder: Path, dataset_key: SecretBytes, *, dataset: DatasetId) -> Written:
    """Write files as containers into ``folder``.

    A folder of its own with random name goes around them: the same file name in a later snapshot gets another path, hence another key.

    Raises:
        DataError: there is nothing to encrypt.
    """
    prefix = f"v-{uuid.uuid4()}"
    entries = []
    for source in sources:
        path = check_data_path(f"{prefix}/{source.name}")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open() as src, target.open("xb") as dst:
            seal_stream(src, dst, dataset_key, dataset, path)
            sync_file(dst)
        entries.append(describe(folder, path, rows=None))
    if not entries:
        raise DataError("there is no file to encrypt")
    return Written("files", tuple(sorted(entries, key=lambda entry: entry.path)), None)


def _open_table(source: Path | pa.Table) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    if isinstance(source, pa.Table):
        return source.schema, source.to_batches()
    try:
        if source.suffix == ".csv":
            table = csv.read_csv(source)
            return table.schema, table.to_batches()
        if source.suffix == ".parquet":
            file = pq.ParquetFile(source)
            return file.schema_arrow, file.iter_batches(ROWS_PER_GROUP)
    except (OSError, pa.ArrowException) as cause:
        raise DataError(f"cannot read {source} as a table: {str(cause)[:200]}", path=str(source)) from cause
    raise DataError(f"{source} is not a table", hint="tables are .csv and .parquet files", path=str(source))


def _slices(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of ROWS_PER_FILE rows (the last has fewer); one empty table if there are no rows, so that the schema is kept."""
    held: list[pa.RecordBatch] = []
    rows = written = 0
    for batch in batches:
        at = 0
        while at < batch.num_rows:
            part = batch.slice(at, min(batch.num_rows - at, ROWS_PER_FILE - rows))
            held.append(part)
            rows, at = rows + part.num_rows, at + part.num_rows
            if rows == ROWS_PER_FILE:
                yield pa.Table.from_batches(held, schema)
                held, rows, written = [], 0, written + 1
    if held or not written:
        yield pa.Table.from_batches(held, schema)


@contextlib.contextmanager
def _open_writer(place: Path, schema: pa.Schema, keys: TableKeys, path: str, protected: Sequence[NewGroup]) -> Iterator[pq.ParquetWriter]:
    if protected:
        with grouped_writer(place, schema, keys, [one.group for one in protected], path) as writer:
            yield writer
        return
    key = file_key(keys.key, kind="parquet", dataset=keys.dataset, path=path)
    properties = encryption.create_encryption_properties(
        key.reveal(), aad_prefix=parquet_aad_prefix(keys.dataset, path), store_aad_prefix=False, encryption_algorithm="AES_GCM_V1"
    )
    with place.open("xb") as file:
        with pq.ParquetWriter(file, schema, encryption_properties=properties, compression="zstd", version="2.6") as writer:
            yield writer
        sync_file(file)


# --- reading ------------------------------------------------------------------------------------------------------


def read_table(
    folder: Path,
    manifest: Manifest,
    dataset_key: SecretBytes,
    *,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = _NO_KEYS,
) -> pa.Table:
    """The whole table, from the files that the manifest lists.  Files that are not listed are not looked at.

    ``group_keys``: keys of the table's column groups by name; the columns of others are not read.

    Raises:
        DataError: the dataset is not a table, or has no such column.
        KeyAccessError: a column is in a group whose key is not here.
        IntegrityError: a file does not open under the key and its path.
    """
    tables = list(iter_tables(folder, manifest, dataset_key, columns=columns, group_keys=group_keys))
    return pa.concat_tables(tables, promote_options="permissive")


def iter_tables(
    folder: Path,
    manifest: Manifest,
    dataset_key: SecretBytes,
    *,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = _NO_KEYS,
) -> Iterator[pa.Table]:
    """As :func:`read_table`, one file at a time."""
    if manifest.kind != "parquet":
        raise DataError("the dataset is not a table", kind=manifest.kind)
    for entry in manifest.files:
        file, wanted = _open_columns(folder, entry.path, manifest, TableKeys(manifest.dataset, dataset_key, group_keys), columns)
        with _as_integrity(entry.path):
            table = file.read(columns=wanted)
        if table.num_rows != entry.rows:
            raise IntegrityError("a file has another number of rows than the manifest says", path=entry.path)
        yield table


def head_rows(
    folder: Path,
    manifest: Manifest,
    dataset_key: SecretBytes,
    count: int,
    *,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = _NO_KEYS,
) -> pa.Table:
    """The first ``count`` rows of a table.  No more files are opened, and no more is decrypted, than hold them.

    Raises as :func:`read_table`.
    """
    if manifest.kind != "parquet":
        raise DataError("the dataset is not a table", kind=manifest.kind)
    found: list[pa.Table] = []
    for entry in manifest.files:
        wanted = count - sum(part.num_rows for part in found)
        if found and wanted <= 0:
            break
        file, names = _open_columns(folder, entry.path, manifest, TableKeys(manifest.dataset, dataset_key, group_keys), columns)
        with _as_integrity(entry.path):
            batches = file.iter_batches(batch_size=max(1, min(wanted, ROWS_PER_GROUP)), columns=names)
            schema = pa.schema([file.schema_arrow.field(name) for name in names])
            found.append(pa.Table.from_batches(_until(batches, wanted), schema).slice(0, wanted))
    return pa.concat_tables(found, promote_options="permissive")


def _until(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        rows -= batch.num_rows
        if rows <= 0:
            return


def open_file(folder: Path, manifest: Manifest, path: str, dataset_key: SecretBytes) -> ContainerReader:
    """One file of a dataset that is not a table, as a seekable plaintext stream.

    Raises:
        ManifestError: the manifest does not list it.
        IntegrityError: it does not open.
    """
    if path not in {entry.path for entry in manifest.files}:
        raise ManifestError("the manifest does not list this file", path=path[:200])
    try:
        return ContainerReader(open_regular(folder / path), dataset_key, manifest.dataset, path)
    except OSError as cause:
        raise IntegrityError(f"a file of the dataset is missing: {path}", path=path) from cause


def open_parquet(folder: Path, path: str, dataset_key: SecretBytes, dataset: DatasetId) -> pq.ParquetFile:
    """One encrypted Parquet file, its footer opened and authenticated.

    Raises:
        PlaintextError: it is not encrypted.
        IntegrityError: it does not open under the key and its path.
    """
    check_encrypted(folder / path, "parquet")
    key = file_key(dataset_key, kind="parquet", dataset=dataset, path=path)
    properties: Any = encryption.create_decryption_properties(key.reveal(), aad_prefix=parquet_aad_prefix(dataset, path))
    with _as_integrity(path):
        return pq.ParquetFile(folder / path, decryption_properties=properties)


def _open_columns(
    folder: Path, path: str, manifest: Manifest, keys: TableKeys, columns: Sequence[str] | None
) -> tuple[pq.ParquetFile, list[str]]:
    """One file of a table, and which of its columns to read."""
    if manifest.groups:
        check_encrypted(folder / path, "parquet")
        with _as_integrity(path):
            file = open_grouped(folder / path, keys, path)
    else:
        file = open_parquet(folder, path, keys.key, keys.dataset)
    return file, readable(file.schema_arrow, manifest.groups, keys, columns)


@contextlib.contextmanager
def _as_integrity(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as cause:
        # Arrow's text is left out of the message: after a failed tag it may describe bytes that nobody vouches for.
        raise IntegrityError(f"an encrypted file does not open: {path}", hint="it was changed, swapped or renamed", path=path) from cause


# --- decrypting ---------------------------------------------------------------------------------------------------


def decrypt(
    folder: Path,
    manifest: Manifest,
    dataset_key: SecretBytes,
    target: Path,
    *,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = _NO_KEYS,
) -> None:
    """Write a dataset's plaintext to ``target``: a table, or ``columns`` of it, to a ``.csv`` or ``.parquet`` file, others into a folder.

    Raises:
        OutputExistsError: ``target`` exists.
        DataError: a table, and ``target`` has another suffix; or there are no such columns.
        KeyAccessError: a column is in a group whose key is not here.
        IntegrityError: a file does not open; nothing is left at ``target``.
    """
    if manifest.kind == "files":
        if columns is not None:
            raise DataError("the dataset is not a table: it has no columns", kind=manifest.kind)
        with new_folder(target) as staged:
            for entry in manifest.files:
                place = staged / Path(entry.path).relative_to(Path(entry.path).parts[0] if _prefixed(entry.path) else ".")
                place.parent.mkdir(parents=True, exist_ok=True)
                with open_file(folder, manifest, entry.path, dataset_key) as source, place.open("xb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
        return
    _decrypt_table(iter_tables(folder, manifest, dataset_key, columns=columns, group_keys=group_keys), target)


def _prefixed(path: str) -> bool:
    """Whether :func:`encrypt_files` put the file into a folder with a random name."""
    return path.startswith("v-") and "/" in path


def _decrypt_table(tables: Iterable[pa.Table], target: Path) -> None:
    if target.suffix not in TABLE_SUFFIXES:
        raise DataError(f"cannot tell what to write to {target}", hint="name a .csv or .parquet file", path=str(target))
    if os.path.lexists(target):
        raise OutputExistsError(f"{target} exists", path=str(target))
    staged = target.with_name(f".{target.name}.new-{secrets.token_hex(8)}")
    writer: csv.CSVWriter | pq.ParquetWriter | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("xb") as file:
            for table in tables:
                if writer is None:
                    make = csv.CSVWriter if target.suffix == ".csv" else pq.ParquetWriter
                    writer = make(file, table.schema)
                writer.write_table(table)
            if writer is not None:
                writer.close()
            sync_file(file)
        os.link(staged, target)  # unlike rename, fails if the name was taken meanwhile
    except FileExistsError as cause:
        raise OutputExistsError(f"{target} exists", path=str(target)) from cause
    except (OSError, pa.ArrowException) as cause:
        raise UnavailableError(f"cannot write {target}: {getattr(cause, 'strerror', None) or cause}", path=str(target)) from cause
    finally:
        staged.unlink(missing_ok=True)
