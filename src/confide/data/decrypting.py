"""Writes a dataset's plaintext: a table to one file, other files into a folder, or either to a stream.  The key comes from the caller.

What is written appears whole or not at all.  A file has no name until it is whole, so that a command that is killed leaves no plaintext;
the folder of one that was killed has a hidden name, and the next command for the same place removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from confide.crypto.secret import SecretBytes
from confide.data.files import NO_KEYS, as_integrity, open_columns, open_file
from confide.data.json_lines import json_lines
from confide.data.manifest import FileEntry, Manifest
from confide.data.parallel import Progress, Tell, in_order, silent
from confide.data.parquet_keys import TableKeys, readable
from confide.data.partitions import with_folders
from confide.data.places import Place
from confide.data.schema import schema_of
from confide.data.tables import rows_at_once
from confide.durable import sync_file, sync_folder
from confide.errors import DataError, IntegrityError, OutputExistsError, UnavailableError, UsageError

Form = Literal["csv", "jsonl", "parquet"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
_BLOCK: Final = 1 << 20
_ROW_GROUP: Final = 16 << 20
"""Bytes of rows in a row group of Parquet: many small ones take more time, more room, and more memory for what the footer says of them."""
_GROUPS_PER_RELEASE: Final = 8
"""After so many row groups free memory is given back: it takes time to have it anew."""
_Item: TypeAlias = tuple[pa.RecordBatch, int]
_RowGroup: TypeAlias = tuple[pa.Table, int]
_Rendered: TypeAlias = tuple[list[pa.Buffer], pa.RecordBatch, int]


def form_of(target: Path) -> Form:
    """What a table is written as to a file of that name.

    Raises:
        DataError: its suffix says nothing.
    """
    form = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(target.suffix)
    if form is None:
        hint = "name a .csv, .jsonl or .parquet file, or give --format"
        raise DataError(f"cannot tell what to write to {target}", hint=hint, path=str(target))
    return cast("Form", form)


def decrypt(
    folder: Place,
    manifest: Manifest,
    dataset_key: SecretBytes,
    target: Path,
    *,
    form: Form | None = None,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = NO_KEYS,
    progress: Progress = silent,
) -> None:
    """Write a dataset's plaintext to ``target``: a table to one file, of the format of its suffix or ``form``, files into a new folder.

    Of a table only ``columns``, if any are named; ``group_keys`` are keys of its column groups by name.

    Raises:
        OutputExistsError: ``target`` exists.
        UsageError: ``form`` or ``columns`` are given, and the dataset is no table.
        DataError: a table, and nothing says what to write; or it has a column that the format has no form for, or none of that name.
        KeyAccessError: a column is in a group whose key is not here.
        IntegrityError: a file does not open; nothing is left at ``target``.
        UnavailableError: the file system refuses; nothing is left at ``target``.
    """
    if manifest.kind == "parquet":
        form = form if form is not None else form_of(target)
        with new_file(target) as file:
            write_table(folder, manifest, dataset_key, file, form, columns=columns, group_keys=group_keys, progress=progress)
        return
    _require_no_table_options(form, columns)
    with _new_folder(target) as staged, progress("decrypting", manifest.size) as tell:

        def write(entry: FileEntry) -> FileEntry:
            place = staged / plain_path(entry.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            with open_file(folder, manifest, entry.path, dataset_key) as source, place.open("xb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
                sync_file(file)
            return entry

        for entry in in_order(write, manifest.files):
            tell(entry.size, None)


def write_stream(
    folder: Place,
    manifest: Manifest,
    dataset_key: SecretBytes,
    stream: BinaryIO,
    *,
    form: Form | None = None,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = NO_KEYS,
    progress: Progress = silent,
) -> None:
    """Write a table, or the one file that the dataset holds, to a stream.  What was written before an error was authentic.

    Raises:
        UsageError: the dataset holds several files, or ``form`` or ``columns`` are missing or in vain.
        DataError, KeyAccessError, IntegrityError: as :func:`decrypt`.
    """
    if manifest.kind == "parquet":
        if form is None:
            raise UsageError("nothing says what to write", hint="give --format csv, jsonl or parquet")
        write_table(folder, manifest, dataset_key, stream, form, columns=columns, group_keys=group_keys, progress=progress)
    else:
        _require_no_table_options(form, columns)
        if len(manifest.files) != 1:
            raise UsageError(f"the dataset holds {len(manifest.files)} files, and a stream takes one", hint="name a folder")
        with open_file(folder, manifest, manifest.files[0].path, dataset_key) as source:
            shutil.copyfileobj(source, stream, _BLOCK)
    stream.flush()


def _require_no_table_options(form: Form | None, columns: Sequence[str] | None) -> None:
    if form is not None:
        raise UsageError("the dataset holds files, which stay as they are", hint="leave --format out")
    if columns is not None:
        raise UsageError("the dataset is not a table: it has no columns", hint="leave --columns out")


def plain_path(path: str) -> str:
    """A file's path without the folder of a random name that :func:`confide.data.files.encrypt_files` put it into."""
    return path.split("/", 1)[1] if path.startswith("v-") and "/" in path else path


# --- tables -----------------------------------------------------------------------------------------------------------


def write_table(
    folder: Place,
    manifest: Manifest,
    dataset_key: SecretBytes,
    stream: BinaryIO,
    form: Form,
    *,
    columns: Sequence[str] | None = None,
    group_keys: Mapping[str, SecretBytes] = NO_KEYS,
    progress: Progress = silent,
) -> None:
    """Write all rows to a stream, in order; what is in memory at one time is bounded.

    Raises:
        DataError: it has a column that the format has no form for, or none of that name.
        KeyAccessError: a column is in a group whose key is not here.
        IntegrityError: a file does not open, or has other rows than the manifest says.
    """
    keys = TableKeys(manifest.dataset, dataset_key, group_keys)
    with progress("decrypting", manifest.size) as tell:
        batches = _batches(folder, manifest, keys, columns)
        if form == "parquet":
            _write_parquet(stream, batches, tell)
        else:
            _write_text(stream, batches, form, tell)


def _write_parquet(stream: BinaryIO, batches: Iterator[_Item], tell: Tell) -> None:
    """Write row groups, each while the rows of the next are read.  Nothing that one leaves in memory adds up."""
    first = next(batches, None)
    if first is None:
        return
    with pq.ParquetWriter(stream, first[0].schema, compression="zstd") as writer:

        def write(group: _RowGroup) -> tuple[int, int]:
            writer.write_table(group[0])
            return group[1], group[0].num_rows

        groups = _row_groups(itertools.chain([first], batches))
        for number, (size, rows) in enumerate(in_order(write, groups, threads=1, ahead=1), 1):
            if not number % _GROUPS_PER_RELEASE:  # what the footer will say of a group keeps free memory around it from going back
                pa.default_memory_pool().release_unused()
            tell(size, rows)


def _row_groups(batches: Iterable[_Item]) -> Iterator[_RowGroup]:
    held: list[pa.RecordBatch] = []
    size = done = 0
    for batch, encrypted in batches:
        held.append(batch)
        size, done = size + batch.nbytes, done + encrypted
        if size >= _ROW_GROUP:
            yield pa.Table.from_batches(held), done
            held, size, done = [], 0, 0
    if held:
        yield pa.Table.from_batches(held), done


def _write_text(stream: BinaryIO, batches: Iterable[_Item], form: Form, tell: Tell) -> None:
    """Write lines, which all processors' threads make."""
    header = form == "csv"
    for pieces, batch, size in in_order(_as_csv if header else _as_jsonl, batches):
        if header:
            stream.write(_csv(batch.slice(0, 0), header=True))
            header = False
        stream.writelines(pieces)
        tell(size, batch.num_rows)


def _batches(folder: Place, manifest: Manifest, keys: TableKeys, columns: Sequence[str] | None) -> Iterator[_Item]:
    """All rows, in batches of a bounded size, each with how many encrypted bytes were done with it.  The first may have no rows."""
    if not manifest.files:
        yield from _of_no_file(manifest, keys, columns)
    for number, entry in enumerate(manifest.files):
        rows = 0
        file, names = open_columns(folder, entry.path, manifest, keys, columns)
        with as_integrity(entry.path):
            if number == 0:
                empty = pa.RecordBatch.from_pylist([], pa.schema([file.schema_arrow.field(name) for name in names]))
                yield with_folders(empty, entry.path, manifest.schema, columns), 0
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(rows_at_once(file, group), row_groups=[group], columns=names, use_threads=False):
                    rows += batch.num_rows
                    done = entry.size * batch.num_rows // max(1, entry.rows or 0)
                    yield with_folders(batch, entry.path, manifest.schema, columns), done
        if rows != entry.rows:
            raise IntegrityError("a file has another number of rows than the manifest says", path=entry.path)


def _of_no_file(manifest: Manifest, keys: TableKeys, columns: Sequence[str] | None) -> Iterator[_Item]:
    """The columns of a table without files, as one in folders is that has no rows; nothing if only a file would tell their types."""
    schema = schema_of(manifest.schema["columns"]) if manifest.schema else None
    if schema is not None:
        names = readable(schema, manifest.groups, keys, columns)
        yield pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in names])), 0


def _as_csv(item: _Item) -> _Rendered:
    return [_csv(item[0], header=False)], *item


def _csv(batch: pa.RecordBatch, *, header: bool) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    try:
        csv.write_csv(batch, sink, csv.WriteOptions(include_header=header))
    except pa.ArrowException as cause:
        hint = "columns with lists or structures have no form in CSV: write .jsonl or .parquet"
        raise DataError("the table cannot be written as CSV", hint=hint) from cause
    return sink.getvalue()


def _as_jsonl(item: _Item) -> _Rendered:
    return json_lines(item[0]), *item


# --- places -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name on leaving.  After a failure or a kill nothing is there.

    Raises:
        OutputExistsError: something is at ``target``, before or after.
        UnavailableError: the file system refuses (full, read-only, ...).
    """
    if os.path.lexists(target):
        raise OutputExistsError(f"{target} exists", path=str(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _nameless(target) as (file, name_it):
            yield file
            sync_file(file)
            name_it()
        sync_folder(target.parent)
    except FileExistsError as cause:
        raise OutputExistsError(f"{target} exists", path=str(target)) from cause
    except (OSError, pa.ArrowException) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise UnavailableError(f"cannot write {target}: {reason}", hint="nothing was left behind", path=str(target)) from cause


@contextlib.contextmanager
def _nameless(target: Path) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """A file without a name (open(2), O_TMPFILE), and what gives it ``target``, which fails if there is one.

    Where the file system has none such, a hidden file beside ``target`` that is removed on leaving.
    """
    descriptor = -1
    with contextlib.suppress(OSError):  # what is wrong with the folder itself is wrong below, too
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    if descriptor < 0:
        staged = target.with_name(f".{target.name}.new-{secrets.token_hex(8)}")
        try:
            with staged.open("xb") as file:
                yield file, lambda: os.link(staged, target)
        finally:
            staged.unlink(missing_ok=True)
        return
    with os.fdopen(descriptor, "wb") as file, _opened_folder(target.parent) as parent:
        # With a folder's descriptor this is linkat(2), which can follow the link in /proc; link(2) cannot.
        yield file, lambda: os.link(f"/proc/self/fd/{file.fileno()}", target.name, dst_dir_fd=parent, follow_symlinks=True)


@contextlib.contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` to write into; renamed to ``target`` on leaving, removed after any failure.

    Raises:
        OutputExistsError: something is at ``target``, before or after.
        UnavailableError: the file system refuses (full, read-only, ...).
    """
    if os.path.lexists(target):
        raise OutputExistsError(f"{target} exists", path=str(target))
    _remove_left(target)
    staged = target.with_name(f".{target.name}.plain-{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.mkdir(mode=0o700)
        with _in_use(staged):
            yield staged
            sync_folder(staged)
            if os.path.lexists(target):  # rename(2) would replace an empty folder
                raise OutputExistsError(f"{target} appeared meanwhile", path=str(target))
            staged.rename(target)
        sync_folder(target.parent)
    except OSError as cause:
        raise UnavailableError(f"cannot write {target}: {cause.strerror}", hint="nothing was left behind", path=str(target)) from cause
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextlib.contextmanager
def _in_use(staged: Path) -> Iterator[None]:
    """Says to other commands that this staged folder is in use, as long as the process lives."""
    with _opened_folder(staged) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _remove_left(target: Path) -> None:
    """Remove the staged folders of earlier commands for this place that were killed: they hold plaintext."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.plain-[0-9a-f]{{16}}")
    parent = target.absolute().parent
    for place in parent.iterdir() if parent.is_dir() else ():
        if not pattern.fullmatch(place.name) or not place.is_dir():
            continue
        with contextlib.suppress(OSError), _opened_folder(place) as descriptor:  # in use, or not ours, or a link, which rmtree refuses
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place)
