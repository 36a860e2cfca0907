"""``confide data`` of a dataset on S3, with a broker process and an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from confide.cli.broker import spawn

CSV = "id,name,score\n1,ann,0.5\n2,bob,\n3,cid,2.5\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("remote-home")
    with spawn(folder, folder / "master.key"):
        yield folder


def test_a_dataset_on_s3_is_made_looked_at_and_decrypted(
    confide: Any, home: Path, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(home))
    ticket = home / "ann.json"
    confide("broker", "enrol", "ann", "--key-file", home / "master.key", "--out", ticket)
    confide("keys", "init", "ann", "--enrolment", ticket)
    confide("keys", "create", "ann/k")
    source, there = tmp_path / "people.csv", "s3://bkt/data/people"
    source.write_text(CSV, encoding="utf-8")

    made = confide("data", "encrypt", source, there, "--key", "ann/k", "--json")
    assert (made.status, made.json["folder"], made.json["name"], made.json["rows"]) == (0, there, "people", 3)
    assert "another" not in made.err
    assert confide("data", "encrypt", source, there, "--key", "ann/k").status == 2
    for mode in ("append", "overwrite"):
        refused = confide("data", "encrypt", source, there, "--key", "ann/k", "--mode", mode)
        assert refused.status == 2
        assert "stays as it is" in refused.err
    assert "stays as it is" in confide("data", "encrypt", source, f"{there}2", "--key", "ann/k", "--resume").err

    assert confide("data", "inspect", there, "--json").json["unlisted_files"] == 0
    assert confide("data", "log", there, "--json").json["snapshots"][0]["rows"] == 3
    verified = confide("data", "verify", there, "--signer", made.json["signer"], "--json")
    assert (verified.status, verified.json["files_checked"]) == (0, 1)
    assert confide("data", "head", there, "-n", "2", "--as", "ann", "--json").json["rows"][1] == [2, "bob", None]
    assert confide("data", "decrypt", there, tmp_path / "back.csv", "--as", "ann").status == 0
    assert (tmp_path / "back.csv").read_text(encoding="utf-8").count("\n") == 4

    s3.put_object(Bucket="bkt", Key="data/people/foreign", Body=b"x")
    assert "not in the manifest" in confide("data", "verify", there).err
    young = confide("data", "clean", there, "--json").json
    assert (young["files"], young["young"]) == ([], 1)
    assert "made once" in confide("data", "clean", there, "--keep", "1").err
    assert confide("data", "clean", there, "--older-than", "0", "--json").json["files"] == ["foreign"]
    assert confide("data", "verify", there).status == 0
    nothing = confide("data", "head", "s3://bkt/none", "--as", "ann")
    assert "no manifest" in nothing.err
