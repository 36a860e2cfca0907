"""``confide data import-bigdl``: data of BigDL PPML becomes a dataset, and what was weak about it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.bigdl_encoder import DIGITS, PRIMARY, SHORT, STRONG, Encoded, simple_pair, wrapped_by_aes
from support.cli_data import CSV, RESOURCE


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """Key files as BigDL's user has them, open to nobody else."""
    texts = {"strong": STRONG, "short": SHORT, "primary": PRIMARY, "digits": DIGITS}
    for name, text in texts.items():
        (tmp_path / f"{name}.key").touch(mode=0o600)
        (tmp_path / f"{name}.key").write_text(text + "\n", encoding="utf-8")
    return {name: tmp_path / f"{name}.key" for name in texts}


@pytest.fixture
def cbc(tmp_path: Path) -> Path:
    """Spark's output with BigDL's codec, under the strong key."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for n in range(2):
        (folder / f"part-{n}.csv.cbc").write_bytes(bytes(Encoded(CSV.encode() * (n + 1))))
    return folder


def test_data_of_bigdl_becomes_a_dataset_that_its_owner_opens(confide: Any, at_home: Path, tmp_path: Path, cbc: Path, keys: Any) -> None:
    new = tmp_path / "new"
    said = confide("data", "import-bigdl", cbc, "--to", new, "--bigdl-key-file", keys["strong"], "--key", "ann/k", "--json")
    assert (said.status, said.json["kind"], said.json["files"], said.json["name"]) == (0, "files", 2, "new")
    assert (said.json["left_out"], said.json["weaknesses"]) == ([], [])
    assert "first 16 bytes" in said.json["not_authenticated"]
    assert STRONG not in said.out
    assert confide("data", "verify", new).status == 0
    assert confide("data", "decrypt", new, tmp_path / "back", "--as", "ann").status == 0
    assert (tmp_path / "back" / "part-1.csv").read_text(encoding="utf-8") == CSV * 2


def test_what_the_old_format_does_not_authenticate_is_said(confide: Any, at_home: Path, tmp_path: Path, cbc: Path, keys: Any) -> None:
    (cbc / "part-9.csv.cbc").touch()
    words = ("--to", tmp_path / "new", "--bigdl-key-file", keys["strong"], "--key", "ann/k", "--name", "old")
    assert "--skip-empty" in confide("data", "import-bigdl", cbc, *words).err
    said = confide("data", "import-bigdl", cbc, *words, "--skip-empty")
    assert "not authenticated by BigDL's format: the first 16 bytes of each file" in said.err
    assert 'left out:          ["part-9.csv"]' in said.out
    assert "weaknesses" not in said.out


@pytest.mark.parametrize("which", ["primary", "digits"])
def test_weak_data_of_bigdl_is_imported_when_told(confide: Any, at_home: Path, tmp_path: Path, keys: Any, which: str) -> None:
    wrapped, key = (wrapped_by_aes(SHORT), SHORT) if which == "primary" else simple_pair("0123456789012345")
    source, resource_key = tmp_path / "a.csv.cbc", tmp_path / "resource.key"
    source.write_bytes(bytes(Encoded(CSV.encode(), key, wrapped)))
    words = ("data", "import-bigdl", source, "--to", tmp_path / "new", "--bigdl-primary-key-file", keys[which])
    under = ("--key-resource", RESOURCE, "--key-file", resource_key, "--as", "ann")
    said = confide(*words, *under)
    assert said.status == 4
    assert "error[key-weak]" in said.err
    assert not resource_key.exists()
    assert confide(*words, *under, "--accept-weak-key", "--json").json["weaknesses"] != []
    assert confide("data", "decrypt", tmp_path / "new", tmp_path / "back", *under[:4]).status == 0
    assert (tmp_path / "back" / "a.csv").read_text(encoding="utf-8") == CSV


def test_changed_file_of_bigdl_is_refused_and_leaves_nothing(confide: Any, at_home: Path, tmp_path: Path, cbc: Path, keys: Any) -> None:
    data = bytearray((cbc / "part-1.csv.cbc").read_bytes())
    data[410] ^= 1
    (cbc / "part-1.csv.cbc").write_bytes(data)
    said = confide("data", "import-bigdl", cbc, "--to", tmp_path / "new", "--bigdl-key-file", keys["strong"], "--key", "ann/k")
    assert (said.status, said.out) == (5, "")
    assert "error[data-integrity]: the MAC of part-1.csv.cbc is wrong" in said.err
    assert {path.name for path in tmp_path.iterdir()} == {"old", *(path.name for path in keys.values())}


def test_key_file_that_others_can_read_is_refused(confide: Any, at_home: Path, tmp_path: Path, cbc: Path, keys: Any) -> None:
    keys["strong"].chmod(0o644)
    said = confide("data", "import-bigdl", cbc, "--to", tmp_path / "new", "--bigdl-key-file", keys["strong"], "--key", "ann/k")
    assert said.status == 4
    assert "chmod 600" in said.err


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    "words",
    [
        ("--key", "ann/k"),
        ("--key", "ann/k", "--bigdl-key-file", "strong", "--bigdl-primary-key-file", "primary"),
        ("--bigdl-key-file", "strong"),
        ("--key", "ann/k", "--key-resource", RESOURCE, "--bigdl-key-file", "strong"),
    ],
    ids=str,
)
def test_import_under_no_key_or_two_is_refused(confide: Any, tmp_path: Path, cbc: Path, keys: Any, words: tuple[str, ...]) -> None:
    assert confide("data", "import-bigdl", cbc, "--to", tmp_path / "new", *(keys.get(word, word) for word in words)).status == 2
    assert not (tmp_path / "new").exists()


def test_import_into_a_folder_that_exists_is_refused(confide: Any, at_home: Path, tmp_path: Path, cbc: Path, keys: Any) -> None:
    said = confide("data", "import-bigdl", cbc, "--to", cbc, "--bigdl-key-file", keys["strong"], "--key", "ann/k")
    assert said.status == 2
    assert "error[output-exists]" in said.err
