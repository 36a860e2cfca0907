"""``python -m benchmarks WHAT [--repeat N] [--write]``: figures beside plain counterparts; ``--write`` puts them into docs."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from decimal import Decimal
from pathlib import Path

from benchmarks.machine import describe

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_OPTIONS = {"broker": ("quick", "only", "sqlite", "rewraps"), "data": ("quick", "only", "scale")}
"""Options that only some benchmarks have."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, side by side with the plain counterpart.")
    parser.add_argument("what", choices=["spine", "attest", "broker", "data"])
    parser.add_argument("--repeat", type=int, default=3, help="whole runs of each kind, or rounds of verifications (default 3)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true", help="broker, data: a look at whether everything works; the figures mean nothing")
    parser.add_argument("--only", nargs="+", metavar="ROWS", default=[], help="broker, data: these rows, such as cycle, re-wrap or tpch")
    parser.add_argument("--sqlite", action="store_true", help="broker only: leave PostgreSQL out")
    parser.add_argument("--rewraps", type=int, metavar="N", help="broker only: datasets whose keys are put under a new version")
    parser.add_argument("--scale", type=Decimal, help="data only: TPC-H scale factor (default 1)")
    given = parser.parse_args()
    options = {"quick": given.quick, "only": tuple(given.only), "sqlite": given.sqlite, "rewraps": given.rewraps, "scale": given.scale}
    special = {name: value for name, value in options.items() if value}
    if foreign := [f"--{name}" for name in special if name not in _OPTIONS.get(given.what, ())]:
        parser.error(f"not for {given.what}: {', '.join(foreign)}")
    if given.write and (given.quick or given.only or given.sqlite):
        parser.error("--write takes whole tables, without --quick, --only and --sqlite")

    bench = importlib.import_module(f"benchmarks.{given.what}")
    rows = bench.measure(given.repeat, **special)
    table = bench.markdown(rows, describe(), given.repeat)
    print(table)
    if given.write:
        _write(given.what, table)
    return 0


def _write(name: str, table: str) -> None:
    """Replace the block between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    text = PAGE.read_text(encoding="utf-8")
    replaced, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"docs/benchmarks.md has no place for {name}")
    PAGE.write_text(replaced, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
