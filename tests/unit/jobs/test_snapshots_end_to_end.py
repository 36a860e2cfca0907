"""Snapshots in whole runs, with real processes: two of one dataset in a job, and one that is committed while a run goes on."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from support.stage import Stage

from confide.data.commit import add_snapshot
from confide.data.files import read_table
from confide.data.snapshots import load_manifest
from confide.errors import RollbackError
from confide.ids import JobDigest
from confide.jobs.receipt import verify
from confide.jobs.result import RunEvent
from confide.jobs.submit import pin_datasets
from confide.keys.credentials import Credential

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]
PROGRAM = b"""
import confide
ctx = confide.session()
then, now = ctx.read("then"), ctx.read("people")
counted = now.groupBy("city").count().join(then.groupBy("city").count().withColumnRenamed("count", "before"), "city")
ctx.write(counted.join(ctx.read("cities"), "city").select("city", "count", "before"), "summary")
"""


def append(stage: Stage, city: int) -> None:
    signer = Credential.load(stage.settings.credentials_dir, "airline").key
    add_snapshot(
        pa.table({"name": [f"new-{city}"], "city": [city]}),
        load_manifest(stage.root / "people"),
        "append",
        dataset_key=stage.dataset_keys["people"],
        signer=signer,
        now=datetime.now(UTC),
        register=stage.clients["airline"].register_manifest,
    )


def test_a_job_compares_two_snapshots_while_a_third_is_committed(stage: Stage) -> None:
    append(stage, 0)
    people = str(stage.root / "people")
    job = stage.job(PROGRAM, outputs=("summary",))
    inputs = {**job.inputs, "then": job.inputs["people"].model_copy(update={"path": people, "snapshot": 1})}
    job = pin_datasets(job.model_copy(update={"inputs": inputs}))
    stage.grant(job)
    committed: list[str] = []

    def commit_once_the_driver_has_looked(event: RunEvent) -> None:
        if event.type == "worker-accepted" and not committed:
            committed.append(event.type)
            append(stage, 1)

    result, events = stage.run(job, listener=commit_once_the_driver_has_looked)
    assert committed, [event.type for event in events]
    statement = result.verification.require()
    assert {entry.name: entry.snapshot for entry in statement.inputs} == {"people": 2, "then": 1, "cities": 1}
    verify(result.folder, settings=stage.settings)
    made = load_manifest(Path(job.outputs["summary"].path))
    rows = read_table(made.folder, made.unverified, stage.clients["analyst"].open(made.envelope).secret).sort_by("city").to_pylist()
    assert [(row["before"], row["count"]) for row in rows] == [(20, 21), (20, 20), (20, 20), (20, 20), (20, 20)]
    assert JobDigest(job.digest) == statement.job


def test_a_snapshot_that_is_hidden_from_the_driver_alone_ends_the_run(stage: Stage) -> None:
    people, held_back = stage.root / "people", stage.root / "held-back"
    shutil.copytree(people, stage.root / "old")
    append(stage, 0)
    people.rename(held_back)
    (stage.root / "old").rename(people)
    program = b'import confide; ctx = confide.session(); ctx.write(ctx.read("people").groupBy("city").count(), "summary")'
    job = stage.job(program, outputs=("summary",))
    stage.grant(job)

    def show_it_to_workers(event: RunEvent) -> None:
        if event.type == "worker-accepted" and held_back.exists():
            shutil.rmtree(people)
            held_back.rename(people)

    with pytest.raises(RollbackError):
        stage.run(job, listener=show_it_to_workers)
