"""Polars' lazy frames over encrypted tables: what a query does not need is neither fetched nor decrypted.

Files are pinned before Polars reads them, and opened here (``confide.data.pinned_parquet``).  Keys come from the caller, one a file, when a
query comes to the file.  Nothing here writes to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import pyarrow as pa

from confide.data.parquet_footer import Column, Layout
from confide.data.parquet_image import Buffers, Image, arrow_schema
from confide.data.partitions import path_values, with_folders
from confide.data.pinned_parquet import Fetched, FileAccess, PinnedFile, PinnedFooter, TableFile, as_integrity
from confide.data.places import RangedFolder
from confide.data.read_counts import Counts, Totals
from confide.data.row_groups import Described, Pruning
from confide.data.schema import schema_json, storable
from confide.errors import DataError, ExtraMissingError, SecretLeakError

try:
    import polars as pl
    from polars.io.plugins import register_io_source
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

if TYPE_CHECKING:
    from confide.canonical import Json

_BATCH_BYTES: Final = 64 * 1024 * 1024
"""What is fetched for one step of a scan, before it was compressed; a row group that is larger is one step."""
_FIRST_ROWS: Final = 1 << 18
_MOST_ROWS: Final = 1 << 20
"""Rows of a scan's first step, and of one whose predicate leaves few of them."""
_FRAME_BYTES: Final = 20 * 1024 * 1024
"""What a step should give the query, in memory: a larger frame has left the processor's caches when the query looks at it."""
_FOOTERS: Final = 4096
"""Of so many files the footers are kept from one query to the next, some kilobytes each; those of others are read again."""
_NO_FOLDERS: Final = pl.DataFrame()

KeyOf = Callable[[str], FileAccess]
"""The key of a file of the table, by its path in the dataset."""


class TableScan:
    """What a query over one table reads, file by file; Polars calls it when it runs the query.  Not to be pickled or sent anywhere."""

    def __init__(
        self, folder: Path | RangedFolder, files: Sequence[TableFile], key_of: KeyOf, schema: Json, *, totals: Totals | None = None
    ) -> None:
        """``schema`` is the manifest's.  What queries read is added to ``totals``."""
        self._folder = folder
        self._files = tuple(files)
        self._key_of = key_of
        self._manifest_schema = schema
        self._totals = totals or Totals()
        self._columns = [(column["name"], column["type"]) for column in schema["columns"]]
        self._in_folders = frozenset(name for entry in self._files for name in path_values(entry.path))
        self._footers: dict[str, PinnedFooter] = {}
        self._folder_rows: dict[tuple[str, tuple[str, ...]], pl.DataFrame] = {}
        self._layouts: dict[tuple[Layout, frozenset[str]], Layout] = {}
        first = self._files[0]
        with self._open(first) as file:
            layout = file.pinned.footer.layout
            with as_integrity(first.path):
                part = _Part(first.path, layout, self._of_folders(first.path, layout), Image(layout, layout.columns, Buffers()))
                found = part.frame().collect_schema()
        self.schema = pl.Schema({name: found[name] for name, _ in self._columns})

    def frame(self, name: str) -> pl.LazyFrame:
        """The table as a lazy frame."""
        return register_io_source(self._batches, schema=self.schema, is_pure=True, explain_name=f"encrypted {name}")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a scan of encrypted files was about to be pickled", hint="send the query's result instead")

    def _open(self, entry: TableFile) -> PinnedFile:
        known = self._footers.get(entry.path)
        file = PinnedFile(self._folder, entry, self._key_of(entry.path), known)
        if known is None:
            try:
                file.pinned = file.pinned.sharing(self._checked(file.pinned.footer.layout, entry.path))
            except BaseException:
                file.close()
                raise
            if len(self._footers) < _FOOTERS:
                self._footers[entry.path] = file.pinned
        return file

    def _checked(self, layout: Layout, path: str) -> Layout:
        """A file's layout, if its columns are the manifest's: the one object that all files of that layout have."""
        in_folders = frozenset(path_values(path))
        if (layout, in_folders) not in self._layouts:
            with as_integrity(path):
                schema = arrow_schema(layout)
            found = [(column["name"], column["type"]) for column in schema_json(storable(schema))["columns"]]
            elsewhere = in_folders.difference(schema.names)
            if found != [column for column in self._columns if column[0] not in elsewhere]:
                raise DataError(f"a file has other columns than the manifest says: {path}", path=path)
            self._layouts[layout, in_folders] = layout
        return self._layouts[layout, in_folders]

    def _of_folders(self, path: str, layout: Layout) -> pl.DataFrame:
        """One row with the columns that are in the names of the file's folders and not in the file (``confide.data.partitions``)."""
        if len(layout.columns) == len(self._columns):
            return _NO_FOLDERS
        in_file = {column.name for column in layout.columns}
        lacking = tuple(name for name, _ in self._columns if name not in in_file)
        folder = path.rpartition("/")[0], lacking
        if folder not in self._folder_rows:
            rows = pl.DataFrame(with_folders(pa.table({"": [0]}), path, self._manifest_schema, lacking))
            self._folder_rows[folder] = rows.select(lacking)
        return self._folder_rows[folder]

    def _batches(
        self, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        """The rows that a query asks for (``register_io_source``): ``n_rows`` counts rows before the predicate."""
        pruning = None if predicate is None else Pruning(predicate, self.schema, self._in_folders)
        wanted = _Wanted.of(with_columns, predicate, n_rows, pruning)
        counts, left = self._totals.begin(), False
        ahead = ThreadPoolExecutor(1, thread_name_prefix="confide-fetch")
        try:
            for step in _one_ahead(ahead, self._fetched(wanted, counts)):
                found = _collect(step.parts, wanted, [*self.schema])
                if any(self.schema[name] != kind for name, kind in found.schema.items()):
                    raise DataError(f"files of one table have other types: {step.parts[0].path}", path=step.parts[0].path)
                wanted.pace.saw(step.rows, found)
                yield found
            if not counts.rows_read:  # a query has an answer all the same
                yield wanted.of_frame(pl.LazyFrame(schema=self.schema)).collect()
        except GeneratorExit:  # perhaps in the garbage collector, on any thread, even on that which fetches: nothing may be waited for
            left = True
            raise
        finally:
            ahead.shutdown(wait=not left)
            if not left:
                self._totals.tell()

    def _fetched(self, wanted: _Wanted, counts: Counts) -> Iterator[_Step]:
        """What is read, a bounded number of bytes and rows at a time."""
        try:
            yield from self._steps(wanted, counts)
        finally:
            self._totals.over(counts)

    def _steps(self, wanted: _Wanted, counts: Counts) -> Iterator[_Step]:
        buffers, fetched = Buffers(), Fetched()
        step = _Step(buffers, wanted.pace.rows)
        pruned = self._pruned(wanted)
        at = 0
        for entry in self._files:
            if wanted.limit is not None and at >= wanted.limit:
                break
            with _OpenedLate(self._open, entry) as late:
                pinned, skip, folders = pruned.get(entry.path) or self._described(wanted, late)
                columns = wanted.of_layout(pinned.footer.layout)
                for index, group in enumerate(pinned.footer.groups):
                    rows = group.rows if wanted.limit is None else min(group.rows, wanted.limit - at)
                    at += rows
                    if index in skip or not rows:
                        continue
                    size = pinned.bytes_of(index, columns)
                    if not step.fits(size, rows):
                        yield step
                        step = _Step(buffers, wanted.pace.rows)
                    part = step.part(entry.path, pinned.footer.layout, columns, folders)
                    if part.image is not None:
                        late.file.put_pages(index, columns, part.image, fetched)
                        counts.bytes_read, counts.open_us = fetched.size, int(fetched.cipher_s * 1e6)
                    step.count(part, size, rows)
                    counts.rows_read += rows
        if step.parts:
            step.last = True
            yield step

    def _pruned(self, wanted: _Wanted) -> dict[str, tuple[PinnedFooter, frozenset[int], pl.DataFrame]]:
        """For files whose footers are here: row groups that the query finds no rows in, and the columns of their folders.

        Of a copy: another query of the table may be coming to a new file.
        """
        known = {path: Described(footer, self._of_folders(path, footer.footer.layout)) for path, footer in self._footers.copy().items()}
        skips = wanted.pruning.skipped([*known.values()]) if wanted.pruning is not None else [frozenset[int]()] * len(known)
        return {path: (one.footer, skip, one.folders) for (path, one), skip in zip(known.items(), skips, strict=True)}

    def _described(self, wanted: _Wanted, late: _OpenedLate) -> tuple[PinnedFooter, frozenset[int], pl.DataFrame]:
        """The same for one file, which is opened."""
        pinned = late.file.pinned
        folders = self._of_folders(late.file.path, pinned.footer.layout)
        skip = wanted.pruning.skipped([Described(pinned, folders)])[0] if wanted.pruning is not None else frozenset[int]()
        return pinned, skip, folders


class _OpenedLate:
    """A file that is opened when something of it is needed, and closed in any case."""

    def __init__(self, open_: Callable[[TableFile], PinnedFile], entry: TableFile) -> None:
        self._open, self._entry = open_, entry
        self._file: PinnedFile | None = None

    @property
    def file(self) -> PinnedFile:
        """The open file."""
        if self._file is None:
            self._file = self._open(self._entry)
        return self._file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class _Pace:
    """How many rows the next step has: as many as make a frame of :data:`_FRAME_BYTES`, by what the last one gave."""

    rows: int = field(default_factory=lambda: _FIRST_ROWS)

    def saw(self, rows: int, frame: pl.DataFrame) -> None:
        """``frame`` is what so many rows gave."""
        fitting = rows * _FRAME_BYTES // max(1, int(frame.estimated_size()))
        self.rows = min(max(fitting, _FIRST_ROWS // 2), 2 * self.rows, _MOST_ROWS)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a query asks a table for.  ``fetched``: columns that are to be had from storage, ``None`` for all."""

    columns: list[str] | None
    predicate: pl.Expr | None
    limit: int | None
    fetched: frozenset[str] | None
    pruning: Pruning | None
    pace: _Pace = field(default_factory=_Pace)

    @classmethod
    def of(cls, columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, pruning: Pruning | None) -> Self:
        asked = () if predicate is None else predicate.meta.root_names()
        return cls(columns, predicate, limit, None if columns is None else frozenset((*columns, *asked)), pruning)

    def of_layout(self, layout: Layout) -> tuple[Column, ...]:
        """The columns of a file that are to be read."""
        return tuple(column for column in layout.columns if self.fetched is None or column.name in self.fetched)

    def of_frame(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The query on one frame of the table."""
        if self.predicate is not None:
            frame = frame.filter(self.predicate)
        return frame if self.columns is None else frame.select(self.columns)


@dataclass(slots=True)
class _Part:
    """Rows of neighbouring files of one layout and one folder.  Without an image no column of the files is asked for, but their rows."""

    path: str
    layout: Layout
    folders: pl.DataFrame
    image: Image | None
    rows: int = 0

    def frame(self) -> pl.LazyFrame:
        """Them, once: the image is empty afterwards."""
        if self.image is None:
            if not self.folders.width:
                return pl.DataFrame(height=self.rows).lazy()
            return self.folders.lazy().select(pl.all().gather(pl.zeros(self.rows, dtype=pl.UInt32, eager=True)))
        frame = pl.scan_parquet(self.image.whole(), glob=False, hive_partitioning=False)
        return _with_values(frame if self.rows == self.image.rows else frame.head(self.rows), self.folders)

    def close(self) -> None:
        """It was read."""
        if self.image is not None:
            self.image.close()


@dataclass(slots=True)
class _Step:
    """What is read at one time.  ``last``: nothing comes after it."""

    buffers: Buffers
    most_rows: int
    parts: list[_Part] = field(default_factory=list)
    size: int = 0
    rows: int = 0
    last: bool = False

    def fits(self, size: int, rows: int) -> bool:
        """Whether as much more may be added."""
        return not self.parts or (self.size + size <= _BATCH_BYTES and self.rows + rows <= self.most_rows)

    def part(self, path: str, layout: Layout, columns: tuple[Column, ...], folders: pl.DataFrame) -> _Part:
        """Where the next rows go."""
        last = self.parts[-1] if self.parts else None
        if last is None or last.layout is not layout or last.folders is not folders:
            last = _Part(path, layout, folders, Image(layout, columns, self.buffers) if columns else None)
            self.parts.append(last)
        return last

    def count(self, part: _Part, size: int, rows: int) -> None:
        """They are there."""
        part.rows += rows
        self.size, self.rows = self.size + size, self.rows + rows


def _with_values(frame: pl.LazyFrame, folders: pl.DataFrame) -> pl.LazyFrame:
    """``frame`` of a file with the columns of its folders."""
    values = [pl.lit(values[0], dtype=values.dtype).alias(values.name) for values in folders]
    return frame.with_columns(values) if values else frame


def _collect(parts: Sequence[_Part], wanted: _Wanted, order: Sequence[str]) -> pl.DataFrame:
    """Read.

    Raises:
        IntegrityError: a file is none that can be read.
    """
    with as_integrity(parts[0].path), ExitStack() as images:
        for part in parts:
            images.callback(part.close)
        frames = [part.frame() for part in parts]
        whole = wanted.of_frame(frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal"))
        found = whole.collect(engine="streaming")
        del frames, whole  # and with them the bytes of the images, whose memory is used again
    return found if wanted.columns is not None else found.select(order)


def _one_ahead(ahead: ThreadPoolExecutor, source: Iterator[_Step]) -> Iterator[_Step]:
    """``source``, whose next value is made while the last one is used.  Who leaves it may do so while one is made."""
    step = next(source, None)
    while step is not None:
        coming = None if step.last else ahead.submit(next, source, None)
        yield step
        step = None if coming is None else coming.result()
