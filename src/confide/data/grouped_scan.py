"""Polars' lazy frames over tables with column groups: the columns that a query names are decrypted, under the keys that the job was given.

Polars knows one key for a file.  So files are opened by pyarrow here, as owners' commands do (``confide.data.parquet_keys``), and Polars
gets rows.  Each file is read once, as a whole and still encrypted, before anything looks at it: storage cannot show it twice differently.
Keys come from the caller, one file's when a query comes to the file.  Nothing here writes to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from confide.data.folder import require_encrypted_parquet
from confide.data.io_source import answered
from confide.data.parquet_keys import FileKeys, no_key, open_under
from confide.data.pinned_parquet import TableFile, as_integrity
from confide.data.places import RangedFolder, open_place
from confide.data.read_counts import Counts, Totals
from confide.data.s3 import BLOCK
from confide.data.schema import schema_json, storable
from confide.data.tables import rows_at_once
from confide.errors import DataError, ExtraMissingError, IntegrityError, SecretLeakError

try:
    import polars as pl
    from polars.io.plugins import register_io_source
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

if TYPE_CHECKING:
    from confide.canonical import Json

KeysOf = Callable[[str], FileKeys]
"""What opens a file of the table, by its path in the dataset."""


class GroupedScan:
    """What a query over one table reads, file by file; Polars calls it when it runs the query.  Not to be pickled or sent anywhere."""

    def __init__(
        self,
        folder: Path | RangedFolder,
        files: Sequence[TableFile],
        keys_of: KeysOf,
        columns: Sequence[Json],
        hidden: Mapping[str, str],
        *,
        totals: Totals | None = None,
    ) -> None:
        """``columns`` are the manifest's; ``hidden`` are those whose group's key the job does not have, with the group's name.

        What queries read is added to ``totals``; the cipher is pyarrow's own and is not timed.
        """
        self._totals = totals or Totals()
        self._folder = folder
        self._files = tuple(files)
        self._keys_of = keys_of
        self._columns = [(column["name"], column["type"]) for column in columns]
        self._hidden = dict(hidden)
        with self._opened(self._files[0]) as file:
            self.schema = pl.DataFrame(file.schema_arrow.empty_table()).schema

    def frame(self, name: str) -> pl.LazyFrame:
        """The table as a lazy frame.  It has all columns; a query that reads one without a key is refused (``KeyAccessError``)."""
        return register_io_source(self._batches, schema=self.schema, is_pure=True, explain_name=f"encrypted {name}")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a scan of encrypted files was about to be pickled", hint="send the query's result instead")

    def _batches(
        self, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        """The rows that a query asks for (``register_io_source``)."""
        asked = set(self.schema if with_columns is None else with_columns) | set(() if predicate is None else predicate.meta.root_names())
        wanted = [name for name in self.schema if name in asked]
        for name in wanted:
            if name in self._hidden:
                raise no_key(self._hidden[name], name)
        yield from answered(lambda counts: self._frames(wanted, counts), self._totals, with_columns, predicate, n_rows)

    def _frames(self, wanted: list[str], counts: Counts) -> Iterator[pl.DataFrame]:
        for entry in self._files:
            with self._opened(entry) as file, as_integrity(entry.path):
                counts.bytes_read += entry.size
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(rows_at_once(file, group), row_groups=[group], columns=wanted, use_threads=False):
                        counts.rows_read += batch.num_rows
                        yield pl.DataFrame(pa.Table.from_batches([batch]))

    @contextmanager
    def _opened(self, entry: TableFile) -> Iterator[pq.ParquetFile]:
        """One file, pinned.

        Raises:
            PlaintextError: it is not encrypted.
            IntegrityError: it is missing, is not what the manifest says, or does not open.
        """
        data = _pinned(self._folder, entry)
        require_encrypted_parquet(data, entry.path)
        keys = self._keys_of(entry.path)
        try:
            with as_integrity(entry.path):
                file = open_under(pa.BufferReader(data), keys, entry.path)
            if file.metadata.num_rows != entry.rows:
                raise IntegrityError(f"a file has another number of rows than the manifest says: {entry.path}", path=entry.path)
            found = schema_json(storable(file.schema_arrow))["columns"]
            if [(column["name"], column["type"]) for column in found] != self._columns:
                raise DataError(f"a file has other columns than the manifest says: {entry.path}", path=entry.path)
            yield file
        finally:
            keys.forget()


def _pinned(folder: Path | RangedFolder, entry: TableFile) -> bytes:
    try:
        with open_place(folder / entry.path, buffer=BLOCK) as file:
            data = file.read(entry.size + 1)
    except OSError as cause:
        raise IntegrityError(f"a file of the dataset is missing: {entry.path}", path=entry.path) from cause
    if len(data) != entry.size:
        message = f"a file has another length than its manifest says: {entry.path}"
        raise IntegrityError(message, path=entry.path, expected=entry.size, got=len(data))
    return data
