"""What a query over files that Python opens is answered with, and what is counted while it runs."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from confide.data.io_source import answered
from confide.data.read_counts import Counts, Totals


def frames(counts: Counts) -> Iterator[pl.DataFrame]:
    for start in (0, 3, 6):
        counts.rows_read += 3
        yield pl.DataFrame({"n": range(start, start + 3), "s": ["x", "y", "z"]})


def test_rows_are_counted_off_before_those_that_match_are_chosen_and_only_asked_columns_are_given() -> None:
    found = pl.concat(answered(frames, Totals(), ["s"], pl.col("n") > 1, 5))
    assert found.to_dict(as_series=False) == {"s": ["z", "x", "y"]}


def test_rows_that_no_column_is_asked_of_are_rows() -> None:
    found = list(answered(frames, Totals(), [], pl.col("n") > 1, 5))
    assert sum(frame.height for frame in found) == 3
    assert all(frame.width == 0 for frame in found)


def test_a_column_is_the_one_of_its_name_also_where_that_looks_like_a_pattern() -> None:
    frame = pl.DataFrame({"n": [1], "^.*$": [2], "*": [3]})
    for name in frame.columns:
        assert next(answered(lambda _: iter([frame]), Totals(), [name], None, None)).columns == [name]


def test_a_query_under_way_is_told_with_another_one() -> None:
    told: list[dict[str, int]] = []
    totals = Totals(told.append)
    query = answered(frames, totals, None, None, None)
    next(query)
    pl.concat(answered(frames, totals, None, None, None))
    assert told[-1]["rows_read"] == 3 + 9
    assert told[-1]["tasks"] == 2


def test_a_query_that_is_over_is_told_once() -> None:
    told: list[dict[str, int]] = []
    totals = Totals(told.append)
    pl.concat(answered(frames, totals, None, None, None))
    totals.tell_rest()
    assert len(told) == 1
