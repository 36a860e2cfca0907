"""What ``data encrypt`` does at a URL: it begins, is ended early, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from support.remote_world import KEK, KEY, SIGNER, RemoteWorld

from confide.canonical import Json
from confide.crypto.envelope import wrap
from confide.data.commit import add_snapshot, create_dataset
from confide.data.finding import find_sources
from confide.data.places import RemoteFolder, is_there, remote_folder
from confide.data.remote_staging import attempt_at, resumed_at
from confide.data.snapshots import SignedManifest, load_manifest
from confide.data.sources import Source
from confide.data.staging import NewKey, open_kept, task_of
from confide.data.tables import TableInput
from confide.data.work import snapshot_made_by
from confide.ids import new_dataset_id

Told = Callable[[Json], None]


class Work:
    """A command that encrypts what is in ``source``: into a new dataset, or into one that is there."""

    def __init__(self, url: str, source: Path, journals: Path) -> None:
        self.url, self.source, self.journals = url, source, journals

    @property
    def folder(self) -> RemoteFolder:
        return remote_folder(self.url)

    @property
    def world(self) -> RemoteWorld:
        world = object.__new__(RemoteWorld)
        world.url, world.dataset = self.url, load_manifest(self.folder).unverified.dataset
        return world

    def input(self) -> TableInput | list[Source]:
        found = find_sources([str(self.source)]).sources
        return TableInput(found, "csv") if self.source.suffix == ".csv" else list(found)

    def left(self) -> list[Path]:
        """What lies here of work that was not ended.  A journal without its first line is of a command that had not begun."""
        return sorted(path for path in self.journals.rglob("*") if path.is_file() and b"\n" in path.read_bytes())

    def append(self, *, resume: bool, register: Told | None = None) -> tuple[SignedManifest, bool]:
        """And whether it had been done before."""
        parent, source = load_manifest(self.folder), self.input()
        task = task_of(source, dataset=parent.unverified.dataset, mode="append")
        assert task is not None
        done = snapshot_made_by(task, parent, KEY)
        if resume:
            staged = resumed_at(parent.folder, task, journals=self.journals, open_key=lambda _: KEY, done=done)
        else:
            staged = attempt_at(parent.folder, journals=self.journals)
        with staged as attempt:
            if attempt.journal is None and attempt.done is None:
                attempt.begin(task, parent.unverified.dataset, KEY)
            made = add_snapshot(
                source, parent, "append", dataset_key=KEY, signer=SIGNER, now=datetime.now(UTC), register=register, attempt=attempt
            )
            return made, attempt.done is not None

    def create(self, *, resume: bool, register: Told | None = None) -> tuple[SignedManifest, bool]:
        """And whether it had been done before."""
        folder, source = self.folder, self.input()
        task = task_of(source)
        assert task is not None
        if resume:
            done = snapshot_made_by(task, load_manifest(folder), KEY) if is_there(folder / "_confide.json") else None
            staged = resumed_at(folder, task, journals=self.journals, open_key=open_kept(KEK), done=done)
        else:
            staged = attempt_at(folder, journals=self.journals)
        with staged as attempt:
            if attempt.done is not None:
                return attempt.done, True
            new = attempt.key
            if new is None:
                dataset = new_dataset_id()
                new = NewKey(dataset, KEY, wrap(KEK, KEY, key="airline/flights", version=1, dataset=dataset))
                attempt.begin_new(task, new, KEK)
            made = create_dataset(
                source, folder, name="d", owner="airline", dataset=new.dataset, dataset_key=new.secret, wrapped=new.wrapped, signer=SIGNER,
                now=datetime.now(UTC), register=register, attempt=attempt,
            )  # fmt: skip
            return made, False
