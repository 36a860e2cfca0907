"""``confide data`` with column groups: columns of a table under keys of their own."""

from __future__ import annotations

import base64
import errno
import json
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest
from support.cli_data import CSV

from confide.data import staging


def test_columns_under_keys_of_their_own(confide: Any, at_home: Path, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text(CSV, encoding="utf-8")
    for name in ("names", "scores"):
        confide("keys", "create", f"ann/{name}")
    under = ["--key", "ann/k", "--column-key", "ann/names=name", "--column-key", "ann/scores= score"]
    folder = tmp_path / "people"
    assert confide("data", "encrypt", source, folder, *under).status == 0
    said = confide("data", "inspect", folder)
    assert [line.split() for line in said.out.splitlines() if "ann/names" in line] == [["name", "string", "yes", "ann/names"]]
    groups = confide("data", "inspect", folder, "--json").json["groups"]
    assert [(group["name"], group["key"], group["columns"]) for group in groups] == [
        ("names", "ann/names", ["name"]),
        ("scores", "ann/scores", ["score"]),
    ]
    assert confide("data", "verify", folder).status == 0
    assert confide("data", "encrypt", source, folder, "--key", "ann/k", "--mode", "append").status == 0
    assert confide("data", "encrypt", source, folder, *under, "--mode", "append").status == 2
    assert confide("data", "decrypt", folder, tmp_path / "all.csv", "--as", "ann").status == 0
    assert pyarrow.csv.read_csv(tmp_path / "all.csv").column_names == ["id", "name", "score"]
    assert confide("data", "head", folder, "-n", "1", "--columns", "score,id", "--as", "ann", "--json").json["rows"] == [[0.5, 1]]


def test_only_the_keys_of_the_columns_that_are_asked_for_are_opened(confide: Any, at_home: Path, tmp_path: Path) -> None:
    """A destroyed key is a column lost, and the others are read as ever."""
    source = tmp_path / "people.csv"
    source.write_text(CSV, encoding="utf-8")
    confide("keys", "create", "ann/lost")
    folder = tmp_path / "people"
    assert confide("data", "encrypt", source, folder, "--key", "ann/k", "--column-key", "ann/lost=name").status == 0
    confide("keys", "rotate", "ann/lost")
    assert confide("keys", "destroy", "ann/lost", "--version", "1", "--lose-datasets", "--yes").status == 0
    said = confide("data", "decrypt", folder, tmp_path / "all.csv", "--as", "ann")
    assert "key-destroyed" in said.err
    said = confide("data", "decrypt", folder, tmp_path / "some.csv", "--columns", "name", "--as", "ann")
    assert "key-destroyed" in said.err
    assert confide("data", "decrypt", folder, tmp_path / "rest.csv", "--columns", "id,score", "--as", "ann").status == 0
    assert pyarrow.csv.read_csv(tmp_path / "rest.csv").column_names == ["id", "score"]
    assert confide("data", "decrypt", folder, tmp_path / "no.csv", "--columns", "address", "--as", "ann").status != 0
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["people.csv", "rest.csv"]


@pytest.mark.parametrize(
    "column_key", ["ann/k=name", "bob/k=name", "ann/names", "ann/names=", "ann/names=name,,score", "ann/names@1=name", "x"]
)
def test_a_column_key_that_protects_nothing_is_refused(confide: Any, at_home: Path, tmp_path: Path, column_key: str) -> None:
    source = tmp_path / "people.csv"
    source.write_text(CSV, encoding="utf-8")
    assert confide("data", "encrypt", source, tmp_path / "people", "--key", "ann/k", "--column-key", column_key).status == 2
    assert not (tmp_path / "people").exists()


def test_files_have_no_columns(confide: Any, at_home: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x", encoding="utf-8")
    folder = tmp_path / "notes"
    assert confide("data", "encrypt", tmp_path / "note.txt", folder, "--key", "ann/k").status == 0
    assert "not a table" in confide("data", "decrypt", folder, tmp_path / "out", "--columns", "a", "--as", "ann").err
    assert "not a table" in confide("data", "head", folder, "--columns", "a", "--as", "ann").err
    assert not (tmp_path / "out").exists()


def test_columns_have_no_keys_beside_a_resource(confide: Any, at_home: Path, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text(CSV, encoding="utf-8")
    under = ["--key-resource", "kbs://h:1/a/b/c", "--key-file", tmp_path / "value", "--as", "ann", "--column-key", "ann/k=name"]
    assert confide("data", "encrypt", source, tmp_path / "people", *under).status == 2


def test_groups_are_rewrapped_with_their_table_and_a_lost_one_is_left(confide: Any, at_home: Path, tmp_path: Path) -> None:
    source, folder = tmp_path / "people.csv", tmp_path / "people"
    source.write_text(CSV, encoding="utf-8")
    for name in ("r-names", "r-scores"):
        confide("keys", "create", f"ann/{name}")
    under = ["--key", "ann/k", "--column-key", "ann/r-names=name", "--column-key", "ann/r-scores=score"]
    assert confide("data", "encrypt", source, folder, *under).status == 0
    confide("keys", "rotate", "ann/r-names")
    assert confide("keys", "rewrap", "ann/r-names").status == 0
    assert confide("data", "rewrap", folder, "--json").json["rewrapped"] is True
    groups = json.loads(base64.b64decode(json.loads((folder / "_confide.json").read_bytes())["payload"]))["groups"]
    assert {group["name"]: group["wrapped"]["version"] for group in groups} == {"r-names": 2, "r-scores": 1}
    assert confide("data", "rewrap", folder, "--json").json["rewrapped"] is False
    assert confide("keys", "destroy", "ann/r-names", "--version", "1", "--yes").status == 0
    assert confide("data", "decrypt", folder, tmp_path / "all.csv", "--as", "ann").status == 0
    confide("keys", "rotate", "ann/r-scores")
    assert confide("keys", "destroy", "ann/r-scores", "--version", "1", "--lose-datasets", "--yes").status == 0
    confide("keys", "rotate", "ann/r-names")
    assert confide("keys", "rewrap", "ann/r-names").status == 0
    assert confide("data", "rewrap", folder, "--json").json["rewrapped"] is True
    assert confide("data", "decrypt", folder, tmp_path / "rest.csv", "--columns", "id,name", "--as", "ann").status == 0


def test_a_command_with_groups_goes_on_where_it_was(confide: Any, at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = tmp_path / "people.csv", tmp_path / "people"
    source.write_text(CSV, encoding="utf-8")
    confide("keys", "create", "ann/resumed")
    words = ("data", "encrypt", source, folder, "--key", "ann/k", "--resume", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(staging.Attempt, "publish", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        assert confide(*words, "--column-key", "ann/resumed=name").status == 6
    for other in ((), ("--column-key", "ann/resumed=score"), ("--column-key", "ann/resumed=name,score")):
        assert confide(*words, *other).json["error"]["code"] == "data-invalid"
    done = confide(*words, "--column-key", "ann/resumed=name")
    assert (done.status, done.json["rows"]) == (0, 3)
    assert [group["columns"] for group in confide("data", "inspect", folder, "--json").json["groups"]] == [["name"]]
    assert confide("data", "decrypt", folder, tmp_path / "back.csv", "--as", "ann").status == 0
    assert (tmp_path / "back.csv").read_text(encoding="utf-8").count("bob") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.csv", "people", "people.csv"]


def test_files_have_no_columns_to_protect(confide: Any, at_home: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x", encoding="utf-8")
    said = confide("data", "encrypt", tmp_path / "note.txt", tmp_path / "d", "--key", "ann/k", "--column-key", "ann/names=a", "--json")
    assert said.json["error"]["code"] == "usage"
    assert not (tmp_path / "d").exists()
