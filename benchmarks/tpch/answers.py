"""What the queries must answer.  ``python -m benchmarks.tpch.answers SCALE`` computes it anew, with DuckDB on plain tables.

DuckDB is an engine that has nothing to do with ours; its answers at scale factor 1 were compared with those that the TPC publishes
(``docs/benchmarks.md``, "TPC-H").  An answer lies in ``answers/sf<scale>/q<number>.txt``: one row a line, values between ``|``, NULL
empty, numbers that are not whole with six decimals.  Of an answer of more than 2,000 rows there are the number of rows and the SHA-256
of those lines.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from pathlib import Path
from typing import Final

from benchmarks.tpch import NUMBERS, sql
from benchmarks.tpch.tables import generate

Row = Sequence[object]
_ANSWERS: Final = Path(__file__).parent / "answers"
_MOST_ROWS: Final = 2000
_DIGEST: Final = "sha256 "
_PLACES: Final = Decimal("0.000001")
_RELATIVE: Final = Decimal("1e-12")
"""What adding six million binary fractions up in any order may cost; the specification (2.1.3.5) allows more."""


def line(row: Row) -> str:
    """A row as the answers have it."""
    return "|".join(map(_text, row))


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case Decimal() | float():
            with localcontext() as context:
                context.prec = 60
                return f"{Decimal(value).quantize(_PLACES, ROUND_HALF_EVEN):f}"
        case date():
            return value.isoformat()
        case _:
            return str(value)


def differences(number: int, scale: Decimal, found: Sequence[str]) -> list[str]:
    """In which of the lines ``found`` (:func:`line`) is another answer than the right one; nothing if it is that.

    Raises:
        FileNotFoundError: there is no answer for that scale.
    """
    expected = _file(number, scale).read_text(encoding="utf-8").splitlines()
    if expected and expected[0].startswith(_DIGEST):
        got = _digest(found)
        return [] if [got] == expected else [f"expected {expected[0]}, got {got}"]
    if len(found) != len(expected):
        return [f"expected {len(expected)} rows, got {len(found)}"]
    pairs = enumerate(zip(expected, found, strict=True), 1)
    return [f"row {at}: expected {right}, got {ours}" for at, (right, ours) in pairs if not _same(right, ours)]


def has_answers(scale: Decimal) -> bool:
    """Whether the right answers at that scale are known."""
    return _file(NUMBERS[0], scale).is_file()


def _same(right: str, ours: str) -> bool:
    values = right.split("|"), ours.split("|")
    return len(values[0]) == len(values[1]) and all(map(_same_value, *values))


def _same_value(right: str, ours: str) -> bool:
    """Texts and whole numbers are equal; other numbers may differ by what is rounded away."""
    if right == ours:
        return True
    try:
        expected, got = Decimal(right), Decimal(ours)
    except InvalidOperation:
        return False
    return "." in right and abs(expected - got) <= max(2 * _PLACES, abs(expected) * _RELATIVE)


def _file(number: int, scale: Decimal) -> Path:
    return _ANSWERS / f"sf{scale.normalize():f}" / f"q{number:02}.txt"


def _digest(lines: Sequence[str]) -> str:
    whole = "".join(f"{text}\n" for text in lines)
    return f"{_DIGEST}{hashlib.sha256(whole.encode()).hexdigest()} of {len(lines)} rows"


def main() -> None:
    """Write the answers of one scale."""
    import duckdb

    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpch.answers", description="Compute the answers with DuckDB.")
    parser.add_argument("scale", type=Decimal)
    scale = parser.parse_args().scale
    with tempfile.TemporaryDirectory(prefix="confide-tpch-") as scratch, duckdb.connect() as engine:
        for name, place in generate(scale, Path(scratch) / "plain").items():
            engine.read_parquet(str(place)).create_view(name)
        for number in NUMBERS:
            lines = [line(row) for row in engine.sql(sql(number, scale)).fetchall()]
            place = _file(number, scale)
            place.parent.mkdir(parents=True, exist_ok=True)
            kept = lines if len(lines) <= _MOST_ROWS else [_digest(lines)]
            place.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")


if __name__ == "__main__":
    main()
