"""``confide data`` under keys of a key broker service: their owner has a copy, and no broker is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest
from support.cli_data import CSV, RESOURCE


def test_table_under_a_resource_is_made_and_opened_by_the_owners_copy_of_it(confide: Any, at_home: Path, tmp_path: Path) -> None:
    source, key = tmp_path / "people.csv", tmp_path / "people.key"
    source.write_text(CSV, encoding="utf-8")
    said = confide("data", "encrypt", source, tmp_path / "one", "--key-resource", RESOURCE, "--key-file", key, "--as", "ann", "--json")
    assert said.status == 0, said.err
    assert said.json["key"].startswith("ann/kbs-")
    assert (key.stat().st_mode & 0o777, len(key.read_bytes())) == (0o600, 32)
    before = key.read_bytes()
    again = confide("data", "encrypt", source, tmp_path / "two", "--key-resource", RESOURCE, "--key-file", key, "--as", "ann")
    assert (again.status, key.read_bytes()) == (0, before)
    assert confide("kbs", "put", "ann/key/people", key, "--as", "ann").status == 0
    for name in ("one", "two"):
        back = tmp_path / f"{name}.csv"
        assert confide("data", "decrypt", tmp_path / name, back, "--key-resource", RESOURCE, "--key-file", key).status == 0
        assert pyarrow.csv.read_csv(back).num_rows == 3
    assert before.hex() not in said.out


WRONG_KEYS = [
    (),
    ("--key", "ann/k", "--key-resource", RESOURCE, "--key-file", "k"),
    ("--key-resource", RESOURCE),
    ("--key", "ann/k", "--key-file", "k"),
    ("--key", "ann/k", "--as", "ann"),
    ("--key-resource", "kbs:///ann/key/people", "--key-file", "k", "--as", "ann"),
    ("--key-resource", "ann/key/people", "--key-file", "k", "--as", "ann"),
]


@pytest.mark.parametrize("words", WRONG_KEYS, ids=str)
def test_key_that_is_said_in_no_way_or_two_is_refused(confide: Any, at_home: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
    assert confide("data", "encrypt", tmp_path / "a.csv", tmp_path / "a", *words).status in {2, 5}
    assert not (tmp_path / "a").exists()


def test_resource_that_is_not_the_one_it_was_encrypted_with_opens_nothing(confide: Any, at_home: Path, tmp_path: Path) -> None:
    source, key = tmp_path / "people.csv", tmp_path / "people.key"
    source.write_text(CSV, encoding="utf-8")
    confide("data", "encrypt", source, tmp_path / "one", "--key-resource", RESOURCE, "--key-file", key, "--as", "ann")
    decrypt = ("data", "decrypt", tmp_path / "one", tmp_path / "x.csv")
    other, short = tmp_path / "other.key", tmp_path / "short.key"
    for file, content in ((other, bytes(32)), (short, bytes(31))):
        file.touch(mode=0o600)
        file.write_bytes(content)
    wrong = [
        (RESOURCE, other, "unwrap-failed"),
        (RESOURCE, short, "unwrap-failed"),
        (RESOURCE + "2", key, "manifest-invalid"),
    ]
    for uri, file, code in wrong:
        said = confide(*decrypt, "--key-resource", uri, "--key-file", file, "--json")
        assert said.json["error"]["code"] == code
    assert confide(*decrypt, "--key-file", key).status == 2
    assert not (tmp_path / "x.csv").exists()
