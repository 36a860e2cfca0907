"""Steps of a scan of encrypted Parquet: a bounded number of rows and bytes that are fetched, opened and given to the query at one time.

Nothing here writes to disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, Self

from confide.data.io_source import chosen
from confide.data.parquet_footer import Column, Layout
from confide.data.parquet_image import Buffers, Image
from confide.data.pinned_parquet import as_integrity
from confide.data.row_groups import Pruning
from confide.errors import ExtraMissingError

try:
    import polars as pl
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

_BATCH_BYTES: Final = 64 * 1024 * 1024
"""What is fetched for one step of a scan, before it was compressed; a row group that is larger is one step."""
_FIRST_ROWS: Final = 1 << 18
_MOST_ROWS: Final = 1 << 20
"""Rows of a scan's first step, and of one whose predicate leaves few of them."""
_FRAME_BYTES: Final = 20 * 1024 * 1024
"""What a step should give the query, in memory: a larger frame has left the processor's caches when the query looks at it."""


@dataclass(slots=True)
class Pace:
    """How many rows the next step has: as many as make a frame of :data:`_FRAME_BYTES`, by what the last one gave."""

    rows: int = field(default_factory=lambda: _FIRST_ROWS)

    def saw(self, rows: int, frame: pl.DataFrame) -> None:
        """``frame`` is what so many rows gave."""
        fitting = rows * _FRAME_BYTES // max(1, int(frame.estimated_size()))
        self.rows = min(max(fitting, _FIRST_ROWS // 2), 2 * self.rows, _MOST_ROWS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a query asks a table for.  ``fetched``: columns that are to be had from storage, ``None`` for all."""

    columns: list[str] | None
    predicate: pl.Expr | None
    limit: int | None
    fetched: frozenset[str] | None
    pruning: Pruning | None
    pace: Pace = field(default_factory=Pace)

    @classmethod
    def of(cls, columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, pruning: Pruning | None) -> Self:
        """As Polars says it, which names a predicate's columns in the predicate alone."""
        asked = () if predicate is None else predicate.meta.root_names()
        return cls(columns, predicate, limit, None if columns is None else frozenset((*columns, *asked)), pruning)

    def of_layout(self, layout: Layout) -> tuple[Column, ...]:
        """The columns of a file that are to be read."""
        return tuple(column for column in layout.columns if self.fetched is None or column.name in self.fetched)

    def of_frame(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The query on one frame of the table."""
        if self.predicate is not None:
            frame = frame.filter(self.predicate)
        return frame if self.columns is None else chosen(frame, self.columns)


@dataclass(slots=True)
class Part:
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
class Step:
    """What is read at one time.  ``last``: nothing comes after it."""

    buffers: Buffers
    most_rows: int
    parts: list[Part] = field(default_factory=list)
    size: int = 0
    rows: int = 0
    last: bool = False

    def fits(self, size: int, rows: int) -> bool:
        """Whether as much more may be added."""
        return not self.parts or (self.size + size <= _BATCH_BYTES and self.rows + rows <= self.most_rows)

    def part(self, path: str, layout: Layout, columns: tuple[Column, ...], folders: pl.DataFrame) -> Part:
        """Where the next rows go."""
        last = self.parts[-1] if self.parts else None
        if last is None or last.layout is not layout or last.folders is not folders:
            last = Part(path, layout, folders, Image(layout, columns, self.buffers) if columns else None)
            self.parts.append(last)
        return last

    def count(self, part: Part, size: int, rows: int) -> None:
        """They are there."""
        part.rows += rows
        self.size, self.rows = self.size + size, self.rows + rows


def _with_values(frame: pl.LazyFrame, folders: pl.DataFrame) -> pl.LazyFrame:
    """``frame`` of a file with the columns of its folders."""
    values = [pl.lit(values[0], dtype=values.dtype).alias(values.name) for values in folders]
    return frame.with_columns(values) if values else frame


def collect(parts: Sequence[Part], wanted: Wanted, order: Sequence[str]) -> pl.DataFrame:
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
    return found if wanted.columns is not None else chosen(found, order)


def one_ahead(ahead: ThreadPoolExecutor, source: Iterator[Step]) -> Iterator[Step]:
    """``source``, whose next value is made while the last one is used.  Who leaves it may do so while one is made."""
    step = next(source, None)
    while step is not None:
        coming = None if step.last else ahead.submit(next, source, None)
        yield step
        step = None if coming is None else coming.result()
