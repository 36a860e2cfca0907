"""Storage swaps what is whole: files, chunks, pages, columns, row groups, manifests.  Each is refused, and works without its defence."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.support.arrow_writer import write_by_arrow
from tests.support.parquet_parts import parts, rearranged, said_to_have_no_tags

from confide.crypto.container import ContainerReader
from confide.crypto.derive import file_key
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import files, table_files
from confide.data import folder as folder_module
from confide.data.commit import add_snapshot, create_dataset
from confide.data.folder import verify_files
from confide.data.manifest import MANIFEST_NAME, Manifest, sign_manifest, verify_manifest
from confide.data.snapshots import SignedManifest, load_manifest, verify_manifests, write_manifest
from confide.errors import ConfideError, IntegrityError, ManifestError
from confide.ids import DatasetId, new_dataset_id

SIGNER, OTHER, KEY, NOW = SigningKey.generate(), SigningKey.generate(), SecretBytes.random(), datetime(2026, 11, 27, tzinfo=UTC)
ROWS, GROUP = 64, 16


def table(first: int) -> pa.Table:
    """Two columns of one type and different values, all of one length however they are compressed: a swap could be taken for data."""
    chosen = random.Random(first)
    return pa.table({name: [chosen.randrange(1 << 61, 1 << 62) for _ in range(ROWS)] for name in ("a", "b")})


def made(source: pa.Table | Path, folder: Path, *, dataset: DatasetId | None = None, signer: SigningKey = SIGNER) -> SignedManifest:
    """A dataset; all of this module are under one key, as an attacker would have it."""
    dataset = dataset or new_dataset_id()
    wrapped = wrap(SecretBytes.random(), KEY, key="airline/k", version=1, dataset=dataset)
    return create_dataset(
        source, folder, name="d", owner="airline", dataset=dataset, dataset_key=KEY, wrapped=wrapped, signer=signer, now=NOW
    )


def again(parent: SignedManifest, source: pa.Table | Path) -> SignedManifest:
    return add_snapshot(source, parent, "append", dataset_key=KEY, signer=SIGNER, now=NOW)


def read(folder: Path, manifest: Manifest) -> list[Any]:
    """By authenticated encryption alone: no digest is compared."""
    if manifest.kind == "parquet":
        found = files.read_table(folder, manifest, KEY).to_pydict()
        return [found["a"], found["b"]]
    contents = []
    for entry in manifest.files:
        with files.open_file(folder, manifest, entry.path, KEY) as file:
            contents.append(file.read())
    return contents


def refused_by_both(folder: Path, manifest: Manifest) -> None:
    with pytest.raises(IntegrityError):
        verify_files(folder, manifest)
    with pytest.raises(IntegrityError):
        read(folder, manifest)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_GROUP", GROUP)


@pytest.fixture
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence that is taken away: keys and associated data of files that say nothing of dataset and path."""
    nowhere = DatasetId("0" * 32)
    for module in (files, table_files):
        monkeypatch.setattr(module, "file_key", lambda key, *, kind, **_: file_key(key, kind=kind, dataset=nowhere, path="x"))
        monkeypatch.setattr(module, "parquet_aad_prefix", lambda *_: b"x")
    monkeypatch.setattr(files, "seal_stream", _unbound(files.seal_stream, nowhere))
    monkeypatch.setattr(files, "ContainerReader", lambda file, key, *_: ContainerReader(file, key, nowhere, "x"))


def _unbound(real: Callable[..., Any], nowhere: DatasetId) -> Callable[..., Any]:
    return lambda src, dst, key, *_: real(src, dst, key, nowhere, "x")


# --- whole files ----------------------------------------------------------------------------------------------------


def swapped(tmp_path: Path, kind: str, how: str) -> tuple[Path, Manifest]:
    """A dataset of two snapshots in which storage has done ``how``; the newest manifest."""
    sources: list[Any] = [table(0), table(100), table(200)]
    if kind == "files":
        for number in range(3):
            (tmp_path / f"{number}.txt").write_bytes(f"{number}\n".encode() * 40_000)
        sources = [tmp_path / f"{number}.txt" for number in range(3)]
    first = made(sources[0], tmp_path / "d")
    newest = again(first, sources[1])
    other = made(sources[2], tmp_path / "other")
    (old,) = (entry.path for entry in first.unverified.files)
    (new,) = (entry.path for entry in newest.unverified.files if entry.path != old)
    (foreign,) = (entry.path for entry in other.unverified.files)
    a, b, folder = (newest.folder / old).read_bytes(), (newest.folder / new).read_bytes(), newest.folder
    put = {
        "swapped": {old: b, new: a},
        "of an older snapshot": {new: a},
        "twice": {old: b},
        "of another dataset": {new: (other.folder / foreign).read_bytes()},
    }
    for path, data in put[how].items():
        (folder / path).write_bytes(data)
    return folder, newest.unverified


HOW = ["swapped", "of an older snapshot", "twice", "of another dataset"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["parquet", "files"])
def test_files_in_each_others_place_are_refused(tmp_path: Path, kind: str, how: str) -> None:
    refused_by_both(*swapped(tmp_path, kind, how))


@pytest.mark.usefixtures("unbound")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["parquet", "files"])
def test_without_names_in_their_keys_only_digests_would_notice(tmp_path: Path, kind: str, how: str) -> None:
    folder, manifest = swapped(tmp_path, kind, how)
    assert len(read(folder, manifest)) == 2
    with pytest.raises(IntegrityError):
        verify_files(folder, manifest)


# --- inside a Parquet file ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_groups")
def test_pages_columns_and_row_groups_of_one_file_in_each_others_place_are_refused(tmp_path: Path) -> None:
    signed = made(table(0), tmp_path / "d")
    (entry,) = signed.unverified.files
    data = (signed.folder / entry.path).read_bytes()
    for name, changed in rearranged(data, 2 * ROWS // GROUP).items():
        assert (len(changed), changed != data) == (len(data), True), name
        (signed.folder / entry.path).write_bytes(changed)
        refused_by_both(signed.folder, signed.unverified)
    (signed.folder / entry.path).write_bytes(data)
    assert read(signed.folder, signed.unverified) == list(table(0).to_pydict().values())


@pytest.mark.usefixtures("small_groups")
def test_pages_of_two_files_of_one_dataset_in_each_others_place_are_refused(tmp_path: Path) -> None:
    first = made(table(0), tmp_path / "d")
    newest = again(first, table(100))
    one, two = ((newest.folder / entry.path) for entry in newest.unverified.files)
    a, b = one.read_bytes(), two.read_bytes()
    for here, there in zip(parts(a), parts(b), strict=True):
        one.write_bytes(a[: here.start] + there.of(b) + a[here.end :])
        refused_by_both(newest.folder, newest.unverified)


@pytest.mark.usefixtures("small_groups")
def test_without_authenticated_pages_a_column_would_be_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: Parquet's other mode, AES_GCM_CTR_V1, has tags for headers and footers and none for pages."""
    signed = made(table(0), tmp_path / "d")
    monkeypatch.setattr(folder_module, "AES_GCM_V1", b"\x1c\x2c")
    (entry,) = signed.unverified.files
    place = signed.folder / entry.path
    write_by_arrow(place, table(0), KEY, signed.unverified.dataset, entry.path, group=GROUP, algorithm="AES_GCM_CTR_V1")
    data = place.read_bytes()
    read_as = []
    for name, changed in rearranged(data, 2 * ROWS // GROUP).items():
        (signed.folder / entry.path).write_bytes(changed)
        try:
            read_as.append((name, read(signed.folder, signed.unverified)))
        except IntegrityError:
            continue
    a, b = table(0).to_pydict().values()
    assert any(name.startswith("part") and found[0][:GROUP] == b[:GROUP] and found[1][:GROUP] == a[:GROUP] for name, found in read_as)


def test_a_file_that_says_that_its_pages_have_no_tags_is_refused(tmp_path: Path) -> None:
    """Nothing authenticates the name of the algorithm: without this check, pages would be taken without their tags (the control above)."""
    signed = made(table(0), tmp_path / "d")
    (entry,) = signed.unverified.files
    place = signed.folder / entry.path
    place.write_bytes(said_to_have_no_tags(place.read_bytes()))
    with pytest.raises(IntegrityError, match="no tags"):
        read(signed.folder, signed.unverified)
    with pytest.raises(IntegrityError, match="other bytes"):
        verify_files(signed.folder, signed.unverified)


# --- chunks of a container ------------------------------------------------------------------------------------------


def test_a_file_cut_at_any_chunk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.bin").write_bytes(b"x" * (65_536 * 4 + 5))
    signed = made(tmp_path / "long.bin", tmp_path / "d")
    (entry,) = signed.unverified.files
    place, data = signed.folder / entry.path, (signed.folder / entry.path).read_bytes()
    chunk = 65_536 + 16
    last = (65_536 * 4 + 5) % 65_536 + 16
    header = len(data) - 4 * chunk - last
    for count in range(5):
        place.write_bytes(data[: header + count * chunk])
        refused_by_both(signed.folder, signed.unverified)
        if count:
            place.write_bytes(data[: header + (count - 1) * chunk] + data[header + count * chunk :])  # one is missing
            refused_by_both(signed.folder, signed.unverified)
            place.write_bytes(data[: header + count * chunk] + data[header + (count - 1) * chunk :])  # one is there twice
            refused_by_both(signed.folder, signed.unverified)


# --- manifests ------------------------------------------------------------------------------------------------------


def accepted(folder: Path, dataset: DatasetId) -> int:
    """As a job reads it: signer and dataset are pinned.  The snapshot's number."""
    found = load_manifest(folder)
    manifest = verify_manifest(found.envelope, SIGNER.public)
    if manifest.dataset != dataset:
        raise ManifestError("another dataset")
    verify_files(folder, *(one.unverified for one in verify_manifests(found)))
    return manifest.snapshot


def test_manifests_of_others_are_refused(tmp_path: Path) -> None:
    signed = made(table(0), tmp_path / "d")
    mine = signed.unverified
    other, stranger = made(table(0), tmp_path / "other"), made(table(0), tmp_path / "stranger", signer=OTHER)
    forged = sign_manifest(replace(mine, signer=OTHER.public), OTHER)
    refilled = {**forged, "signatures": signed.envelope["signatures"]}
    for envelope in (other.envelope, stranger.envelope, forged, refilled):
        write_manifest(signed.folder, envelope)
        with pytest.raises((ManifestError, IntegrityError)):
            accepted(signed.folder, mine.dataset)
    write_manifest(signed.folder, forged)
    # The control: who accepts that signer finds a whole dataset.
    verify_files(signed.folder, verify_manifest(load_manifest(signed.folder).envelope, OTHER.public))
    write_manifest(signed.folder, signed.envelope)
    assert accepted(signed.folder, mine.dataset) == 1


def test_snapshots_of_two_histories_are_not_mixed(tmp_path: Path) -> None:
    """The same owner, dataset and first snapshot; two ways on, of which storage shows parts."""
    first = made(table(0), tmp_path / "d")
    shutil.copytree(tmp_path / "d", tmp_path / "fork")
    dataset = first.unverified.dataset
    one = again(again(first, table(100)), table(200))
    fork = again(replace(first, folder=tmp_path / "fork"), table(300))
    for name in ("_snapshots/2.json", MANIFEST_NAME):
        kept = (one.folder / name).read_bytes()
        shutil.copy(fork.folder / name, one.folder / name)
        with pytest.raises(ConfideError):
            accepted(one.folder, dataset)
        (one.folder / name).write_bytes(kept)
    for name in [entry.path for entry in fork.unverified.files]:
        shutil.copy(fork.folder / name, one.folder / name)
    assert accepted(one.folder, dataset) == 3  # files alone, which no manifest names, are not read
    assert accepted(fork.folder, dataset) == 2


def test_an_older_folder_is_whole_and_only_the_broker_knows_better(tmp_path: Path) -> None:
    """The control of ``test_an_older_copy_of_the_folder_is_not_added_to`` and of threat T51: nothing in the folder shows it."""
    first = made(table(0), tmp_path / "d")
    shutil.copytree(tmp_path / "d", tmp_path / "older")
    assert accepted(again(first, table(100)).folder, first.unverified.dataset) == 2
    assert accepted(tmp_path / "older", first.unverified.dataset) == 1
