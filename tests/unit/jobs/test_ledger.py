"""The ledger of output files under what Hadoop's committers do, and under what storage could do."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.canonical import Json
from confide.crypto.sign import SigningKey
from confide.errors import IntegrityError, ManifestError, ProtocolError
from confide.ids import RunId
from confide.jobs.ledger import FileLedger
from confide.jobs.outputs import Outputs
from confide.jobs.task_files import TaskFiles

OUT = "/data/.result.staging-r1"
ATTEMPT = f"{OUT}/_temporary/0/_temporary/attempt_1"
TASK = f"{OUT}/_temporary/0/task_1"


class Run:
    """A worker's agent and the driver's ledger; reports arrive at once."""

    def __init__(self) -> None:
        self.driver = FileLedger()
        self.told: list[Json] = []
        self.operations = TaskFiles(self.write_key, self.tell).operations()

    def write_key(self, request: Json) -> Json:
        if not request["path"].startswith(OUT):
            raise ManifestError("not an output")
        return {"key": "k"}

    def tell(self, report: Json) -> None:
        self.told.append(report)
        if report["type"] == "files-written":
            self.driver.add(report["paths"])
        else:
            self.driver.remove(report["path"])

    def begin(self, *paths: str) -> None:
        for path in paths:
            assert self.operations["write-key"]({"path": path}) == {"key": "k"}

    def rename(self, source: str, target: str) -> None:
        assert self.operations["file-renamed"]({"from": source, "to": target}) == {}

    def delete(self, path: str) -> None:
        assert self.operations["file-deleted"]({"path": path}) == {}

    def task_of_algorithm_1(self, *names: str, task: str = TASK) -> None:
        self.begin(*(f"{ATTEMPT}/{name}" for name in names))
        self.delete(task)  # of an earlier attempt
        self.rename(ATTEMPT, task)

    def commit_of_algorithm_1(self, *names: str) -> None:
        for name in names:
            self.driver.remove(f"{OUT}/{name}")
            self.driver.move(f"{TASK}/{name}", f"{OUT}/{name}")
        self.driver.remove(f"{OUT}/_temporary")


@pytest.fixture
def run() -> Run:
    return Run()


def test_algorithm_1_leaves_what_tasks_wrote(run: Run) -> None:
    run.task_of_algorithm_1("part-0", "city=1/part-0")
    run.commit_of_algorithm_1("part-0", "city=1")
    run.driver.require(OUT, ["part-0", "city=1/part-0"])


def test_algorithm_2_leaves_what_tasks_wrote(run: Run) -> None:
    run.begin(f"{ATTEMPT}/part-0")
    run.delete(f"{OUT}/part-0")
    run.rename(f"{ATTEMPT}/part-0", f"{OUT}/part-0")
    run.driver.remove(f"{OUT}/_temporary")
    run.driver.require(OUT, ["part-0"])


def test_dynamic_partitions_replace_what_was_there(run: Run) -> None:
    staging = f"{OUT}/.spark-staging-7"
    for part in ("part-old", "part-new"):
        run.begin(f"{staging}/_temporary/0/_temporary/attempt_1/city=1/{part}")
        run.rename(f"{staging}/_temporary/0/_temporary/attempt_1", f"{staging}/_temporary/0/task_1")
        run.driver.move(f"{staging}/_temporary/0/task_1/city=1", f"{staging}/city=1")
        run.driver.remove(f"{staging}/_temporary")
        run.driver.remove(f"{OUT}/city=1")
        run.driver.move(f"{staging}/city=1", f"{OUT}/city=1")
        run.driver.remove(staging)
    run.driver.require(OUT, ["city=1/part-new"])


def test_an_attempt_that_was_aborted_leaves_nothing(run: Run) -> None:
    run.begin(f"{ATTEMPT}/part-lost")
    run.delete(ATTEMPT)
    run.task_of_algorithm_1("part-0")
    run.commit_of_algorithm_1("part-0")
    run.driver.require(OUT, ["part-0"])


def test_a_task_that_is_run_again_replaces_its_first_commit(run: Run) -> None:
    run.task_of_algorithm_1("part-0", "part-0-c001")
    run.task_of_algorithm_1("part-0")
    run.commit_of_algorithm_1("part-0")
    run.driver.require(OUT, ["part-0"])


def test_a_file_without_a_committer_counts_at_once(run: Run) -> None:
    run.begin(f"{OUT}/notes.txt")
    run.driver.require(OUT, ["notes.txt"])


def test_a_file_that_is_gone_before_the_driver_moves_it_is_missed(run: Run) -> None:
    run.task_of_algorithm_1("part-0", "part-1")
    run.commit_of_algorithm_1("part-0")  # storage did not list part-1
    with pytest.raises(IntegrityError, match="gone"):
        run.driver.require(OUT, ["part-0"])


def test_a_file_that_is_gone_afterwards_is_missed(run: Run) -> None:
    run.task_of_algorithm_1("part-0", "part-1")
    run.commit_of_algorithm_1("part-0", "part-1")
    with pytest.raises(IntegrityError, match="gone: part-1"):
        run.driver.require(OUT, ["part-0"])


def test_a_file_of_an_attempt_that_did_not_commit_is_noticed(run: Run) -> None:
    run.task_of_algorithm_1("part-0")
    run.begin(f"{ATTEMPT}/part-1")
    run.commit_of_algorithm_1("part-0")
    with pytest.raises(IntegrityError, match="no finished task wrote: part-1"):
        run.driver.require(OUT, ["part-0", "part-1"])


def test_a_name_that_only_begins_like_the_folder_is_not_in_it() -> None:
    ledger = FileLedger()
    ledger.add([f"{OUT}/ab/part-0", f"{OUT}/a/part-0"])
    ledger.remove(f"{OUT}/a")
    ledger.require(OUT, ["ab/part-0"])


def test_a_refused_key_is_no_file(run: Run) -> None:
    with pytest.raises(ManifestError):
        run.operations["write-key"]({"path": "/elsewhere/part-0"})
    assert run.told == []


def test_a_file_outside_the_outputs_is_no_file_of_a_task(tmp_path: Path) -> None:
    outputs = Outputs({"result": tmp_path / "result"}, RunId("r1"), SigningKey.generate())
    outputs.written([f"{tmp_path}/.result.staging-r1/part-0"])
    for path in (f"{tmp_path}/result/part-0", f"{tmp_path}/.result.staging-r2/part-0", f"{tmp_path}/.result.staging-r1"):
        with pytest.raises(ProtocolError):
            outputs.written([path])


def test_files_that_are_renamed_when_they_are_whole_are_known_by_their_last_name(run: Run) -> None:
    """States of streaming queries: Spark's CheckpointFileManager."""
    run.begin(f"{OUT}/_checkpoints/.1.delta.tmp")
    run.rename(f"{OUT}/_checkpoints/.1.delta.tmp", f"{OUT}/_checkpoints/1.delta")
    run.driver.require(OUT, ["_checkpoints/1.delta"])
    told = len(run.told)
    run.rename(f"{OUT}/_checkpoints/.1.delta.tmp", f"{OUT}/_checkpoints/1.delta")
    assert len(run.told) == told


def test_a_part_of_a_streams_log_that_was_not_shown_is_missed(run: Run) -> None:
    run.driver.add([f"{OUT}/_spark_metadata/0", f"{OUT}/_spark_metadata/1", f"{OUT}/part-0"])
    run.driver.remove(f"{OUT}/_spark_metadata/0")  # read, and deleted by name
    run.driver.remove(f"{OUT}/_spark_metadata")
    with pytest.raises(IntegrityError, match="_spark_metadata/1"):
        run.driver.require(OUT, ["part-0"])


def test_renames_of_other_files_are_not_told(run: Run) -> None:
    run.rename("/spark/a", "/spark/b")
    assert run.told == []
