"""Faults that a whole run must survive or end clearly: nothing half written becomes visible."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stage import Stage, outputs_of

from confide.errors import ConfideError, ManifestError
from confide.job import Job

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]

LARGE = b"""
import confide
from pyspark.sql import functions as f
ctx = confide.session()
people = ctx.read("people")
wide = people.crossJoin(people.select("city")).withColumn("noise", f.sha2(f.rand().cast("string"), 512))
ctx.write(people, "summary")
ctx.write(wide, "names")
ctx.stop()
"""


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the first output and not for the second."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_ends_the_run_with_nothing_visible(stage: Stage, full_disk: Path) -> None:
    job = _job_writing_to(stage, full_disk)
    stage.grant(job)
    with pytest.raises(ConfideError) as caught:
        stage.run(job)
    assert caught.value.exit_status != 0
    assert outputs_of(job) == []
    assert list(full_disk.iterdir()) == []


def _job_writing_to(stage: Stage, place: Path) -> Job:
    job = stage.job(LARGE)
    return job.model_copy(update={"outputs": {n: o.model_copy(update={"path": str(place / n)}) for n, o in job.outputs.items()}})


def test_the_folder_of_another_dataset_is_refused(stage: Stage) -> None:
    job = stage.job(arguments=("other-folder",))
    stage.grant(job)
    inputs = {**job.inputs, "people": job.inputs["people"].model_copy(update={"path": job.inputs["cities"].path})}
    moved = job.model_copy(update={"inputs": inputs})
    assert moved.digest == job.digest
    with pytest.raises(ManifestError):
        stage.run(moved)
    assert outputs_of(job) == []
