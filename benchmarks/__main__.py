"""``python -m benchmarks WHAT [--repeat N] [--write]``: figures beside plain counterparts; ``--write`` puts them into docs."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_OPTIONS = {"broker": ("quick", "only", "sqlite", "rewraps"), "data": ("quick", "only", "scale")}
"""Options that only some benchmarks have."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, side by side with the plain counterpart.")
    parser.add_argument("what", choices=["spine", "attest", "broker", "cluster", "data"])
    parser.add_argument("--repeat", type=int, default=3, help="whole runs of each kind, or rounds of verifications (default 3)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md; data: each section's when it is done")
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
    if given.write and (given.quick or given.sqlite or (given.only and given.what != "data")):
        parser.error("--write takes whole tables, without --quick, --only (but for data) and --sqlite")

    bench = importlib.import_module(f"benchmarks.{given.what}")
    names: list[str] = bench.places(given.only, given.scale) if given.what == "data" else [given.what]
    if given.write:
        _require_places(names)
    measured: Any = bench.measure(given.repeat, **special)
    for name, rows in zip(names, measured if given.what == "data" else [measured], strict=True):
        table = bench.markdown(rows, describe(), given.repeat)
        print(table, flush=True)
        if given.write:
            _write(name, table)
    return 0


def _place(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)


def _require_places(names: list[str]) -> None:
    """Nothing is measured for long that there is no place for."""
    text = PAGE.read_text(encoding="utf-8")
    for name in names:
        if len(_place(name).findall(text)) != 1:
            sys.exit(f"docs/benchmarks.md has no place for {name}")


def _write(name: str, table: str) -> None:
    """Replace the block between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_place(name).sub(lambda m: f"{m[1]}{table}\n{m[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
