"""Manifests of datasets that have no files: for tests of what is read of them alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.manifest import FileEntry, Manifest, now_text, sign_manifest
from confide.data.snapshots import write_manifest
from confide.ids import DatasetId, RunId


def listed(folder: Path, signer: SigningKey, dataset: DatasetId, *, owner: str | None = None, run: str | None = None) -> Path:
    """A new folder with the first manifest of a dataset, which lists one file that is not there."""
    manifest = Manifest(
        dataset=dataset,
        name="a",
        snapshot=1,
        parent=None,
        created=now_text(datetime.now(UTC)),
        kind="files",
        schema=None,
        files=(FileEntry("a.bin", 1, "00" * 32),),
        wrapped=wrap(SecretBytes.random(), SecretBytes.random(), key="airline/a", version=1, dataset=dataset),
        signer=signer.public,
        owner=owner,
        run=None if run is None else RunId(run),
    )
    folder.mkdir()
    write_manifest(folder, sign_manifest(manifest, signer))
    return folder
