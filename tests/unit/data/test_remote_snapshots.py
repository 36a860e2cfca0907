"""Further snapshots of datasets at URLs: appended, overwritten, two writers, storages that fail at any point, kills, and what lies."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.remote_world import KEY, LATER, RemoteWorld, table
from support.s3 import unused_url
from support.s3_gate import S3Gate
from tests.support.killed import killed_at, random_calls

from confide.canonical import Json, canonical
from confide.data import commit, table_files
from confide.data.folder import data_files
from confide.data.manifest import MANIFEST_NAME, SNAPSHOTS
from confide.data.outside import look
from confide.data.places import FsspecFolder, RemoteFolder, S3Folder, remote_folder
from confide.data.remote_cleaning import clean_remote
from confide.data.snapshots import commit_snapshot, is_committed, load_manifest
from confide.data.sources import Source
from confide.errors import DataError, IntegrityError, ManifestError, RollbackError, SnapshotConflictError, UnavailableError

SECOND = f"{SNAPSHOTS}/2.json"


remote_url = pytest.fixture(params=["s3://bkt/deep/d", "memory://urls/d", "file://"], name="remote_url")(unused_url)


@pytest.fixture
def world(remote_url: str) -> RemoteWorld:
    return RemoteWorld(remote_url)


@pytest.fixture
def gated(gate: S3Gate) -> RemoteWorld:
    return RemoteWorld("s3://bkt/d")


def contents(names: dict[str, bytes]) -> list[Source]:
    return [Source(name, lambda data=data: io.BytesIO(data), len(data)) for name, data in names.items()]


# --- append and overwrite ---------------------------------------------------------------------------------------------


def test_append_and_overwrite_make_snapshots_that_all_stay_readable(world: RemoteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 2)
    assert world.add(table(2, 3, 4)).unverified.snapshot == 2
    made = world.add(table(9), "overwrite")
    assert [world.values(number) for number in (None, 3, 2, 1)] == [[9], [9], [1, 2, 3, 4], [1]]
    assert world.check() == [3, 2, 1]
    assert world.newest.digest == made.digest
    seen = look(world.newest, world.newest.unverified)
    assert (seen.snapshots, seen.unlisted, len(seen.files)) == ((3, 2, 1), 0, 1)


def test_files_are_added_to_files_and_a_table_is_not(s3: Any) -> None:
    world = RemoteWorld("s3://bkt/d", contents({"a.txt": b"one"}))
    world.add(contents({"a.txt": b"two"}))
    assert world.check() == [2, 1]
    assert sorted(entry.path.split("/")[1] for entry in world.newest.unverified.files) == ["a.txt", "a.txt"]
    with pytest.raises(DataError, match="holds files"):
        world.add(table(1))
    assert world.check() == [2, 1]


def test_what_does_not_fit_leaves_nothing(world: RemoteWorld) -> None:
    before = sorted(world.folder.files())
    with pytest.raises(DataError, match="columns"):
        world.add(table(1).rename_columns(["y"]))
    assert sorted(world.folder.files()) == before
    assert world.add(table(1).rename_columns(["y"]), "overwrite").unverified.snapshot == 2
    assert world.check() == [2, 1]


def test_nothing_is_visible_before_the_manifest(world: RemoteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    create, seen = type(world.folder).create, list[list[int]]()

    def watched(self: RemoteFolder, path: str, data: bytes) -> bool:
        if path == SECOND:
            assert len(data_files(world.folder)) == 3  # both files and the first manifest
            seen.append(world.values())
        return create(self, path, data)

    monkeypatch.setattr(type(world.folder), "create", watched)
    world.add(table(2))
    assert (seen, world.values()) == ([[1]], [1, 2])


# --- several writers --------------------------------------------------------------------------------------------------


def test_of_two_writers_one_wins_and_the_other_leaves_nothing(world: RemoteWorld) -> None:
    parent = world.newest
    world.add(table(2))
    with pytest.raises(SnapshotConflictError, match="snapshot 2 first"):
        world.add(table(3), parent=parent)
    assert world.values() == [1, 2]
    assert world.check() == [2, 1]


def test_many_writers_at_once_lose_nothing_that_was_acknowledged(s3: Any) -> None:
    world, won = RemoteWorld("s3://bkt/d"), list[int]()

    def write(value: int) -> None:
        for attempt in range(100):
            try:
                world.add(table(value * 1000 + attempt))
            except SnapshotConflictError:
                continue
            won.append(value * 1000 + attempt)
            return

    writers = [threading.Thread(target=write, args=(value,)) for value in range(1, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert world.values() == sorted([1, *won])
    assert world.check() == [5, 4, 3, 2, 1]


def test_the_copy_that_readers_begin_with_may_be_old(world: RemoteWorld) -> None:
    first = world.newest
    for value in (2, 3):
        world.add(table(value))
    world.folder.replace(MANIFEST_NAME, canonical(first.envelope))
    assert (world.values(), world.check()) == ([1, 2, 3], [3, 2, 1])
    world.add(table(4))
    assert load_manifest(world.folder).unverified.snapshot == 4
    assert world.check() == [4, 3, 2, 1]


def test_a_manifest_that_is_replaced_while_it_is_read_is_read_anew(gated: RemoteWorld, gate: S3Gate, s3: Any) -> None:
    bodies = [s3.get_object(Bucket="bkt", Key=f"d/{MANIFEST_NAME}")["Body"].read()]
    gated.add(table(2))
    bodies.append(s3.get_object(Bucket="bkt", Key=f"d/{MANIFEST_NAME}")["Body"].read())

    def replaced(method: str, path: str) -> None:
        if method == "HEAD" and path.endswith(MANIFEST_NAME) and left:
            s3.put_object(Bucket="bkt", Key=f"d/{MANIFEST_NAME}", Body=bodies[left.pop() % 2])

    left, gate.after = [1, 2, 3, 4], replaced
    assert gated.values() == [1, 2]
    left = [*range(99)]
    with pytest.raises(DataError, match="changed while it was read"):
        gated.values()


def test_a_storage_that_does_not_know_conditional_writes_is_refused(gated: RemoteWorld, gate: S3Gate) -> None:
    """It would let two writers win, and the snapshot of one be lost."""
    gate.drops = frozenset({"if-none-match"})
    with pytest.raises(UnavailableError, match="told not to"):
        gated.add(table(2))
    assert (gated.values(), gated.check()) == ([1], [1])
    gate.drops = frozenset()
    gated.add(table(2))
    gate.drops = frozenset({"if-none-match"})
    with pytest.raises(UnavailableError, match="told not to"):
        gated.add(table(3))
    assert (gated.values(), gated.check()) == ([1, 2], [2, 1])


# --- a storage that fails ---------------------------------------------------------------------------------------------


def test_throttling_in_the_middle_is_waited_for(gated: RemoteWorld, gate: S3Gate) -> None:
    busy = gate.be_busy("part-", "1.json", "2.json", MANIFEST_NAME, times=3)
    gated.add(table(2))
    assert set(busy.values()) == {0}
    assert (gated.values(), gated.check()) == ([1, 2], [2, 1])


@pytest.mark.parametrize("at", ["part-00002", "1.json"])
def test_a_storage_that_refuses_before_the_commit_is_left_as_it_was(
    gated: RemoteWorld, gate: S3Gate, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 1)
    gate.before = lambda method, path: (503, "SlowDown") if method == "PUT" and at in path else None
    with pytest.raises(UnavailableError, match="SlowDown"):
        gated.add(table(2, 3))
    gate.before = lambda *_: None
    assert (gated.values(), gated.check()) == ([1], [1])


def test_of_a_commit_that_is_refused_in_the_end_nobody_knows(gated: RemoteWorld, gate: S3Gate) -> None:
    gate.before = lambda method, path: (503, "SlowDown") if method == "PUT" and path.endswith(SECOND) else None
    with pytest.raises(UnavailableError, match="SlowDown") as told:
        gated.add(table(2))
    assert "data log s3://bkt/d" in str(told.value.hint)
    gate.before = lambda *_: None
    assert (gated.values(), gated.check(foreign=True)) == ([1], [1])
    assert len(clean_remote(gated.folder, keep=None, before=LATER, remove=True).files) == 1
    assert gated.check() == [1]


@pytest.mark.parametrize("times", [1, 100])
def test_a_commit_whose_answers_are_lost_is_one(gated: RemoteWorld, gate: S3Gate, times: int) -> None:
    cut: list[str] = []

    def answer_is_lost(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(SECOND) and len(cut) < times:
            cut.append(path)
            raise ConnectionError

    gate.after = answer_is_lost
    made = gated.add(table(2))
    assert len(cut) in {1, 8}
    assert (gated.values(), gated.check(), gated.newest.digest) == ([1, 2], [2, 1], made.digest)


def test_a_commit_whose_answer_is_lost_with_the_storage_takes_no_file_away(gated: RemoteWorld, gate: S3Gate) -> None:
    def all_is_lost(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(SECOND):
            gate.always = (503, "SlowDown")
            raise ConnectionError

    gate.after = all_is_lost
    with pytest.raises(UnavailableError) as told:
        gated.add(table(2))
    assert "snapshot 2 is there" in str(told.value.hint)
    gate.after, gate.always = lambda *_: None, None
    assert (gated.values(), gated.check()) == ([1, 2], [2, 1])


def test_a_request_that_is_cut_before_it_arrives_commits_nothing(gated: RemoteWorld, gate: S3Gate) -> None:
    def cut(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(SECOND):
            raise ConnectionError

    gate.before = cut
    with pytest.raises(UnavailableError, match="cannot be asked"):
        gated.add(table(2))
    gate.before = lambda *_: None
    assert (gated.values(), gated.check(foreign=True)) == ([1], [1])


def test_a_failure_after_the_commit_says_that_no_second_try_is_needed(gated: RemoteWorld, gate: S3Gate) -> None:
    gate.before = lambda method, path: (503, "SlowDown") if method == "PUT" and path.endswith(MANIFEST_NAME) else None
    with pytest.raises(UnavailableError) as told:
        gated.add(table(2))
    assert "needs no second try" in str(told.value.hint)
    gate.before = lambda *_: None
    assert (gated.values(), gated.check()) == ([1, 2], [2, 1])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_ctrl_c_in_the_moment_of_the_commit_takes_no_file_away(
    world: RemoteWorld, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = type(world.folder).create

    def interrupted(self: RemoteFolder, path: str, data: bytes) -> bool:
        if path == SECOND and moment == "before":
            raise KeyboardInterrupt
        made = create(self, path, data)
        if path == SECOND:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(type(world.folder), "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.add(table(2))
    assert world.values() == ([1] if moment == "before" else [1, 2])
    world.check(foreign=True)


@pytest.mark.slow
@pytest.mark.unmeasured
@pytest.mark.usefixtures("scratch_here")
def test_a_kill_at_any_point_leaves_the_old_or_the_new_snapshot(s3: Any) -> None:
    source, numbers = contents({"a.txt": b"alpha"}), iter(range(1000))

    def work(url: str) -> Callable[[], Callable[[Callable[[bytes], None]], None]]:
        def prepare() -> Callable[[Callable[[bytes], None]], None]:
            parent = load_manifest(remote_folder(url))

            def run(say: Callable[[bytes], None]) -> None:
                made = world.add(source, parent=parent)
                say(str(made.unverified.snapshot).encode())

            return run

        return prepare

    world = RemoteWorld(f"s3://bkt/d{next(numbers)}", source)
    said, most = killed_at(None, work(world.url))
    assert said == [b"2"]
    for call in random_calls(15, most):
        world = RemoteWorld(f"s3://bkt/d{next(numbers)}", source)
        said, _ = killed_at(call, work(world.url))
        found = world.check(foreign=True)
        assert found in ([[2, 1]] if said else [[1], [2, 1]])
        clean_remote(world.folder, keep=None, before=LATER, remove=True)
        assert world.check() == found
        assert world.add(source).unverified.snapshot == found[0] + 1


# --- what was sent, and what it goes on from --------------------------------------------------------------------------


def test_what_was_removed_before_the_commit_is_not_committed(gated: RemoteWorld, gate: S3Gate, s3: Any) -> None:
    """A `data clean` with another idea of what is old."""

    def removed(method: str, path: str) -> None:
        if method == "PUT" and "part-00001" in path:
            s3.delete_object(Bucket="bkt", Key=path.removeprefix("/bkt/"))

    gate.after = removed
    with pytest.raises(IntegrityError, match="does not have what was sent"):
        gated.add(table(2))
    assert (gated.values(), gated.check()) == ([1], [1])
    with pytest.raises(IntegrityError, match="does not have what was sent"):
        RemoteWorld("s3://bkt/e", contents({"part-00001": b"x"}))
    assert not remote_folder("s3://bkt/e").files()


def test_another_manifest_in_the_place_of_the_parent_is_refused(world: RemoteWorld) -> None:
    other = RemoteWorld(f"{world.url}-other")
    world.folder.create(f"{SNAPSHOTS}/1.json", canonical(other.newest.envelope))
    with pytest.raises(ManifestError, match="to go on from"):
        world.add(table(2))
    assert world.values() == [1]
    assert not any("part-00001" in path for path in world.folder.files())


def test_a_snapshot_of_another_parent_is_not_committed(world: RemoteWorld) -> None:
    first, made = world.newest, world.add(table(2))
    with pytest.raises(ManifestError, match="does not follow"):
        commit_snapshot(made, made)
    other = RemoteWorld(f"{world.url}-other")
    with pytest.raises(ManifestError, match="does not follow"):
        commit_snapshot(other.newest, made)
    with pytest.raises(SnapshotConflictError):
        world.add(table(3), parent=first)
    assert is_committed(made)
    assert world.check() == [2, 1]


def test_the_broker_is_told_after_the_commit_and_its_refusal_is_passed_on(world: RemoteWorld) -> None:
    told: list[Json] = []

    def older(envelope: Json) -> None:
        told.append(envelope)
        raise RollbackError("the manifest is older than one that the broker has seen")

    with pytest.raises(RollbackError):
        world.add(table(2), register=older)
    assert told == [world.newest.envelope]
    assert world.check() == [2, 1]


def test_other_writers_do_not_move_the_copy_back(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world, real = RemoteWorld("s3://bkt/d"), commit.write_manifest

    def overtaken(folder: RemoteFolder, envelope: Json, **more: Any) -> None:
        monkeypatch.setattr(commit, "write_manifest", real)
        real(folder, envelope, **more)

    def register(_: Json) -> None:
        if world.newest.unverified.snapshot == 2:
            world.add(table(3))

    monkeypatch.setattr(commit, "write_manifest", overtaken)
    world.add(table(2), register=register)
    assert (world.folder / MANIFEST_NAME).open().read() == canonical(world.newest.envelope)
    assert world.newest.unverified.snapshot == 3


def test_a_copy_is_replaced_whole(world: RemoteWorld) -> None:
    folder = world.folder
    folder.replace("copy", b"one")
    folder.replace("copy", b"another")
    assert (folder / "copy").open(newest=True).read() == b"another"
    assert [path for path in folder.files() if "copy" in path] == ["copy"]
    assert isinstance(folder, S3Folder | FsspecFolder)


def test_a_copy_that_cannot_be_written_to_its_end_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that writes into the file that is there."""
    from fsspec.implementations.local import LocalFileOpener

    folder = remote_folder(f"file://{tmp_path}")
    folder.create("copy", b"one")

    def full(self: Any, data: bytes) -> None:
        self.f.write(data[:2])
        raise OSError("a disk")

    monkeypatch.setattr(LocalFileOpener, "write", full)
    with pytest.raises(UnavailableError):
        folder.replace("copy", b"another")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert (tmp_path / "copy").read_bytes() == b"one"


def test_a_repeated_request_is_no_second_writer(world: RemoteWorld) -> None:
    assert world.folder.create("m", KEY.reveal()) is True
    assert world.folder.create("m", KEY.reveal()) is False
