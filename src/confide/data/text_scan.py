"""Text files of a dataset as a lazy frame of Polars: CSV and JSON Lines, some records of a file in memory at a time.

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

PIECE_BYTES: Final = 32 * 1024 * 1024
"""A file that is longer is read by about as many bytes at a time."""
_SAMPLE_BYTES: Final = 1 << 20
"""From so much of the first file the columns are inferred."""
_READERS: Final[Mapping[str, Callable[..., pl.DataFrame]]] = {"csv": pl.read_csv, "ndjson": pl.read_ndjson}
_WHOLE_FILE: Final = frozenset({"n_rows", "row_index_name", "skip_lines", "comment_prefix"})
"""Options that count the rows of a file, or that skip what may hold a single quote."""
_GZIP: Final = b"\x1f\x8b"
_OTHER_COMPRESSION: Final = (b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
"""How files of zstd (RFC 8878, 3.1.1) and zlib (RFC 1950, 2.2) begin, which Polars decompresses as a whole."""


class TextScan:
    """The files ``paths`` as one frame; ``opened`` gives one of them, decrypted as it is read.

    Raises:
        UsageError: there is no reader for ``format``.
    """

    def __init__(
        self,
        paths: Sequence[str],
        opened: Callable[[str], AbstractContextManager[BinaryIO]],
        format: Literal["csv", "ndjson"],  # noqa: A002 - as Spark's
        options: Mapping[str, Any],
        totals: Totals,
    ) -> None:
        if format not in _READERS:
            raise UsageError(f"no reader for {format!r}", hint=f"formats: {', '.join(_READERS)}; or read the files with open()")
        self._paths, self._opened, self._reader, self._totals = paths, opened, _READERS[format], totals
        self._options = dict(options)
        is_csv = format == "csv"
        self._may_be_empty: dict[str, Any] = {"raise_if_empty": False} if is_csv else {}
        self._eol = str(options.get("eol_char", "\n")).encode() if is_csv else b"\n"
        quote = options.get("quote_char", '"') if is_csv else None
        self._quote = str(quote).encode() if quote else None
        self._in_pieces = not _WHOLE_FILE & options.keys() and str(options.get("encoding", "utf8")).startswith("utf8")

    def frame(self, name: str) -> pl.LazyFrame:
        """The rows of all files; opens the first, for its columns.

        Raises:
            DataError: there is no file, or the first is compressed and does not decompress.
        """
        if not self._paths:
            raise DataError(f"input {name!r} has no file", name=name)
        with self._opened(self._paths[0]) as file:
            sample = next(self._pieces(file, _SAMPLE_BYTES), b"")
        schema = self._reader(sample, **self._options).schema
        typed = {**self._options, **self._may_be_empty, "schema_overrides": dict(schema)}

        def batches(columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _size: int | None) -> Iterator[pl.DataFrame]:
            def frames(counts: Counts) -> Iterator[pl.DataFrame]:
                for path in self._paths:
                    yield from self._frames(path, typed, counts)

            yield from answered(frames, self._totals, columns, predicate, n_rows)

        return register_io_source(batches, schema=schema, explain_name=f"encrypted {name}")

    def _frames(self, path: str, options: Mapping[str, Any], counts: Counts) -> Iterator[pl.DataFrame]:
        start, head, position = b"", None, 0
        has_rows = False
        with self._opened(path) as file:
            for piece in self._pieces(file, PIECE_BYTES):
                if has_rows:
                    head = self._before_rows(start) if head is None else head
                    frame = self._reader(head + piece, **options)
                else:
                    start += piece
                    frame = self._reader(start, **options)
                    has_rows = frame.height > 0
                counts.rows_read += frame.height
                counts.bytes_read += file.tell() - position
                position = file.tell()
                if frame.height:
                    yield frame

    def _pieces(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        start = file.read(4)
        file.seek(0)
        if not self._in_pieces or start.startswith(_OTHER_COMPRESSION):
            yield file.read()
        elif start.startswith(_GZIP):
            try:
                with gzip.GzipFile(fileobj=file) as plain:
                    yield from _records(plain, size, self._eol, self._quote)
            except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
                raise DataError("a file is compressed with gzip and does not decompress", why=str(cause)) from cause
        else:
            yield from _records(file, size, self._eol, self._quote)

    def _before_rows(self, piece: bytes) -> bytes:
        """What stands before the first row of a file that begins with ``piece``: the longest of its beginnings that has no row."""
        ends = [0]
        has_row = False
        while not has_row and (end := _record_end(piece, ends[-1], self._eol, self._quote)):
            ends.append(end)
            has_row = len(ends) & (len(ends) - 1) == 0 and self._has_row(piece[:end])
        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (low, middle - 1) if self._has_row(piece[: ends[middle]]) else (middle, high)
        return piece[: ends[low]]

    def _has_row(self, piece: bytes) -> bool:
        try:
            return bool(self._reader(piece, **{**self._options, **self._may_be_empty}).height)
        except pl.exceptions.PolarsError:  # columns are asked for before their header was there
            return False


def _records(file: BinaryIO | gzip.GzipFile, size: int, eol: bytes, quote: bytes | None) -> Iterator[bytes]:
    """The bytes of a file, whole records at a time: at most ``size``, unless one record is longer."""
    held = bytearray()
    while True:
        wanted = size - len(held) if len(held) < size else size
        block = file.read(wanted)
        held += block
        if len(block) < wanted:
            break
        if end := _last_end(held, eol, quote):
            records = bytes(memoryview(held)[:end])
            del held[:end]
            yield records
    if held:
        yield bytes(held)


def _last_end(held: bytearray, eol: bytes, quote: bytes | None) -> int:
    """Where the last record ends whose end is there, or 0.

    An end of line ends a record if the quotes before it are even in number: one inside a quoted value is between two, and a quote in a
    value is written as two of them (RFC 4180, section 2).  Polars splits its work in the same way.
    """
    end = len(held)
    quotes = held.count(quote) if quote else 0
    while (found := held.rfind(eol, 0, end)) >= 0:
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
