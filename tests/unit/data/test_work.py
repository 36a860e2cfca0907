"""What a snapshot says of the work that made it: who has the key finds its own work, and nobody is told that other work was done."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import add_snapshot, create_dataset
from confide.data.manifest import Manifest, sign_manifest
from confide.data.rewrap import rewrap_dataset
from confide.data.snapshots import SignedManifest, load_manifest, write_manifest
from confide.data.sources import plain_sources
from confide.data.staging import attempt_beside, resumed_or_new, task_of
from confide.data.tables import TableInput
from confide.data.work import snapshot_made_by, work_of
from confide.errors import DataError, ManifestError
from confide.ids import DatasetId, RunId

KEK, KEY, SIGNER, NOW = SecretBytes(b"k" * 32), SecretBytes(b"d" * 32), SigningKey.generate(), datetime(2026, 1, 1, tzinfo=UTC)
DATASET = DatasetId("0" * 32)


@dataclass
class World:
    """A dataset of one row, and files to append."""

    root: Path
    folder: Path

    @property
    def newest(self) -> SignedManifest:
        return load_manifest(self.folder)

    def source(self, name: str) -> TableInput:
        return TableInput(tuple(plain_sources(self.root / name)), "csv")

    def task(self, name: str) -> str:
        task = task_of(self.source(name), dataset=DATASET, mode="append")
        assert task is not None
        return task

    def append(self, name: str, *, resume: bool = True) -> tuple[int, bool]:
        """As the command does: which snapshot is the answer, and whether it was made before."""
        newest, task = self.newest, self.task(name)
        if resume:
            staged = resumed_or_new(self.folder, task, open_key=lambda _: KEY, done=snapshot_made_by(task, newest, KEY))
        else:
            staged = attempt_beside(self.folder)
        with staged as attempt:
            if attempt.journal is None and attempt.done is None:
                attempt.begin(task, DATASET, KEY)
            made = add_snapshot(self.source(name), newest, "append", dataset_key=KEY, signer=SIGNER, now=NOW, attempt=attempt)
            return made.unverified.snapshot, attempt.done is not None

    def beside(self) -> list[str]:
        return [path.name for path in self.folder.parent.iterdir() if path.name != self.folder.name]


@pytest.fixture
def world(tmp_path: Path) -> World:
    for number, name in enumerate(("a", "b", "c")):
        (tmp_path / name).write_text(f"x\n{number}\n", encoding="utf-8")
    made = World(tmp_path, tmp_path / "out" / "d")
    create_dataset(
        made.source("a"), made.folder, name="d", owner="o", dataset=DATASET, dataset_key=KEY, signer=SIGNER, now=NOW,
        wrapped=wrap(KEK, KEY, key="o/k", version=1, dataset=DATASET),
    )  # fmt: skip
    return made


def test_rows_are_appended_once_however_often_it_is_resumed(world: World) -> None:
    assert [world.append("b") for _ in range(3)] == [(2, False), (2, True), (2, True)]
    assert world.append("c") == (3, False)
    assert world.append("b") == (2, True)
    assert (world.newest.unverified.rows, world.beside()) == (3, [])


def test_without_resume_rows_are_appended_as_often_as_it_is_said(world: World) -> None:
    assert [world.append("b", resume=False) for _ in range(2)] == [(2, False), (3, False)]
    assert world.append("b") == (3, True)


def test_input_that_was_changed_is_other_work(world: World) -> None:
    world.append("b")
    (world.root / "b").write_text("x\n7\n", encoding="utf-8")
    assert world.append("b") == (3, False)


def left_behind(world: World, name: str, *, files: bool) -> Path:
    """What a command leaves that is killed while it clears up, or (with ``files``) right before that."""
    root = world.folder.with_name(f".{world.folder.name}.new-{'0' * 16}")
    with attempt_beside(world.folder) as attempt:
        attempt.begin(world.task(name), DATASET, KEY)
        add_snapshot(world.source(name), world.newest, "append", dataset_key=KEY, signer=SIGNER, now=NOW, attempt=attempt)
        shutil.copytree(attempt.root, root, copy_function=os.link)
    if not files:
        shutil.rmtree(root / "dataset")
    return root


@pytest.mark.parametrize("files", [True, False])
def test_a_command_that_was_killed_while_it_cleared_up_is_not_done_again(world: World, files: bool) -> None:
    root = left_behind(world, "b", files=files)
    assert world.append("b") == (2, True)
    assert not root.exists()
    assert world.newest.unverified.rows == 2


def test_what_is_done_is_done_also_while_other_work_waits_to_be_gone_on_with(world: World) -> None:
    world.append("b")
    root = left_behind(world, "c", files=False)
    with pytest.raises(DataError, match="something else"), resumed_or_new(world.folder, "0" * 64, open_key=lambda _: KEY):
        pass
    assert world.append("b") == (2, True)
    assert root.exists()


def test_the_broker_is_told_of_the_newest_snapshot_once_more(world: World) -> None:
    world.append("b")
    world.append("c")
    told: list[object] = []
    done = snapshot_made_by(world.task("b"), world.newest, KEY)
    with resumed_or_new(world.folder, world.task("b"), open_key=lambda _: KEY, done=done) as attempt:
        add_snapshot(
            world.source("b"), world.newest, "append", dataset_key=KEY, signer=SIGNER, now=NOW, attempt=attempt, register=told.append
        )
    assert told == [world.newest.envelope]


def test_it_says_nothing_without_the_key(world: World) -> None:
    world.append("b")
    said = world.newest.unverified.work
    assert said == work_of(world.task("b"), KEY, DATASET)
    others = [
        work_of(world.task("c"), KEY, DATASET),
        work_of(world.task("b"), SecretBytes(b"e" * 32), DATASET),
        work_of(world.task("b"), KEY, DatasetId("1" * 32)),
    ]
    assert len({said, *others}) == 4
    assert snapshot_made_by(world.task("b"), world.newest, SecretBytes(b"e" * 32)) is None


def test_a_claim_that_nobody_signed_is_refused(world: World) -> None:
    forged = replace(world.newest.unverified, work=work_of(world.task("b"), KEY, DATASET))
    envelope = sign_manifest(forged, SIGNER)
    signature = sign_manifest(replace(forged, work=None), SIGNER)["signatures"]
    write_manifest(world.folder, {**envelope, "signatures": signature})
    with pytest.raises(ManifestError):
        snapshot_made_by(world.task("b"), world.newest, KEY)


def test_a_snapshot_under_a_new_form_of_the_key_is_no_work_of_that_kind(world: World) -> None:
    world.append("b")
    rewrap_dataset(world.newest, wrap(KEK, KEY, key="o/k", version=2, dataset=DATASET), signer=SIGNER, now=NOW)
    assert (world.newest.unverified.snapshot, world.newest.unverified.work) == (3, None)
    assert world.append("b") == (2, True)


def test_what_says_nothing_of_its_work_was_made_by_no_work(world: World) -> None:
    assert world.newest.unverified.work is None
    assert "work" not in world.newest.unverified.to_json()
    assert snapshot_made_by(None, world.newest, KEY) is None


@pytest.mark.parametrize("changes", [{"work": "AB" * 32}, {"work": "ab" * 31}, {"work": "ab" * 32, "owner": None, "run": RunId("r-0")}])
def test_a_claim_of_another_form_is_not_signed(world: World, changes: dict[str, str]) -> None:
    manifest: Manifest = replace(world.newest.unverified, **changes)  # type: ignore[arg-type]
    with pytest.raises(ManifestError):
        sign_manifest(manifest, SIGNER)
