"""Polars' lazy frames over encrypted tables: what a query does not need is neither fetched nor decrypted.

Files are pinned before Polars reads them, and opened here (``confide.data.pinned_parquet``).  Keys come from the caller, one a file, when a
query comes to the file.  Nothing here writes to disk.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import pyarrow as pa

from confide.data.opened_table import OpenedMemory, OpenedTable
from confide.data.parquet_footer import Layout
from confide.data.parquet_image import Buffers, Image, arrow_schema
from confide.data.partitions import path_values, with_folders
from confide.data.pinned_parquet import Fetched, FileAccess, PinnedFile, PinnedFooter, TableFile, as_integrity
from confide.data.places import RangedFolder
from confide.data.read_counts import Counts, Totals
from confide.data.row_groups import Described, Pruning
from confide.data.scan_steps import Part, Step, Wanted, collect, one_ahead
from confide.data.schema import schema_json, storable
from confide.errors import DataError, ExtraMissingError, SecretLeakError

try:
    import polars as pl
    from polars.io.plugins import register_io_source
    from polars.lazyframe.resolver import LazyFrameResolver, ResolvedLazyFrameProps
    from polars.selectors import by_name
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

if TYPE_CHECKING:
    from polars.lazyframe.resolver import FilterExpr

    from confide.canonical import Json

_FOOTERS: Final = 4096
"""Of so many files the footers are kept from one query to the next, some kilobytes each; those of others are read again."""
_NO_FOLDERS: Final = pl.DataFrame()
_INSIDE: Final = "encrypted "
"""Before the names of columns that :class:`EncryptedTable` has.  A projection gives them their names, and it is that which matters: Polars
takes a resolver's frame to have all columns where it is asked for some of them, and what is above it (``with_row_index``, ``explode``,
``over``) then counts columns wrong: it ends the query, or takes one column for another.  Above a projection that renames it counts right.
"""

KeyOf = Callable[[str], FileAccess]
"""The key of a file of the table, by its path in the dataset."""


class TableScan:
    """What a query over one table reads, file by file; Polars calls it when it runs the query.  Not to be pickled or sent anywhere."""

    def __init__(
        self,
        folder: Path | RangedFolder,
        files: Sequence[TableFile],
        key_of: KeyOf,
        schema: Json,
        *,
        totals: Totals | None = None,
        memory: OpenedMemory | None = None,
    ) -> None:
        """``schema`` is the manifest's.  What queries read is added to ``totals``.

        ``memory``: of columns that stay open from one query to the next; without it each query opens what it reads.
        """
        self._folder = folder
        self._files = tuple(files)
        self._key_of = key_of
        self._manifest_schema = schema
        self._totals = totals or Totals()
        self._memory = memory
        self._opened: OpenedTable | None = None
        self._opening = threading.Lock()
        self.rows = sum(entry.rows for entry in self._files)
        self._columns = [(column["name"], column["type"]) for column in schema["columns"]]
        self._in_folders = frozenset(name for entry in self._files for name in path_values(entry.path))
        self._footers: dict[str, PinnedFooter] = {}
        self._folder_rows: dict[tuple[str, tuple[str, ...]], pl.DataFrame] = {}
        self._layouts: dict[tuple[Layout, frozenset[str]], Layout] = {}
        first = self._files[0]
        with self._open(first) as file:
            layout = file.pinned.footer.layout
            with as_integrity(first.path):
                part = Part(first.path, layout, self._of_folders(first.path, layout), Image(layout, layout.columns, Buffers()))
                found = part.frame().collect_schema()
        self.schema = pl.Schema({name: found[name] for name, _ in self._columns})

    def frame(self, name: str) -> pl.LazyFrame:
        """The table as a lazy frame."""
        streamed = register_io_source(self._batches, schema=self.schema, is_pure=True, explain_name=f"encrypted {name}")
        if self._memory is None or self._in_folders or not isinstance(self._folder, Path):
            return streamed
        resolved = pl.LazyFrame.from_lazyframe_resolver(EncryptedTable(self, streamed))
        # Now, while nobody else has it: Polars asks once, with a lock that others wait for who have Python's own, which the answer needs.
        resolved.collect_schema()
        return resolved.select([pl.col(_INSIDE + column).alias(column) for column in self.schema])

    def opened(self, names: Collection[str] | None, predicates: Sequence[pl.Expr]) -> OpenedTable | None:
        """The table with these columns open (``None`` for all), or nothing where a query is to open what it reads.

        That is where there is not the memory, and where most of the row groups of columns that are not open hold no row for the query.
        A key is asked for in any case: who may read the table no longer gets nothing of it.

        Raises:
            IntegrityError: a file does not open.
        """
        self._key_of(self._files[0].path).key.wipe()
        table, fetched = self._table(), Fetched()
        if table is None or not (table.is_open(names) or self._is_worth_opening(table, predicates)):
            return None
        if not table.open(names, self._open, fetched):
            return None
        open_us = int(fetched.cipher_s * 1e6)
        self._totals.add(Counts(tasks=1, rows_read=table.footer.footer.rows, bytes_read=fetched.size, open_us=open_us))
        return table

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a scan of encrypted files was about to be pickled", hint="send the query's result instead")

    def _table(self) -> OpenedTable | None:
        """Where columns are opened: for files of one layout, if all of them could be open at one time."""
        with self._opening:
            if self._opened is None and self._memory is not None and self._fits(self._memory):
                pinned = [(entry, self._footer(entry)) for entry in self._files]
                if len(self._layouts) == 1:
                    with suppress(MemoryError):
                        self._opened = OpenedTable(pinned, self._memory)
            return self._opened

    def _fits(self, memory: OpenedMemory) -> bool:
        return len(self._files) <= _FOOTERS and sum(entry.size for entry in self._files) <= memory.most

    def _footer(self, entry: TableFile) -> PinnedFooter:
        if entry.path not in self._footers:
            self._open(entry).close()
        return self._footers[entry.path]

    def _is_worth_opening(self, table: OpenedTable, predicates: Sequence[pl.Expr]) -> bool:
        """Whether a query with these predicates finds rows in at least half of the row groups, by what their statistics say."""
        if not predicates:
            return True
        pruning = Pruning(reduce(operator.and_, predicates), self.schema, self._in_folders, prefix=_INSIDE)
        (skipped,) = pruning.skipped([Described(table.footer, _NO_FOLDERS)])
        return 2 * len(skipped) <= len(table.footer.footer.groups)

    def _open(self, entry: TableFile) -> PinnedFile:
        known = self._footers.get(entry.path)
        file = PinnedFile(self._folder, entry, self._key_of(entry.path), known, like=next(iter(self._layouts.values()), None))
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
        wanted = Wanted.of(with_columns, predicate, n_rows, pruning)
        counts, left = self._totals.begin(), False
        ahead = ThreadPoolExecutor(1, thread_name_prefix="confide-fetch")
        try:
            for step in one_ahead(ahead, self._fetched(wanted, counts)):
                found = collect(step.parts, wanted, [*self.schema])
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

    def _fetched(self, wanted: Wanted, counts: Counts) -> Iterator[Step]:
        """What is read, a bounded number of bytes and rows at a time."""
        try:
            yield from self._steps(wanted, counts)
        finally:
            self._totals.over(counts)

    def _steps(self, wanted: Wanted, counts: Counts) -> Iterator[Step]:
        buffers, fetched = Buffers(), Fetched()
        step = Step(buffers, wanted.pace.rows)
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
                        step = Step(buffers, wanted.pace.rows)
                    part = step.part(entry.path, pinned.footer.layout, columns, folders)
                    if part.image is not None:
                        late.file.put_pages(index, columns, part.image, fetched)
                        counts.bytes_read, counts.open_us = fetched.size, int(fetched.cipher_s * 1e6)
                    step.count(part, size, rows)
                    counts.rows_read += rows
        if step.parts:
            step.last = True
            yield step

    def _pruned(self, wanted: Wanted) -> dict[str, tuple[PinnedFooter, frozenset[int], pl.DataFrame]]:
        """For files whose footers are here: row groups that the query finds no rows in, and the columns of their folders.

        Of a copy: another query of the table may be coming to a new file.
        """
        known = {path: Described(footer, self._of_folders(path, footer.footer.layout)) for path, footer in self._footers.copy().items()}
        skips = wanted.pruning.skipped([*known.values()]) if wanted.pruning is not None else [frozenset[int]()] * len(known)
        return {path: (one.footer, skip, one.folders) for (path, one), skip in zip(known.items(), skips, strict=True)}

    def _described(self, wanted: Wanted, late: _OpenedLate) -> tuple[PinnedFooter, frozenset[int], pl.DataFrame]:
        """The same for one file, which is opened."""
        pinned = late.file.pinned
        folders = self._of_folders(late.file.path, pinned.footer.layout)
        skip = wanted.pruning.skipped([Described(pinned, folders)])[0] if wanted.pruning is not None else frozenset[int]()
        return pinned, skip, folders


class EncryptedTable(LazyFrameResolver):
    """What Polars asks, for each query again, for the frame that the query reads."""

    def __init__(self, scan: TableScan, streamed: pl.LazyFrame) -> None:
        self._scan = scan
        self._streamed = streamed
        self._opened: pl.LazyFrame | None = None

    def schema(self) -> pl.Schema:
        """The columns, see :data:`_INSIDE`."""
        return pl.Schema({_INSIDE + name: kind for name, kind in self._scan.schema.items()})

    def cse_eq(self, other: object) -> bool:
        """Whether one reading is enough for both."""
        return self is other

    def resolve_lazyframe(
        self,
        *,
        projection: list[str] | None,
        limit: int | None,
        filters: list[FilterExpr],
        filter_columns: list[str],
        filter_drop_columns_idx: int | None,
        existing_resolved_version_key: str | None,
    ) -> tuple[pl.LazyFrame | None, ResolvedLazyFrameProps]:
        """A frame of these columns, to which Polars applies the filters.

        A slice to the end comes with a ``limit`` that is larger than any number of rows that ``head`` takes.
        """
        limit = None if limit is None or limit >= self._scan.rows else limit
        names = None if projection is None else {name.removeprefix(_INSIDE) for name in (*projection, *filter_columns)}
        opened = self._scan.opened(names, [one.expr for one in filters]) if limit is None and names != set() else None
        props = ResolvedLazyFrameProps(version_key="streamed" if opened is None else "opened")
        if existing_resolved_version_key == props.version_key:
            return None, props
        if opened is not None and self._opened is None:
            self._opened = pl.scan_parquet(opened.file, glob=False, hive_partitioning=False)
        frame = self._streamed if opened is None or self._opened is None else self._opened
        frame = frame if limit is None else frame.head(limit)
        asked = [*self._scan.schema] if projection is None else [name.removeprefix(_INSIDE) for name in projection]
        return frame.select(by_name(*asked).name.prefix(_INSIDE)), props  # ``pl.col`` takes some names for patterns

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a scan of encrypted files was about to be pickled", hint="send the query's result instead")


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
