"""A run's saves into its outputs: what each mode leaves, and that nothing counts before it is published."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.outputs import output_key

from confide.canonical import Json
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import files, folder
from confide.data.manifest import MANIFEST_NAME, Manifest, verify_manifest
from confide.data.schema import schema_json
from confide.data.snapshots import load_manifest
from confide.data.staging import attempt_beside
from confide.errors import IntegrityError, JobFailedError, PlaintextError, ProtocolError, SecretLeakError, UnavailableError, UsageError
from confide.ids import RunId
from confide.jobs.outputs import Outputs
from confide.jobs.saves import Save
from confide.jobs.staging import staging_path

RUN, SIGNER = RunId("r1"), SigningKey.generate()
SCHEMA = pa.schema([("x", pa.int64())])


class Driver:
    """Outputs ``a`` and ``b`` of a run, and the tasks that write into them."""

    def __init__(self, root: Path) -> None:
        self.places = {"a": root / "a", "b": root / "b"}
        self.outputs = Outputs(self.places, RUN, SIGNER)
        self.keys = {name: output_key() for name in self.places}
        for name, key in self.keys.items():
            self.outputs.hold(name, key, lambda key=key: key)
        self.saved = 0

    def staged(self, name: str) -> Path:
        return staging_path(self.places[name], RUN)

    def begin(self, name: str, mode: str = "error", **more: object) -> Json:
        return self.outputs.stage(name, Save.from_json({"kind": "parquet", "mode": mode, "columns": [["x", '"long"']], **more}))

    def task(self, name: str, *rows: int) -> list[Path]:
        """A finished task's file."""
        self.saved += 1
        key = self.keys[name]
        with attempt_beside(self.places[name].with_name("task")) as attempt:
            written = files.encrypt_table(pa.table({"x": rows}, SCHEMA), attempt, key.secret, dataset=key.dataset, first=self.saved)
            paths = [(attempt.files / entry.path).rename(self.staged(name) / entry.path) for entry in written.files]
        self.outputs.written([str(path) for path in paths])
        return paths

    def commit(self, name: str) -> Json:
        return self.outputs.commit(name, "parquet", schema_json(SCHEMA)["spark"])

    def save(self, name: str, mode: str, *rows: int) -> Json:
        begun = self.begin(name, mode)
        if begun["path"] is None:
            return dict(begun["committed"])
        self.task(name, *rows)
        return self.commit(name)

    def published(self, name: str) -> tuple[Manifest, list[int]]:
        place = self.places[name]
        manifest = verify_manifest(load_manifest(place).envelope, SIGNER.public)
        folder.verify_files(place, manifest)
        folder.refuse_foreign(place, {entry.path for entry in manifest.files})
        return manifest, sorted(files.read_table(place, manifest, self.keys[name].secret).column("x").to_pylist())


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def test_saves_of_one_run_become_one_snapshot(driver: Driver) -> None:
    driver.save("a", "error", 1, 2)
    assert driver.save("a", "append", 3)["rows"] == 3
    driver.save("b", "append", 9)
    driver.outputs.require_all()
    driver.outputs.publish()
    manifest, rows = driver.published("a")
    assert rows == [1, 2, 3]
    assert (manifest.snapshot, manifest.parent, manifest.run) == (1, None, RUN)


def test_what_is_overwritten_leaves_neither_rows_nor_files(driver: Driver) -> None:
    driver.save("a", "error", 1, 2)
    before = set(driver.staged("a").iterdir())
    assert driver.save("a", "overwrite", 7)["rows"] == 1
    assert not any(path.exists() for path in before)
    driver.outputs.publish()
    assert driver.published("a")[1] == [7]


def test_ignore_answers_with_what_is_there(driver: Driver) -> None:
    first = driver.save("a", "ignore", 1, 2)
    assert driver.save("a", "ignore", 7) == first


def test_a_second_save_needs_a_mode(driver: Driver) -> None:
    driver.save("a", "error", 1)
    for mode in ("error", "errorifexists", "default"):
        with pytest.raises(UsageError, match="written before"):
            driver.begin("a", mode)
    with pytest.raises(UsageError, match="no such save mode"):
        driver.begin("a", "upsert")


@pytest.mark.parametrize(
    "other", [{"kind": "files"}, {"columns": [["x", '"string"']]}, {"columns": [["y", '"long"']]}, {"partitions": ["x"]}, {"format": "csv"}]
)
def test_what_cannot_be_read_together_is_not_appended(driver: Driver, other: Json) -> None:
    driver.save("a", "error", 1)
    with pytest.raises(UsageError, match="was written with"):
        driver.begin("a", "append", **other)
    driver.begin("a", "overwrite", **other)


def test_one_save_into_an_output_at_a_time(driver: Driver) -> None:
    driver.begin("a")
    with pytest.raises(UsageError, match="is being written"):
        driver.begin("a", "append")
    driver.begin("b")


def test_a_failed_save_leaves_what_was_committed(driver: Driver) -> None:
    driver.save("a", "error", 1)
    driver.begin("a", "overwrite")
    driver.task("a", 5)
    pending = driver.staged("a") / "_temporary" / "0" / "_temporary" / "attempt_7" / "k=1"
    pending.mkdir(parents=True)
    (pending / "part-1").write_bytes(b"half")
    driver.outputs.abandon("a")
    driver.outputs.written([str(driver.staged("a") / "_temporary" / "0" / "task_7" / "part-1")])  # a task that was slower than the news
    assert driver.save("a", "append", 2)["rows"] == 2
    driver.outputs.publish()
    assert driver.published("a")[1] == [1, 2]


def test_a_save_that_failed_may_be_tried_again(driver: Driver) -> None:
    driver.begin("a")
    driver.task("a", 5)
    driver.outputs.abandon("a")
    assert list(driver.staged("a").iterdir()) == []
    driver.save("a", "error", 6)
    driver.outputs.publish()
    assert driver.published("a")[1] == [6]
    with pytest.raises(UsageError):
        driver.outputs.abandon("a")


def test_what_a_lost_attempt_leaves_is_removed(driver: Driver) -> None:
    driver.begin("a")
    driver.task("a", 1)
    late = driver.staged("a") / "_temporary" / "0" / "_temporary" / "attempt_1"
    late.mkdir(parents=True)
    (late / "part-0").write_bytes(b"PAR1 half a file")
    driver.commit("a")
    late.mkdir(parents=True)  # a copy that was still running
    driver.outputs.publish()
    assert driver.published("a")[1] == [1]
    assert not (driver.places["a"] / "_temporary").exists()


def test_a_finished_file_that_storage_left_with_the_attempts_is_missed(driver: Driver) -> None:
    driver.begin("a")
    driver.task("a", 1)
    driver.outputs.written([str(driver.staged("a") / "_temporary" / "0" / "task_2" / "part-1")])
    with pytest.raises(IntegrityError, match="is gone"):
        driver.commit("a")


def test_no_manifest_is_in_storage_before_the_outputs_appear(driver: Driver) -> None:
    """A storage that had a copy could show it later: it is signed, and of fewer rows."""
    driver.save("a", "error", 1)
    driver.save("a", "append", 2)
    assert not list(driver.staged("a").rglob(MANIFEST_NAME))
    assert not driver.places["a"].exists()
    driver.outputs.publish()
    assert (driver.places["a"] / MANIFEST_NAME).is_file()


def test_a_program_that_ends_within_a_save_has_failed(driver: Driver) -> None:
    driver.save("a", "error", 1)
    driver.save("b", "error", 1)
    driver.begin("a", "append")
    with pytest.raises(JobFailedError, match="while it wrote a"):
        driver.outputs.require_all()


@pytest.mark.parametrize("name", ["part-0.csv", "part-0.json", "part-0.txt", "part-0.orc", "part-0.avro", "part-0.parquet"])
@pytest.mark.parametrize("kind", ["parquet", "files"])
def test_plaintext_of_any_format_ends_the_run(driver: Driver, name: str, kind: str) -> None:
    plain: dict[str, Callable[[Path], object]] = {
        ".parquet": lambda path: pq.write_table(pa.table({"x": [1]}), path),
        ".orc": lambda path: path.write_bytes(b"ORC" + bytes(60) + b"ORC"),
        ".avro": lambda path: path.write_bytes(b"Obj\x01" + bytes(60)),
    }
    driver.begin("a", kind=kind)
    place = driver.staged("a") / name
    plain.get(place.suffix, lambda path: path.write_text("1,2\n"))(place)
    driver.outputs.written([str(place)])
    with pytest.raises(PlaintextError):
        driver.outputs.commit("a", kind, schema_json(SCHEMA)["spark"] if kind == "parquet" else None)
    with pytest.raises(PlaintextError):
        driver.outputs.require_unharmed()


def test_another_kind_than_was_announced_is_not_committed(driver: Driver) -> None:
    driver.begin("a")
    driver.task("a", 1)
    with pytest.raises(UsageError):
        driver.outputs.commit("a", "files", None)
    with pytest.raises(UsageError):
        driver.begin("b", kind="orc")
    with pytest.raises(ProtocolError):
        driver.begin("b", columns=[["x"]])


def test_closing_leaves_nothing_of_a_run_that_failed(driver: Driver) -> None:
    driver.save("a", "error", 1)
    driver.outputs.close()
    assert not driver.staged("a").exists()
    assert not driver.places["a"].exists()


def test_a_file_outside_the_outputs_is_no_tasks_file(driver: Driver) -> None:
    driver.begin("a")
    for path in (driver.staged("a").with_name("elsewhere"), driver.places["a"] / "x", driver.staged("a")):
        with pytest.raises(ProtocolError, match="in no output"):
            driver.outputs.written([str(path)])


def test_a_renewed_key_of_another_dataset_is_not_taken(driver: Driver) -> None:
    expired, other = replace(driver.keys["a"], expires=datetime.now(UTC) - timedelta(seconds=1)), output_key()
    driver.outputs.hold("a", expired, lambda: other)
    driver.begin("a")
    driver.task("a", 1)
    with pytest.raises(ProtocolError, match="another output's key"):
        driver.commit("a")


def test_a_key_that_comes_after_the_end_is_wiped_and_nothing_is_staged(driver: Driver) -> None:
    driver.outputs.close()
    late = output_key()
    with pytest.raises(UnavailableError):
        driver.outputs.hold("a", late, lambda: late)
    for key in (*driver.keys.values(), late):
        with pytest.raises(SecretLeakError):
            key.secret.reveal()
    with pytest.raises(UnavailableError):
        driver.begin("a")
    assert not driver.staged("a").exists()


@pytest.mark.timeout(60)
def test_no_key_waits_for_the_end_of_a_commit(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.begin("a")
    driver.task("a", 1)
    reached, wiped = threading.Event(), threading.Event()

    def commit_staged(*_: object, dataset_key: SecretBytes, **__: object) -> None:
        reached.set()
        while True:  # as it does for each file
            try:
                dataset_key.reveal()
            except SecretLeakError:
                wiped.set()
                raise

    monkeypatch.setattr("confide.data.commit.commit_staged", commit_staged)

    def commit() -> None:
        with pytest.raises(SecretLeakError):
            driver.commit("a")

    committing = threading.Thread(target=commit, daemon=True)
    committing.start()
    assert reached.wait(30)
    driver.outputs.close()
    assert wiped.is_set()
    committing.join(30)
    assert not committing.is_alive()
