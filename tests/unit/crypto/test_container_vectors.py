"""The shared container vectors, through the implementation and through an independent decoder written from the document alone."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from support import container_decoder
from support.container_decoder import RefusedError, decode

from confide.crypto import container
from confide.crypto.container import ContainerReader, plaintext_size
from confide.crypto.derive import check_data_path, file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.errors import IntegrityError, ParseError
from confide.ids import DatasetId

VECTORS = Path(__file__).parents[2] / "vectors"
CONTAINERS = sorted((VECTORS / "container").glob("*.json"))
PARQUET = sorted((VECTORS / "derive").glob("parquet-*.json"))


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


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


# --- tests -----------------------------------------------------------------------------------------------------------


def test_every_vector_is_found() -> None:
    assert len(CONTAINERS) == 36
    assert len(PARQUET) == 3
    assert {load(path)["expect"] for path in CONTAINERS} == {"opened", "refused"}


@pytest.mark.parametrize("path", CONTAINERS, ids=names(CONTAINERS))
def test_sealing_gives_the_vector_bytes(path: Path) -> None:
    vector = load(path)
    sealed = sealed_of(vector)
    assert (len(sealed), hashlib.sha256(sealed).hexdigest()) == (vector["sealed_size"], vector["sealed_sha256"])
    assert vector.get("sealed") in {None, sealed.hex()}
    assert plaintext_size(len(sealed)) == vector["plaintext"]["length"]
    assert container.container_size(vector["plaintext"]["length"]) == len(sealed)
    key = SecretBytes(bytes.fromhex(vector["dataset_key"]))
    derived = file_key(key, kind="container", dataset=vector["dataset"], path=vector["path"], salt=bytes.fromhex(vector["salt"]))
    assert derived.reveal().hex() == vector["file_key"]


@pytest.mark.parametrize("path", CONTAINERS, ids=names(CONTAINERS))
def test_vector_opens_or_is_refused_as_it_says(path: Path) -> None:
    vector = load(path)
    file = file_of(vector)
    assert hashlib.sha256(file).hexdigest() == vector["file_sha256"]
    given = {**vector, **vector["open_with"]}
    key = SecretBytes(bytes.fromhex(given["dataset_key"]))
    if vector["expect"] == "opened":
        with ContainerReader(io.BytesIO(file), key, given["dataset"], given["path"]) as reader:
            assert reader.read() == plaintext_of(vector)
        return
    if vector["refused_at"] == "size":
        with pytest.raises(IntegrityError):
            plaintext_size(len(file))
    if vector["refused_at"] != "chunk":
        with pytest.raises(IntegrityError):
            ContainerReader(io.BytesIO(file), key, given["dataset"], given["path"])
        return
    with ContainerReader(io.BytesIO(file), key, given["dataset"], given["path"]) as reader, pytest.raises(IntegrityError):
        reader.readall()


@pytest.mark.parametrize("path", CONTAINERS, ids=names(CONTAINERS))
def test_independent_decoder_agrees_with_the_vector(path: Path) -> None:
    vector = load(path)
    given = {**vector, **vector["open_with"]}
    arguments = file_of(vector), bytes.fromhex(given["dataset_key"]), given["dataset"], given["path"]
    if vector["expect"] == "opened":
        assert decode(*arguments) == plaintext_of(vector)
    else:
        with pytest.raises(RefusedError) as refusal:
            decode(*arguments)
        assert str(refusal.value) == vector["refused_at"]


def test_independent_decoder_is_independent_and_short() -> None:
    source = Path(container_decoder.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 50
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"__future__", "hmac", "cryptography"}


@pytest.mark.parametrize("path", PARQUET, ids=names(PARQUET))
def test_parquet_keys_and_prefixes_are_the_vectors(path: Path) -> None:
    vector = load(path)
    key = file_key(SecretBytes(bytes.fromhex(vector["dataset_key"])), kind="parquet", dataset=vector["dataset"], path=vector["path"])
    assert key.reveal().hex() == vector["file_key"]
    assert parquet_aad_prefix(vector["dataset"], vector["path"]).hex() == vector["aad_prefix"]


@pytest.mark.parametrize("path", load(VECTORS / "derive" / "paths-refused.json")["paths"], ids=lambda path: ascii(path[:20]))
def test_path_that_could_mean_another_file_is_refused(path: str) -> None:
    with pytest.raises(ParseError):
        check_data_path(path)
