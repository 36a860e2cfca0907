"""Writers of a dataset that are killed, or whose disk is full: the old snapshot or the new one, whole, and nothing in the clear.

Here at five system calls of each writer, and at every one of the shortest; ``python -m scripts.dataset_kills`` (``make dataset-kills``)
takes every call of all.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from scripts import dataset_kills
from scripts.dataset_kills import LATER, Owner, check, run, writers
from tests.support.machine import small_disk

from confide.data.cleaning import clean
from confide.data.snapshots import history, load_manifest
from confide.errors import ConfideError, UnavailableError


def test_killed_writers_leave_the_old_snapshot_or_the_new_one(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 -- pytest shows it with a failure
    tally = run(tmp_path, count=5, seed=seed)
    assert (len(tally.kills), set(tally.kills.values())) == (6, {5})


def test_a_commit_that_is_killed_anywhere_is_there_or_not(tmp_path: Path) -> None:
    tally = run(tmp_path, count=1000, seed=0, names={"rewrap"})
    assert tally.kills["rewrap"] > 50


@pytest.mark.parametrize("what", ["plaintext", "part", "gone"])
def test_what_a_kill_must_not_leave_is_noticed(tmp_path: Path, what: str) -> None:
    """The control."""
    owner, folder = Owner(tmp_path), tmp_path / "w" / "d"
    writer = writers(owner)["append"]
    folder.parent.mkdir()
    writer.begin(folder)
    assert check(owner, folder, writer, acknowledged=False, whole=True) == 2
    if what == "plaintext":
        (folder.parent / ".tmp").write_text(f"x {dataset_kills.CANARY}")
    elif what == "part":
        next(folder.glob("*.parquet")).write_bytes(b"PARE")
    else:
        shutil.rmtree(folder)
    with pytest.raises((AssertionError, ConfideError), match=r"plaintext|length|gone"):
        check(owner, folder, writer, acknowledged=False, whole=True)


def test_a_dataset_that_is_a_file_system_of_its_own_is_written_too(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    writer = writers(owner)["rewrap"]
    with small_disk(8, "root") as disk:
        writer.begin(disk.folder / "d")
        for place in (disk.folder / "d").iterdir():
            place.rename(disk.folder / place.name)
        (disk.folder / "d").rmdir()
        writer.work(disk.folder)
        assert load_manifest(disk.folder).unverified.snapshot == writer.after
        assert [place.name for place in disk.folder.iterdir() if place.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["append", "overwrite", "rewrap"])
def test_a_full_disk_leaves_the_old_snapshot_whole_and_readable(tmp_path: Path, name: str) -> None:
    owner = Owner(tmp_path)
    writer = writers(owner)[name]
    with small_disk(8, "root") as disk:
        folder = disk.folder / "d"
        writer.begin(folder)
        with disk.full():
            with pytest.raises(UnavailableError, match="space"):
                writer.work(folder)
            newest = load_manifest(folder)  # what `data log` shows
            assert [newest.unverified.snapshot, *(one.unverified.snapshot for one in history(newest))] == [2, 1]
            assert not list(folder.rglob(".*"))
            clean(folder, keep=None, before=LATER, remove=True)
        check(owner, folder, writer, acknowledged=False, whole=False)
        writer.work(folder)
        assert check(owner, folder, writer, acknowledged=True, whole=False) == 3


def test_a_full_disk_does_not_keep_clean_from_making_room(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    writer = writers(owner)["clean"]
    with small_disk(8, "root") as disk:
        folder = disk.folder / "d"
        writer.begin(folder)
        with disk.full():
            try:
                writer.work(folder)
            except UnavailableError as error:
                assert "space" in error.message  # noqa: PT017 -- either is right: it may need a block before it gives some back
        check(owner, folder, writer, acknowledged=False, whole=False)
        writer.work(folder)
        assert [one.unverified.snapshot for one in history(load_manifest(folder))] == []
