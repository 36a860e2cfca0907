"""``confide data rewrap`` with a broker process: new manifests over untouched files, one dataset or all, and when something is wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest
from support.cli_data import encrypted


@pytest.fixture
def key(confide: Any, owners: Path, request: pytest.FixtureRequest) -> str:
    """A key of Ann's of the test's own; Bob is enrolled too."""
    name = "ann/k-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    assert confide("keys", "create", name).status == 0
    return name


@pytest.fixture
def table(confide: Any, key: str, source: Path) -> Path:
    return encrypted(confide, source, key)


def data_files(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """What shows that a file was touched: inode, times of change, digest."""
    found = {}
    for place in folder.rglob("*"):
        if place.is_file() and place.suffix != ".json":
            status = place.stat()
            digest = hashlib.sha256(place.read_bytes()).hexdigest()
            found[str(place.relative_to(folder))] = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, digest)
    return found


def rotated(confide: Any, key: str) -> None:
    assert confide("keys", "rotate", key).status == 0
    assert confide("keys", "rewrap", key).status == 0


def test_manifest_names_the_newest_form_and_no_data_file_is_touched(confide: Any, table: Path, key: str, tmp_path: Path) -> None:
    before = data_files(table)
    rotated(confide, key)
    assert confide("data", "inspect", table, "--json").json["key"] == f"{key}@1"
    said = confide("data", "rewrap", table, "--json").json
    assert (said["rewrapped"], said["key_before"], said["key"], said["snapshot"]) == (True, f"{key}@1", f"{key}@2", 2)
    assert data_files(table) == before
    log = confide("data", "log", table, "--json").json["snapshots"]
    assert [(one["snapshot"], one["added"], one["removed"]) for one in log] == [(2, 0, 0), (1, 1, 0)]
    assert "snapshots 1 to 2 follow one another" in confide("data", "verify", table).out
    assert confide("keys", "destroy", key, "--version", 1, "--yes").status == 0
    for number in (1, 2):
        assert confide("data", "decrypt", table, tmp_path / f"{number}.csv", "--as", "ann", "--snapshot", number).status == 0
        assert pyarrow.csv.read_csv(tmp_path / f"{number}.csv").num_rows == 3
    done = confide("data", "clean", table, "--keep", 1, "--older-than", 0, "--json").json
    assert (done["snapshots"], done["files"]) == ([1], ["_snapshots/1.json"])
    assert data_files(table) == before


def test_second_time_nothing_happens(confide: Any, table: Path, key: str) -> None:
    said = confide("data", "rewrap", table)
    assert said.out == f"{key}@1 (snapshot 1, as before)\n"
    rotated(confide, key)
    assert confide("data", "rewrap", table).out == f"{key}@2 (snapshot 2)\n"
    stamp = (table / "_confide.json").stat().st_mtime_ns
    assert confide("data", "rewrap", table, "--json").json["rewrapped"] is False
    assert (table / "_confide.json").stat().st_mtime_ns == stamp
    assert not (table / "_snapshots" / "3.json").exists()


def test_what_comes_after_is_under_the_new_form(confide: Any, table: Path, key: str, source: Path) -> None:
    rotated(confide, key)
    assert confide("data", "rewrap", table).status == 0
    rotated(confide, key)
    added = confide("data", "encrypt", source, table, "--key", key, "--mode", "append", "--json").json
    assert (added["key"], added["snapshot"], added["rows"]) == (f"{key}@2", 3, 6)
    assert confide("data", "rewrap", table, "--json").json["key"] == f"{key}@3"


def test_all_goes_on_where_it_was_and_leaves_out_what_is_no_dataset(confide: Any, key: str, source: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    for name in ("a", "b/c", "b/d"):
        assert confide("data", "encrypt", source, place / name, "--key", key, "--name", "x").status == 0
    shutil.copytree(place / "a", place / f".a.new-{'0' * 16}")  # a writer's
    (place / "empty").mkdir()
    (place / "link").symlink_to(place / "a")
    rotated(confide, key)
    assert confide("data", "rewrap", place / "b" / "c").status == 0
    said = confide("data", "rewrap", "--all", place, "--json").json
    assert (said["datasets"], said["rewrapped"], said["current"]) == (3, [str(place / "a"), str(place / "b/d")], [str(place / "b/c")])
    assert confide("data", "rewrap", "--all", place).out == "0 manifests are new, 3 were up to date, 0 are of runs\n"
    assert [confide("data", "inspect", place / name, "--json").json["snapshot"] for name in ("a", "b/c", "b/d")] == [2, 2, 2]
    assert confide("data", "rewrap", "--all", place / "empty").status == 2


def test_one_that_fails_keeps_no_other_from_it(confide: Any, key: str, source: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        assert confide("data", "encrypt", source, tmp_path / "place" / name, "--key", key).status == 0
    (tmp_path / "place" / "a" / "_confide.json").write_text("{}", encoding="utf-8")
    shutil.copytree(tmp_path / "place" / "b", tmp_path / "older")
    assert confide("data", "encrypt", source, tmp_path / "place" / "b", "--key", key, "--mode", "append").status == 0
    shutil.rmtree(tmp_path / "place" / "b")
    shutil.move(tmp_path / "older", tmp_path / "place" / "b")  # the storage shows an older state
    rotated(confide, key)
    said = confide("data", "rewrap", "--all", tmp_path / "place", "--json")
    error = json.loads(said.out)["error"]
    assert (error["code"], error["facts"]["failed"], error["facts"]["done"]) == ("manifest-invalid", 2, 1)
    assert "manifest-rollback" in said.err
    assert not (tmp_path / "place" / "b" / "_snapshots").exists()
    assert confide("data", "inspect", tmp_path / "place" / "c", "--json").json["key"] == f"{key}@2"


def test_others_datasets_are_not_rewrapped(confide: Any, table: Path) -> None:
    said = confide("data", "rewrap", table, "--as", "bob", "--json")
    assert said.json["error"]["code"] == "credential-refused"
    assert confide("data", "verify", table, "--json").json["snapshots"] == 1


OLD, NEW = "kbs://kbs.example:8080/ann/key/old", "kbs://kbs.example:8080/ann/key/new"


@pytest.mark.parametrize("uri", [OLD, NEW], ids=["another value", "another resource"])
def test_key_of_a_service_is_put_under_another(confide: Any, key: str, source: Path, tmp_path: Path, uri: str) -> None:
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    for name in ("a", "b"):
        under = ("--key-resource", OLD, "--key-file", old, "--as", "ann")
        assert confide("data", "encrypt", source, tmp_path / "far" / name, *under).status == 0
    before = data_files(tmp_path / "far")
    words = (
        "--key-resource",
        OLD,
        "--key-file",
        old,
        "--new-key-file",
        new,
        "--as",
        "ann",
        *(("--new-key-resource", uri) if uri != OLD else ()),
    )
    assert confide("data", "rewrap", tmp_path / "far" / "a", *words, "--json").json["rewrapped"]
    assert (new.stat().st_mode & 0o777, len(new.read_bytes())) == (0o600, 32)
    said = confide("data", "rewrap", "--all", tmp_path / "far", *words, "--json").json
    assert (said["rewrapped"], said["current"]) == ([str(tmp_path / "far/b")], [str(tmp_path / "far/a")])
    assert data_files(tmp_path / "far") == before
    decrypt = ("data", "decrypt", tmp_path / "far" / "a")
    for snapshot in (1, 2):
        back = tmp_path / f"{snapshot}.csv"
        assert confide(*decrypt, back, "--key-resource", uri, "--key-file", new, "--snapshot", snapshot).status == 0
    assert confide(*decrypt, tmp_path / "x.csv", "--key-resource", OLD, "--key-file", old).status != 0
    assert new.read_bytes().hex() not in str(said)


@pytest.mark.parametrize(
    "words",
    [
        ("--key-resource", OLD),
        ("--key-file", "k"),
        ("--new-key-file", "k"),
        ("--new-key-resource", NEW),
        ("--key-resource", OLD, "--key-file", "k"),
        ("--key-resource", OLD, "--key-file", "k", "--new-key-resource", NEW),
    ],
    ids=" ".join,
)
def test_half_of_a_resource_is_refused(confide: Any, table: Path, words: tuple[str, ...]) -> None:
    assert confide("data", "rewrap", table, *words).status == 2
    assert not (table / "_snapshots").exists()


def test_dataset_of_a_service_needs_the_resources_value(confide: Any, key: str, source: Path, tmp_path: Path) -> None:
    old, wrong = tmp_path / "old.key", tmp_path / "wrong.key"
    assert confide("data", "encrypt", source, tmp_path / "far", "--key-resource", OLD, "--key-file", old, "--as", "ann").status == 0
    assert "key broker service" in confide("data", "rewrap", tmp_path / "far").err
    wrong.touch(mode=0o600)
    wrong.write_bytes(bytes(32))
    said = confide(
        "data", "rewrap", tmp_path / "far", "--key-resource", OLD, "--key-file", wrong, "--new-key-file", tmp_path / "new", "--json"
    )
    assert said.json["error"]["code"] == "unwrap-failed"
    assert not (tmp_path / "far" / "_snapshots").exists()
