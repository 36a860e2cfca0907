"""``confide data`` over a dataset's snapshots: adding, listing, reading, looking at and cleaning them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest


def more(tmp_path: Path, rows: str) -> Path:
    source = tmp_path / "more.csv"
    source.write_text(f"id,name,score\n{rows}\n", encoding="utf-8")
    return source


def test_snapshots_are_added_listed_and_read_at_any_time(confide: Any, table: Path, tmp_path: Path) -> None:
    added = confide("data", "encrypt", more(tmp_path, "4,dee,1.5"), table, "--key", "ann/k", "--mode", "append", "--json")
    assert (added.json["snapshot"], added.json["rows"]) == (2, 4)
    assert confide("data", "encrypt", more(tmp_path, "5,eve,2.5"), table, "--key", "ann/k", "--mode", "overwrite").status == 0
    rows = {}
    for name, option in (("newest", ()), ("1", ("--snapshot", 1)), ("2", ("--snapshot", 2)), ("3", ("--snapshot", 3))):
        assert confide("data", "decrypt", table, tmp_path / f"{name}.csv", "--as", "ann", *option).status == 0
        rows[name] = pyarrow.csv.read_csv(tmp_path / f"{name}.csv").column("id").to_pylist()
    assert rows == {"newest": [5], "1": [1, 2, 3], "2": [1, 2, 3, 4], "3": [5]}
    log = confide("data", "log", table, "--json").json["snapshots"]
    assert [(one["snapshot"], one["added"], one["removed"]) for one in log] == [(3, 1, 2), (2, 1, 0), (1, 1, 0)]
    assert "snapshots 1 to 3 follow one another" in confide("data", "verify", table).out
    assert confide("data", "inspect", table, "--snapshot", 2, "--json").json["rows"] == 4
    assert confide("data", "inspect", table, "--snapshot", 4).status == 2


def test_old_snapshots_are_cleaned_away(confide: Any, table: Path, tmp_path: Path) -> None:
    confide("data", "encrypt", more(tmp_path, "5,eve,2.5"), table, "--key", "ann/k", "--mode", "overwrite")
    assert confide("data", "clean", table, "--keep", 1, "--json").json["snapshots"] == []  # too young
    would = confide("data", "clean", table, "--keep", 1, "--older-than", 0, "--dry-run")
    assert "nothing was removed" in would.out
    done = confide("data", "clean", table, "--keep", 1, "--older-than", 0, "--json").json
    assert (done["snapshots"], done["removed"], len(done["files"])) == ([1], True, 2)
    assert confide("data", "verify", table, "--json").json["snapshots"] == 1
    assert len(list(table.glob("*.parquet"))) == 1


def test_a_snapshot_is_under_the_datasets_own_key(confide: Any, table: Path, tmp_path: Path) -> None:
    source = more(tmp_path, "4,dee,1.5")
    for options in (("--key", "bob/k"), ("--key", "ann/k@1"), ("--key", "ann/k", "--name", "other")):
        assert confide("data", "encrypt", source, table, *options, "--mode", "append").status == 2
    assert confide("data", "verify", table, "--json").json["snapshots"] == 1


def test_mode_append_makes_the_dataset_if_there_is_none(confide: Any, at_home: Path, tmp_path: Path) -> None:
    for rows in (1, 2):
        made = confide("data", "encrypt", more(tmp_path, "4,dee,1.5"), tmp_path / "new", "--key", "ann/k", "--mode", "append", "--json")
        assert made.json["rows"] == rows


@pytest.mark.parametrize("mode", ["append", "overwrite"])
@pytest.mark.parametrize("resource", [False, True])
def test_with_resume_nothing_is_done_twice(confide: Any, at_home: Path, tmp_path: Path, mode: str, resource: bool) -> None:
    place = ("--key-resource", "kbs://kbs.example/a/key/b", "--key-file", tmp_path / "k", "--as", "ann") if resource else ("--key", "ann/k")
    (tmp_path / "first.csv").write_text("id,name,score\n1,ann,0.5\n", encoding="utf-8")
    (tmp_path / "again.csv").write_text("id,name,score\n2,bob,0.5\n", encoding="utf-8")
    options = (tmp_path / "new", *place, "--mode", mode, "--resume")
    names = ("first.csv", "first.csv", "again.csv", "again.csv")
    made = [confide("data", "encrypt", tmp_path / name, *options, "--json").json for name in names]
    assert [(one["snapshot"], one.get("made_before", False)) for one in made] == [(1, False), (1, True), (2, False), (2, True)]
    assert made[1] == {**made[0], "made_before": True}
    said = confide("data", "encrypt", tmp_path / "first.csv", *options)
    assert (said.status, "nothing to do: the same command had made snapshot 1 before" in said.err) == (0, True)
    assert confide("data", "verify", tmp_path / "new", "--json").json["snapshots"] == 2
    assert confide("data", "encrypt", tmp_path / "first.csv", *options[:-1], "--json").json["snapshot"] == 3


def test_an_older_copy_of_the_folder_is_not_added_to(confide: Any, table: Path, tmp_path: Path) -> None:
    shutil.copytree(table, tmp_path / "copy")
    assert confide("data", "encrypt", more(tmp_path, "4,dee,1.5"), table, "--key", "ann/k", "--mode", "append").status == 0
    said = confide("data", "encrypt", more(tmp_path, "5,eve,1.5"), tmp_path / "copy", "--key", "ann/k", "--mode", "append")
    assert "error[manifest-rollback]" in said.err
    assert confide("data", "verify", tmp_path / "copy", "--json").json["snapshots"] == 1


def test_a_dataset_of_a_key_broker_service_gets_snapshots_too(confide: Any, at_home: Path, tmp_path: Path) -> None:
    key = ("--key-resource", "kbs://kbs.example/a/key/b", "--key-file", tmp_path / "k", "--as", "ann")
    for mode in ("error", "append", "overwrite"):
        assert confide("data", "encrypt", more(tmp_path, "4,dee,1.5"), tmp_path / "far", *key, "--mode", mode).status == 0
    assert confide("data", "decrypt", tmp_path / "far", tmp_path / "two.csv", *key[:4], "--snapshot", 2, "--json").json["rows"] == 2


def test_head_shows_the_first_rows_of_a_table(confide: Any, table: Path, tmp_path: Path) -> None:
    confide("data", "encrypt", more(tmp_path, "4,dee,1.5"), table, "--key", "ann/k", "--mode", "append")
    said = confide("data", "head", table, "-n", 2, "--as", "ann", "--json").json
    assert said == {"columns": ["id", "name", "score"], "rows": [[1, "ann", 0.5], [2, "bob", None]]}
    assert [row[0] for row in confide("data", "head", table, "--as", "ann", "--json").json["rows"]] == [1, 2, 3, 4]
    assert [row[0] for row in confide("data", "head", table, "--as", "ann", "--snapshot", 1, "--json").json["rows"]] == [1, 2, 3]
    assert "cid" in confide("data", "head", table, "--as", "ann").out
    assert confide("data", "head", table, "--as", "bob").status == 4


def test_head_shows_the_first_lines_of_a_file_and_steers_no_terminal(confide: Any, at_home: Path, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    (source / "a.txt").write_text("one\n\x1b[2Jtwo\nthree\n", encoding="utf-8")
    (source / "b.bin").write_bytes(b"\xff\x00" * 100_000)
    assert confide("data", "encrypt", source, tmp_path / "enc", "--key", "ann/k").status == 0
    shown = confide("data", "head", tmp_path / "enc", "-n", 2, "--as", "ann").out
    assert shown == "one\n\\x1b[2Jtwo\n"
    files = [one["path"] for one in confide("data", "inspect", tmp_path / "enc", "--json").json["file_list"]]
    (line,) = confide("data", "head", tmp_path / "enc", "-n", 1, "--file", files[1], "--as", "ann", "--json").json["lines"]
    assert line.startswith("\\xff\0")
    assert confide("data", "head", tmp_path / "enc", "--file", "c.txt", "--as", "ann").status == 5


def test_head_of_a_changed_file_is_refused(confide: Any, table: Path) -> None:
    file = next(table.glob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[12] ^= 1
    file.write_bytes(data)
    said = confide("data", "head", table, "--as", "ann")
    assert said.status == 5
    assert "bob" not in said.out


def test_a_file_that_no_snapshot_lists_is_found(confide: Any, table: Path) -> None:
    shutil.copy(next(table.glob("*.parquet")), table / "part-99999.parquet")
    said = confide("data", "verify", table)
    assert said.status == 5
    assert "not in the manifest: part-99999.parquet" in said.err


def test_a_manifest_with_another_signature_is_not_decrypted_by_it(confide: Any, at_home: Path, tmp_path: Path) -> None:
    """With a resource's value in a file no broker looks at the signature."""
    key = ("--key-resource", "kbs://kbs.example/a/key/b", "--key-file", tmp_path / "k")
    assert confide("data", "encrypt", more(tmp_path, "4,dee,1.5"), tmp_path / "far", *key, "--as", "ann").status == 0
    envelope = json.loads((tmp_path / "far" / "_confide.json").read_text())
    envelope["signatures"][0]["sig"] = "MAYCAQECAQE="
    (tmp_path / "far" / "_confide.json").write_text(json.dumps(envelope))
    said = confide("data", "decrypt", tmp_path / "far", tmp_path / "x.csv", *key)
    assert said.status == 5
    assert "error[manifest-invalid]" in said.err
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("hours", ["nan", "inf", "1e300"])
def test_time_that_never_was_is_refused(confide: Any, table: Path, hours: str) -> None:
    said = confide("data", "clean", table, "--older-than", hours)
    assert said.status == 2
    assert "was never" in said.err
