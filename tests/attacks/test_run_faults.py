"""Faults that a whole run must survive or end clearly: nothing half written becomes visible."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from support.machine import require_root
from support.stage import Stage, outputs_of

from confide.errors import ConfideError, IntegrityError, JobFailedError, ManifestError
from confide.job import Job
from confide.jobs.result import RunEvent

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

# What storage could do to an output between the tasks' commits and the driver's, done by the program because it is there at that moment.
LOSES = b"""
import confide
from pathlib import Path
ctx = confide.session()
people = ctx.read("people").repartition(3)
ctx.write(people, "summary")
folder = ctx._agent.call("stage", name="names", kind="parquet")["path"]
people.write.mode("append").parquet(f"file://{folder}")
sorted(Path(folder).glob("part-*"))[1].unlink()
ctx._agent.call("commit", name="names", kind="parquet", schema=people.schema.jsonValue())
"""
BRINGS_BACK = b"""
import confide, shutil
from pathlib import Path
ctx = confide.session()
ctx.spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")
people = ctx.read("people")
from pyspark.ml.feature import StringIndexer, StringIndexerModel
model = StringIndexer(inputCol="city", outputCol="c").fit(people)

def save(folder):
    people.write.csv(f"{folder}/plain")
    kept = next(Path(folder.removeprefix("enc://"), "plain").glob("part-*"))
    stolen = shutil.copy(kept, "/dev/shm")
    people.write.mode("overwrite").csv(f"{folder}/plain")
    for _ in range(2):
        people.write.partitionBy("city").mode("overwrite").json(f"{folder}/cities")
        people.rdd.map(str).saveAsTextFile(f"{folder}/text-{_}")
        model.write().overwrite().save(f"{folder}/model")
    return Path(stolen), kept

with ctx.writing("summary") as folder:
    save(folder)[0].unlink()
    assert StringIndexerModel.load(f"{folder}/model").labels == model.labels
print("the honest output was committed")
with ctx.writing("names") as folder:
    shutil.move(*save(folder))
"""

# Storage that shows a short file while Spark plans its tasks, and the whole one when they read.
SHOWS_LESS = b"""
import confide, os
from pathlib import Path
ctx = confide.session()
found = ctx.read.input("people")
victim = Path(found["path"], found["files"][0])
whole = victim.read_bytes()
os.truncate(victim, len(whole) - 100)
try:
    people = ctx.read("people")
    people.explain()
finally:
    victim.write_bytes(whole)
ctx.write(people, "summary")
ctx.write(people, "names")
"""
PLACES = b"""
import confide, os, sys
ctx = confide.session()
def here(_):
    import pickle, os, sys
    return os.getcwd(), os.environ["SPARK_LOCAL_DIRS"], os.environ["HOME"], pickle.__file__, str(sys.flags.safe_path)
places = {here(None), *ctx.spark.sparkContext.parallelize(range(8), 4).map(here).collect()}
for cwd, local, home, pickle, safe in places:
    for place in (cwd, local, home):
        assert place.startswith("/dev/shm/confide-"), place
    assert safe == "True" and "/confide-" not in pickle
for name in ("summary", "names"):
    ctx.write(ctx.read("people"), name)
"""


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the first output and not for the second."""
    require_root("mounting a small file system")
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


def test_an_output_that_lost_a_file_before_its_commit_is_refused(stage: Stage) -> None:
    job = stage.job(LOSES)
    stage.grant(job)
    with pytest.raises(IntegrityError, match="a file that a task wrote is gone"):
        stage.run(job)
    assert outputs_of(job) == []


def test_a_file_of_an_earlier_save_that_storage_brings_back_is_refused(stage: Stage) -> None:
    job = stage.job(BRINGS_BACK)
    stage.grant(job)
    with pytest.raises(IntegrityError, match="a file that no finished task wrote: plain/part-") as caught:
        stage.run(job)
    log = stage.settings.runs_dir / str(caught.value.facts["run"]) / "logs" / "driver.program.log"
    assert "the honest output was committed" in log.read_text()
    assert outputs_of(job) == []


@pytest.mark.parametrize("request_", ["releases", "register_output"])
def test_a_broker_that_answers_500_ends_the_run(stage: Stage, monkeypatch: pytest.MonkeyPatch, request_: str) -> None:
    def explode(*_: object, **_named: object) -> NoReturn:
        raise RuntimeError("the broker has a bug")

    job = stage.job(arguments=(request_,))
    stage.grant(job)
    monkeypatch.setattr(stage.broker, request_, explode)
    with pytest.raises(ConfideError) as caught:
        stage.run(job)
    assert caught.value.exit_status == 6
    assert "broker-unavailable" in str(caught.value.to_json())
    assert outputs_of(job) == []


def test_a_file_that_is_short_while_spark_plans_is_refused(stage: Stage) -> None:
    job = stage.job(SHOWS_LESS)
    stage.grant(job)
    with pytest.raises(JobFailedError, match="has another length than its manifest says"):
        stage.run(job)
    assert outputs_of(job) == []


def test_nothing_of_an_engine_lies_where_the_host_can_write(stage: Stage) -> None:
    """Current folders, spill files and what Python imports: a module or a shuffle file that the host puts there would be taken."""
    job = stage.job(PLACES)
    stage.grant(job)
    left: set[str] = set()

    def look(_event: RunEvent) -> None:
        left.update(str(path) for path in stage.settings.runs_dir.glob("*/nodes/*/scratch/*"))

    stage.run(job, listener=look)
    assert left == set()
