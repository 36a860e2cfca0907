"""What an uncaught error of a program with Polars leaves in a log that lies on the host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NoReturn

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from confide.data.polars_errors import HOOKS
from confide.errors import IntegrityError

ROW = "row-5f21"


def printed(does: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        does()
    except BaseException as raised:  # noqa: BLE001 - a panic is no Exception
        HOOKS.uncaught(type(raised), raised, raised.__traceback__)
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


def error() -> pl.exceptions.PolarsError:
    with pytest.raises(pl.exceptions.PolarsError, match=ROW) as raised:
        rows().select(pl.col("n").cast(pl.Int64)).collect()
    return raised.value


def several(*errors: Exception) -> NoReturn:
    raise ExceptionGroup("several", errors)


def after(before: Exception) -> Exception:
    other = ValueError(ROW)
    other.__context__ = before
    return other


def from_nothing() -> NoReturn:
    class FalsyError(ValueError):
        def __bool__(self) -> bool:
            return False

    cause = FalsyError("one that is false")
    cause.__cause__ = error()
    raise ValueError(f"cannot use {ROW}") from cause


@pytest.mark.parametrize(
    "does",
    [
        lambda: several(error()),
        lambda: several(ValueError("of its own"), ExceptionGroup("inner", [error()])),
        lambda: several(after(error())),
        from_nothing,
    ],
    ids=["group", "group-in-a-group", "before-a-member", "before-one-that-is-false"],
)
def test_whatever_python_would_print_with_an_error_is_looked_at(does: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(does, capsys)
    assert ROW not in text
    assert "catch the error" in text


@pytest.mark.timeout(30)
def test_errors_that_are_each_others_cause_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def does() -> NoReturn:
        one, other = ValueError("one".upper()), ValueError("other".upper())
        one.__cause__, other.__cause__ = other, one
        raise one

    text = printed(does, capsys)
    assert (text.count("ValueError: ONE"), text.count("ValueError: OTHER")) == (1, 1)


class ColumnNotFoundError(Exception):
    """As Polars names one of its own."""


def no_column(text: str) -> NoReturn:
    raise ColumnNotFoundError(text)


def no_table(text: str) -> list[Any]:
    return duckdb.sql(f'SELECT * FROM "{text}"').fetchall()


@pytest.mark.parametrize("function", [no_column, no_table])
def test_names_that_a_function_makes_of_a_row_are_not_told(function: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def does() -> None:
        rows().select(pl.col("n").map_elements(function, return_dtype=pl.Int64)).collect()

    with pytest.raises(Exception, match=ROW):
        does()
    assert ROW not in printed(does, capsys)


def test_the_text_of_an_error_of_another_process_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    def does() -> None:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(number, ROW).result()

    with pytest.raises(ValueError, match=ROW):
        does()
    assert ROW not in printed(does, capsys)


PROGRAM = """
import _thread, asyncio, atexit, concurrent.futures, gc, sys, threading, time
import polars as pl
from confide.data import polars_errors
polars_errors.install()

def bad():
    pl.LazyFrame({"n": ["WOR"[::-1]]}).select(pl.col("n").cast(pl.Int64)).collect()

def own():
    raise ValueError("own words".upper())

def thread(does):
    one = threading.Thread(target=does)
    one.start()
    one.join()

def bare_thread(does):
    begun = threading.Event()
    def one():
        begun.set()
        does()
    _thread.start_new_thread(one, ())
    begun.wait()
    while _thread._count():  # it is told before it counts as over
        time.sleep(0.01)

def generator(does):
    def rows():
        try:
            yield
        finally:
            does()
    next(rows())
    gc.collect()

def task(does):
    async def one():
        does()
    async def program():
        asyncio.get_running_loop().create_task(one())
        await asyncio.sleep(0.1)
    asyncio.run(program())

def callback(does):
    async def program():
        asyncio.get_running_loop().call_soon(does)
        await asyncio.sleep(0.1)
    asyncio.run(program())

def when_done(does):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(time.sleep, 0.1).add_done_callback(lambda _: does())

{"atexit": atexit.register}.get(sys.argv[1], globals().get(sys.argv[1]))({"bad": bad, "own": own, "exit": sys.exit}[sys.argv[2]])
""".replace("WOR", ROW[::-1])  # backwards: from Python 3.13 on a traceback shows the lines of `-c`


@pytest.mark.parametrize("way", ["thread", "bare_thread", "atexit", "generator", "task", "callback", "when_done"])
def test_errors_that_nobody_waits_for_are_told_as_others(way: str) -> None:
    told = {}
    for what in ("bad", "own"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, way, what], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        told[what] = done.stderr
    assert ROW not in told["bad"]
    assert "polars.exceptions.InvalidOperationError: an error of the engine" in told["bad"]
    assert "OWN WORDS" in told["own"]


def test_a_thread_that_ends_itself_is_no_error() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "thread", "exit"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_our_own_errors_keep_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    def does() -> None:
        try:
            rows().select(pl.col("n").cast(pl.Int64)).collect()
        except pl.exceptions.PolarsError as cause:
            raise IntegrityError("a file does not open", hint="see x") from cause

    text = printed(does, capsys)
    assert ROW not in text
    assert "[data-integrity] a file does not open (hint: see x)" in text


def test_our_own_errors_are_told_in_full_also_out_of_a_query(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(_: str) -> NoReturn:
        raise IntegrityError("a file does not open".upper())

    text = printed(lambda: rows().select(pl.col("n").map_elements(refused, return_dtype=pl.Int64)).collect(), capsys)
    assert "IntegrityError: A FILE DOES NOT OPEN" in text
    assert "catch the error" not in text


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
