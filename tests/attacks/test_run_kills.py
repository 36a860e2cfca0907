"""Processes of a run that are killed at random moments: each output whole or not there, and nothing of it in the clear.

Here a few; ``python -m scripts.run_kills`` (``make run-kills``) takes a hundred.
"""

from __future__ import annotations

import random
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripts import run_kills
from scripts.run_kills import Ended, Runs

from confide.errors import ConfideError
from confide.node.private_dir import MEMORY_BASE

pytestmark = [pytest.mark.run, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("kills"))
    try:
        yield made
    finally:
        made.stage.close()


@pytest.mark.parametrize(
    ("engine", "kind", "phase", "within"),
    [
        ("polars", "program", "life", 0.2),
        ("polars", "driver's agent", "publishing", 0.03),
        ("polars", "client", "writing", 0.2),
        ("spark", "executor", "writing", 1.0),
    ],
)
def test_a_killed_process_leaves_outputs_whole_or_none(runs: Runs, engine: str, kind: str, phase: str, within: float) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 -- pytest shows it with a failure
    _, killed = runs.kill(engine, kind, phase, random.Random(seed).random() * within)
    assert killed


def a_row_in_a_log(ended: Ended, runs: Runs) -> None:
    assert ended.folder is not None
    (ended.folder.logs / "left.log").write_text(f"x {runs.canary}")


def a_row_in_memory(_ended: Ended, runs: Runs) -> None:
    (MEMORY_BASE / runs.canary).write_text(f"x {runs.canary}")


def a_private_folder(ended: Ended, _runs: Runs) -> None:
    assert ended.folder is not None
    (MEMORY_BASE / f"confide-{ended.folder.run}-driver").mkdir()


def a_staged_output(ended: Ended, _runs: Runs) -> None:
    (Path(ended.job.outputs["names"].path).parent / ".names.staging-x").mkdir()


def a_manifest_before_its_files(ended: Ended, _runs: Runs) -> None:
    next(Path(ended.job.outputs["names"].path).rglob("*.parquet")).unlink()


def a_file_cut_short(ended: Ended, _runs: Runs) -> None:
    next(Path(ended.job.outputs["lines"].path).rglob("a.csv")).write_bytes(b"x")


def a_table_that_is_gone(_ended: Ended, runs: Runs) -> None:
    shutil.rmtree(runs.log)


@pytest.mark.parametrize(
    ("spoil", "noticed"),
    [
        (a_row_in_a_log, "plaintext"),
        (a_row_in_memory, "plaintext"),
        (a_private_folder, "something is left"),
        (a_staged_output, "staged output"),
        (a_manifest_before_its_files, "not there|missing"),
        (a_file_cut_short, "length"),
        (a_table_that_is_gone, "committed table is gone"),
    ],
)
def test_what_a_kill_must_not_leave_is_noticed(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoil: Callable[[Ended, Runs], Any], noticed: str
) -> None:
    """The control."""
    monkeypatch.setattr(run_kills, "LEFT_S", 0.1)
    ended = replace(runs.kept, status="lost")
    runs.check(ended, "client")
    kept = tmp_path / "kept"
    shutil.copytree(runs.stage.root, kept, symlinks=True)
    try:
        spoil(ended, runs)
        with pytest.raises((AssertionError, ConfideError), match=noticed):
            runs.check(ended, "client")
    finally:
        for name in ("log", Path(ended.job.outputs["names"].path).parent.name, "home"):
            shutil.rmtree(runs.stage.root / name, ignore_errors=True)
            shutil.copytree(kept / name, runs.stage.root / name, symlinks=True)
        (MEMORY_BASE / runs.canary).unlink(missing_ok=True)
        shutil.rmtree(MEMORY_BASE / f"confide-{ended.folder.run if ended.folder else ''}-driver", ignore_errors=True)
    runs.check(ended, "client")


def test_a_run_that_ended_otherwise_than_it_says_is_noticed(runs: Runs) -> None:
    """The control: an output that is visible though its run failed, a worker's death that ended a run, a receipt that does not hold."""
    failed = replace(runs.kept, status="failed", error={"code": "job-failed", "message": "x"})
    with pytest.raises(AssertionError, match="is visible"):
        runs.check(failed, "program")
    with pytest.raises(AssertionError, match="a worker's process was killed"):
        runs.check(failed, "executor")
    with pytest.raises(AssertionError, match="left no result"):
        runs.check(replace(runs.kept, status="lost"), "program")
    with pytest.raises(AssertionError, match="a committed snapshot is gone"):
        runs.check(runs.kept, "program")  # it was counted already: one snapshot more would have to be there


def test_a_process_that_is_left_is_noticed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_kills, "LEFT_S", 0.1)
    argv = [sys.executable, "-c", "import time; time.sleep(60)", str(runs.stage.root / secrets.token_hex(4))]
    with subprocess.Popen(argv) as left:
        try:
            with pytest.raises(AssertionError, match="something is left"):
                runs.check(replace(runs.kept, status="lost"), "client")
        finally:
            left.kill()
