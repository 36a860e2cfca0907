"""Polars' lazy frames over encrypted tables: what a query does not need is neither fetched nor decrypted.

Files are pinned before Polars reads them (``confide.data.pinned_parquet``).  Keys come from the caller, one a file, when a query comes to
the file.  Nothing here writes to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, Self

import pyarrow as pa
import pyarrow.parquet as pq

from confide.data.partitions import path_values, with_folders
from confide.data.pinned_parquet import FileAccess, PinnedFile, TableFile, as_integrity, leaves
from confide.data.places import RangedFolder
from confide.data.schema import schema_json, storable
from confide.errors import DataError, ExtraMissingError, SecretLeakError

try:
    import polars as pl
    from polars.exceptions import PolarsError
    from polars.io.plugins import register_io_source
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

if TYPE_CHECKING:
    from confide.canonical import Json

_BATCH_BYTES: Final = 64 * 1024 * 1024
"""What is fetched for one step of a scan, before it was compressed; a row group that is larger is one step."""
_BATCH_ROWS: Final = 1 << 19
_PRUNED: Final = (pl.Boolean, pl.Date, pl.Datetime, pl.Decimal)
"""Types whose statistics decide here what is not fetched, beside integers.  Not floats, whose statistics leave NaN out, and not text, whose
statistics may be cut: Polars itself decides about those, from the same footer."""

KeyOf = Callable[[str], FileAccess]
"""The key of a file of the table, by its path in the dataset."""


class TableScan:
    """What a query over one table reads, file by file; Polars calls it when it runs the query.  Not to be pickled or sent anywhere."""

    def __init__(self, folder: Path | RangedFolder, files: Sequence[TableFile], key_of: KeyOf, schema: Json) -> None:
        """``schema`` is the manifest's."""
        self._folder = folder
        self._files = tuple(files)
        self._key_of = key_of
        self._manifest_schema = schema
        self._columns = [(column["name"], column["type"]) for column in schema["columns"]]
        with self._open(self._files[0]) as file, file.image() as image, as_integrity(file.path):
            self.schema = pl.Schema(self._whole(file.scan(image), self._of_folders(file)).collect_schema())

    def frame(self, name: str) -> pl.LazyFrame:
        """The table as a lazy frame."""
        return register_io_source(self._batches, schema=self.schema, is_pure=True, explain_name=f"encrypted {name}")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a scan of encrypted files was about to be pickled", hint="send the query's result instead")

    def _open(self, entry: TableFile) -> PinnedFile:
        file = PinnedFile(self._folder, entry, self._key_of(entry.path))
        try:
            found = [(column["name"], column["type"]) for column in schema_json(storable(file.schema))["columns"]]
            elsewhere = path_values(entry.path).keys() - set(file.schema.names)
            if found != [column for column in self._columns if column[0] not in elsewhere]:
                raise DataError(f"a file has other columns than the manifest says: {entry.path}", path=entry.path)
        except BaseException:
            file.close()
            raise
        return file

    def _of_folders(self, file: PinnedFile) -> pl.DataFrame:
        """One row with the columns that are in the names of the file's folders and not in the file (``confide.data.partitions``)."""
        lacking = [name for name, _ in self._columns if name not in file.schema.names]
        return pl.DataFrame(with_folders(pa.table({"": [0]}), file.path, self._manifest_schema, lacking)).select(lacking)

    def _rows(self, file: PinnedFile, step: _Step, image: BinaryIO, folders: pl.DataFrame, wanted: _Wanted) -> pl.LazyFrame:
        """The rows of a step.  Where only columns of folders are asked for, the file's metadata has said how many there are."""
        if wanted.fetched and wanted.fetched.isdisjoint(file.schema.names):
            return folders.lazy().select(pl.all().gather(pl.zeros(step.rows, dtype=pl.UInt32, eager=True)))
        return self._whole(file.scan(image).slice(step.first, step.rows), folders)

    def _whole(self, frame: pl.LazyFrame, folders: pl.DataFrame) -> pl.LazyFrame:
        """``frame`` of a file with the columns of its folders, in the manifest's order."""
        if not folders.width:
            return frame
        values = [pl.lit(values[0], dtype=values.dtype).alias(values.name) for values in folders]
        return frame.with_columns(values).select(name for name, _ in self._columns)

    def _batches(
        self, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        """The rows that a query asks for (``register_io_source``): ``n_rows`` counts rows before the predicate."""
        wanted = _Wanted.of(with_columns, predicate, n_rows)
        with ThreadPoolExecutor(1, thread_name_prefix="confide-fetch") as ahead:
            for parts in _one_ahead(ahead, self._fetched(wanted)):
                try:
                    found = _collect(parts, wanted)
                finally:
                    for part in parts:
                        part.image.close()
                if any(self.schema[name] != kind for name, kind in found.schema.items()):
                    raise DataError(f"files of one table have other types: {parts[0].path}", path=parts[0].path)
                yield found

    def _fetched(self, wanted: _Wanted) -> Iterator[list[_Part]]:
        """What is read, a bounded number of bytes and rows at a time."""
        parts: list[_Part] = []
        size = rows = at = 0
        for entry in self._files:
            if wanted.limit is not None and at >= wanted.limit:
                break
            limit = None if wanted.limit is None else wanted.limit - at
            at += entry.rows
            with self._open(entry) as file:
                folders = self._of_folders(file)
                for step in _steps(file, folders, self.schema, wanted, limit):
                    if parts and (size + step.size > _BATCH_BYTES or rows + step.rows > _BATCH_ROWS):
                        yield parts
                        parts, size, rows = [], 0, 0
                    image = file.image(step.groups, wanted.fetched)
                    parts.append(_Part(file.path, image, self._rows(file, step, image, folders, wanted)))
                    size, rows = size + step.size, rows + step.rows
        if parts:
            yield parts


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a query asks a table for.  ``fetched``: columns that are to be had from storage, ``None`` for all."""

    columns: list[str] | None
    predicate: pl.Expr | None
    limit: int | None
    fetched: frozenset[str] | None

    @classmethod
    def of(cls, columns: list[str] | None, predicate: pl.Expr | None, limit: int | None) -> Self:
        asked = () if predicate is None else predicate.meta.root_names()
        return cls(columns, predicate, limit, None if columns is None else frozenset((*columns, *asked)))

    def of_frame(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The query on one frame of the table."""
        if self.predicate is not None:
            frame = frame.filter(self.predicate)
        return frame if self.columns is None else frame.select(self.columns)


@dataclass(frozen=True, slots=True)
class _Step:
    """Neighbouring row groups of a file: which, from which row of the file, how many rows and how many bytes of them."""

    groups: tuple[int, ...]
    first: int
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of one file that are at hand."""

    path: str
    image: BinaryIO
    frame: pl.LazyFrame


def _collect(parts: Sequence[_Part], wanted: _Wanted) -> pl.DataFrame:
    """Decrypt and read.

    Raises:
        IntegrityError: a file does not open.
    """
    try:
        return wanted.of_frame(pl.concat([part.frame for part in parts])).collect(engine="streaming")
    except PolarsError:
        for part in parts:  # which one?
            with as_integrity(part.path):
                wanted.of_frame(part.frame).collect(engine="streaming")
        raise


def _one_ahead(ahead: ThreadPoolExecutor, source: Iterator[list[_Part]]) -> Iterator[list[_Part]]:
    """``source``, whose next value is made while the last one is used."""
    coming: Future[list[_Part] | None] = ahead.submit(next, source, None)
    try:
        while (parts := coming.result()) is not None:
            coming = ahead.submit(next, source, None)
            yield parts
    finally:  # the query may end before the table
        if coming.exception() is None:
            for part in coming.result() or ():
                part.image.close()


def _steps(file: PinnedFile, folders: pl.DataFrame, schema: pl.Schema, wanted: _Wanted, limit: int | None) -> Iterator[_Step]:
    """Row groups that the query may find rows in, a bounded number of neighbours at a time."""
    skipped = frozenset[int]() if wanted.predicate is None else _skipped(file.metadata, folders, schema, wanted.predicate)
    groups: list[int] = []
    first = rows = size = at = 0
    for group in range(file.metadata.num_row_groups):
        if limit is not None and at >= limit:
            break
        count = file.metadata.row_group(group).num_rows
        count, end = (count if limit is None else min(count, limit - at)), at + count
        more = 0 if group in skipped else file.bytes_of(group, wanted.fetched)
        if groups and (group in skipped or size + more > _BATCH_BYTES or rows + count > _BATCH_ROWS):
            yield _Step(tuple(groups), first, rows, size)
            groups = []
        if group not in skipped:
            if not groups:
                first, rows, size = at, 0, 0
            groups, rows, size = [*groups, group], rows + count, size + more
        at = end
    if groups:
        yield _Step(tuple(groups), first, rows, size)


def _skipped(metadata: pq.FileMetaData, folders: pl.DataFrame, schema: pl.Schema, predicate: pl.Expr) -> frozenset[int]:
    """Row groups that hold no row for ``predicate``, by what their folders say and by statistics, which the authenticated footer holds."""
    asked = predicate.meta.root_names()
    names = [name for name in asked if name in folders.columns or schema[name].is_integer() or isinstance(schema[name], _PRUNED)]
    rule = predicate._skip_batch_predicate({name: schema[name] for name in asked}) if names else None
    if rule is None:
        return frozenset()
    place = {name: index for index, name in enumerate(leaves(metadata.schema.to_arrow_schema()))}
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    facts: dict[str, pl.Series] = {"len": pl.Series([group.num_rows for group in groups], dtype=pl.get_index_type())}
    for name in asked:
        for word, kind in (("min", schema[name]), ("max", schema[name]), ("nc", pl.get_index_type())):
            if name in folders.columns:
                value = folders[name][0]
                said = [(group.num_rows if value is None else 0) if word == "nc" else value for group in groups]
            else:
                said = [_said(group.column(place[name]).statistics if name in names else None, word) for group in groups]
            facts[f"{name}_{word}"] = pl.Series(said, dtype=kind, strict=False)
    verdict = pl.DataFrame(facts).select(rule.alias("skip"))["skip"]
    return frozenset(index for index, skip in enumerate(verdict) if skip is True)


def _said(statistics: pq.Statistics | None, word: str) -> Any:
    if statistics is None:
        return None
    if word == "nc":
        return statistics.null_count if statistics.has_null_count else None
    return getattr(statistics, word) if statistics.has_min_max else None
