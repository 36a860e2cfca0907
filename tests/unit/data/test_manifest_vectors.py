"""The shared manifest vectors: all readers of a manifest come to the expected verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from confide.canonical import Json, canonical, from_b64url
from confide.crypto.envelope import unwrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import PublicKey
from confide.data.manifest import MANIFEST_NAME, verify_manifest
from confide.data.snapshots import load_manifest
from confide.errors import ManifestError
from confide.keys.manifest_claims import ManifestClaims

VECTORS = sorted((Path(__file__).parents[2] / "vectors" / "manifest").glob("*.json"))


def load(path: Path) -> Json:
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_all_manifest_vectors_are_here() -> None:
    expected = [load(path)["expect"] for path in VECTORS]
    assert (expected.count("accepted"), expected.count("refused")) == (5, 36)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_manifest_vector_gets_its_verdict(path: Path, tmp_path: Path) -> None:
    vector = load(path)
    signer = PublicKey.from_spki(from_b64url(vector["signer"]))
    (tmp_path / MANIFEST_NAME).write_bytes(canonical(vector["envelope"]))
    if vector["expect"] == "refused":
        with pytest.raises(ManifestError):
            verify_manifest(load_manifest(tmp_path).envelope, signer)
        with pytest.raises(ManifestError):
            verify_manifest(vector["envelope"], signer)
        return
    manifest = verify_manifest(load_manifest(tmp_path).envelope, signer)
    assert manifest.digest == vector["digest"] == ManifestClaims.verify(vector["envelope"], signer).digest
    opened = unwrap(SecretBytes(bytes.fromhex(vector["kek"])), manifest.wrapped)
    assert opened.reveal().hex() == vector["dataset_key"]
