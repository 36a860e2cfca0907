"""Polars scans of encrypted Parquet files: Polars decrypts natively, and only bytes that this module has pinned.

Polars takes a file without encryption for an answer even where it was given a key (``scan_parquet``, ``decryption``), and storage can show
another file each time that it is asked.  So a file's footer is read once, must be an encrypted one (``PARE``) and must open under the key
and the AAD prefix of the file; Polars then reads an image of the file in memory: that very footer, and the column chunks that a query needs
at their places.  What is not needed is never fetched.  Images hold ciphertext.

Keys come from the caller, one a file, when a query comes to the file.  Nothing here writes to disk.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from confide.data.folder import PARQUET_MAGIC
from confide.data.schema import schema_json, storable
from confide.errors import DataError, ExtraMissingError, IntegrityError, PlaintextError, SecretLeakError
from confide.regular_file import open_regular

try:
    import polars as pl
    from polars.exceptions import PolarsError
    from polars.io.plugins import register_io_source
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

if TYPE_CHECKING:
    from types import TracebackType

    from confide.canonical import Json
    from confide.crypto.secret import SecretBytes

_TAIL_BYTES: Final = 8
"""Length of the footer, then the magic (Parquet's "File format")."""
_AES_GCM_V1: Final = b"\x1c\x1c"
"""How ``FileCryptoMetaData`` begins: ``encryption_algorithm`` (field 1), of it ``AES_GCM_V1`` (field 1), in Thrift's compact protocol.

Nothing authenticates this one choice (Parquet Modular Encryption, "Encrypted footer"), and under ``AES_GCM_CTR_V1`` readers would take
pages without tags: a file that says so is not one of ours.
"""
_BATCH_BYTES: Final = 64 * 1024 * 1024
"""What is fetched for one step of a scan, before it was compressed; a row group that is larger is one step."""
_BATCH_ROWS: Final = 1 << 19
_PRUNED: Final = (pl.Boolean, pl.Date, pl.Datetime, pl.Decimal)
"""Types whose statistics decide here what is not fetched, beside integers.  Not floats, whose statistics leave NaN out, and not text, whose
statistics may be cut: Polars itself decides about those, from the same footer."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table, as the verified manifest has it."""

    path: str
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class FileAccess:
    """What opens one Parquet file."""

    key: SecretBytes
    aad_prefix: bytes


KeyOf = Callable[[str], FileAccess]
"""The key of a file of the table, by its path in the dataset."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A row group's part of one column: where it lies in the file, and how long it is without compression."""

    start: int
    length: int
    unpacked: int


class PinnedFile:
    """An encrypted Parquet file whose footer was read once and opened.  A context manager that forgets the key."""

    def __init__(self, folder: Path, entry: TableFile, access: FileAccess) -> None:
        """Open it.

        Raises:
            PlaintextError: its footer is not encrypted.
            IntegrityError: it is missing, has another length or number of rows than the manifest says, or does not open.
        """
        self.path = entry.path
        self._size = entry.size
        self._access = access
        try:
            self._file = open_regular(folder / entry.path)
        except OSError as cause:
            raise IntegrityError(f"a file of the dataset is missing: {entry.path}", path=entry.path) from cause
        try:
            self._tail = self._read_tail()
            self.metadata = self._open_footer()
            self.schema: pa.Schema = self.metadata.schema.to_arrow_schema()
        except BaseException:
            self._file.close()
            raise
        if self.metadata.num_rows != entry.rows:
            self.close()
            raise IntegrityError(f"a file has another number of rows than the manifest says: {entry.path}", path=entry.path)
        self._leaves = _leaves(self.schema)

    def scan(self, image: BinaryIO) -> pl.LazyFrame:
        """Polars' own scan of an image of this file."""
        properties = pl.ParquetDecryptionProperties(footer_key=self._access.key.reveal(), aad_prefix=self._access.aad_prefix)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parameter may change: the tests would say so
            return pl.scan_parquet(image, decryption=properties, glob=False, hive_partitioning=False)

    def image(self, groups: Sequence[int] = (), columns: frozenset[str] | None = None) -> BinaryIO:
        """The file in memory: footer, and the chunks of these row groups and columns, each at its place; the rest is a hole.

        Raises:
            IntegrityError: the file was cut meanwhile.
        """
        image = os.fdopen(os.memfd_create("confide-parquet"), "w+b", buffering=0)
        image.truncate(self._size)
        image.write(PARQUET_MAGIC)
        image.seek(self._size - len(self._tail))
        image.write(self._tail)
        for chunk in self._chunks(groups, columns):
            self._copy(chunk, image)
        image.seek(0)
        return image

    def bytes_of(self, group: int, columns: frozenset[str] | None) -> int:
        """How long these columns of a row group are without compression."""
        return sum(max(chunk.length, chunk.unpacked) for chunk in self._chunks([group], columns))

    def close(self) -> None:
        """Close the file and forget its key."""
        self._file.close()
        self._access.key.wipe()

    def _read_tail(self) -> bytes:
        found = os.fstat(self._file.fileno()).st_size
        if found != self._size:
            message = f"a file has another length than its manifest says: {self.path}"
            raise IntegrityError(message, path=self.path, expected=self._size, got=found)
        end = self._fetch(max(0, self._size - _TAIL_BYTES), min(self._size, _TAIL_BYTES))
        if end[4:] != PARQUET_MAGIC:
            raise PlaintextError(f"not an encrypted Parquet file: {self.path}", path=self.path)
        length = int.from_bytes(end[:4], "little")
        if length > self._size - _TAIL_BYTES - len(PARQUET_MAGIC):
            raise _does_not_open(self.path)
        footer = self._fetch(self._size - _TAIL_BYTES - length, length)
        if not footer.startswith(_AES_GCM_V1):
            raise _does_not_open(self.path)
        return footer + end

    def _open_footer(self) -> pq.FileMetaData:
        properties: Any = encryption.create_decryption_properties(self._access.key.reveal(), aad_prefix=self._access.aad_prefix)
        with self.image() as image, as_integrity(self.path), pq.ParquetFile(image, decryption_properties=properties) as file:
            return file.metadata

    def _chunks(self, groups: Sequence[int], columns: frozenset[str] | None) -> Iterator[_Chunk]:
        for group in groups:
            wanted = [index for index, name in enumerate(self._leaves) if columns is None or name in columns]
            described = self.metadata.row_group(group)
            for index in wanted:
                column = described.column(index)
                first = column.dictionary_page_offset if column.has_dictionary_page else None
                start = min(first or column.data_page_offset, column.data_page_offset)
                yield _Chunk(start, column.total_compressed_size, column.total_uncompressed_size)

    def _copy(self, chunk: _Chunk, image: BinaryIO) -> None:
        image.seek(chunk.start)
        at, end = chunk.start, chunk.start + chunk.length
        while at < end:
            sent = os.sendfile(image.fileno(), self._file.fileno(), at, end - at)
            if sent == 0:
                raise IntegrityError(f"a file was cut while it was read: {self.path}", path=self.path)
            at += sent

    def _fetch(self, offset: int, length: int) -> bytes:
        data = os.pread(self._file.fileno(), length, offset)
        if len(data) != length:
            raise IntegrityError(f"a file was cut while it was read: {self.path}", path=self.path)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class TableScan:
    """What a query over one table reads, file by file; Polars calls it when it runs the query.  Not to be pickled or sent anywhere."""

    def __init__(self, folder: Path, files: Sequence[TableFile], key_of: KeyOf, columns: Sequence[Json]) -> None:
        """``columns`` are the manifest's."""
        self._folder = folder
        self._files = tuple(files)
        self._key_of = key_of
        self._columns = [(column["name"], column["type"]) for column in columns]
        with self._open(self._files[0]) as file, file.image() as image, as_integrity(file.path):
            self.schema = pl.Schema(file.scan(image).collect_schema())

    def frame(self, name: str) -> pl.LazyFrame:
        """The table as a lazy frame."""
        return register_io_source(self._batches, schema=self.schema, is_pure=True, explain_name=f"encrypted {name}")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a scan of encrypted files was about to be pickled", hint="send the query's result instead")

    def _open(self, entry: TableFile) -> PinnedFile:
        file = PinnedFile(self._folder, entry, self._key_of(entry.path))
        try:
            found = schema_json(storable(file.schema))["columns"]
            if [(column["name"], column["type"]) for column in found] != self._columns:
                raise DataError(f"a file has other columns than the manifest says: {entry.path}", path=entry.path)
        except BaseException:
            file.close()
            raise
        return file

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
                for step in _steps(file, self.schema, wanted, limit):
                    if parts and (size + step.size > _BATCH_BYTES or rows + step.rows > _BATCH_ROWS):
                        yield parts
                        parts, size, rows = [], 0, 0
                    image = file.image(step.groups, wanted.fetched)
                    parts.append(_Part(file.path, image, file.scan(image).slice(step.first, step.rows)))
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


def _steps(file: PinnedFile, schema: pl.Schema, wanted: _Wanted, limit: int | None) -> Iterator[_Step]:
    """Row groups that the query may find rows in, a bounded number of neighbours at a time."""
    skipped = frozenset[int]() if wanted.predicate is None else _skipped(file.metadata, schema, wanted.predicate)
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


def _skipped(metadata: pq.FileMetaData, schema: pl.Schema, predicate: pl.Expr) -> frozenset[int]:
    """Row groups that hold no row for ``predicate``, by their statistics, which are part of the authenticated footer."""
    names = [name for name in predicate.meta.root_names() if schema[name].is_integer() or isinstance(schema[name], _PRUNED)]
    rule = predicate._skip_batch_predicate({name: schema[name] for name in predicate.meta.root_names()}) if names else None
    if rule is None:
        return frozenset()
    place = {name: index for index, name in enumerate(_leaves(metadata.schema.to_arrow_schema()))}
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    facts: dict[str, pl.Series] = {"len": pl.Series([group.num_rows for group in groups], dtype=pl.get_index_type())}
    for name in predicate.meta.root_names():
        said = [group.column(place[name]).statistics if name in names else None for group in groups]
        for word, kind in (("min", schema[name]), ("max", schema[name]), ("nc", pl.get_index_type())):
            facts[f"{name}_{word}"] = pl.Series([_said(one, word) for one in said], dtype=kind, strict=False)
    verdict = pl.DataFrame(facts).select(rule.alias("skip"))["skip"]
    return frozenset(index for index, skip in enumerate(verdict) if skip is True)


def _said(statistics: pq.Statistics | None, word: str) -> Any:
    if statistics is None:
        return None
    if word == "nc":
        return statistics.null_count if statistics.has_null_count else None
    return getattr(statistics, word) if statistics.has_min_max else None


def _leaves(schema: pa.Schema) -> list[str]:
    """For each leaf column of a file, in order, the name of the column that it is a part of."""
    return [field.name for field in schema for _ in range(_leaf_count(field.type))]


def _leaf_count(kind: pa.DataType) -> int:
    if pa.types.is_dictionary(kind) or not pa.types.is_nested(kind):
        return 1
    return sum(_leaf_count(kind.field(index).type) for index in range(kind.num_fields))


@contextmanager
def as_integrity(path: str) -> Iterator[None]:
    """What Polars and Arrow say of bytes that do not open, in our words: theirs may describe bytes that nobody vouches for."""
    try:
        yield
    except (OSError, pa.ArrowException, PolarsError, ValueError) as cause:
        raise _does_not_open(path) from cause


def _does_not_open(path: str) -> IntegrityError:
    return IntegrityError(f"an encrypted file does not open: {path}", hint="it was changed, swapped or renamed", path=path)
