"""What an uncaught error of a program with Polars leaves in a log that lies on the host."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from confide.data.polars_errors import report
from confide.errors import IntegrityError

ROW = "row-5f21"


def printed(does: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        does()
    except BaseException as raised:  # noqa: BLE001 - a panic is no Exception
        report(type(raised), raised, raised.__traceback__)
    return capsys.readouterr().err


def number(text: str) -> int:
    return int(text)


def rows() -> pl.LazyFrame:
    return pl.LazyFrame({"n": [ROW]})


@pytest.mark.parametrize(
    "does",
    [
        lambda: pl.read_csv(f"n\n{ROW}\n".encode(), schema_overrides={"n": pl.Int64}),
        lambda: rows().select(pl.col("n").cast(pl.Int64)).collect(),
        lambda: duckdb.sql(f"SELECT CAST('{ROW}' AS INT)").fetchall(),
        lambda: pa.array([ROW]).cast(pa.int64()),
        lambda: rows().collect().to_pandas()["n"].astype("int64"),
        lambda: rows().select(pl.col("n").map_elements(number, return_dtype=pl.Int64)).collect(),
        lambda: rows().collect().to_pandas()["n"].map(number),
        lambda: duckdb.connect().create_function("number", number, ["VARCHAR"], "BIGINT").sql(f"SELECT number('{ROW}')").fetchall(),
    ],
    ids=["csv", "cast", "duckdb", "arrow", "pandas", "function", "function-in-pandas", "function-in-duckdb"],
)
def test_errors_over_rows_are_told_by_class_and_place(does: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match=ROW):
        does()
    text = printed(does, capsys)
    assert ROW not in text
    assert "in printed" in text
    assert "catch the error" in text


def test_an_error_that_was_raised_from_one_over_rows_does_not_tell_it_either(capsys: pytest.CaptureFixture[str]) -> None:
    def does() -> None:
        try:
            rows().select(pl.col("n").cast(pl.Int64)).collect()
        except pl.exceptions.PolarsError as cause:
            raise ValueError(f"cannot use {ROW}") from cause

    assert ROW not in printed(does, capsys)


def test_our_own_errors_keep_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    def does() -> None:
        try:
            rows().select(pl.col("n").cast(pl.Int64)).collect()
        except pl.exceptions.PolarsError as cause:
            raise IntegrityError("a file does not open", hint="see x") from cause

    text = printed(does, capsys)
    assert ROW not in text
    assert "[data-integrity] a file does not open (hint: see x)" in text


def test_an_error_that_hides_the_one_over_rows_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    def does() -> None:
        try:
            rows().select(pl.col("n").cast(pl.Int64)).collect()
        except pl.exceptions.PolarsError:
            raise ValueError("numbers only".upper()) from None

    text = printed(does, capsys)
    assert ROW not in text
    assert "NUMBERS ONLY" in text


def test_errors_of_the_program_and_of_planning_are_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such city" in printed(lambda: {}["no such city"], capsys)
    assert 'unable to find column "x"' in printed(lambda: rows().select("x").collect(), capsys)
    assert "Table with name x does not exist" in printed(lambda: duckdb.sql("SELECT * FROM x"), capsys)
