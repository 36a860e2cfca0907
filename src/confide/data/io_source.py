"""What a source of Polars in Python (``register_io_source``) answers a query with, and counts.

A query may ask for no column and count rows all the same, as ``with_row_index("n").select("n")`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from confide.data.read_counts import Counts, Totals
from confide.errors import ExtraMissingError

try:
    import polars as pl
    from polars import selectors
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing


_Frame = TypeVar("_Frame", pl.DataFrame, pl.LazyFrame)


def chosen(frame: _Frame, columns: Collection[str]) -> _Frame:
    """These columns of ``frame``, as many rows if there are none: a ``select`` of nothing has no row."""
    if not columns:
        return frame.drop(selectors.all())
    return frame.select(selectors.by_name(*columns))  # ``pl.col`` takes some names for patterns


def answered(
    frames: Callable[[Counts], Iterator[pl.DataFrame]],
    totals: Totals,
    columns: list[str] | None,
    predicate: pl.Expr | None,
    n_rows: int | None,
) -> Iterator[pl.DataFrame]:
    """The ``columns`` of those rows of ``frames`` that match; ``n_rows`` counts rows before the predicate, as Polars does.

    ``frames`` counts what it reads, which is one task of ``totals``.
    """
    counts, left = totals.begin(), False
    try:
        for frame in _first(frames(counts), n_rows):
            kept = frame if predicate is None else frame.filter(predicate)
            yield kept if columns is None else chosen(kept, columns)
    except GeneratorExit:  # perhaps in the garbage collector, where nothing may be waited for
        left = True
        raise
    finally:
        totals.over(counts)
        if not left:
            totals.tell()


def _first(frames: Iterator[pl.DataFrame], count: int | None) -> Iterator[pl.DataFrame]:
    """Their first ``count`` rows; all, if none is named."""
    for frame in frames:
        if count is None:
            yield frame
            continue
        yield frame.head(count)
        count -= min(count, frame.height)
        if count == 0:
            return
