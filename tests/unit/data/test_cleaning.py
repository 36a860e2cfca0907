"""Clean-up of a dataset's folder beside stopped and slow writers, and over a storage that answers each question as it likes."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from confide.canonical import Json
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import cleaning, commit, next_snapshot
from confide.data.cleaning import clean
from confide.data.commit import add_snapshot, create_dataset
from confide.data.files import read_table
from confide.data.manifest import MANIFEST_NAME
from confide.data.snapshots import SignedManifest, load_manifest, write_manifest
from confide.data.staging import Attempt
from confide.errors import UnavailableError
from confide.ids import new_dataset_id

SIGNER, KEY, NOW = SigningKey.generate(), SecretBytes.random(), datetime(2026, 11, 27, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset = new_dataset_id()
    wrapped = wrap(SecretBytes.random(), KEY, key="airline/flights", version=1, dataset=dataset)
    place = tmp_path / "d"
    create_dataset(
        pa.table({"x": [1]}), place, name="d", owner="airline", dataset=dataset, dataset_key=KEY, wrapped=wrapped, signer=SIGNER, now=NOW
    )
    return place


def add(folder: Path, value: int) -> SignedManifest:
    return add_snapshot(pa.table({"x": [value]}), load_manifest(folder), "overwrite", dataset_key=KEY, signer=SIGNER, now=NOW)


def values(folder: Path) -> list[int]:
    return list(read_table(folder, load_manifest(folder).unverified, KEY).column("x").to_pylist())


def test_readers_find_the_newest_snapshot_when_those_that_their_copy_leads_through_were_dropped(folder: Path) -> None:
    """Two writers in a row were stopped after their commits, before they wrote the copy."""
    first = load_manifest(folder).envelope
    add(folder, 2)
    add(folder, 3)
    write_manifest(folder, first)
    clean(folder, keep=1, before=datetime.now(UTC) + HOUR, remove=True)
    assert values(folder) == [3]
    assert add(folder, 4).unverified.snapshot == 4


def test_a_writer_that_was_overtaken_does_not_put_back_an_old_copy(folder: Path) -> None:
    def others_are_faster(_: Json) -> None:
        add(folder, 3)
        add(folder, 4)
        clean(folder, keep=1, before=datetime.now(UTC) + HOUR, remove=True)

    add_snapshot(
        pa.table({"x": [2]}), load_manifest(folder), "append", dataset_key=KEY, signer=SIGNER, now=NOW, register=others_are_faster
    )  # fmt: skip
    assert values(folder) == [4]


def test_files_that_took_a_long_time_to_write_are_young_until_they_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = next_snapshot.commit_snapshot, commit.encrypt_table

    def written_long_ago(source: pa.Table, attempt: Attempt, *args: object, **named: object) -> object:
        found = written(source, attempt, *args, **named)  # type: ignore[arg-type]
        for entry in found.files:
            os.utime(attempt.files / entry.path, (1, 1))
        return found

    def cleaned_before(parent: SignedManifest, made: SignedManifest, *, staged: Path) -> None:
        assert clean(folder, keep=None, before=datetime.now(UTC) - HOUR, remove=True).young == 1
        real(parent, made, staged=staged)

    monkeypatch.setattr(commit, "encrypt_table", written_long_ago)
    monkeypatch.setattr(next_snapshot, "commit_snapshot", cleaned_before)
    add(folder, 2)
    assert values(folder) == [2]


def test_a_writers_folder_stays_as_long_as_something_in_it_grows(folder: Path) -> None:
    staged = folder.with_name(f".{folder.name}.new-{'0' * 16}")
    (staged / "v-1").mkdir(parents=True)
    (staged / "v-1" / "large").write_bytes(b"1")
    for place in (staged / "v-1", staged):
        os.utime(place, (1, 1))
    assert clean(folder, keep=None, before=datetime.now(UTC) - HOUR, remove=True).files == []
    os.utime(staged / "v-1" / "large", (1, 1))
    assert clean(folder, keep=None, before=datetime.now(UTC) - HOUR, remove=True).files == [f"../{staged.name}"]
    assert not staged.exists()


def test_a_folder_that_storage_replaces_by_a_link_meanwhile_is_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = folder.parent / "home"
    outside.mkdir()
    (outside / "a").write_text("mine")
    (folder / "v-left").mkdir()
    (folder / "v-left" / "a").write_bytes(b"CONFIDE2")
    real = cleaning._remove

    def swapped(place: Path, *args: object) -> None:
        (place / "v-left").rename(folder.parent / "away")
        (place / "v-left").symlink_to(outside)
        real(place, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(cleaning, "_remove", swapped)
    with pytest.raises(UnavailableError, match="cannot clean"):
        clean(folder, keep=None, before=datetime.now(UTC) + HOUR, remove=True)
    assert (outside / "a").read_text() == "mine"
    assert (folder / MANIFEST_NAME).exists()
