"""Whatever a program asks Polars over an encrypted table, in whatever order, the answer is that over the plain rows.

Polars 2.1 takes one column for another above a frame that a program resolves, where a query counts columns; what stands between is in
``confide.data.parquet_scan``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scanned_table import ScannedTable, all_types, make_small_files

from confide.data.opened_table import OpenedMemory

Step: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]
STEPS: dict[str, Step] = {
    "most rows": lambda f: f.filter(pl.col("id") > 700),
    "few rows": lambda f: f.filter(pl.col("id").is_between(2100, 2130)),
    "no rows": lambda f: f.filter(pl.col("id") < 0),
    "a text": lambda f: f.filter(pl.col("text").str.ends_with("9 \u2713")),
    "not null": lambda f: f.filter(pl.col("small").is_not_null(), pl.col("flag")),
    "a part": lambda f: f.filter(pl.col("pair").struct.field("a") % 3 == 1),
    "NaN": lambda f: f.filter(pl.col("real").is_nan()),
    "head": lambda f: f.head(1234),
    "tail": lambda f: f.tail(801),
    "slice": lambda f: f.slice(490, 1520),
    "slice to the end": lambda f: f.slice(2490),
    "every third": lambda f: f.gather_every(3, 1),
    "reverse": lambda f: f.reverse(),
    "row index": lambda f: f.with_row_index(f"row{len(f.collect_schema())}"),
    "window": lambda f: f.with_columns(most=pl.col("id").max().over("small")),
    "explode": lambda f: f.explode("many"),
    "sorted": lambda f: f.sort("day", "id", descending=True, maintain_order=True).head(77),
    "of each": lambda f: f.unique(subset=["small"], keep="first", maintain_order=True),
    "renamed": lambda f: f.with_columns(real=pl.col("price").cast(pl.Float64)),
    "cached": lambda f: f.cache(),
    "shifted": lambda f: f.shift(1),
}
ENDS: dict[str, Step] = {
    "all": lambda f: f,
    "two": lambda f: f.select("text", "id"),
    "other two": lambda f: f.select("price", "flag"),
    "length": lambda f: f.select(pl.len()),
    "numbers alone": lambda f: f.with_row_index("number").select("number"),
    "a value alone": lambda f: f.with_columns(one=pl.lit(1)).select("one"),
    "sums": lambda f: f.select(pl.col("id").sum(), pl.col("price").max(), pl.len()),
    "groups": lambda f: f.group_by("small").agg(pl.len(), pl.col("id").sum()).sort("small"),
    "joined": lambda f: f.select("id", "flag").join(f.select("id", other="text"), on="id", how="left", maintain_order="left_right"),
    "one after another": lambda f: pl.concat([f.select("id", "raw"), f.select("id", "raw").tail(9)]),
    "sql": lambda f: pl.SQLContext(t=f).execute("SELECT small, max(id) AS m FROM t WHERE id > 90 GROUP BY small ORDER BY small"),
}
RUNS: dict[str, Callable[[pl.LazyFrame], pl.DataFrame]] = {
    "streaming": lambda f: f.collect(engine="streaming"),
    "in memory": lambda f: f.collect(engine="in-memory"),
    "several": lambda f: pl.collect_all([f, f.select(pl.len())])[0],
    "batches": lambda f: pl.concat([*f.collect_batches(chunk_size=300, maintain_order=True)] or [f.collect()]),
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.LazyFrame, list[pl.LazyFrame]]:
    """The plain rows, and the table: with the memory for all, for some columns, for none, and where nothing is kept."""
    with pytest.MonkeyPatch.context() as patch:
        make_small_files(patch)
        table = ScannedTable(tmp_path_factory.mktemp("table") / "t", all_types())
    size = sum(file.size for file in table.files)
    return pl.DataFrame(all_types()).lazy(), [*(table.frame(memory=OpenedMemory(most)) for most in (1 << 30, 2 * size, 0)), table.frame()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*STEPS]), max_size=4), st.sampled_from([*ENDS]), st.sampled_from([*RUNS]), st.integers(0, 3))
def test_answers_are_those_over_the_plain_rows(frames: Any, steps: list[str], end: str, run: str, memory: int) -> None:
    plain, encrypted = frames

    def asked(frame: pl.LazyFrame) -> pl.LazyFrame:
        for step in steps:
            frame = STEPS[step](frame)
        return ENDS[end](frame)

    try:
        expected = asked(plain).collect(engine="in-memory")
    except pl.exceptions.PolarsError:  # a list that was exploded is no list any more
        return
    found = RUNS[run](asked(encrypted[memory]))
    assert found.equals(expected)
