"""``python -m benchmarks.tpch [--scale 1] [--engine spark polars]``: do all 22 queries over encrypted tables give the right answers?

Tables are made, encrypted as ``confide data encrypt`` does it, and queried: through Spark in a Confide group with all protections on,
and through Polars.  Ends with status 1 if an answer differs in anything but the last decimals.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.data.owned import encrypted
from benchmarks.data.sessions import Shape, confidential
from benchmarks.tpch import NUMBERS, TABLES, sql
from benchmarks.tpch.answers import differences, line
from benchmarks.tpch.tables import generate

if TYPE_CHECKING:
    from benchmarks.data.owned import Owned

Ask = Callable[[int], Sequence[str]]


def main() -> int:
    """Check, and say of each query whether its answer is right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpch", description="Hold answers over encrypted tables to the right ones.")
    parser.add_argument("--scale", type=Decimal, default=Decimal(1), help="TPC-H scale factor: 1 or 0.01 (default 1)")
    parser.add_argument("--engine", nargs="+", choices=list(_ENGINES), default=list(_ENGINES), help="default: all of them")
    given = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="confide-tpch-") as scratch:
        folder = Path(scratch)
        tables = encrypted_tables(generate(given.scale, folder / "plain"), folder)
        for engine in given.engine:
            with _ENGINES[engine](tables, folder, given.scale) as ask:
                for number in NUMBERS:
                    found = differences(number, given.scale, ask(number))
                    wrong += bool(found)
                    print(f"{engine} q{number:02}: {'; '.join(found[:3]) or 'right'}", flush=True)
    return 1 if wrong else 0


def encrypted_tables(plain: Mapping[str, Path], folder: Path) -> dict[str, Owned]:
    """Each table as an encrypted dataset."""
    return {name: encrypted(plain[name], folder / "encrypted" / name) for name in TABLES}


@contextmanager
def _spark(tables: Mapping[str, Owned], folder: Path, scale: Decimal) -> Iterator[Ask]:
    with ExitStack() as stack:
        session = confidential(tables, folder / "spark", Shape(memory_mb=2048 + int(1024 * scale)), stack)
        for name in TABLES:
            session.ask("view", name=name)
        yield lambda number: session.ask("sql", text=sql(number, scale)).value


@contextmanager
def _polars(tables: Mapping[str, Owned], _folder: Path, scale: Decimal) -> Iterator[Ask]:
    from benchmarks.tpch.frames import encrypted_frame
    from benchmarks.tpch.lazy import query

    frames = {name: encrypted_frame(one) for name, one in tables.items()}
    yield lambda number: [line(row) for row in query(number, frames, scale).collect().rows()]


_ENGINES = {"spark": _spark, "polars": _polars}

if __name__ == "__main__":
    sys.exit(main())
