"""A snapshot that only changes the wrapped key: what stays, who is refused, and two writers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from support.tables import OwnedTable

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey, unwrap, wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import add_snapshot, create_dataset
from confide.data.files import read_table
from confide.data.manifest import sign_manifest, verify_manifest
from confide.data.rewrap import find_datasets, rewrap_dataset
from confide.data.snapshots import SignedManifest, history, load_manifest, write_manifest
from confide.errors import ManifestError, SnapshotConflictError, UnavailableError
from confide.ids import DatasetId, RunId, new_dataset_id

SIGNER, KEY, KEK, NOW = SigningKey.generate(), SecretBytes.random(), SecretBytes.random(), datetime(2026, 11, 27, tzinfo=UTC)
DATASET = new_dataset_id()


def form(version: int, *, key: str = "airline/flights", dataset: DatasetId = DATASET) -> WrappedKey:
    return wrap(KEK, KEY, key=key, version=version, dataset=dataset)


@pytest.fixture
def first(tmp_path: Path) -> SignedManifest:
    table, folder = pa.table({"x": [1, 2]}), tmp_path / "d"
    return create_dataset(
        table, folder, name="d", owner="airline", dataset=DATASET, dataset_key=KEY, wrapped=form(1), signer=SIGNER, now=NOW
    )


def test_only_key_number_parent_and_date_change(first: SignedManifest) -> None:
    later, told, newer = datetime(2027, 1, 1, tzinfo=UTC), list[Json](), form(2)
    made = rewrap_dataset(first, newer, signer=SIGNER, now=later, register=told.append)
    expected = replace(first.unverified, wrapped=newer, snapshot=2, parent=first.digest, created="2027-01-01T00:00:00Z")
    newest = load_manifest(first.folder)
    assert verify_manifest(newest.envelope, SIGNER.public) == expected == made.unverified
    assert told == [newest.envelope]
    assert [one.digest for one in history(newest)] == [first.digest]
    assert read_table(first.folder, expected, unwrap(KEK, newer)).column("x").to_pylist() == [1, 2]


def test_form_that_it_has_changes_nothing(first: SignedManifest) -> None:
    told: list[Json] = []
    assert rewrap_dataset(first, first.unverified.wrapped, signer=SIGNER, now=NOW, register=told.append) is first
    assert (told, load_manifest(first.folder).digest) == ([], first.digest)


def test_whoever_takes_over_signs_with_the_own_key(first: SignedManifest) -> None:
    other = SigningKey.generate()
    made = rewrap_dataset(first, form(2), signer=other, now=NOW)
    assert verify_manifest(load_manifest(first.folder).envelope, other.public).signer == made.signer == other.public


@pytest.mark.parametrize(
    "wrapped", [form(2, dataset=new_dataset_id()), form(2, key="weather/flights")], ids=["another dataset", "another owner"]
)
def test_key_of_something_else_is_refused(first: SignedManifest, wrapped: WrappedKey) -> None:
    with pytest.raises(ManifestError, match="another"):
        rewrap_dataset(first, wrapped, signer=SIGNER, now=NOW)
    assert load_manifest(first.folder).digest == first.digest


def test_output_of_a_run_stays_as_it_is(first: SignedManifest) -> None:
    output = replace(first.unverified, owner=None, run=RunId("delays-0123456789ab"))
    write_manifest(first.folder, sign_manifest(output, SIGNER))
    with pytest.raises(ManifestError, match="a run made"):
        rewrap_dataset(load_manifest(first.folder), form(2), signer=SIGNER, now=NOW)


def test_manifest_with_a_false_signature_is_not_signed_anew(first: SignedManifest) -> None:
    changed = replace(first.unverified, name="another")
    envelope = {**sign_manifest(changed, SIGNER), "signatures": first.envelope["signatures"]}
    write_manifest(first.folder, envelope)
    with pytest.raises(ManifestError):
        rewrap_dataset(load_manifest(first.folder), form(2), signer=SIGNER, now=NOW)


def test_of_two_writers_the_second_is_told(first: SignedManifest) -> None:
    added = add_snapshot(pa.table({"x": [3]}), first, "append", dataset_key=KEY, signer=SIGNER, now=NOW)
    with pytest.raises(SnapshotConflictError):
        rewrap_dataset(first, form(2), signer=SIGNER, now=NOW)
    assert load_manifest(first.folder).digest == added.digest
    made = rewrap_dataset(added, form(2), signer=SIGNER, now=NOW)
    with pytest.raises(SnapshotConflictError):
        add_snapshot(pa.table({"x": [4]}), added, "append", dataset_key=KEY, signer=SIGNER, now=NOW)
    assert (load_manifest(first.folder).digest, made.unverified.snapshot) == (made.digest, 3)


def test_broker_that_does_not_answer_is_told_of_it_later(first: SignedManifest) -> None:
    def down(_: Json) -> None:
        raise UnavailableError("no broker")

    with pytest.raises(UnavailableError, match="no broker") as told:
        rewrap_dataset(first, form(2), signer=SIGNER, now=NOW, register=down)
    assert "snapshot 2 is in place" in str(told.value.hint)
    assert load_manifest(first.folder).unverified.version == 2


def test_datasets_are_found_by_their_manifests(first: SignedManifest, tmp_path: Path) -> None:
    for name in ("z/deep", ".hidden", "d/inner"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "_confide.json").write_text("{}")
    (tmp_path / "link").symlink_to(first.folder)
    assert list(find_datasets(tmp_path)) == [first.folder, tmp_path / "z/deep"]
    assert list(find_datasets(first.folder)) == [first.folder]


@pytest.fixture
def grouped(tmp_path: Path) -> OwnedTable:
    return OwnedTable(tmp_path / "visits", pa.table({"age": [1], "name": ["x"]}), grouped={"names": ("name",)})


def test_groups_get_new_forms_and_stay_what_they_are(grouped: OwnedTable) -> None:
    (group,), own = grouped.manifest.groups, grouped.protected[0].key
    newer = wrap(KEK, own, key=group.wrapped.key, version=2, dataset=DatasetId(group.dataset))
    made = rewrap_dataset(grouped.signed, grouped.wrapped, groups={"names": newer}, signer=grouped.signer, now=NOW)
    manifest = verify_manifest(load_manifest(grouped.place).envelope, grouped.signer.public)
    assert (manifest.snapshot, manifest.wrapped, manifest.groups) == (2, grouped.wrapped, (replace(group, wrapped=newer),))
    found = read_table(grouped.place, manifest, grouped.key, group_keys={"names": unwrap(KEK, newer)})
    assert found.to_pydict() == {"age": [1], "name": ["x"]}
    assert rewrap_dataset(made, grouped.wrapped, groups={"names": newer}, signer=grouped.signer, now=NOW) is made
    assert rewrap_dataset(made, grouped.wrapped, signer=grouped.signer, now=NOW) is made


def test_key_of_another_group_is_refused(grouped: OwnedTable) -> None:
    (group,), own = grouped.manifest.groups, grouped.protected[0].key
    for key, dataset in (("clinic/other", group.dataset), (group.wrapped.key, new_dataset_id()), (grouped.wrapped.key, group.dataset)):
        other = wrap(KEK, own, key=key, version=2, dataset=DatasetId(dataset))
        with pytest.raises(ManifestError, match="another column group"):
            rewrap_dataset(grouped.signed, grouped.wrapped, groups={"names": other}, signer=grouped.signer, now=NOW)
    assert load_manifest(grouped.place).unverified.snapshot == 1
