"""Clean-up at URLs: what no manifest lists goes, what a dataset needs and what is somebody else's stays."""

from __future__ import annotations

import io
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from confide.canonical import canonical, parse_object
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import create_dataset
from confide.data.folder import refuse_foreign, verify_files
from confide.data.manifest import MANIFEST_NAME
from confide.data.places import RemoteFolder, remote_folder
from confide.data.remote_cleaning import clean_remote
from confide.data.snapshots import SignedManifest
from confide.errors import IntegrityError, ManifestError, UsageError
from confide.ids import new_dataset_id

LATER = datetime.now(UTC) + timedelta(hours=1)
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


def test_there_are_no_snapshots_to_drop(there: RemoteFolder) -> None:
    with pytest.raises(UsageError, match="made once"):
        clean_remote(there, keep=1, before=LATER, remove=True)
