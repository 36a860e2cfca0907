"""TPC-H over encrypted tables gives the right answers, through Spark and through Polars; a wrong one would be noticed."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TINY = Decimal("0.01")


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def checked(engine: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.tpch", "--scale", str(TINY), "--engine", engine]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.timeout(600)
def test_all_queries_over_encrypted_tables_are_right_through_spark() -> None:
    assert checked("spark") == [f"spark q{number:02}: right" for number in range(1, 23)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_queries_over_encrypted_tables_are_right_through_polars() -> None:
    assert checked("polars") == [f"polars q{number:02}: right" for number in range(1, 23)]


def right(number: int, scale: str) -> list[str]:
    return (ROOT / "benchmarks" / "tpch" / "answers" / f"sf{scale}" / f"q{number:02}.txt").read_text(encoding="utf-8").splitlines()


def test_answer_with_one_digit_one_row_or_the_order_changed_is_noticed() -> None:
    from benchmarks.tpch.answers import differences

    found = right(1, "0.01")
    assert differences(1, TINY, found) == []
    assert "expected 4 rows, got 3" in differences(1, TINY, found[:-1])
    assert len(differences(1, TINY, [found[1], found[0], *found[2:]])) == 2
    for at, character in enumerate(found[0]):
        decimals = found[0][:at].rpartition("|")[2].partition(".")[2]
        if character.isdecimal() and len(decimals) < 2:
            other = found[0][:at] + str((int(character) + 1) % 10) + found[0][at + 1 :]
            assert len(differences(1, TINY, [other, *found[1:]])) == 1, other


def test_whole_numbers_and_texts_are_exact_and_null_is_not_zero() -> None:
    from benchmarks.tpch.answers import differences, line

    assert line((None, 7, Decimal("1.5"), 0.1, "x")) == "|7|1.500000|0.100000|x"
    assert differences(17, TINY, [line((None,))]) == []
    assert differences(17, TINY, [line((Decimal(0),))])
    found = right(4, "0.01")
    name, count = found[0].split("|")
    assert differences(4, TINY, [f"{name}|{int(count) + 1}", *found[1:]])
    assert differences(4, TINY, [f"{name} |{count}", *found[1:]])


def test_long_answer_is_known_by_its_digest() -> None:
    from benchmarks.tpch.answers import differences

    (known,) = right(16, "1")
    assert known.startswith("sha256 ")
    assert known.endswith(" of 18314 rows")
    (told,) = differences(16, Decimal(1), ["Brand#41|MEDIUM BRUSHED TIN|3|28"])
    assert told.startswith(f"expected {known}, got sha256 ")


def test_every_query_has_a_text_and_answers_at_both_scales() -> None:
    from benchmarks.tpch import NUMBERS, sql
    from benchmarks.tpch.answers import has_answers

    assert len(NUMBERS) == 22
    texts = {sql(number, Decimal(1)) for number in NUMBERS}
    assert len(texts) == 22
    assert not any(":" in text for text in texts)
    assert "* 0.01" in sql(11, TINY)
    for scale in ("0.01", "1"):
        assert has_answers(Decimal(scale))
        assert all(right(number, scale) for number in NUMBERS)
    assert not has_answers(Decimal(3))
