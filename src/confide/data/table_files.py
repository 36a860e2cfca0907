"""Writes a table's rows into encrypted Parquet files, in all processors' threads, with a bound on what is in memory.

A part is what one thread encodes at a time: at most 65,536 rows, some megabytes, one row group.  A file holds many parts, in the order of
the rows (``docs/decisions/0035-tables-files.md``).  Of a table with column groups each part is a file: Arrow encrypts those as it encodes.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from confide.crypto.derive import file_key, parquet_aad_prefix
from confide.data.column_groups import NewGroup
from confide.data.folder import describe
from confide.data.manifest import FileEntry
from confide.data.parallel import Tell, at_once, in_order
from confide.data.parquet_keys import ROWS_PER_GROUP, WRITTEN, TableKeys, grouped_writer
from confide.data.sealed_parquet import SealedParquet
from confide.durable import sync_file
from confide.errors import DataError

ROWS_PER_FILE: Final = 1 << 20
"""A file gets no more parts when it has so many rows: as the tables have that Polars writes."""
BYTES_PER_FILE: Final = 128 << 20
"""Or so many bytes: what Spark reads by one task, if nobody sets another ``spark.sql.files.maxPartitionBytes``."""
CHUNKS_PER_FILE: Final = 1 << 12
"""Or so many columns of row groups.

What a footer says of each takes memory until the file is whole, and wherever the file is read.  The format numbers 32,767 row groups.
"""
IN_FLIGHT: Final = 24 << 20
"""Bytes of rows that are in memory at one time, for all threads together: bounds a part."""
_ROWS_PER_GROUPED_FILE: Final = 1 << 18
"""Most rows of a part with column groups.  Bytes alone do not bound it: nulls and texts of a dictionary are small until they are stored."""
_GROUPED_FILES_PER_RELEASE: Final = 8
"""So many files of a table with column groups are written before free memory is given back."""
LARGE_PART: Final = 16 << 20
"""A part that takes so many bytes as it is stored leaves free memory that nothing else fits into: it is given back at once."""

Batches = Iterable[tuple[pa.RecordBatch, int]]
"""Rows, and how many bytes of their source had been read when they were."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that one thread encodes, and how many bytes of the source were read for them."""

    rows: pa.Table
    read: int


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A part as a plain Parquet file in memory.  ``size``: of its rows, as they are stored."""

    file: pa.Buffer
    rows: int
    read: int
    size: int


class TableFiles:
    """A table's new files, in a folder that nobody sees yet."""

    def __init__(self, folder: Path, schema: pa.Schema, keys: TableKeys, protected: Sequence[NewGroup], first: int) -> None:
        """``schema``: the types that files have.  ``first``: the number of the first file."""
        self._folder = folder
        self._schema = schema
        self._keys = keys
        self._protected = protected
        self._numbers = itertools.count(first)

    def write(self, batches: Batches, schema: pa.Schema, tell: Tell, *, needed: bool) -> Generator[FileEntry, None, None]:
        """Write all rows, which have this schema.  Files come as they are finished: whole, and durable.

        ``needed``: there must be a file, even if there are no rows.

        Raises:
            DataError: a value does not fit the type that it is stored as, or there are more columns than Parquet can number.
        """
        if self._protected:
            parts = _parts(batches, schema, min(ROWS_PER_FILE, _ROWS_PER_GROUPED_FILE), needed=needed)
            written, per_release = self._grouped(parts, tell), _GROUPED_FILES_PER_RELEASE
        else:
            parts = _parts(batches, schema, min(ROWS_PER_FILE, ROWS_PER_GROUP), needed=needed)
            written, per_release = self._sealed(parts, tell), 1
        with contextlib.closing(written):
            for number, entry in enumerate(written, 1):
                yield entry
                if not number % per_release:  # what is left here and there would add up; but to have it anew takes time
                    pa.default_memory_pool().release_unused()

    def _grouped(self, parts: Iterable[_Part], tell: Tell) -> Generator[FileEntry, None, None]:
        """A file for each part."""
        groups = [one.group for one in self._protected]

        def write(work: tuple[str, _Part]) -> tuple[FileEntry, int]:
            path, part = work
            with grouped_writer(self._folder / path, self._schema, self._keys, groups, path) as writer:
                writer.write_table(self._stored(part.rows), row_group_size=ROWS_PER_GROUP)
            return describe(self._folder, path, rows=part.rows.num_rows), part.read

        with contextlib.closing(in_order(write, ((self._path(), part) for part in parts))) as written:
            for entry, read in written:
                tell(read, entry.rows)
                yield entry

    def _sealed(self, parts: Iterable[_Part], tell: Tell) -> Generator[FileEntry, None, None]:
        """Files of many parts.  A full one is synced while the next is filled, and comes at once when it is."""
        full: Future[FileEntry] | None = None
        with (
            ThreadPoolExecutor(1, "confide-data") as finishing,
            contextlib.closing(in_order(self._encode, parts)) as encoded,
            contextlib.closing(self._filled(encoded, tell)) as filled,
        ):
            try:
                for file in filled:
                    if full is not None and (file is not None or full.done()):
                        yield full.result()
                        full = None
                    if file is not None:
                        full = finishing.submit(self._finish, *file)
            except Exception:  # of a later part: what is full is kept
                if full is not None:
                    yield full.result()
                raise
            if full is not None:
                yield full.result()

    def _filled(self, parts: Iterator[_Encoded], tell: Tell) -> Generator[tuple[str, int] | None, None, None]:
        """The path and rows of each file when it is full, and nothing after each other part."""
        for part in parts:
            path = self._path()
            key = file_key(self._keys.key, kind="parquet", dataset=self._keys.dataset, path=path)
            with (self._folder / path).open("xb") as raw:
                file = SealedParquet(raw, key, parquet_aad_prefix(self._keys.dataset, path))
                for more in itertools.chain([part], parts):
                    _add(file, more)
                    tell(more.read, more.rows)
                    if more.size >= LARGE_PART:
                        pa.default_memory_pool().release_unused()
                    if file.rows >= ROWS_PER_FILE or file.size >= BYTES_PER_FILE or file.chunks >= CHUNKS_PER_FILE:
                        break
                    yield None
                file.finish()
            yield path, file.rows

    def _encode(self, part: _Part) -> _Encoded:
        out, rows = pa.BufferOutputStream(), self._stored(part.rows)
        with pq.ParquetWriter(out, self._schema, **WRITTEN) as writer:
            writer.write_table(rows, row_group_size=ROWS_PER_GROUP)
        return _Encoded(out.getvalue(), rows.num_rows, part.read, rows.nbytes)

    def _finish(self, path: str, rows: int) -> FileEntry:
        with (self._folder / path).open("rb") as file:
            sync_file(file)
        return describe(self._folder, path, rows=rows)

    def _stored(self, rows: pa.Table) -> pa.Table:
        try:
            return rows.cast(self._schema)
        except pa.ArrowException as cause:
            hint = "timestamps are stored in microseconds; give other types with --schema"
            raise DataError("a value does not fit the type that its column is stored as", hint=hint) from cause

    def _path(self) -> str:
        """The path of the next file, which nobody has used or will use."""
        return f"part-{next(self._numbers):05d}-{uuid.uuid4()}.parquet"


def _add(file: SealedParquet, part: _Encoded) -> None:
    try:
        file.add(part.file)
    except OverflowError as cause:  # pages and row groups are bounded by bytes and by CHUNKS_PER_FILE
        hint = "leave columns out, or make several tables; of a nested column, each leaf counts"
        raise DataError("a table cannot have more than 32,768 columns", hint=hint) from cause


def _parts(batches: Batches, schema: pa.Schema, most: int, *, needed: bool) -> Iterator[_Part]:
    """Parts of at most ``most`` rows and about IN_FLIGHT bytes for all threads; an empty one if ``needed`` and there are no rows."""
    held: list[pa.RecordBatch] = []
    rows = size = told = read = 0
    share = IN_FLIGHT // (at_once() + 1)
    for batch, read in batches:
        at = 0
        while at < batch.num_rows:
            piece = batch.slice(at, min(batch.num_rows - at, most - rows))
            held.append(piece)
            rows, size, at = rows + piece.num_rows, size + piece.nbytes, at + piece.num_rows
            if rows == most or size >= share:
                yield _Part(pa.Table.from_batches(held, schema), read - told)
                held, rows, size, told, needed = [], 0, 0, read, False
    if held or needed:
        yield _Part(pa.Table.from_batches(held, schema), read - told)
