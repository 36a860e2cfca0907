"""A run that goes on with an earlier run's dataset: what each mode leaves, and that nothing counts before its snapshot is committed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.lineage import Lineage, Run, X
from support.outputs import output_key

from confide.crypto.sign import SigningKey
from confide.data.manifest import MANIFEST_NAME, FileEntry, Written
from confide.data.next_snapshot import Mode, following
from confide.data.schema import schema_json
from confide.data.snapshots import commit_snapshot, history, load_manifest, verify_manifests
from confide.errors import (
    DataError,
    IntegrityError,
    ManifestError,
    OutputExistsError,
    SnapshotConflictError,
    UsageError,
)
from confide.jobs.parents import Parent


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path)


def test_an_appended_snapshot_has_the_rows_of_both_runs_and_the_earlier_one_stays(lineage: Lineage) -> None:
    before = load_manifest(lineage.place)
    run = lineage.run("second", "append")
    run.save(3)
    run.save(4, mode="append")
    assert lineage.newest()[1] == [1, 2]
    run.outputs.publish()
    run.outputs.close()
    manifest, rows = lineage.newest()
    assert rows == [1, 2, 3, 4]
    assert (manifest.snapshot, manifest.parent, manifest.run) == (2, before.digest, "second")
    assert manifest.signer == run.signer.public
    (earlier,) = history(load_manifest(lineage.place))
    assert lineage.rows(earlier.unverified) == [1, 2]
    assert [one.digest for one in verify_manifests(load_manifest(lineage.place))] == [load_manifest(lineage.place).digest, before.digest]
    assert not list(lineage.place.parent.glob(".*"))


def test_an_overwritten_snapshot_has_the_rows_of_its_run_alone_and_the_earlier_one_stays(lineage: Lineage) -> None:
    run = lineage.run("second", "overwrite")
    run.save(7, mode="overwrite", schema=pa.schema([("x", pa.int64()), ("y", pa.int64())]))
    run.outputs.publish()
    manifest, rows = lineage.newest()
    assert (rows, manifest.snapshot, len(manifest.files)) == ([7], 2, 1)
    (earlier,) = history(load_manifest(lineage.place))
    assert lineage.rows(earlier.unverified) == [1, 2]


def test_the_receipts_row_names_the_snapshot_before(lineage: Lineage) -> None:
    before = load_manifest(lineage.place)
    run = lineage.run("second", "append")
    run.save(3)
    (output,) = run.outputs.committed()
    assert (output.entry().parent, output.entry().snapshot) == (before.digest, 2)


def test_a_save_within_the_run_that_is_overwritten_leaves_the_dataset_as_it_was(lineage: Lineage) -> None:
    run = lineage.run("second", "overwrite")
    run.save(5)
    run.save(6, mode="overwrite")
    run.outputs.publish()
    assert lineage.newest()[1] == [6]
    assert len(lineage.newest()[0].files) == 1


@pytest.mark.parametrize(
    ("mode", "saved"), [("append", "overwrite"), ("append", "ignore"), ("overwrite", "append"), ("overwrite", "ignore")]
)
def test_a_program_that_means_another_mode_than_the_job_is_told(lineage: Lineage, mode: Mode, saved: str) -> None:
    with pytest.raises(UsageError, match=f"the job file says {mode}"):
        lineage.run("second", mode).begin(mode=saved)


def test_other_columns_are_not_appended(lineage: Lineage) -> None:
    run = lineage.run("second", "append")
    with pytest.raises(DataError, match="the columns are not those of the dataset: x"):
        run.save(3, schema=pa.schema([("x", pa.int32())]))
    run.outputs.close()
    assert lineage.newest()[1] == [1, 2]


def test_a_column_that_had_nulls_may_have_them_still(lineage: Lineage) -> None:
    run = lineage.run("second", "append")
    run.save(3, schema=pa.schema([pa.field("x", pa.int64(), nullable=False)]))
    run.outputs.publish()
    schema = lineage.newest()[0].schema
    assert schema is not None
    assert [part[0]["nullable"] for part in (schema["columns"], schema["spark"]["fields"])] == [True, True]


def test_other_kinds_and_folders_are_not_put_into_a_dataset(lineage: Lineage) -> None:
    parent, signer, now = load_manifest(lineage.place), SigningKey.generate(), datetime.now(UTC)
    entry = FileEntry("v-1/y=1/part.parquet", 1, "00" * 32, 1)
    with pytest.raises(DataError, match="holds a table"):
        following(Written("files", (FileEntry("a", 1, "00" * 32),), None), parent, "overwrite", signer=signer, now=now)
    with pytest.raises(DataError, match="name folders"):
        following(Written("parquet", (entry,), parent.unverified.schema), parent, "append", signer=signer, now=now)


def test_a_path_of_an_earlier_snapshot_is_not_used_again(lineage: Lineage) -> None:
    first = load_manifest(lineage.place)
    run = lineage.run("second", "overwrite")
    run.save(7)
    run.outputs.publish()
    again = Written("parquet", first.unverified.files, first.unverified.schema)
    with pytest.raises(IntegrityError, match="path of an earlier snapshot"):
        following(again, load_manifest(lineage.place), "append", signer=SigningKey.generate(), now=datetime.now(UTC))


def test_of_two_runs_one_wins_and_nothing_of_the_other_is_visible(lineage: Lineage) -> None:
    one, two = lineage.run("one", "append"), lineage.run("two", "append")
    one.save(3)
    two.save(4)
    one.outputs.publish()
    there = lineage.listed()
    with pytest.raises(SnapshotConflictError, match="snapshot 2 first"):
        two.outputs.publish()
    two.outputs.close()
    assert lineage.newest()[1] == [1, 2, 3]
    assert lineage.listed() == there


def test_the_last_moment_counts_too(lineage: Lineage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writer commits after this one has looked: only one can make the snapshot's file."""
    one, two = lineage.run("one", "append"), lineage.run("two", "append")
    one.save(3)
    two.save(4)
    coming = [one]

    def another_is_faster(_: Parent) -> None:
        if coming:
            coming.pop().outputs.publish()

    monkeypatch.setattr(Parent, "require_unchanged", another_is_faster)
    with pytest.raises(SnapshotConflictError):
        two.outputs.publish()
    assert lineage.newest()[1] == [1, 2, 3]
    assert not any("part-4" in path for path in lineage.listed())


def test_an_end_in_the_very_moment_of_the_commit_takes_no_file_of_it_away(lineage: Lineage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lineage.run("second", "append")
    run.save(3)

    def interrupted(*given: Any, **named: Any) -> None:
        commit_snapshot(*given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr("confide.data.next_snapshot.commit_snapshot", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.outputs.publish()
    assert lineage.newest()[1] == [1, 2, 3]


def test_a_file_that_storage_has_in_the_place_of_a_new_one_is_not_taken_for_it(lineage: Lineage) -> None:
    run = lineage.run("second", "append")
    run.save(3)
    (written,) = (entry.path for entry in run.outputs.committed()[0].manifest.files if "part-3" in entry.path)
    planted = lineage.place / written
    planted.parent.mkdir()
    planted.write_bytes(b"planted")
    with pytest.raises(DataError, match="cannot be published: File exists"):
        run.outputs.publish()
    assert planted.read_bytes() == b"planted"  # nor is what is another's taken away
    assert lineage.newest()[1] == [1, 2]


def test_a_manifest_that_was_exchanged_since_the_run_began_ends_it(lineage: Lineage) -> None:
    run = lineage.run("second", "append")
    run.save(3)
    other = Lineage(lineage.place.with_name("other"))
    (lineage.place / MANIFEST_NAME).write_bytes((other.place / MANIFEST_NAME).read_bytes())
    with pytest.raises(ManifestError, match="was exchanged"):
        run.outputs.publish()
    assert not (lineage.place / "_snapshots").exists()


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refused(*_: object) -> None:
        raise OutputExistsError("taken")

    return lambda: monkeypatch.setattr("confide.data.next_snapshot.commit_files", refused)


def test_a_new_output_of_a_run_whose_snapshot_is_not_committed_is_not_there_either(lineage: Lineage, refuse: Callable[[], None]) -> None:
    place, key = lineage.place.with_name("b"), output_key()
    run = Run(lineage, "second", Parent(load_manifest(lineage.place), "append"), others={"b": place})
    run.hold("b", key)
    run.save(3)
    run.task(run.begin("b"), 9, key=key, root=place)
    run.outputs.commit("b", "parquet", schema_json(X)["spark"])
    refuse()
    with pytest.raises(OutputExistsError):
        run.outputs.publish()
    run.outputs.close()
    assert not place.exists()
    assert lineage.newest()[1] == [1, 2]


def test_a_run_that_ends_before_it_publishes_leaves_the_dataset_untouched(lineage: Lineage) -> None:
    there = lineage.listed()
    run = lineage.run("second", "append")
    run.save(3)
    run.outputs.close()
    assert lineage.listed() == there
    assert not list(lineage.place.parent.glob(".*"))
