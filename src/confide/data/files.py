"""Encrypts tables and files into dataset folders and reads them back.  The key comes from the caller.

Tables become Parquet with Parquet Modular Encryption, other files containers (both: ``docs/formats/container.md``).  That a manifest is
signed by the right key is checked by ``confide.data.manifest``; what this module reads is checked against the manifest's digests
(:func:`confide.data.folder.verify_files`) and by authenticated encryption.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from confide.crypto.container import ContainerReader, seal_stream
from confide.crypto.derive import check_data_path, file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.data.column_groups import NewGroup, require_columns
from confide.data.column_types import with_columns
from confide.data.folder import describe
from confide.data.manifest import FileEntry, Manifest, Written
from confide.data.parallel import Progress, in_order, silent
from confide.data.parquet_keys import COLUMN_BUFFER, ROWS_PER_GROUP, TableKeys, open_grouped, readable
from confide.data.partitions import path_values, with_folders
from confide.data.pinned_tail import parquet_source
from confide.data.places import Place, open_place
from confide.data.schema import INT96_UNIT, schema_json, storable
from confide.data.sources import Source
from confide.data.staging import Attempt
from confide.data.table_files import TableFiles
from confide.data.tables import TableInput, reading
from confide.durable import sync_file
from confide.errors import DataError, IntegrityError, ManifestError
from confide.ids import DatasetId
from confide.regular_file import open_regular

NO_KEYS: Final[Mapping[str, SecretBytes]] = MappingProxyType({})


# --- writing ------------------------------------------------------------------------------------------------------


def encrypt_table(
    source: TableInput | pa.Table,
    attempt: Attempt,
    dataset_key: SecretBytes,
    *,
    dataset: DatasetId,
    first: int = 0,
    protected: Sequence[NewGroup] = (),
    progress: Progress = silent,
) -> Written:
    """Write a table as encrypted Parquet files with new random names into a staged folder, in all processors' threads.

    Files are numbered from ``first``: readers take them in the order of their names, so a table that is appended to keeps its order.
    What an earlier attempt has finished is not done again.  ``protected`` are the table's column groups.

    Raises:
        DataError: the source cannot be read as a table, or has a column type that Spark cannot read, or lacks a column of a group.
    """
    if isinstance(source, pa.Table):
        schema, size, batches = source.schema, source.nbytes, _counted(source)
    else:
        source = _typed(source, attempt, progress)
        schema, size = cast("pa.Schema", source.columns), source.size
        batches = _read(source, skip=sum(entry.rows or 0 for entry in attempt.finished))
    target = storable(schema)
    require_columns([one.group for one in protected], target.names)
    keys = TableKeys(dataset, dataset_key, {one.group.name: one.key for one in protected})
    done = list(attempt.finished)
    new = TableFiles(attempt.files, target, keys, protected, first + len(done))
    with progress("encrypting", size) as tell, contextlib.closing(new.write(batches, schema, tell, needed=not done)) as made:
        for entry in made:
            attempt.note(entry)
            done.append(entry)
    return Written("parquet", tuple(sorted(done, key=lambda entry: entry.path)), schema_json(target))


def encrypt_files(
    sources: Iterable[Source], attempt: Attempt, dataset_key: SecretBytes, *, dataset: DatasetId, progress: Progress = silent
) -> Written:
    """Write files as containers into a staged folder, in all processors' threads.

    A folder of its own with random name goes around them: the same file name in a later snapshot gets another path, hence another key.
    What an earlier attempt has finished is not done again.

    Raises:
        DataError: there is nothing to encrypt.
    """
    sources, done = list(sources), list(attempt.finished)
    prefix = done[0].path.split("/", 1)[0] if done else f"v-{uuid.uuid4()}"
    there = {entry.path for entry in done}
    left = [(path, source) for source in sources if (path := check_data_path(f"{prefix}/{source.name}")) not in there]

    def seal(work: tuple[str, Source]) -> tuple[FileEntry, int]:
        path, source = work
        target = attempt.files / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open() as src, target.open("xb") as dst:
            size = seal_stream(src, dst, dataset_key, dataset, path)
            sync_file(dst)
        return describe(attempt.files, path, rows=None), size

    known = [source.size for _, source in left]
    with progress("encrypting", None if None in known else sum(size or 0 for size in known)) as tell:
        for entry, size in in_order(seal, left):
            attempt.note(entry)
            done.append(entry)
            tell(size, None)
    if not done:
        raise DataError("there is no file to encrypt")
    return Written("files", tuple(sorted(done, key=lambda entry: entry.path)), None)


def _typed(source: TableInput, attempt: Attempt, progress: Progress) -> TableInput:
    """The input with its columns: given, known from an earlier attempt, or found now."""
    if source.columns is None and attempt.columns is not None:
        return replace(source, columns=attempt.columns)
    if any(one.once for one in source.sources):
        source = replace(source, sources=tuple(_spooled(one, attempt) for one in source.sources))
    if source.columns is None:
        with progress("looking at types", source.size) as tell:
            source = with_columns(source, lambda read: tell(read, None))
        pa.default_memory_pool().release_unused()
    attempt.note_columns(cast("pa.Schema", source.columns))
    return source


def _spooled(source: Source, attempt: Attempt) -> Source:
    """A stream as a file that can be read again, and anywhere: encrypted, in the staged folder, under a key that nobody else ever has."""
    place, key, dataset = attempt.root / "spool", SecretBytes.random(), DatasetId(uuid.uuid4().hex)
    with reading(source), source.open() as src, place.open("xb") as dst:
        size = seal_stream(src, dst, key, dataset, source.name)

    def opened() -> BinaryIO:
        return io.BufferedReader(ContainerReader(open_regular(place), key, dataset, source.name), 1 << 20)

    return Source(source.name, opened, size)


def _counted(source: pa.Table) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches, and how many of the table's bytes are in those up to each: of a bit, two of them may count the whole byte."""
    read = 0
    for batch in source.to_batches(max_chunksize=ROWS_PER_GROUP):
        read += batch.nbytes
        yield batch, min(read, source.nbytes)


def _read(source: TableInput, *, skip: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches, and how many bytes of the sources were read up to each."""
    read = [0]

    def told(count: int) -> None:
        read[0] += count

    for batch in source.batches(told, skip=skip):
        yield batch, min(read[0], source.size or read[0])


# --- reading ------------------------------------------------------------------------------------------------------


def read_table(
    folder: Place,
    manifest: Manifest,
    dataset_key: SecretBytes,
    *,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = NO_KEYS,
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
    folder: Place,
    manifest: Manifest,
    dataset_key: SecretBytes,
    *,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = NO_KEYS,
) -> Iterator[pa.Table]:
    """As :func:`read_table`, one file at a time."""
    if manifest.kind != "parquet":
        raise DataError("the dataset is not a table", kind=manifest.kind)
    for entry in manifest.files:
        file, wanted = open_columns(folder, entry.path, manifest, TableKeys(manifest.dataset, dataset_key, group_keys), columns)
        with as_integrity(entry.path):
            table = file.read(columns=wanted)
        if table.num_rows != entry.rows:
            raise IntegrityError("a file has another number of rows than the manifest says", path=entry.path)
        yield with_folders(table, entry.path, manifest.schema, columns)


def head_rows(
    folder: Place,
    manifest: Manifest,
    dataset_key: SecretBytes,
    count: int,
    *,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = NO_KEYS,
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
        file, names = open_columns(folder, entry.path, manifest, TableKeys(manifest.dataset, dataset_key, group_keys), columns)
        with as_integrity(entry.path):
            batches = file.iter_batches(batch_size=max(1, min(wanted, ROWS_PER_GROUP)), columns=names)
            schema = pa.schema([file.schema_arrow.field(name) for name in names])
            head = pa.Table.from_batches(_until(batches, wanted), schema)
            head = head.slice(0, min(wanted, head.num_rows))  # of no columns, Arrow would make up the rows that are not there
        found.append(with_folders(head, entry.path, manifest.schema, columns))
    return pa.concat_tables(found, promote_options="permissive")


def _until(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        rows -= batch.num_rows
        if rows <= 0:
            return


def open_file(folder: Place, manifest: Manifest, path: str, dataset_key: SecretBytes) -> ContainerReader:
    """One file of a dataset that is not a table, as a seekable plaintext stream.

    Raises:
        ManifestError: the manifest does not list it.
        IntegrityError: it does not open.
    """
    if path not in {entry.path for entry in manifest.files}:
        raise ManifestError("the manifest does not list this file", path=path[:200])
    try:
        return ContainerReader(open_place(folder / path), dataset_key, manifest.dataset, path)
    except OSError as cause:
        raise IntegrityError(f"a file of the dataset is missing: {path}", path=path) from cause


def open_parquet(folder: Place, path: str, dataset_key: SecretBytes, dataset: DatasetId) -> pq.ParquetFile:
    """One encrypted Parquet file, its footer opened and authenticated.

    Raises:
        PlaintextError: it is not encrypted.
        IntegrityError: it does not open under the key and its path.
    """
    source, buffered = parquet_source(folder / path, buffered=COLUMN_BUFFER)
    key = file_key(dataset_key, kind="parquet", dataset=dataset, path=path)
    properties: Any = encryption.create_decryption_properties(key.reveal(), aad_prefix=parquet_aad_prefix(dataset, path))
    with as_integrity(path):
        return pq.ParquetFile(
            source, decryption_properties=properties, buffer_size=buffered, pre_buffer=False, coerce_int96_timestamp_unit=INT96_UNIT
        )


def open_columns(
    folder: Place, path: str, manifest: Manifest, keys: TableKeys, columns: Sequence[str] | None
) -> tuple[pq.ParquetFile, list[str]]:
    """One file of a table, and which of its columns to read: those that are in the names of its folders are not in it.

    Raises:
        DataError: the table has no such column.
        KeyAccessError: a column is in a group whose key is not here.
        PlaintextError, IntegrityError: as :func:`open_parquet`.
    """
    if manifest.groups:
        source, buffered = parquet_source(folder / path, buffered=COLUMN_BUFFER)
        with as_integrity(path):
            file = open_grouped(source, keys, path, buffered=buffered)
    else:
        file = open_parquet(folder, path, keys.key, keys.dataset)
    schema = file.schema_arrow
    if columns is not None:
        in_folders = path_values(path).keys() - set(schema.names)
        columns = [name for name in columns if name not in in_folders]
    return file, readable(schema, manifest.groups, keys, columns)


@contextlib.contextmanager
def as_integrity(path: str) -> Iterator[None]:
    """Turns what Arrow says of an encrypted file into an ``IntegrityError``."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as cause:
        # Arrow's text is left out of the message: after a failed tag it may describe bytes that nobody vouches for.
        raise IntegrityError(f"an encrypted file does not open: {path}", hint="it was changed, swapped or renamed", path=path) from cause
