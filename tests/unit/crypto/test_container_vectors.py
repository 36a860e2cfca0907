"""The shared container vectors, through the implementation and through an independent decoder written from the document alone."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from support import container_decoder
from support.container_decoder import RefusedError, decode
from support.container_vectors import CONTAINERS, VECTORS, file_of, given, load, plaintext_of, sealed_of

from confide.crypto import container
from confide.crypto.container import ContainerReader, plaintext_size
from confide.crypto.derive import check_data_path, container_keys, file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.errors import IntegrityError, ParseError

PARQUET = sorted((VECTORS / "derive").glob("parquet-*.json"))
STEPS = {
    "size": "no container has this file size",
    "header": "not a container of this version",
    "commitment": "of another key, dataset or path",
    "open": "does not open",
    "chunk": "does not open",
}
"""What the reader says at each step that refuses."""


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


# --- tests -----------------------------------------------------------------------------------------------------------


def test_every_vector_is_found() -> None:
    assert len(CONTAINERS) == 46
    assert len(PARQUET) == 3
    assert {load(path)["expect"] for path in CONTAINERS} == {"opened", "refused"}
    assert {load(path).get("refused_at") for path in CONTAINERS} == {None, *STEPS}


@pytest.mark.parametrize("path", CONTAINERS, ids=names(CONTAINERS))
def test_sealing_gives_the_vector_bytes(path: Path) -> None:
    vector = load(path)
    sealed = sealed_of(vector)
    assert (len(sealed), hashlib.sha256(sealed).hexdigest()) == (vector["sealed_size"], vector["sealed_sha256"])
    assert vector.get("sealed") in {None, sealed.hex()}
    assert plaintext_size(len(sealed)) == vector["plaintext"]["length"]
    assert container.container_size(vector["plaintext"]["length"]) == len(sealed)
    key = SecretBytes(bytes.fromhex(vector["dataset_key"]))
    derived = container_keys(key, dataset=vector["dataset"], path=vector["path"], salt=bytes.fromhex(vector["salt"]))
    assert (derived.key.reveal().hex(), derived.commitment.hex()) == (vector["file_key"], vector["commitment"])


@pytest.mark.parametrize("path", CONTAINERS, ids=names(CONTAINERS))
def test_vector_opens_or_is_refused_as_it_says(path: Path) -> None:
    vector = load(path)
    file = file_of(vector)
    assert hashlib.sha256(file).hexdigest() == vector["file_sha256"]
    if vector["expect"] == "opened":
        with ContainerReader(io.BytesIO(file), *given(vector)) as reader:
            assert reader.read() == plaintext_of(vector)
        return
    step = vector["refused_at"]
    if step == "size":
        with pytest.raises(IntegrityError):
            plaintext_size(len(file))
    if step != "chunk":
        with pytest.raises(IntegrityError, match=STEPS[step]):
            ContainerReader(io.BytesIO(file), *given(vector))
        return
    with ContainerReader(io.BytesIO(file), *given(vector)) as reader, pytest.raises(IntegrityError, match=STEPS[step]):
        reader.readall()


@pytest.mark.parametrize("path", CONTAINERS, ids=names(CONTAINERS))
def test_independent_decoder_agrees_with_the_vector(path: Path) -> None:
    vector = load(path)
    key, dataset, name = given(vector)
    arguments = file_of(vector), key.reveal(), dataset, name
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
