from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import pytest

from confide.canonical import Json, canonical
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey, dsse_sign
from confide.data import manifest as m
from confide.data import snapshots
from confide.errors import ManifestError, UnavailableError
from confide.ids import DatasetId, RunId

KEY = SigningKey.generate()
DATASET = DatasetId("ab" * 16)
WRAPPED = wrap(SecretBytes.random(), SecretBytes.random(), key="airline/flights", version=3, dataset=DATASET)
SCHEMA: Json = {
    "columns": [{"name": "x", "type": "int64", "nullable": True}],
    "spark": {"type": "struct", "fields": [{"name": "x", "type": "long", "nullable": True, "metadata": {}}]},
}


def make(**changes: object) -> m.Manifest:
    base = m.Manifest(
        dataset=DATASET,
        name="flights",
        snapshot=1,
        parent=None,
        created=m.now_text(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        kind="parquet",
        schema=SCHEMA,
        files=(m.FileEntry("a.parquet", 10, "0" * 64, 5), m.FileEntry("b.parquet", 11, "1" * 64, 7)),
        wrapped=WRAPPED,
        signer=KEY.public,
        owner="airline",
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_manifest_reads_back_as_it_was_signed(tmp_path: Path) -> None:
    manifest = make()
    snapshots.write_manifest(tmp_path, m.sign_manifest(manifest, KEY))
    found = snapshots.load_manifest(tmp_path)
    assert m.verify_manifest(found.envelope, KEY.public) == manifest == found.unverified
    assert found.signer == KEY.public
    assert found.digest == manifest.digest
    assert (manifest.key, manifest.version, manifest.rows, manifest.size) == ("airline/flights", 3, 12, 21)
    assert manifest.created == "2026-01-02T03:04:05Z"


def test_manifest_of_a_run_names_the_run() -> None:
    manifest = make(owner=None, run=RunId("delays-0123456789ab"), kind="files", schema=None, files=(m.FileEntry("a", 64, "0" * 64),))
    assert m.verify_manifest(m.sign_manifest(manifest, KEY), KEY.public).run == "delays-0123456789ab"
    assert manifest.rows is None


def test_manifest_signed_by_another_key_is_refused() -> None:
    with pytest.raises(ManifestError):
        m.verify_manifest(m.sign_manifest(make(), KEY), SigningKey.generate().public)


def test_manifest_that_names_another_signer_is_refused(tmp_path: Path) -> None:
    other = SigningKey.generate()
    envelope = dsse_sign(other, m.PAYLOAD_TYPE, make().payload())
    with pytest.raises(ManifestError, match="another key"):
        m.verify_manifest(envelope, other.public)
    snapshots.write_manifest(tmp_path, envelope)
    with pytest.raises(ManifestError, match="another key"):
        snapshots.load_manifest(tmp_path)
    with pytest.raises(ManifestError, match="another signer"):
        m.sign_manifest(make(), other)


def test_any_changed_byte_of_the_payload_is_refused() -> None:
    envelope = m.sign_manifest(make(), KEY)
    for i in range(0, len(envelope["payload"]), 37):
        text = envelope["payload"]
        changed = text[:i] + ("A" if text[i] != "A" else "B") + text[i + 1 :]
        with pytest.raises(ManifestError):
            m.verify_manifest({**envelope, "payload": changed}, KEY.public)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "confide-manifest-v2"},
        {"extra": 1},
        {"snapshot": 0},
        {"snapshot": True},
        {"snapshot": 2},  # without a parent
        {"parent": "0" * 96},  # at the first snapshot
        {"parent": "short"},
        {"created": "yesterday"},
        {"kind": "orc"},
        {"kind": "files"},  # with a schema
        {"schema": None},
        {"schema": {"columns": [], "spark": {"type": "struct", "fields": [1]}}},
        {"files": [{"path": "../a", "size": 1, "sha256": "0" * 64, "rows": 1}]},
        {"files": [{"path": "a", "size": 1, "sha256": "0" * 64, "rows": None}]},
        {"files": [{"path": "a", "size": 0, "sha256": "0" * 64, "rows": 1}]},
        {"files": [{"path": "a", "size": 1, "sha256": "xyz", "rows": 1}]},
        {"files": [{"path": "_confide.json", "size": 1, "sha256": "0" * 64, "rows": 1}]},
        {"files": [{"path": p, "size": 1, "sha256": "0" * 64, "rows": 1} for p in ("b", "a")]},
        {"files": [{"path": "a", "size": 1, "sha256": "0" * 64, "rows": 1}] * 2},
        {"files": "a"},
        {"dataset": "cd" * 16},  # the wrapped key is of another
        {"key": "weather/hourly"},
        {"version": 4},
        {"wrapped": {}},
        {"signer": "AAAA"},
        {"owner": None},
        {"run": "r-1"},  # and an owner
        {"name": "../x"},
    ],
)
def test_manifest_with_a_wrong_field_is_refused(changes: Json) -> None:
    data = {**make().to_json(), **changes}
    with pytest.raises(ManifestError):
        m.Manifest.from_json(data)
    with pytest.raises(ManifestError):
        m.verify_manifest(dsse_sign(KEY, m.PAYLOAD_TYPE, canonical(data)), KEY.public)


@pytest.mark.parametrize("name", sorted(make().to_json()))
def test_manifest_without_a_field_is_refused(name: str) -> None:
    data = make().to_json()
    del data[name]
    with pytest.raises(ManifestError):
        m.Manifest.from_json(data)


def test_manifest_that_is_not_canonical_is_refused() -> None:
    with pytest.raises(ManifestError, match="canonical"):
        m.verify_manifest(dsse_sign(KEY, m.PAYLOAD_TYPE, b" " + make().payload()), KEY.public)


def test_folder_without_manifest_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as refused:
        snapshots.load_manifest(tmp_path)
    assert "data encrypt" in str(refused.value.hint)


def test_damaged_manifest_file_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"{}", b"[]", b'{"payloadType": "x"}', canonical(dsse_sign(KEY, m.PAYLOAD_TYPE, b"no json"))):
        (tmp_path / m.MANIFEST_NAME).write_bytes(data)
        with pytest.raises(ManifestError):
            snapshots.load_manifest(tmp_path)


def test_failed_write_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = m.sign_manifest(make(), KEY)
    snapshots.write_manifest(tmp_path, first)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    second = m.sign_manifest(make(snapshot=2, parent=make().digest), KEY)
    with pytest.raises(UnavailableError, match="No space"):
        snapshots.write_manifest(tmp_path, second)
    assert snapshots.load_manifest(tmp_path).envelope == first
    assert [p.name for p in tmp_path.iterdir()] == [m.MANIFEST_NAME]
