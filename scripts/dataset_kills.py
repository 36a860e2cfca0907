"""Kills writers of a dataset at each of their system calls.  ``python -m scripts.dataset_kills``.

Each writer (one that makes a table or files, appends, overwrites, cleans, or re-wraps) works in a forked process and is killed, as by
``kill -9``, where it would have made system call number so and so.  Afterwards:

* the folder is there as a whole or not at all, every snapshot that was acknowledged is there, and each can be read to its last row;
* nothing of the plaintext lies anywhere beside or in the folder;
* ``data clean`` removes what was left, and the same writer, started again, succeeds.

Needs Linux: ptrace(2).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
from tests.support.killed import Say, killed_at

from confide.crypto.envelope import WrappedKey, wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.cleaning import clean
from confide.data.commit import add_snapshot, create_dataset
from confide.data.files import open_file, read_table
from confide.data.folder import listed_files, refuse_foreign, verify_files
from confide.data.manifest import Manifest
from confide.data.next_snapshot import Mode
from confide.data.rewrap import rewrap_dataset
from confide.data.snapshots import load_manifest, manifest_path, verify_manifests
from confide.ids import DatasetId, new_dataset_id

CANARY: Final = "CANARY-3e81c7"
LATER: Final = datetime.now(UTC) + timedelta(days=1)


class Owner:
    """Who writes: one key, and what is written."""

    def __init__(self, root: Path) -> None:
        self.signer, self.key, self.kek = SigningKey.generate(), SecretBytes.random(), SecretBytes.random()
        self.dataset = new_dataset_id()
        self.text = root / "plain" / "a.txt"
        self.text.parent.mkdir()
        self.text.write_text(CANARY * 6000)
        self.table = pa.table({"x": [1, 2, 3], "s": [f"{CANARY}-{number}" for number in range(3)]})

    def form(self, version: int) -> WrappedKey:
        """The dataset's key under a version."""
        return wrap(self.kek, self.key, key="a/k", version=version, dataset=self.dataset)

    def create(self, source: pa.Table | Path, folder: Path) -> None:
        """Make the dataset."""
        create_dataset(source, folder, name="d", owner="a", dataset=DatasetId(self.dataset), dataset_key=self.key, wrapped=self.form(1),
                       signer=self.signer, now=datetime.now(UTC))  # fmt: skip

    def add(self, source: pa.Table | Path, folder: Path, mode: Mode) -> None:
        """Make the next snapshot."""
        add_snapshot(source, load_manifest(folder), mode, dataset_key=self.key, signer=self.signer, now=datetime.now(UTC))

    def rewrap(self, folder: Path) -> None:
        """Make the next snapshot, of the same files."""
        rewrap_dataset(load_manifest(folder), self.form(2), signer=self.signer, now=datetime.now(UTC))

    def read(self, folder: Path, manifest: Manifest) -> None:
        """Everything of a snapshot, as it was written.

        Raises:
            AssertionError: something else.
        """
        if manifest.kind == "parquet":
            rows = read_table(folder, manifest, self.key)
            require(rows.num_rows == manifest.rows, "rows are missing")
            require(set(rows.column("s").to_pylist()) == set(self.table.column("s").to_pylist()), "other rows")
            return
        for entry in manifest.files:
            with open_file(folder, manifest, entry.path, self.key) as file:
                require(file.read() == self.text.read_bytes(), "other contents")


def require(so: bool, otherwise: str) -> None:  # noqa: FBT001 -- a condition
    """Go on only if it is so."""
    if not so:
        raise AssertionError(otherwise)


@dataclass(frozen=True)
class Writer:
    """A kind of writer: what it begins with, and which newest snapshots there may be if it is killed (0: no folder)."""

    begin: Callable[[Path], None]
    work: Callable[[Path], None]
    before: int
    after: int


def writers(owner: Owner) -> dict[str, Writer]:
    """All that write into a dataset's folder."""

    def nothing(_: Path) -> None:
        """Where the dataset is to be made."""

    def two(source: pa.Table | Path) -> Callable[[Path], None]:
        def begin(folder: Path) -> None:
            owner.create(source, folder)
            owner.add(source, folder, "overwrite")

        return begin

    def cleaned(folder: Path) -> None:
        clean(folder, keep=1, before=LATER, remove=True)

    table, text = owner.table, owner.text
    return {
        "create a table": Writer(nothing, lambda folder: owner.create(table, folder), 0, 1),
        "create files": Writer(nothing, lambda folder: owner.create(text, folder), 0, 1),
        "append": Writer(two(table), lambda folder: owner.add(table, folder, "append"), 2, 3),
        "overwrite": Writer(two(text), lambda folder: owner.add(text, folder, "overwrite"), 2, 3),
        "rewrap": Writer(two(text), owner.rewrap, 2, 3),
        "clean": Writer(two(text), cleaned, 2, 2),
    }


@dataclass
class Tally:
    """How many kills of each writer, and of these, after how many it had done its work."""

    kills: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)


def check(owner: Owner, folder: Path, writer: Writer, *, acknowledged: bool, whole: bool) -> int:
    """Return the newest snapshot's number, 0 if there is no folder, if all is as the module says.  ``whole``: nothing else is there."""
    for place in folder.parent.rglob("*"):
        require(not place.is_file() or CANARY.encode() not in place.read_bytes(), f"plaintext is left: {place.name}")
    if not os.path.lexists(folder):
        require(writer.before == 0 and not acknowledged, "a dataset is gone")
        return 0
    require(not any(place.name.startswith(".") for place in folder.rglob("*")), "a manifest's copy is left in the dataset")
    chain = [one.unverified for one in verify_manifests(load_manifest(folder))]
    require(chain[0].snapshot in ({writer.after} if acknowledged else {writer.before, writer.after}), "a snapshot is gone, or one too many")
    verify_files(folder, *chain)
    for manifest in chain:
        owner.read(folder, manifest)
    if whole:
        refuse_foreign(folder, {*listed_files(*chain), *map(manifest_path, chain)})
        require([place.name for place in folder.parent.iterdir()] == [folder.name], "a writer's folder is left")
    return chain[0].snapshot


def kill(owner: Owner, root: Path, writer: Writer, call: int | None) -> tuple[bool, int]:
    """One writer, killed at a system call (``None``: not).  Whether it had done its work, and how many calls it had begun."""
    folder = root / "d"
    root.mkdir()
    try:
        writer.begin(folder)

        def prepare() -> Callable[[Say], None]:
            def work(say: Say) -> None:
                writer.work(folder)
                say(b"done")

            return work

        said, begun = killed_at(call, prepare)
        acknowledged = said == [b"done"]
        number = check(owner, folder, writer, acknowledged=acknowledged, whole=acknowledged and call is None)
        if number:
            clean(folder, keep=None, before=LATER, remove=True)
            check(owner, folder, writer, acknowledged=acknowledged, whole=True)
        if number == writer.before:
            writer.work(folder)  # the next one
            clean(folder, keep=None, before=LATER, remove=True)  # if there was no folder, what the killed one left is beside it until now
            check(owner, folder, writer, acknowledged=True, whole=True)
        return acknowledged, begun
    finally:
        shutil.rmtree(root)


def run(root: Path, *, count: int, seed: int, names: Collection[str] = ()) -> Tally:
    """Kill each writer, or those of these ``names``, at ``count`` different system calls, or at each if it makes no more."""
    pa.set_cpu_count(1)  # a forked process has no other threads
    owner, chosen, tally = Owner(root), random.Random(seed), Tally()
    for name, writer in writers(owner).items():
        if names and name not in names:
            continue
        _, most = kill(owner, root / "whole", writer, None)
        for call in chosen.sample(range(1, most + 1), min(count, most)):
            done, _ = kill(owner, root / "killed", writer, call)
            tally.kills[name] += 1
            tally.done[name] += done
    return tally


def main() -> int:
    """Say what was killed; a failure ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="kills of each writer, at random calls [default: at each call]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    began = time.monotonic()
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="confide-kills-") as root:
        tally = run(Path(root), count=options.count, seed=options.seed)
    for name, count in tally.kills.items():
        print(f"{name}: killed {count} times, {tally.done[name]} of them after it had said that it was done")
    print(f"nothing was lost, half there or in the clear ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
