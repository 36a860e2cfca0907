"""``confide data`` of datasets on S3, with a broker process and an S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli_data import RESOURCE, enrol
from support.s3_gate import S3Gate

from confide.cli.broker import spawn
from confide.data.places import S3Folder

CSV = "id,name,score\n1,ann,0.5\n2,bob,\n3,cid,2.5\n"
THERE = "s3://bkt/data/people"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("remote-home")
    with spawn(folder, folder / "master.key"):
        yield folder


@pytest.fixture
def csv(confide: Any, home: Path, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table here; Ann has the key ``ann/k``."""
    monkeypatch.setenv("CONFIDE_HOME", str(home))
    enrol(confide, home, "ann")
    confide("keys", "create", "ann/k")  # which is there already after the first test
    source = tmp_path / "people.csv"
    source.write_text(CSV, encoding="utf-8")
    return source


def encrypt(confide: Any, source: Path, *more: str) -> Any:
    return confide("data", "encrypt", source, THERE, "--key", "ann/k", *more, "--json")


def keys(s3: Any) -> list[str]:
    return [one["Key"] for one in s3.list_objects_v2(Bucket="bkt").get("Contents", [])]


def data_objects(s3: Any) -> dict[str, tuple[str, Any]]:
    """What shows that one was written."""
    found = s3.list_objects_v2(Bucket="bkt")["Contents"]
    return {one["Key"]: (one["ETag"], one["LastModified"]) for one in found if "part-" in one["Key"]}


def test_a_dataset_on_s3_is_made_looked_at_and_decrypted(confide: Any, csv: Path, s3: Any, tmp_path: Path) -> None:
    made = encrypt(confide, csv)
    assert (made.status, made.json["folder"], made.json["name"], made.json["rows"]) == (0, THERE, "people", 3)
    assert "another" not in made.err
    assert encrypt(confide, csv).status == 2

    assert confide("data", "inspect", THERE, "--json").json["unlisted_files"] == 0
    assert confide("data", "log", THERE, "--json").json["snapshots"][0]["rows"] == 3
    verified = confide("data", "verify", THERE, "--signer", made.json["signer"], "--json")
    assert (verified.status, verified.json["files_checked"]) == (0, 1)
    assert confide("data", "head", THERE, "-n", "2", "--as", "ann", "--json").json["rows"][1] == [2, "bob", None]
    assert confide("data", "decrypt", THERE, tmp_path / "back.csv", "--as", "ann").status == 0
    assert (tmp_path / "back.csv").read_text(encoding="utf-8").count("\n") == 4

    s3.put_object(Bucket="bkt", Key="data/people/foreign", Body=b"x")
    assert "not in the manifest" in confide("data", "verify", THERE).err
    young = confide("data", "clean", THERE, "--json").json
    assert (young["files"], young["young"]) == ([], 1)
    assert confide("data", "clean", THERE, "--older-than", "0", "--json").json["files"] == ["foreign"]
    assert confide("data", "verify", THERE).status == 0
    nothing = confide("data", "head", "s3://bkt/none", "--as", "ann")
    assert "no manifest" in nothing.err


def test_snapshots_on_s3_are_added_shown_read_and_dropped(confide: Any, csv: Path, s3: Any, tmp_path: Path) -> None:
    assert encrypt(confide, csv, "--mode", "append").json["snapshot"] == 1  # there was nothing
    added = encrypt(confide, csv, "--mode", "append").json
    assert (added["snapshot"], added["rows"], added["folder"]) == (2, 6, THERE)
    csv.write_text("id,name,score\n7,eve,1.5\n", encoding="utf-8")
    replaced = encrypt(confide, csv, "--mode", "overwrite").json
    assert (replaced["snapshot"], replaced["rows"], replaced["signer"]) == (3, 1, added["signer"])

    log = confide("data", "log", THERE, "--json").json["snapshots"]
    assert [(one["snapshot"], one["rows"], one["added"], one["removed"]) for one in log] == [(3, 1, 1, 2), (2, 6, 1, 0), (1, 3, 1, 0)]
    assert "snapshots 1 to 3 follow one another" in confide("data", "verify", THERE, "--signer", added["signer"]).out
    shown = confide("data", "inspect", THERE, "--json").json
    assert (shown["snapshot"], shown["unlisted_files"]) == (3, 0)
    for number, rows in ((3, 1), (2, 6), (1, 3)):
        out = tmp_path / f"{number}.csv"
        assert confide("data", "decrypt", THERE, out, "--as", "ann", "--snapshot", str(number)).status == 0
        assert out.read_text(encoding="utf-8").count("\n") == rows + 1

    dropped = confide("data", "clean", THERE, "--keep", "1", "--older-than", "0", "--json").json
    assert (dropped["snapshots"], len(dropped["files"])) == ([2, 1], 4)
    assert confide("data", "verify", THERE).status == 0
    assert confide("data", "head", THERE, "--as", "ann", "--json").json["rows"] == [[7, "eve", 1.5]]


def test_an_older_manifest_that_the_storage_shows_is_not_added_to(confide: Any, csv: Path, s3: Any) -> None:
    """It rolls the dataset back to its first snapshot: the broker has seen the second."""
    encrypt(confide, csv)
    first = s3.get_object(Bucket="bkt", Key="data/people/_confide.json")["Body"].read()
    assert encrypt(confide, csv, "--mode", "append").json["snapshot"] == 2
    s3.put_object(Bucket="bkt", Key="data/people/_confide.json", Body=first)
    s3.delete_object(Bucket="bkt", Key="data/people/_snapshots/2.json")
    before = keys(s3)
    for mode in ("append", "overwrite"):
        refused = encrypt(confide, csv, "--mode", mode)
        assert (refused.status, refused.json["error"]["code"]) == (5, "manifest-rollback")
    assert keys(s3) == before


def test_what_does_not_fit_the_dataset_is_refused_and_nothing_is_sent(confide: Any, csv: Path, s3: Any) -> None:
    encrypt(confide, csv)
    before = keys(s3)
    assert confide("keys", "create", "ann/other").status in {0, 1}
    assert "is under ann/k" in confide("data", "encrypt", csv, THERE, "--key", "ann/other", "--mode", "append").err
    assert "name already" in encrypt(confide, csv, "--mode", "append", "--name", "x").out
    csv.write_text("other\n1\n", encoding="utf-8")
    assert "columns" in encrypt(confide, csv, "--mode", "append").out
    assert keys(s3) == before


def test_a_newer_key_comes_into_manifests_on_s3_and_no_data_object_changes(confide: Any, csv: Path, s3: Any) -> None:
    confide("keys", "create", "ann/old")
    for place in ("all/a", "all/deep/b"):
        assert confide("data", "encrypt", csv, f"s3://bkt/{place}", "--key", "ann/old").status == 0
    assert confide("data", "encrypt", csv, "s3://bkt/all/deep/b", "--key", "ann/old", "--mode", "append").status == 0
    before = data_objects(s3)
    assert confide("keys", "rotate", "ann/old").status == 0
    assert confide("keys", "rewrap", "ann/old").status == 0

    said = confide("data", "rewrap", "s3://bkt/all/a", "--as", "ann", "--json").json
    assert (said["rewrapped"], said["key_before"], said["key"], said["snapshot"]) == (True, "ann/old@1", "ann/old@2", 2)
    said = confide("data", "rewrap", "--all", "s3://bkt/all", "--as", "ann", "--json").json
    assert (said["rewrapped"], said["current"]) == (["s3://bkt/all/deep/b"], ["s3://bkt/all/a"])
    assert data_objects(s3) == before
    assert confide("keys", "destroy", "ann/old", "--version", "1", "--yes").status == 0
    assert "snapshots 1 to 3 follow one another" in confide("data", "verify", "s3://bkt/all/deep/b").out
    assert len(confide("data", "head", "s3://bkt/all/deep/b", "--as", "ann", "--json").json["rows"]) == 6
    assert confide("data", "rewrap", "--all", "s3://bkt/nothing", "--as", "ann").status == 2
    foreign = confide("data", "rewrap", "s3://bkt/all/a", "--as", "bob", "--json")
    assert foreign.status != 0


def test_a_dataset_under_a_services_key_grows_and_gets_another_value(confide: Any, csv: Path, s3: Any, tmp_path: Path) -> None:
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    under = ("--key-resource", RESOURCE, "--key-file", old, "--as", "ann")
    for number in (1, 2):
        made = confide("data", "encrypt", csv, THERE, *under, "--mode", "append", "--json")
        assert (made.status, made.json["snapshot"]) == (0, number)
    before = data_objects(s3)
    said = confide("data", "rewrap", THERE, *under, "--new-key-file", new, "--json").json
    assert (said["rewrapped"], said["snapshot"]) == (True, 3)
    assert data_objects(s3) == before
    assert confide("data", "head", THERE, *under).status != 0
    assert len(confide("data", "head", THERE, "--key-resource", RESOURCE, "--key-file", new, "--as", "ann", "--json").json["rows"]) == 6


@pytest.mark.usefixtures("scratch_here")
@pytest.mark.parametrize("mode", ["error", "append"])
def test_a_command_that_is_killed_before_its_manifest_is_gone_on_with(
    mode: str, confide: Any, csv: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``kill -9`` in the moment in which all files are there and the manifest is asked for."""
    if mode == "append":
        encrypt(confide, csv)
    before = keys(s3)
    gate, running, sent = S3Gate(os.environ["AWS_ENDPOINT_URL"]), list[subprocess.Popen[bytes]](), list[str]()

    def kill(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("_snapshots/2.json" if mode == "append" else "_confide.json"):
            running[0].kill()
            running[0].wait()
            raise ConnectionError
        if method == "PUT" and "part-" in path:
            sent.append(path)

    gate.before = kill
    words = ["data", "encrypt", str(csv), THERE, "--key", "ann/k", "--mode", mode]
    command = [sys.executable, "-m", "confide.cli.main", *words]
    running.append(subprocess.Popen(command, env={**os.environ, "AWS_ENDPOINT_URL": gate.url}, stdout=subprocess.DEVNULL))
    assert running[0].wait(60) == -signal.SIGKILL
    left = set(keys(s3)) - {*before}
    assert len([key for key in left if "part-" in key]) == len(sent) == 1
    assert confide("data", "log", THERE, "--json").status == (0 if mode == "append" else 5)

    gate.close()
    monkeypatch.setattr("confide.data.places.S3Folder.write", only_manifests(S3Folder.write))
    done = encrypt(confide, csv, "--mode", mode, "--resume").json
    assert (done["snapshot"], done["rows"]) == ((2, 6) if mode == "append" else (1, 3))
    assert confide("data", "verify", THERE).status == 0
    again = encrypt(confide, csv, "--mode", mode, "--resume")
    assert (again.json["snapshot"], again.json["made_before"]) == (done["snapshot"], True)
    assert confide("data", "inspect", THERE, "--json").json["unlisted_files"] == 0


def only_manifests(write: Any) -> Any:
    def checked(folder: S3Folder, path: str, file: Any) -> None:
        assert path.endswith(".json"), "a file is sent again"
        write(folder, path, file)

    return checked
