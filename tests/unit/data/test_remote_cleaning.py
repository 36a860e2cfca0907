"""Clean-up at URLs: what no manifest lists goes, what a dataset needs and what is somebody else's stays."""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from support.remote_world import RemoteWorld, table

from confide.canonical import canonical, parse_object
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import create_dataset
from confide.data.folder import refuse_foreign, verify_files
from confide.data.manifest import MANIFEST_NAME
from confide.data.places import RemoteFolder, Version, remote_folder
from confide.data.remote_cleaning import clean_remote
from confide.data.snapshots import SignedManifest, snapshot_numbered
from confide.errors import IntegrityError, ManifestError, UnavailableError, UsageError
from confide.ids import new_dataset_id

LATER = datetime.now(UTC) + timedelta(hours=1)
EARLIER = LATER - timedelta(days=9)
LEFT = (f"part-00003-{uuid.uuid4()}.parquet", f"v-{uuid.uuid4()}/part-0.parquet")
"""What a killed ``data encrypt`` and a killed run leave."""


@pytest.fixture
def there(s3: Any) -> RemoteFolder:
    return remote_folder("s3://bkt/d")


def make(place: RemoteFolder) -> SignedManifest:
    dataset, key = new_dataset_id(), SecretBytes.random()
    wrapped = wrap(SecretBytes.random(), key, key="ann/k", version=1, dataset=dataset)
    return create_dataset(
        pa.table({"x": [1]}), place, name="d", owner="ann", dataset=dataset, dataset_key=key, wrapped=wrapped, signer=SigningKey.generate(),
        now=datetime.now(UTC),
    )  # fmt: skip


def leave(place: RemoteFolder, *paths: str) -> None:
    for path in paths or LEFT:
        place.write(path, io.BytesIO(b"left"))


def test_what_killed_writers_left_goes_and_the_place_is_free_again(there: RemoteFolder) -> None:
    leave(there)
    found = clean_remote(there, keep=None, before=LATER, remove=False)
    assert (found.files, found.size, len(there.files())) == ([*LEFT], 8, 2)
    assert clean_remote(there, keep=None, before=LATER, remove=True).files == [*LEFT]
    assert make(remote_folder(str(there))).unverified.rows == 1


def test_a_dataset_stays_whole_and_what_it_does_not_list_goes(there: RemoteFolder) -> None:
    made = make(there)
    leave(there, *LEFT, "foreign")
    assert clean_remote(there, keep=None, before=LATER, remove=True).files == [*sorted((*LEFT, "foreign"))]
    verify_files(there, made.unverified)
    refuse_foreign(there, {file.path for file in made.unverified.files})


def test_without_a_manifest_only_what_writers_name_their_files_goes(there: RemoteFolder) -> None:
    others = ["notes.txt", f"deeper/{LEFT[0]}", f"deeper/{LEFT[1]}", "part-00000.parquet", "v-2/x"]
    leave(there, *others)
    make(remote_folder("s3://bkt/d/inner"))
    before = sorted(there.files())
    assert clean_remote(there, keep=None, before=LATER, remove=True).files == []
    assert sorted(there.files()) == before


def test_what_is_young_stays(there: RemoteFolder) -> None:
    leave(there)
    found = clean_remote(there, keep=None, before=datetime.now(UTC) - timedelta(hours=1), remove=True)
    assert (found.files, found.young, len(there.files())) == ([], 2, 2)


def test_what_has_no_known_age_stays() -> None:
    place = remote_folder(f"memory://{uuid.uuid4()}/d")
    leave(place)
    assert clean_remote(place, keep=None, before=LATER, remove=True).young == 2


def test_a_manifest_that_the_listing_hides_is_found(there: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    make(there)
    listed = there.files()
    monkeypatch.setattr(there, "files", lambda: {path: found for path, found in listed.items() if path != MANIFEST_NAME})
    assert clean_remote(there, keep=None, before=LATER, remove=True).files == []


def test_a_manifest_that_is_not_signed_as_it_says_removes_nothing(there: RemoteFolder, s3: Any) -> None:
    make(there)
    data = s3.get_object(Bucket="bkt", Key=f"d/{MANIFEST_NAME}")["Body"].read()
    envelope = parse_object(data)
    (signature,) = envelope["signatures"]
    signature["sig"] = signature["sig"][:-8] + ("AAAAAAA=" if signature["sig"].endswith("=") else "AAAAAAAA")
    s3.put_object(Bucket="bkt", Key=f"d/{MANIFEST_NAME}", Body=canonical(envelope))
    with pytest.raises((ManifestError, IntegrityError), match=r"signature|signed"):
        clean_remote(there, keep=None, before=LATER, remove=True)
    assert len(there.files()) == 2


def test_where_no_dataset_is_there_are_no_snapshots_to_drop(there: RemoteFolder) -> None:
    leave(there)
    with pytest.raises(UsageError, match="no snapshots"):
        clean_remote(there, keep=1, before=LATER, remove=True)
    with pytest.raises(UsageError, match="always stays"):
        clean_remote(there, keep=0, before=LATER, remove=True)
    assert len(there.files()) == 2


# --- several snapshots ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["s3://bkt/d", "memory://cleaning/d"])
def several(request: pytest.FixtureRequest) -> Iterator[RemoteWorld]:
    """The first two snapshots have a file that the third has not."""
    if request.param.startswith("s3"):
        request.getfixturevalue("s3")
    world = RemoteWorld(request.param)
    world.add(table(2))
    world.add(table(3), "overwrite")
    world.add(table(4))
    yield world
    if request.param.startswith("memory"):
        import fsspec

        fsspec.filesystem("memory").rm("/cleaning", recursive=True)


def test_what_any_snapshot_lists_stays(several: RemoteWorld) -> None:
    leave(several.folder)
    found = clean_remote(several.folder, keep=None, before=LATER, remove=True)
    assert (found.snapshots, found.files) == ([], [*LEFT] if several.url.startswith("s3") else [])
    assert several.check(foreign=not several.url.startswith("s3")) == [4, 3, 2, 1]
    assert [several.values(number) for number in (4, 3, 2, 1)] == [[3, 4], [3], [1, 2], [1]]


def test_old_snapshots_are_dropped_with_the_files_that_only_they_list(several: RemoteWorld) -> None:
    shown = clean_remote(several.folder, keep=2, before=LATER, remove=False)
    assert several.check() == [4, 3, 2, 1]
    found = clean_remote(several.folder, keep=2, before=LATER, remove=True)
    assert shown == found
    assert (found.snapshots, found.files[:2], len(found.files)) == ([2, 1], ["_snapshots/1.json", "_snapshots/2.json"], 4)
    assert several.check() == [4, 3]
    assert [several.values(number) for number in (4, 3)] == [[3, 4], [3]]
    assert several.add(table(5)).unverified.snapshot == 5
    assert several.check() == [5, 4, 3]


def test_what_was_superseded_a_short_time_ago_is_not_dropped(several: RemoteWorld) -> None:
    found = clean_remote(several.folder, keep=1, before=datetime.now(UTC) - timedelta(hours=1), remove=True)
    assert (found.snapshots, found.files) == ([], [])
    assert several.check() == [4, 3, 2, 1]


def test_an_old_copy_of_the_newest_is_renewed_before_what_it_needs_is_dropped(several: RemoteWorld) -> None:
    first = snapshot_numbered(several.newest, 1)
    several.folder.replace(MANIFEST_NAME, canonical(first.envelope))
    clean_remote(several.folder, keep=1, before=LATER, remove=True)
    assert several.check() == [4]
    assert several.values() == [3, 4]


@pytest.mark.parametrize("stopped_after", range(5))
def test_cleaning_that_is_stopped_leaves_a_whole_dataset(several: RemoteWorld, stopped_after: int) -> None:
    folder, removed = several.folder, list[str]()
    remove = folder.remove

    def stopped(paths: Iterable[str]) -> None:
        for path in paths:
            if len(removed) == stopped_after:
                raise UnavailableError("gone")
            removed.append(path)
            remove([path])

    folder.remove = stopped  # type: ignore[method-assign]
    with contextlib.suppress(UnavailableError):
        clean_remote(folder, keep=2, before=LATER, remove=True)
    assert several.check(foreign=True)[:2] == [4, 3]
    clean_remote(several.folder, keep=2, before=LATER, remove=True)
    numbers = several.check(foreign=not several.url.startswith("s3"))
    assert numbers == [4, 3]


def test_what_is_committed_while_the_storage_is_looked_at_stays(several: RemoteWorld) -> None:
    """Files that are old, and that a writer commits after they were listed as those of nobody."""
    folder = several.folder
    files = folder.files

    def committed_then() -> Mapping[str, Version]:
        found = files()
        several.add(table(6))
        return {**found, **{path: replace(version, written=EARLIER) for path, version in files().items()}}

    folder.files = committed_then  # type: ignore[method-assign]
    assert clean_remote(folder, keep=None, before=datetime.now(UTC), remove=True).files == []
    assert several.check() == [5, 4, 3, 2, 1]
