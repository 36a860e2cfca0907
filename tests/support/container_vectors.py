"""The shared container vectors (``docs/formats/container.md``, section 7): what they say, and the files that they describe."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from confide.crypto import container
from confide.crypto.secret import SecretBytes
from confide.ids import DatasetId

VECTORS = Path(__file__).parents[1] / "vectors"
CONTAINERS = sorted((VECTORS / "container").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def plaintext_of(vector: dict[str, Any]) -> bytes:
    repeat, length = bytes.fromhex(vector["plaintext"]["repeat"]), vector["plaintext"]["length"]
    return (repeat * (length // len(repeat) + 1))[:length]


def sealed_of(vector: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    key, salt = SecretBytes(bytes.fromhex(vector["dataset_key"])), bytes.fromhex(vector["salt"])
    container._seal(io.BytesIO(plaintext_of(vector)), out, key, DatasetId(vector["dataset"]), vector["path"], salt=salt)
    return out.getvalue()


def file_of(vector: dict[str, Any]) -> bytes:
    sealed = sealed_of(vector)
    return b"".join(bytes.fromhex(p["hex"]) if "hex" in p else sealed[slice(*p["slice"])] for p in vector["assemble"])


def given(vector: dict[str, Any]) -> tuple[SecretBytes, DatasetId, str]:
    """Dataset key, dataset and path that the reader is given."""
    fields = {**vector, **vector["open_with"]}
    return SecretBytes(bytes.fromhex(fields["dataset_key"])), DatasetId(fields["dataset"]), fields["path"]
