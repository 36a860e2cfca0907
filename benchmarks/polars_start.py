"""From the start of a command to the first answer of a Polars program: ``confide run``, beside the same program on a plain file.

For :mod:`benchmarks.spine`, in whose workspace the owners, the broker and the tables are.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from benchmarks.spine import Row

if TYPE_CHECKING:
    from pathlib import Path

    from confide.cli.demo import Demo

_MARK: Final = "benchmark began and answered at "
_CONFIDE: Final = ("from confide.data.polars import session", 'session().read("flights")', 'session().write(found, "carriers")')
_PLAIN: Final = ("import sys", 'pl.scan_parquet(sys.argv[1] + "/flights.parquet")', 'found.write_parquet(sys.argv[1] + "/found.parquet")')
_PROGRAM: Final = """
import time
began = time.time()
import polars as pl
{imported}
found = {table}.group_by("carrier").agg(pl.len(), pl.col("dep_delay").mean()).sort("carrier").collect()
print("{mark}", began, time.time(), flush=True)
{written}
"""
_JOB: Final = """
name = "carriers"
engine = "polars"
program = "carriers.py"
policy = "policy.toml"
inputs.flights.path = "data/flights"
[outputs.carriers]
path = "results/carriers"
recipients = ["analyst"]
[broker]
url = "{url}"
spki = "{spki}"
"""


def measure(demo: Demo, plain: Path, runs: int) -> list[Row]:
    """So many runs of both, in turn.  ``plain``: the folder with the tables as plain Parquet."""
    begins, answer, end = Row("Polars: the program begins", "s"), Row("Polars: first answer", "s"), Row("Polars: end of the run", "s")
    begins.plain_is = "no counterpart: a plain program begins at once"
    answer.plain_is = end.plain_is = "same program, plain file, no run"
    (demo.folder / "carriers.py").write_text(_program(_CONFIDE), encoding="utf-8")
    (plain / "carriers.py").write_text(_program(_PLAIN), encoding="utf-8")
    job = demo.folder / "carriers.toml"
    job.write_text(_JOB.format(url=demo.address.url, spki=demo.address.spki), encoding="utf-8")
    demo.confide("keys", "grant", "airline/flights", "--job", job, "--accept-job-policy", "--recipient", "analyst")
    ours = [sys.executable, "-m", "confide.cli.main", "--home", str(demo.folder), "run", str(job), "--simulate"]
    theirs = [sys.executable, str(plain / "carriers.py"), str(plain)]
    for _ in range(runs):
        shutil.rmtree(demo.folder / "results" / "carriers", ignore_errors=True)
        for words, logs, columns in (
            (ours, demo.folder / "runs", (begins.confide, answer.confide, end.confide)),
            (theirs, None, ([], answer.plain, end.plain)),
        ):
            for values, seconds in zip(columns, _seconds(words, logs), strict=True):
                values.append(seconds)
    return [begins, answer, end]


def _program(parts: tuple[str, str, str]) -> str:
    imported, table, written = parts
    return _PROGRAM.format(mark=_MARK, imported=imported, table=table, written=written)


def _seconds(words: list[str], runs: Path | None) -> tuple[float, float, float]:
    """When the program began, when it had its answer and when the command was over, in seconds from the command's start."""
    before = set(runs.iterdir()) if runs else set()
    start = time.time()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    end = time.time() - start
    if done.returncode:
        sys.exit(f"the run failed:\n{done.stderr[-2000:]}")
    logs = [log for run in set(runs.iterdir()) - before for log in run.rglob("*.log")] if runs else []
    said = done.stdout + "".join(log.read_text(encoding="utf-8") for log in logs)
    found = re.search(re.escape(_MARK) + r" ([0-9.]+) ([0-9.]+)", said)
    if found is None:
        sys.exit("the program did not say when it began")
    return float(found[1]) - start, float(found[2]) - start, end
