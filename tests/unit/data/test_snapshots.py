"""Snapshots of a dataset: append, overwrite, time travel; two writers; kills and full disks at every point; clean-up."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests.support.killed import killed_at, random_calls

from confide.canonical import Json, canonical
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import files, snapshots
from confide.data.cleaning import Cleaning, clean
from confide.data.commit import add_snapshot, create_dataset
from confide.data.folder import listed_files, refuse_foreign, verify_files
from confide.data.manifest import MANIFEST_NAME, SNAPSHOTS, FileEntry, Manifest, sign_manifest, verify_manifest
from confide.data.next_snapshot import Mode
from confide.data.snapshots import SignedManifest, history, load_manifest, manifest_path, snapshot_numbered, write_manifest
from confide.errors import ConfideError, DataError, ManifestError, SnapshotConflictError, UnavailableError, UsageError
from confide.ids import RunId, new_dataset_id

SIGNER, KEY, NOW = SigningKey.generate(), SecretBytes.random(), datetime(2026, 11, 27, tzinfo=UTC)
LATER = datetime.now(UTC) + timedelta(days=1)


class World:
    """A dataset in a folder, and what its owner does with it."""

    def __init__(self, folder: Path, source: Path | pa.Table | None = None) -> None:
        self.folder, dataset = folder, new_dataset_id()
        wrapped = wrap(SecretBytes.random(), KEY, key="airline/flights", version=1, dataset=dataset)
        create_dataset(
            table(1) if source is None else source, folder, name="d", owner="airline", dataset=dataset, dataset_key=KEY, wrapped=wrapped,
            signer=SIGNER, now=NOW,
        )  # fmt: skip

    @property
    def newest(self) -> SignedManifest:
        return load_manifest(self.folder)

    def add(self, source: Path | pa.Table, mode: Mode = "append", register: Callable[[Json], None] | None = None) -> SignedManifest:
        return add_snapshot(source, self.newest, mode, dataset_key=KEY, signer=SIGNER, now=NOW, register=register)

    def values(self, number: int | None = None) -> list[int]:
        found = self.newest if number is None else snapshot_numbered(self.newest, number)
        verify_files(self.folder, found.unverified)
        return sorted(files.read_table(self.folder, found.unverified, KEY).column("x").to_pylist())

    def check(self, *, foreign: bool = False) -> list[int]:
        """Everything there is right, and nothing else is there; the snapshots' numbers."""
        newest = self.newest
        manifest = verify_manifest(newest.envelope, SIGNER.public)
        chain = [manifest, *(one.unverified for one in history(newest))]
        verify_files(self.folder, *chain)
        if not foreign:
            refuse_foreign(self.folder, {*listed_files(*chain), *map(manifest_path, chain)})
            assert [path.name for path in self.folder.parent.iterdir() if path.name.startswith(".")] == []
        return [one.snapshot for one in chain]


def table(*values: int) -> pa.Table:
    return pa.table({"x": list(values)})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "d")


def test_append_and_overwrite_make_snapshots_that_all_stay_readable(world: World) -> None:
    world.add(table(2, 3))
    world.add(table(9), "overwrite")
    world.add(table(10))
    assert world.values() == [9, 10]
    assert [world.values(number) for number in (1, 2, 3, 4)] == [[1], [1, 2, 3], [9], [9, 10]]
    assert world.check() == [4, 3, 2, 1]


def test_overwrite_may_change_columns_and_append_may_not(world: World) -> None:
    for other in (pa.table({"y": [1]}), pa.table({"x": ["1"]}), pa.table({"x": [1], "y": [1]})):
        with pytest.raises(DataError, match="the columns are not those of the dataset: "):
            world.add(other)
    assert world.check() == [1]
    world.add(pa.table({"b": [1], "a": ["t"]}), "overwrite")
    with pytest.raises(DataError, match="another order"):
        world.add(pa.table({"a": ["t"], "b": [1]}))
    assert world.check() == [2, 1]


def test_files_are_added_to_files_and_a_table_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b.csv").write_text("x\n1\n")
    world = World(tmp_path / "d", tmp_path / "a.txt")
    world.add(tmp_path / "a.txt")
    assert len(world.newest.unverified.files) == 2  # of one name, under two paths
    with pytest.raises(DataError, match="holds files"):
        world.add(tmp_path / "b.csv")
    with pytest.raises(DataError, match="holds files"):
        world.add(table(1))
    with pytest.raises(DataError, match="holds a table"):
        World(tmp_path / "t").add(tmp_path / "a.txt")


def test_a_runs_output_is_not_added_to(world: World) -> None:
    manifest = replace(world.newest.unverified, owner=None, run=RunId("r-1"))
    write_manifest(world.folder, sign_manifest(manifest, SIGNER))
    with pytest.raises(ManifestError, match="a run made this dataset"):
        world.add(table(2))


def test_of_two_writers_one_wins_and_the_other_leaves_nothing(world: World) -> None:
    parent = world.newest
    world.add(table(2))
    with pytest.raises(SnapshotConflictError, match="snapshot 2 first"):
        add_snapshot(table(3), parent, "append", dataset_key=KEY, signer=SIGNER, now=NOW)
    assert world.values() == [1, 2]
    assert world.check() == [2, 1]


def test_many_writers_at_once_lose_nothing_that_was_acknowledged(world: World) -> None:
    won: list[int] = []

    def write(value: int) -> None:
        for attempt in range(100):
            try:
                world.add(table(value * 1000 + attempt))
            except SnapshotConflictError:
                continue
            won.append(value * 1000 + attempt)
            return

    writers = [threading.Thread(target=write, args=(value,)) for value in range(1, 7)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert world.values() == sorted([1, *won])
    assert world.check() == [7, 6, 5, 4, 3, 2, 1]


def test_the_broker_is_told_after_the_commit_and_its_refusal_is_passed_on(world: World) -> None:
    def refuse(envelope: Json) -> None:
        assert load_manifest(world.folder).envelope == envelope
        raise UnavailableError("no broker")

    with pytest.raises(UnavailableError, match="no broker") as told:
        world.add(table(2), register=refuse)
    assert "snapshot 2 is in place" in str(told.value.hint)
    assert world.values() == [1, 2]
    assert world.add(table(3), register=lambda _: None).unverified.snapshot == 3


def test_readers_go_on_from_an_older_copy_of_the_newest_manifest(world: World) -> None:
    """A writer that was stopped, or that was overtaken by others, before it wrote the copy."""
    first = world.newest.envelope
    for value in range(2, 6):
        world.add(table(value))
    write_manifest(world.folder, first)
    assert world.values() == [1, 2, 3, 4, 5]
    assert world.add(table(6)).unverified.snapshot == 6


def test_how_far_a_reader_goes_on_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.newest.envelope
    for value in (2, 3):
        world.add(table(value))
    write_manifest(world.folder, first)
    monkeypatch.setattr(snapshots, "_MAX_AHEAD", 2)
    with pytest.raises(ManifestError, match="too old"):
        load_manifest(world.folder)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_manifest_of_another_history_is_refused(world: World, tmp_path: Path, number: int) -> None:
    other = World(tmp_path / "other")
    for one in (world, other):
        for value in (2, 3, 4):
            one.add(table(value))
    write_manifest(world.folder, snapshot_numbered(world.newest, 3).envelope)
    shutil.copy(other.folder / SNAPSHOTS / f"{number}.json", world.folder / SNAPSHOTS / f"{number}.json")
    with pytest.raises(ManifestError, match="does not follow"):
        world.check()


def test_two_snapshots_with_other_bytes_at_one_path_are_refused(world: World) -> None:
    first = world.newest
    entry = first.unverified.files[0]
    changed = replace(entry, sha256="0" * 64)
    manifest = replace(first.unverified, snapshot=2, parent=first.digest, files=(changed,))
    made = SignedManifest(world.folder, sign_manifest(manifest, SIGNER), manifest)
    with snapshots.staged_beside(world.folder) as staged:
        snapshots.commit_snapshot(first, made, staged=staged)
    with pytest.raises(ManifestError, match="other bytes at one path"):
        world.check()


def test_no_data_file_lies_where_snapshots_do(world: World) -> None:
    manifest = replace(world.newest.unverified, files=(FileEntry(f"{SNAPSHOTS}/1.json", 1, "0" * 64, 1),))
    with pytest.raises(ManifestError, match="lists itself"):
        Manifest.from_json(manifest.to_json())


def test_a_snapshot_that_never_was_or_is_gone_is_not_found(world: World) -> None:
    for number in (0, 2):
        with pytest.raises(UsageError, match=f"no snapshot {number}"):
            snapshot_numbered(world.newest, number)


@pytest.mark.parametrize("name", ["link", "fsync", "replace", "mkdir"])
def test_a_full_disk_at_any_point_leaves_the_old_or_the_new_snapshot_and_nothing_else(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, name)
    for at in range(1, 40):
        before, calls = world.values(), 0

        def full(*args: object, real: Callable[..., object] = real, at: int = at, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **named)

        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            try:
                world.add(table(100 + at))
            except ConfideError:
                failed = True
            else:
                failed = False
        assert world.values() in ([before, sorted([*before, 100 + at])] if failed else [sorted([*before, 100 + at])])
        clean(world.folder, keep=None, before=LATER, remove=True)  # temporary manifests whose unlinking was not reached
        world.check()
        if calls < at:
            return
    pytest.fail("there is no end to it")


def test_a_kill_at_any_point_leaves_the_old_or_the_new_snapshot(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    template = World(tmp_path / "template", tmp_path / "a.txt")

    def work(folder: Path) -> Callable[[], Callable[[Callable[[bytes], None]], None]]:
        def run(say: Callable[[bytes], None]) -> None:
            made = add_snapshot(tmp_path / "a.txt", load_manifest(folder), "append", dataset_key=KEY, signer=SIGNER, now=NOW)
            say(str(made.unverified.snapshot).encode())

        return lambda: run

    def copy(name: str) -> World:
        world = object.__new__(World)
        world.folder = tmp_path / name / "d"
        world.folder.parent.mkdir()
        shutil.copytree(template.folder, world.folder)
        return world

    said, most = killed_at(None, work(copy("whole").folder))
    assert said == [b"2"]
    for number, call in enumerate(random_calls(100, most)):
        world = copy(f"k{number}")
        said, _ = killed_at(call, work(world.folder))
        numbers = world.check(foreign=True)
        assert numbers in ([[2, 1]] if said else [[1], [2, 1]])
        clean(world.folder, keep=None, before=LATER, remove=True)
        assert world.check() == numbers
        assert world.add(tmp_path / "a.txt").unverified.snapshot == numbers[0] + 1
        shutil.rmtree(world.folder.parent)


def test_ctrl_c_in_the_moment_of_the_commit_takes_no_file_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target).name == "2.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(KeyboardInterrupt):
        world.add(table(2))
    assert world.values() == [1, 2]
    assert world.check() == [2, 1]


def test_cleaning_removes_only_what_no_snapshot_lists_and_is_old_enough(world: World) -> None:
    world.add(table(2))
    (world.folder / "part-left.parquet").write_bytes(b"PARE0000PARE")
    (world.folder / "v-left").mkdir()
    (world.folder / "v-left" / "a").write_bytes(b"CONFIDE2")
    staged = world.folder.with_name(f".{world.folder.name}.new-{'0' * 16}")
    staged.mkdir()
    (staged / "part").write_bytes(b"123")
    others = world.folder.with_name(f".other.new-{'0' * 16}")
    others.mkdir()
    young = clean(world.folder, keep=None, before=NOW - timedelta(days=9999), remove=True)
    assert (young.files, young.young) == ([], 2)
    found = clean(world.folder, keep=None, before=LATER, remove=False)
    assert found == Cleaning([], ["part-left.parquet", "v-left/a", f"../{staged.name}"], 12 + 8 + 3, 0)
    assert staged.exists()
    assert clean(world.folder, keep=None, before=LATER, remove=True) == found
    assert not staged.exists()
    assert others.exists()
    assert not (world.folder / "v-left").exists()
    others.rmdir()
    assert world.values() == [1, 2]
    assert world.check() == [2, 1]


def test_cleaning_drops_old_snapshots_with_the_files_that_only_they_list(world: World) -> None:
    world.add(table(2), "overwrite")
    world.add(table(3))
    world.add(table(4))
    assert clean(world.folder, keep=2, before=NOW - timedelta(days=9999), remove=True).snapshots == []
    found = clean(world.folder, keep=2, before=LATER, remove=True)
    assert found.snapshots == [2, 1]
    assert world.check() == [4, 3]
    assert world.values() == [2, 3, 4]
    assert len(list(world.folder.glob("*.parquet"))) == 3
    with pytest.raises(UsageError, match="no snapshot 2"):
        snapshot_numbered(world.newest, 2)
    assert world.add(table(5)).unverified.snapshot == 5
    with pytest.raises(UsageError, match="always stays"):
        clean(world.folder, keep=0, before=LATER, remove=True)


def test_cleaning_that_is_stopped_leaves_a_whole_dataset(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (2, 3, 4):
        world.add(table(value), "overwrite")
    shutil.copytree(world.folder, world.folder.parent / "template")
    real, done = os.unlink, 0
    for at in range(6):  # three manifests and three files go

        def unlink(path: str, *, dir_fd: int | None = None, at: int = at) -> None:
            nonlocal done
            done += dir_fd is not None
            if dir_fd is not None and done > at:
                raise OSError(errno.EIO, "Input/output error")
            real(path, dir_fd=dir_fd)

        done = 0
        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", unlink)
            with pytest.raises(UnavailableError, match="cannot clean"):
                clean(world.folder, keep=1, before=LATER, remove=True)
        world.check(foreign=True)
        assert world.values() == [4]
        clean(world.folder, keep=1, before=LATER, remove=True)
        assert world.check() == [4]
        shutil.rmtree(world.folder)
        shutil.copytree(world.folder.parent / "template", world.folder)


def test_cleaning_trusts_no_manifest_that_is_not_signed(world: World) -> None:
    envelope = world.newest.envelope
    forged = {**envelope, "signatures": [{**envelope["signatures"][0], "sig": "MAYCAQECAQE="}]}
    (world.folder / MANIFEST_NAME).write_bytes(canonical(forged))
    with pytest.raises(ManifestError):
        clean(world.folder, keep=None, before=LATER, remove=True)
    assert list(world.folder.glob("*.parquet"))


def test_a_failure_after_the_commit_says_that_no_second_try_is_needed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = snapshots.sync_folder

    def fails_after_the_commit(folder: Path) -> None:
        if (world.folder / SNAPSHOTS / "2.json").exists():
            raise OSError(errno.EIO, "Input/output error")
        real(folder)

    monkeypatch.setattr(snapshots, "sync_folder", fails_after_the_commit)
    with pytest.raises(UnavailableError) as told:
        world.add(table(2))
    assert "needs no second try" in str(told.value.hint)
    assert world.values() == [1, 2]


def put(world: World, number: int, manifest: Manifest) -> None:
    """A manifest, signed by the owner, as snapshot ``number`` in the folder: what no writer of ours would commit."""
    (world.folder / SNAPSHOTS).mkdir(exist_ok=True)
    (world.folder / SNAPSHOTS / f"{number}.json").write_bytes(canonical(sign_manifest(manifest, SIGNER)))


def test_a_snapshot_of_another_dataset_or_number_does_not_follow_even_if_its_owner_signed_it(world: World) -> None:
    first, other = world.newest, new_dataset_id()
    after = replace(first.unverified, snapshot=2, parent=first.digest)
    wrapped = wrap(SecretBytes.random(), KEY, key="airline/flights", version=1, dataset=other)
    for wrong in (replace(after, snapshot=3), replace(after, dataset=other, wrapped=wrapped)):
        put(world, 2, wrong)
        with pytest.raises(ManifestError, match="does not follow"):
            load_manifest(world.folder)
    put(world, 2, after)
    assert world.newest.unverified.snapshot == 2


def test_nothing_is_added_to_a_manifest_that_is_not_signed(world: World) -> None:
    forged = {**world.newest.envelope, "signatures": [{**world.newest.envelope["signatures"][0], "sig": "MAYCAQECAQE="}]}
    (world.folder / MANIFEST_NAME).write_bytes(canonical(forged))
    with pytest.raises(ManifestError, match="signature"):
        world.add(table(2))
    assert len(list(world.folder.glob("*.parquet"))) == 1
