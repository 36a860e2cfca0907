"""Text files of a dataset as a lazy frame of Polars: CSV, JSON Lines and lines, some records of a file in memory at a time.

Polars scans text of any length only where it can map or seek in files of its own.  Here a long file is given to its readers in pieces that
end where a record does, each with what stands before the first record of the file (header, rows to skip), so that all options of a reader
mean the same in each piece.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Final, Literal

from confide.data.io_source import answered
from confide.data.read_counts import Counts, Totals
from confide.errors import DataError, ExtraMissingError, UsageError

try:
    import polars as pl
    from polars.io.plugins import register_io_source
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

TextFormat = Literal["csv", "ndjson", "lines"]

PIECE_BYTES: Final = 32 * 1024 * 1024
"""A file that is longer is read by about as many bytes at a time."""
_SAMPLE_BYTES: Final = 1 << 20
"""From so much of the first file the columns are inferred, and from more if the rows that are asked for are not in it."""
_LONGEST_RECORD: Final = 8 * PIECE_BYTES
"""A quote that nothing ends makes one record of all that follows, of which a reader takes several times the memory."""
_INFERRED_ROWS: Final = 100
"""``infer_schema_length`` of Polars' readers, if nothing else is said."""
_READERS: Final[Mapping[str, Callable[..., pl.DataFrame]]] = {"csv": pl.read_csv, "ndjson": pl.read_ndjson, "lines": pl.read_lines}
_WHOLE_FILE: Final = frozenset({"skip_lines", "comment_prefix"})
"""Options that skip what may hold a single quote."""
_OF_ALL_FILES: Final = frozenset({"n_rows", "row_index_name", "row_index_offset"})
"""Options that count the rows of all files together."""
_REFUSED: Final = frozenset({"use_pyarrow", "include_file_paths"})
"""Options for another reader, and for files that have a path."""
_DIVIDING: Final = _WHOLE_FILE | {"has_header", "separator", "quote_char", "eol_char", "encoding", "skip_rows", "skip_rows_after_header"}
"""Options that decide how many rows a text has."""
_GZIP: Final = b"\x1f\x8b"
_OTHER_COMPRESSION: Final = (b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""How files of zstd (RFC 8878, 3.1.1) and zlib (RFC 1950, 2.2) begin, which Polars decompresses as a whole."""
_MARK: Final = b"\xef\xbb\xbf"
"""A byte order mark, which Polars takes from the beginning of CSV."""
_NO_TEXT: Final = (_GZIP, *_OTHER_COMPRESSION, _MARK)
"""What Polars takes for something else than text where a text begins with it: a file, and any piece of one."""


class TextScan:
    """The files ``paths`` as one frame; ``opened`` gives one of them, decrypted as it is read.

    Raises:
        UsageError: there is no reader for ``format``.
    """

    def __init__(
        self,
        paths: Sequence[str],
        opened: Callable[[str], AbstractContextManager[BinaryIO]],
        format: TextFormat,  # noqa: A002 - as Spark's
        options: Mapping[str, Any],
        totals: Totals,
    ) -> None:
        if format not in _READERS:
            raise UsageError(f"no reader for {format!r}", hint=f"formats: {', '.join(_READERS)}; or read the files with open()")
        if refused := sorted(option for option in _REFUSED if options.get(option)):
            raise UsageError(f"encrypted text is not read with the option {refused[0]}", hint="leave it out")
        self._paths, self._opened, self._reader, self._totals = paths, opened, _READERS[format], totals
        self._options = {option: value for option, value in options.items() if option not in _OF_ALL_FILES}
        self._n_rows: int | None = options.get("n_rows")
        self._index_name: str | None = options.get("row_index_name")
        self._index_offset: int = options.get("row_index_offset", 0)
        self._format = format
        self._eol = str(options.get("eol_char", "\n")).encode() if format == "csv" else b"\n"
        quote = options.get("quote_char", '"') if format == "csv" else None
        self._quote = str(quote).encode() if quote else None
        self._in_pieces = not _WHOLE_FILE & options.keys() and str(options.get("encoding", "utf8")).startswith("utf8")

    def frame(self, name: str) -> pl.LazyFrame:
        """The rows of all files; opens files until one has a row, for its columns.

        A query ends with a ``DataError`` where a file, or a part of it, has other columns: Polars would take them by their places.

        Raises:
            DataError: there is no such file, or it does not decompress, or the reader finds no columns in it.
        """
        sample = self._sample()
        if not sample:
            raise DataError(f"input {name!r} has no file, or only empty ones", name=name)
        schema = self._frame_of(sample, self._options).schema
        typed = self._typed(schema)

        def batches(columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _size: int | None) -> Iterator[pl.DataFrame]:
            def frames(counts: Counts) -> Iterator[pl.DataFrame]:
                for path in self._paths:
                    for frame in self._frames(path, typed, counts):
                        if frame.schema != schema:
                            hint = "name them all with the option schema, or read the files one by one with open()"
                            raise DataError(f"files of input {name!r} do not have the same columns throughout", hint=hint, path=path)
                        yield frame

            yield from answered(frames, self._totals, columns, predicate, n_rows)

        frame = register_io_source(batches, schema=schema, explain_name=f"encrypted {name}")
        frame = frame if self._n_rows is None else frame.head(self._n_rows)
        return frame if self._index_name is None else frame.with_row_index(self._index_name, self._index_offset)

    def _sample(self) -> bytes:
        """The beginning of the first file with a row, or else of the first that is not empty: as many rows as types are inferred from."""
        wanted = self._options.get("infer_schema_length", _INFERRED_ROWS)
        if self._options.get("schema"):
            wanted = 1
        without_rows = b""
        for path in self._paths:
            sample, looked = bytearray(), 0
            with self._opened(path) as file:
                for piece in self._pieces(file, path, _SAMPLE_BYTES):
                    if wanted is not None and len(sample) > 2 * looked:  # each look reads all of it again
                        looked = len(sample)
                        if self._rows(bytes(sample)) >= max(wanted, 1):
                            break
                    sample += piece
            if self._rows(bytes(sample)):
                return bytes(sample)
            without_rows = without_rows or bytes(sample)
        return without_rows

    def _typed(self, schema: pl.Schema) -> dict[str, Any]:
        """Options with which a reader finds ``schema`` in each piece.

        JSON Lines name the columns in each row, in any order, and not all of them; a header does once, and is compared.
        """
        typed = dict(self._options)
        if self._format == "csv":
            typed |= {"schema_overrides": dict(schema), "raise_if_empty": False}
        elif self._format == "ndjson":
            typed["schema"] = dict(schema)
        return typed

    def _frames(self, path: str, options: Mapping[str, Any], counts: Counts) -> Iterator[pl.DataFrame]:
        start, head, position = b"", None, 0
        has_rows = False
        with self._opened(path) as file:
            for piece in self._pieces(file, path, PIECE_BYTES):
                if has_rows:
                    head = self._before_rows(start) if head is None else head
                    frame = self._frame_of(head + piece, options) if head else self._inside(piece, options)
                else:
                    start += piece
                    frame = self._frame_of(start, options)
                    has_rows = frame.height > 0
                counts.rows_read += frame.height
                counts.bytes_read += file.tell() - position
                position = file.tell()
                if frame.height:
                    yield frame

    def _pieces(self, file: BinaryIO, path: str, size: int) -> Iterator[bytes]:
        start = file.read(4)
        file.seek(0)
        if not self._in_pieces or start.startswith(_OTHER_COMPRESSION):
            yield file.read()
        elif start.startswith(_GZIP):
            try:
                with gzip.GzipFile(fileobj=file) as plain:
                    yield from _records(plain, path, size, self._eol, self._quote)
            except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
                raise DataError("a file is compressed with gzip and does not decompress", path=path, why=str(cause)) from cause
        else:
            yield from _records(file, path, size, self._eol, self._quote)

    def _before_rows(self, piece: bytes) -> bytes:
        """What stands before the first row of a file that begins with ``piece``: the longest of its beginnings that has no row."""
        ends = [0]
        has_row = False
        while not has_row and (end := _record_end(piece, ends[-1], self._eol, self._quote)):
            ends.append(end)
            has_row = len(ends) & (len(ends) - 1) == 0 and self._rows(piece[:end]) > 0
        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (low, middle - 1) if self._rows(piece[: ends[middle]]) else (middle, high)
        return piece[: ends[low]]

    def _rows(self, piece: bytes) -> int:
        """How many rows it has, of whatever types and columns."""
        if self._format != "csv":
            return sum(self._format == "lines" or bool(line.strip()) for line in piece.splitlines())
        dividing = {option: value for option, value in self._options.items() if option in _DIVIDING}
        return self._frame_of(piece, {**dividing, "infer_schema": False, "truncate_ragged_lines": True, "raise_if_empty": False}).height

    def _inside(self, piece: bytes, options: Mapping[str, Any]) -> pl.DataFrame:
        """What the reader finds in a piece of which all is text, whatever it begins with."""
        if piece.startswith(_NO_TEXT):
            if self._format == "csv":
                return self._frame_of(_MARK + piece, options)
            if self._format == "lines":
                return self._frame_of(b"\n" + piece, options).slice(1)
        return self._frame_of(piece, options)

    def _frame_of(self, piece: bytes, options: Mapping[str, Any]) -> pl.DataFrame:
        """What the reader finds.  Its errors quote values, even all that follows a quote: uncaught, they would be in a log on the host."""
        try:
            return self._reader(piece, **options)
        except pl.exceptions.PolarsError as error:
            what = f"text of an input cannot be read with these options: {type(error).__name__}"
            raise DataError(what, hint="Polars' own words may hold values of rows: catch this error, and see its __context__") from None


def _records(file: BinaryIO | gzip.GzipFile, path: str, size: int, eol: bytes, quote: bytes | None) -> Iterator[bytes]:
    """The bytes of a file, whole records at a time: at most ``size``, unless one record is longer.

    Raises:
        DataError: a record is longer than any that is read.
    """
    held = bytearray()
    looked = quotes = 0
    full = size
    while block := file.read(full - len(held)):
        held += block
        if len(held) < full:
            continue
        quotes += held.count(quote, looked) if quote else 0
        if end := _last_end(held, looked, eol, quote, quotes):
            records = bytes(memoryview(held)[:end])
            del held[:end]  # and with them an even number of quotes
            yield records
        elif full > _LONGEST_RECORD:
            hint = "perhaps nothing ends a quote; with quote_char=None quotes are characters" if quote else None
            raise DataError(f"a record is longer than {_LONGEST_RECORD:,} bytes", hint=hint, path=path)
        looked = len(held)
        full = size if looked < size else looked + size
    if held:
        yield bytes(held)


def _last_end(held: bytearray, start: int, eol: bytes, quote: bytes | None, quotes: int) -> int:
    """Where the last record ends that ends after ``start``, or 0; there are so many ``quotes`` in all.

    An end of line ends a record if the quotes before it are even in number: one inside a quoted value is between two, and a quote in a
    value is written as two of them (RFC 4180, section 2).  Polars splits its work in the same way.
    """
    end = len(held)
    while (found := held.rfind(eol, start, end)) >= 0:
        quotes -= held.count(quote, found, end) if quote else 0
        if quotes % 2 == 0:
            return found + len(eol)
        end = found
    return 0


def _record_end(piece: bytes, start: int, eol: bytes, quote: bytes | None) -> int:
    """Where the record that begins at ``start`` ends, or 0 if that is not in ``piece``."""
    end, quotes = start, 0
    while (found := piece.find(eol, end)) >= 0:
        quotes += piece.count(quote, end, found) if quote else 0
        end = found + len(eol)
        if quotes % 2 == 0:
            return end
    return 0
