"""No two containers of a dataset share a salt, hence a key: not appended ones, not those of a writer that failed and its second try.

Attempts of Spark's tasks: ``tests/unit/crypto/test_container_in_java.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from confide.crypto import container
from confide.crypto.container import HEADER_BYTES
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import add_snapshot, create_dataset
from confide.data.snapshots import load_manifest
from confide.data.sources import plain_sources
from confide.errors import SnapshotConflictError, UnavailableError
from confide.ids import new_dataset_id

KEY, SIGNER, NOW = SecretBytes.random(), SigningKey.generate(), datetime(2026, 11, 27, tzinfo=UTC)


def headers(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes()[:HEADER_BYTES] for path in folder.rglob("v-*/*")}


def test_same_file_appended_again_and_tried_again_never_meets_a_salt_or_path_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed: list[tuple[str, bytes]] = []
    real = container._seal

    def seal(*given: Any, salt: bytes) -> int:
        sealed.append((given[4], salt))
        return real(*given, salt=salt)

    def away(_: object) -> None:
        raise UnavailableError("the broker is away")

    monkeypatch.setattr(container, "_seal", seal)
    source, folder, dataset = tmp_path / "a.txt", tmp_path / "d", new_dataset_id()
    source.write_bytes(b"the same rows\n")
    wrapped = wrap(SecretBytes.random(), KEY, key="airline/notes", version=1, dataset=dataset)
    made: dict[str, Any] = {"name": "d", "owner": "airline", "dataset": dataset, "wrapped": wrapped}
    keys: dict[str, Any] = {"dataset_key": KEY, "signer": SIGNER, "now": NOW}
    with pytest.raises(UnavailableError):
        create_dataset(plain_sources(source), folder, register=away, **made, **keys)
    create_dataset(plain_sources(source), folder, **made, **keys)  # the retry
    first = load_manifest(folder)
    add_snapshot(source, first, "append", **keys)
    with pytest.raises(SnapshotConflictError):
        add_snapshot(source, first, "append", **keys)  # another writer was faster
    add_snapshot(source, load_manifest(folder), "append", **keys)
    add_snapshot(source, load_manifest(folder), "overwrite", **keys)
    assert len(sealed) == 6
    assert len({path for path, _ in sealed}) == len({salt for _, salt in sealed}) == 6
    kept = headers(folder)
    assert len(kept) == 4
    assert {header[16:48] for header in kept.values()} <= {salt for _, salt in sealed}
    assert len({header[48:] for header in kept.values()}) == 4  # commitments: so keys are other ones too
