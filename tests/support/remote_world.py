"""A dataset at a URL, and what its owner does with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from confide.canonical import Json
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import files
from confide.data.commit import add_snapshot, create_dataset
from confide.data.folder import listed_files, refuse_foreign, verify_files
from confide.data.next_snapshot import Mode
from confide.data.places import RemoteFolder, remote_folder
from confide.data.snapshots import SignedManifest, history, load_manifest, manifest_path, snapshot_numbered, verify_manifests
from confide.ids import new_dataset_id

SIGNER, KEY = SigningKey.generate(), SecretBytes(b"d" * 32)
KEK = SecretBytes(b"k" * 32)
LATER = datetime.now(UTC) + timedelta(days=1)


def table(*values: int) -> pa.Table:
    return pa.table({"x": list(values)})


class RemoteWorld:
    """Each look at the storage is a fresh one, as a new command's."""

    def __init__(self, url: str, source: Any = None) -> None:
        self.url, self.dataset = url, new_dataset_id()
        wrapped = wrap(KEK, KEY, key="airline/flights", version=1, dataset=self.dataset)
        create_dataset(
            table(1) if source is None else source, self.folder, name="d", owner="airline", dataset=self.dataset, dataset_key=KEY,
            wrapped=wrapped, signer=SIGNER, now=datetime.now(UTC),
        )  # fmt: skip

    @property
    def folder(self) -> RemoteFolder:
        return remote_folder(self.url)

    @property
    def newest(self) -> SignedManifest:
        return load_manifest(self.folder)

    def add(
        self, source: Any, mode: Mode = "append", register: Callable[[Json], None] | None = None, parent: SignedManifest | None = None
    ) -> SignedManifest:
        before, now = self.newest if parent is None else parent, datetime.now(UTC)
        return add_snapshot(source, before, mode, dataset_key=KEY, signer=SIGNER, now=now, register=register)

    def values(self, number: int | None = None) -> list[int]:
        found = self.newest if number is None else snapshot_numbered(self.newest, number)
        return sorted(files.read_table(found.folder, found.unverified, KEY).column("x").to_pylist())

    def check(self, *, foreign: bool = False) -> list[int]:
        """Everything there is right, and nothing else is there; the snapshots' numbers."""
        newest = self.newest
        chain = [one.unverified for one in verify_manifests(newest)]
        verify_files(newest.folder, *chain)
        if not foreign:
            refuse_foreign(newest.folder, {*listed_files(*chain), *map(manifest_path, chain)})
        return [one.snapshot for one in (newest.unverified, *(one.unverified for one in history(newest)))]


def until(true: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
