"""Whole runs that go on with an earlier run's output, with real processes: append, overwrite, and a killed one."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.stage import CANARY, Stage

from confide.data.files import read_table
from confide.data.manifest import verify_manifest
from confide.data.snapshots import SignedManifest, history, load_manifest
from confide.errors import ConfideError, GrantError, OutputExistsError, RollbackError, SnapshotConflictError
from confide.job import Job
from confide.jobs.receipt import verify
from confide.jobs.result import RunEvent
from confide.jobs.submit import pin_datasets

pytestmark = [pytest.mark.run, pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left_behind")]
POLARS = b"""
from confide.data.polars import session
ctx = session()
ctx.write(ctx.read("people").join(ctx.read("cities"), on="city").select("name", "country"), "names")
"""
SPARK = b"""
import confide
ctx = confide.session()
ctx.write(ctx.read("people").join(ctx.read("cities"), "city").select("name", "country"), "names", mode="append")
"""


def job_of(stage: Stage, place: Path, mode: str, program: bytes = POLARS, **changes: Any) -> Job:
    engine = {"engine": "polars", "resources": {}} if program == POLARS else {}
    output = {"path": str(place), "recipients": ["analyst"], "mode": mode}
    job: Job = stage.job(program, **{**engine, **changes}, files={"main.py": program}, outputs=())
    return pin_datasets(Job.build({**job.model_dump(), "outputs": {"names": output}}))


def granted(stage: Stage, job: Job) -> Job:
    stage.grant(job)
    return job


def newest(place: Path) -> SignedManifest:
    found = load_manifest(place)
    verify_manifest(found.envelope, found.signer)
    return found


def test_runs_append_to_and_overwrite_what_earlier_runs_made(stage: Stage, tmp_path: Path) -> None:
    place = tmp_path / "names"
    first = granted(stage, job_of(stage, place, "append"))  # where nothing is yet, it is a new output
    assert first.outputs["names"].dataset == ""
    stage.run(first)
    one = newest(place)
    shutil.copytree(place, tmp_path / "of-before" / "names")
    with pytest.raises(OutputExistsError):
        stage.run(job_of(stage, place, "error"))
    second = job_of(stage, place, "append")
    with pytest.raises(GrantError):
        stage.run(second)
    assert newest(place).digest == one.digest

    result, _ = stage.run(granted(stage, second))
    two = newest(place)
    assert (two.unverified.snapshot, two.unverified.rows, two.unverified.parent) == (2, 200, one.digest)
    (row,) = result.verification.require().outputs
    assert (row.snapshot, row.parent, row.manifest) == (2, one.digest, two.digest)
    verify(result.folder, settings=stage.settings)
    key = stage.clients["analyst"].open(two.envelope).secret
    assert read_table(place, two.unverified, key).num_rows == 200

    result, _ = stage.run(granted(stage, job_of(stage, place, "overwrite", arguments=("again",))))
    three = newest(place)
    assert (three.unverified.snapshot, three.unverified.rows) == (3, 100)
    assert [one.unverified.rows for one in history(three)] == [200, 100]
    assert read_table(place, next(history(three)).unverified, key).num_rows == 200
    with pytest.raises(RollbackError):
        stage.clients["analyst"].open(two.envelope)
    with pytest.raises(RollbackError):  # a storage that rolls back, to what another run has signed
        stage.run(granted(stage, job_of(stage, tmp_path / "of-before" / "names", "append", arguments=("rolled back",))))
    assert newest(tmp_path / "of-before" / "names").digest == one.digest
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path

    older = {"then": {"path": str(place), "snapshot": 1}, "people": {"path": str(stage.root / "people")}}
    program = POLARS.replace(b'ctx.read("people").join(ctx.read("cities"), on="city").select("name", "country")', b'ctx.read("then")')
    reading = job_of(stage, tmp_path / "copied", "error", arguments=("older",), inputs=older)
    reading = pin_datasets(reading.model_copy(update={"files": {"main.py": program}}))
    stage.run(granted(stage, reading))
    assert newest(tmp_path / "copied").unverified.rows == 100


def test_spark_appends_to_what_polars_made_unless_another_run_was_first(stage: Stage, tmp_path: Path) -> None:
    place = tmp_path / "names"
    stage.run(granted(stage, job_of(stage, place, "append", arguments=("spark",))))
    slow = granted(stage, job_of(stage, place, "append", SPARK))
    fast = granted(stage, job_of(stage, place, "append", arguments=("fast",)))
    begun: list[str] = []

    def another_run(event: RunEvent) -> None:
        if event.type == "worker-accepted" and not begun:
            begun.append(event.type)
            stage.run(fast)

    with pytest.raises(SnapshotConflictError):
        stage.run(slow, listener=another_run)
    made = newest(place)
    assert (made.unverified.snapshot, made.unverified.rows) == (2, 200)
    assert len(list(place.rglob("*.parquet"))) == len(made.unverified.files)
    result, _ = stage.run(slow)
    verify(result.folder, settings=stage.settings)
    assert (newest(place).unverified.snapshot, newest(place).unverified.rows) == (3, 300)


def test_a_killed_run_leaves_the_earlier_snapshot_whole_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    place, mark = tmp_path / "names", tmp_path / "asleep"
    stage.run(granted(stage, job_of(stage, place, "append", arguments=("killed",))))
    before, files = newest(place), sorted(place.rglob("*"))
    program = POLARS + f"import pathlib, time, os; pathlib.Path({str(mark)!r}).write_text(str(os.getppid())); time.sleep(60)\n".encode()
    job = job_of(stage, place, "append")
    job = granted(stage, pin_datasets(job.model_copy(update={"files": {"main.py": program}})))

    def kill_the_driver() -> None:
        while not mark.exists() or not mark.read_text():
            time.sleep(0.05)
        os.kill(int(mark.read_text()), signal.SIGKILL)

    thread = threading.Thread(target=kill_the_driver)
    thread.start()
    with pytest.raises(ConfideError):
        stage.run(job)
    thread.join()
    assert newest(place).digest == before.digest
    assert sorted(place.rglob("*")) == files
    assert not list(tmp_path.glob(".*"))
