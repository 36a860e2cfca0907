"""The broker's benchmark runs: whole, small, and with nothing said of its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_run_measures_every_kind_on_both_databases() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "broker", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    kinds = {("releases together" if "in one request" in row[0] else row[0].partition(",")[0], row[1].partition(" ")[0]) for row in rows}
    asked = {"cycle of a node", "cycle of a KBS guest", "release", "releases together", "audit append", "audit proof with its signed head"}
    for database in ("SQLite", "PostgreSQL"):
        assert {(what, database) for what in (*asked, "re-wrap of a dataset's key")} <= kinds
    assert {("TLS 1.3 handshake alone", "SQLite"), ("memory over releases on open sessions", "SQLite")} <= kinds
    assert all(row[3] for row in rows if "memory" not in row[0]), "every row but the memory's has a rate"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("spine --quick", "not for spine: --quick"),
        ("attest --sqlite --rewraps 5", "not for attest: --sqlite, --rewraps"),
        ("data --sqlite", "not for data: --sqlite"),
        ("broker --scale 3", "not for broker: --scale"),
        ("broker --quick --write", "--write takes whole tables"),
        ("broker --only cycle --write", "--write takes whole tables"),
    ],
)
def test_rows_alone_and_quick_ones_are_for_the_broker_and_never_published(words: str, says: str) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", *words.split()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
