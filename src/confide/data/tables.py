"""Reads tables of several file formats a batch of rows at a time.  What a batch takes of memory is bounded, whatever the files' size.

Which columns there are comes from the files themselves (CSV and JSON Lines: from all of their rows, ``confide.data.column_types``), or
from whoever gives them.  Messages name files, columns and rows, and quote no value.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final, Literal, get_args

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
from pyarrow import csv

from confide.data.schema import INT96_UNIT
from confide.data.sources import Source
from confide.errors import DataError, PlaintextError

Format = Literal["csv", "jsonl", "orc", "parquet"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SUFFIXES: Final[dict[str, Format]] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".orc": "orc", ".parquet": "parquet"}
BLOCK: Final = 1 << 20
"""Bytes of text that are parsed at one time: no row of CSV or JSON Lines may be longer."""
BATCH_BYTES: Final = 4 << 20
"""About how large a batch may be in memory."""
_MAX_ROWS: Final = 65_536
_COLUMN_BUFFER: Final = 64 << 10  # Parquet: a column's pages are read in pieces of this size, not as a whole
_IN_CSV: Final = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to ([^:]+)")
_ROW_LENGTH: Final = re.compile(r"(Row #\d+: )?Expected \d+ columns, got \d+")

Told = Callable[[int], None]
"""Is told how many bytes of the sources were read since it was told last."""


@dataclass(frozen=True, slots=True)
class TableInput:
    """Files that make up one table, in the order of their rows.

    ``columns`` are what the table is to have; without them they come from the files.
    """

    sources: tuple[Source, ...]
    format: Format
    columns: pa.Schema | None = None

    @property
    def size(self) -> int | None:
        """Bytes of all files, if they are known."""
        sizes = [source.size for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def batches(self, told: Told, *, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """All rows but the first ``skip``, with the input's columns, in order.  ``columns`` must be known.

        Raises:
            DataError: a file is not what its format says, or does not fit the columns.
        """
        schema = self.columns
        assert schema is not None  # noqa: S101 -- a mistake of the caller, not of a file
        for source in self.sources:
            with reading(source), source.open() as opened:
                file = CountingFile(opened, told)
                for batch in _BATCHES[self.format](file, schema, skip):
                    skip -= file.take_passed()
                    if not _same_names(batch.schema, schema):
                        raise unlike_columns(source, schema, batch.schema)
                    if batch.num_rows > skip:
                        rest = batch.slice(skip)
                        yield rest if rest.schema.equals(schema) else rest.cast(schema)
                    skip = max(0, skip - batch.num_rows)
                skip -= file.take_passed()


def format_of(name: str) -> Format | None:
    """Which format a file's name says it has."""
    return SUFFIXES.get(PurePosixPath(name).suffix)


def first_names(table: TableInput) -> tuple[str, ...] | None:
    """The columns' names as the first file's header has them; ``None`` if there is no header, or it cannot be read twice.

    Raises:
        DataError: the file cannot be read.
    """
    source = table.sources[0]
    if table.format != "csv" or source.once:
        return None
    with reading(source), source.open() as file:
        return tuple(open_csv(CountingFile(file, lambda _: None), None).schema.names)


def unlike_columns(source: Source, expected: pa.Schema, found: pa.Schema) -> DataError:
    """The error that a file has other columns than the rest of the table."""
    names = [field.name for field in expected if field not in list(found)] + [field.name for field in found if field not in list(expected)]
    told = ", ".join(dict.fromkeys(names[:20])) or "their order"
    hint = "name the columns with --schema, or encrypt the files as two datasets"
    return DataError(f"{source.name} has other columns than the table: {told}", hint=hint, path=source.name)


def _same_names(one: pa.Schema, other: pa.Schema) -> bool:
    return list(one.names) == list(other.names)


class CountingFile(io.RawIOBase):
    """A file that tells how much of it was read.  Closing it closes the file."""

    def __init__(self, file: BinaryIO, told: Told) -> None:
        super().__init__()
        self._file, self._told = file, told
        self._passed = 0

    def pass_rows(self, rows: int) -> None:
        """Say that rows were left out without being read."""
        self._passed += rows

    def take_passed(self) -> int:
        """How many rows were left out since this was asked last."""
        passed, self._passed = self._passed, 0
        return passed

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """As the file is."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As the file does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As the file does."""
        return self._file.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        """As the file does."""
        data = self._file.read(-1 if size is None else size)
        self._told(len(data))
        return data

    def close(self) -> None:
        """Close the file, too."""
        self._file.close()
        super().close()


@contextlib.contextmanager
def reading(source: Source) -> Iterator[None]:
    """Turns what Arrow and the system say of a file into an error that names it and quotes nothing that it holds."""
    try:
        yield
    except (OSError, pa.ArrowException) as cause:
        raise DataError(f"cannot read {source.name}: {_reason(cause)}", hint=_hint(str(cause)), path=source.name) from cause


_PHRASES: Final = {
    "Empty CSV file": "it is empty",
    "straddling object straddles two block boundaries": f"a row is longer than {BLOCK >> 20} MiB",
    "invalid UTF8": "a text is not UTF-8",
    "changed from": "a field has values of two kinds",
    "JSON parse error": "a line is not a JSON object, or not one of the columns' types",
    "would lose data": "a value does not fit its column's type",
    "not in range": "a value does not fit its column's type",
    "magic bytes not found": "it is not a Parquet file",
    "not an ORC file": "it is not an ORC file",
}
"""Of Arrow's texts, and what is told instead: they quote values."""


def _reason(cause: Exception) -> str:
    """Why, without a value from the file."""
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    text = str(cause)
    if found := _IN_CSV.search(text):
        return f"a value in column {int(found[1]) + 1} is not of the type {found[2]}"
    if found := _ROW_LENGTH.search(text):
        return found[0]
    return next((told for phrase, told in _PHRASES.items() if phrase in text), "it does not have the form of its format")


def _hint(text: str) -> str | None:
    if "CSV column" in text or "would lose data" in text or "not in range" in text:
        return "give the columns' types with --schema"
    return "with --format files it becomes an encrypted container as it is" if "arse error" in text or "magic bytes" in text else None


# --- the formats: a file's schema, and its batches ---------------------------------------------------------------


def open_csv(file: BinaryIO | io.RawIOBase, columns: pa.Schema | None) -> csv.CSVStreamingReader:
    """A reader of CSV with these types, or such that the first block has.  Values may hold ends of lines, in quotes."""
    types = None if columns is None else {field.name: field.type for field in columns}
    return csv.open_csv(
        pa.PythonFile(file, mode="r"),
        read_options=csv.ReadOptions(block_size=BLOCK, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=types),
    )


def _csv_batches(file: CountingFile, columns: pa.Schema, _skip: int) -> Iterator[pa.RecordBatch]:
    yield from open_csv(file, columns)


def jsonl_blocks(file: BinaryIO | io.RawIOBase) -> Iterator[bytes]:
    """JSON Lines in pieces of whole lines: an end of a line is never within a value (RFC 8259 has it escaped)."""
    rest = b""
    while data := file.read(BLOCK):
        end = data.rfind(b"\n") + 1
        if end:
            yield rest + data[:end]
            rest = data[end:]
        else:
            rest += data
        if len(rest) > BLOCK:
            raise pa.ArrowInvalid("straddling object straddles two block boundaries")
    if rest.strip():
        yield rest


def read_jsonl(block: bytes, columns: pa.Schema | None) -> pa.Table:
    """The rows of one of :func:`jsonl_blocks`, with these columns and no others."""
    options = pj.ParseOptions(explicit_schema=columns, unexpected_field_behavior="error" if columns is not None else "infer")
    return pj.read_json(pa.BufferReader(block), pj.ReadOptions(use_threads=False, block_size=len(block) + 1), options)


def _jsonl_batches(file: CountingFile, columns: pa.Schema, _skip: int) -> Iterator[pa.RecordBatch]:
    for block in jsonl_blocks(file):
        if block.strip():
            yield from read_jsonl(block, columns).select(columns.names).to_batches()


def open_plain_parquet(file: BinaryIO | io.RawIOBase) -> pq.ParquetFile:
    """A Parquet file whose columns are read in small pieces.

    Raises:
        PlaintextError: it is encrypted already.
    """
    file.seek(0)
    if (file.read(4) or b"") == b"PARE":
        raise PlaintextError("this Parquet file is encrypted already, and not under a key that is known here", hint="decrypt it first")
    file.seek(0)
    opened = pa.PythonFile(file, mode="r")
    return pq.ParquetFile(opened, buffer_size=_COLUMN_BUFFER, pre_buffer=False, coerce_int96_timestamp_unit=INT96_UNIT)


def rows_at_once(file: pq.ParquetFile, group: int) -> int:
    """How many rows of a row group make a batch of a size that is bounded."""
    metadata = file.metadata.row_group(group)
    width = max(1, metadata.total_byte_size // max(1, metadata.num_rows))
    return max(1, min(_MAX_ROWS, int(BATCH_BYTES // width)))


def _parquet_schema(file: BinaryIO) -> pa.Schema:
    schema: pa.Schema = open_plain_parquet(file).schema_arrow
    return schema.remove_metadata()


def _parquet_batches(file: CountingFile, _columns: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
    parquet = open_plain_parquet(file)
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if rows <= skip:
            file.pass_rows(rows)
            skip -= rows
            continue
        skip = 0
        for batch in parquet.iter_batches(rows_at_once(parquet, group), row_groups=[group], use_threads=False):
            yield batch.replace_schema_metadata()


def _orc_fragment(file: BinaryIO | io.RawIOBase) -> Any:
    from pyarrow.dataset import OrcFileFormat  # noqa: PLC0415 -- 50 MB of memory that no other format needs

    return OrcFileFormat().make_fragment(pa.PythonFile(file, mode="r"))


def _orc_schema(file: BinaryIO) -> pa.Schema:
    schema: pa.Schema = _orc_fragment(file).physical_schema
    return schema.remove_metadata()


def _orc_batches(file: CountingFile, _columns: pa.Schema, _skip: int) -> Iterator[pa.RecordBatch]:
    batches = _orc_fragment(file).to_batches(batch_size=8192, batch_readahead=0, fragment_readahead=0, use_threads=False)
    for batch in batches:
        if batch.num_rows:
            yield batch.replace_schema_metadata()


SCHEMAS: Final[dict[Format, Callable[[BinaryIO], pa.Schema]]] = {"orc": _orc_schema, "parquet": _parquet_schema}
"""Formats whose files say what types their columns have, and how they do."""
_BATCHES: Final[dict[Format, Callable[[CountingFile, pa.Schema, int], Iterator[pa.RecordBatch]]]] = {
    "csv": _csv_batches,
    "jsonl": _jsonl_batches,
    "orc": _orc_batches,
    "parquet": _parquet_batches,
}
