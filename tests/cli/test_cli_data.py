"""``confide data`` with a broker process: tables and files, by their owner, by others, and when something is in the way."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
from support.bigdl_encoder import DIGITS, PRIMARY, SHORT, STRONG, Encoded, simple_pair, wrapped_by_aes

from confide.cli.broker import spawn

CSV = "id,name,score\n1,ann,0.5\n2,bob,\n3,cid,2.5\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data-home")
    with spawn(folder, folder / "master.key"):
        yield folder


@pytest.fixture
def at_home(confide: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with two owners, each with a key ``k``."""
    monkeypatch.setenv("CONFIDE_HOME", str(home))
    for name in ("ann", "bob"):
        if not (home / "credentials" / f"{name}.key.pem").exists():
            ticket = home / f"{name}.json"
            confide("broker", "enrol", name, "--key-file", home / "master.key", "--out", ticket)
            confide("keys", "init", name, "--enrolment", ticket)
            confide("keys", "create", f"{name}/k")
    return home


@pytest.fixture
def table(confide: Any, at_home: Path, tmp_path: Path) -> Path:
    source = tmp_path / "people.csv"
    source.write_text(CSV, encoding="utf-8")
    assert confide("data", "encrypt", source, tmp_path / "people", "--key", "ann/k").status == 0
    return tmp_path / "people"


def test_table_comes_back_as_csv_and_as_parquet(confide: Any, table: Path, tmp_path: Path) -> None:
    out = confide("data", "decrypt", table, tmp_path / "back.parquet", "--as", "ann", "--json")
    assert out.json["rows"] == 3
    assert confide("data", "decrypt", table, tmp_path / "back.csv", "--as", "ann").status == 0
    assert pyarrow.parquet.read_table(tmp_path / "back.parquet").column("name").to_pylist() == ["ann", "bob", "cid"]
    assert pyarrow.csv.read_csv(tmp_path / "back.csv").num_rows == 3


def test_nothing_of_a_table_is_in_the_clear(table: Path) -> None:
    assert not any(b"ann,0.5" in path.read_bytes() or b"cid" in path.read_bytes() for path in table.rglob("*.parquet"))


def test_folder_of_files_comes_back_whole(confide: Any, at_home: Path, tmp_path: Path) -> None:
    source = tmp_path / "many"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("alpha", encoding="utf-8")
    (source / "deep" / "b.bin").write_bytes(bytes(200_000))
    assert confide("data", "encrypt", source, tmp_path / "many-enc", "--key", "ann/k", "--name", "many").status == 0
    assert "kind:     files" in confide("data", "inspect", tmp_path / "many-enc").out
    assert confide("data", "decrypt", tmp_path / "many-enc", tmp_path / "back", "--as", "ann").status == 0
    assert (tmp_path / "back" / "a.txt").read_text(encoding="utf-8") == "alpha"
    assert (tmp_path / "back" / "deep" / "b.bin").read_bytes() == bytes(200_000)


def test_another_owner_does_not_get_the_key(confide: Any, table: Path, tmp_path: Path) -> None:
    said = confide("data", "decrypt", table, tmp_path / "stolen.csv", "--as", "bob")
    assert said.status == 4
    assert not (tmp_path / "stolen.csv").exists()


def test_changed_byte_is_refused_and_leaves_nothing(confide: Any, table: Path, tmp_path: Path) -> None:
    file = next(table.glob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    said = confide("data", "decrypt", table, tmp_path / "back.csv", "--as", "ann")
    assert said.status == 5
    assert "error[data-integrity]" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people", "people.csv"]


def test_folder_that_exists_is_not_written_to(confide: Any, table: Path, tmp_path: Path) -> None:
    said = confide("data", "encrypt", tmp_path / "people.csv", table, "--key", "ann/k")
    assert said.status == 2
    assert "error[output-exists]" in said.err


def test_target_that_exists_is_not_written_to(confide: Any, table: Path, tmp_path: Path) -> None:
    before = (tmp_path / "people.csv").read_text(encoding="utf-8")
    assert confide("data", "decrypt", table, tmp_path / "people.csv", "--as", "ann").status == 2
    assert (tmp_path / "people.csv").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("key", ["ann", "ann/", "ann/k@1", "ANN/k"])
def test_key_must_be_an_owners_newest(confide: Any, at_home: Path, tmp_path: Path, key: str) -> None:
    source = tmp_path / "a.csv"
    source.write_text(CSV, encoding="utf-8")
    assert confide("data", "encrypt", source, tmp_path / "out", "--key", key).status == 2
    assert not (tmp_path / "out").exists()


def test_key_that_does_not_exist_leaves_nothing(confide: Any, at_home: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text(CSV, encoding="utf-8")
    assert confide("data", "encrypt", source, tmp_path / "out", "--key", "ann/none").status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_full_disk_leaves_nothing(confide: Any, at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.csv"
    source.write_text(CSV, encoding="utf-8")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    said = confide("data", "encrypt", source, tmp_path / "out", "--key", "ann/k")
    assert said.status == 6
    assert "No space left" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_folder_that_is_no_dataset_says_so(confide: Any, at_home: Path, tmp_path: Path) -> None:
    said = confide("data", "inspect", tmp_path)
    assert said.status == 5
    assert "confide data encrypt" in said.err


# --- keys of a key broker service --------------------------------------------------------------------------------------

RESOURCE = "kbs://kbs.example:8080/ann/key/people"


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


# --- data of BigDL PPML ------------------------------------------------------------------------------------------------


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


# --- many files, pipes, and going on after a kill ----------------------------------------------------------------------


def test_several_files_make_one_table_and_come_back_in_any_format(confide: Any, at_home: Path, tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"{n}.csv").write_text(f"id,name\n{n},x{n}\n", encoding="utf-8")
    made = confide("data", "encrypt", tmp_path / "1.csv", tmp_path / "2.csv", tmp_path / "d", "--key", "ann/k", "--json")
    assert (made.json["kind"], made.json["rows"]) == ("parquet", 2)
    more = confide("data", "encrypt", str(tmp_path / "*.csv"), tmp_path / "d", "--key", "ann/k", "--mode", "append", "--json")
    assert more.json["rows"] == 4
    for form in ("csv", "jsonl", "parquet"):
        assert confide("data", "decrypt", tmp_path / "d", tmp_path / "back", "--format", form, "--as", "ann").status == 0
        (tmp_path / "back").unlink()
    schema = tmp_path / "schema.json"
    schema.write_text(confide("data", "inspect", tmp_path / "d", "--json").out, encoding="utf-8")
    (tmp_path / "3.csv").write_text("id,name\n3,4\n", encoding="utf-8")
    typed = confide("data", "encrypt", tmp_path / "3.csv", tmp_path / "e", "--schema", schema, "--key", "ann/k")
    assert typed.status == 0
    assert confide("data", "head", tmp_path / "e", "--as", "ann", "--json").json["rows"] == [[3, "4"]]
    (tmp_path / "4.csv").write_text("id,name\nCANARY,4\n", encoding="utf-8")
    wrong = confide("data", "encrypt", tmp_path / "4.csv", tmp_path / "d", "--key", "ann/k", "--mode", "append")
    assert (wrong.status, "column 1 is not of the type int64" in wrong.err, "CANARY" in wrong.err) == (5, True, False)


def test_pipes_in_and_out(confide: Any, at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        buffer = io.BytesIO(CSV.encode())

    monkeypatch.setattr("sys.stdin", Pipe)
    assert confide("data", "encrypt", "-", tmp_path / "d", "--key", "ann/k").status == 2
    assert confide("data", "encrypt", "-", tmp_path / "d", "--format", "csv", "--resume", "--key", "ann/k").status == 2
    assert confide("data", "encrypt", "-", tmp_path / "d", "--format", "csv", "--key", "ann/k").status == 0
    assert confide("data", "decrypt", tmp_path / "d", "-", "--format", "csv", "--as", "ann", "--json").status == 2
    assert confide("data", "decrypt", tmp_path / "d", "-", "--as", "ann").status == 2


def test_resume_begins_goes_on_and_is_done_once(confide: Any, at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
    words = ("data", "encrypt", tmp_path / "a.csv", tmp_path / "d", "--key", "ann/k", "--resume", "--json")
    from confide.data import staging

    with monkeypatch.context() as patch:
        patch.setattr(staging.Attempt, "publish", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        failed = confide(*words)
    assert (failed.status, "--resume" in failed.json["error"]["hint"]) == (6, True)
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".d.new-")]) == 1
    done = confide(*words)
    assert (done.status, done.json["rows"]) == (0, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "d"]
    assert confide("data", "decrypt", tmp_path / "d", tmp_path / "back.csv", "--as", "ann").status == 0
    again = confide(*words)
    assert (again.status, again.json) == (0, {**done.json, "made_before": True})
    assert confide(*(word for word in words if word != "--resume")).json["error"]["code"] == "output-exists"
    assert confide(*words, "--name", "other").json["error"]["code"] == "output-exists"
    assert (at_home / "resume.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("schema", ["{}", '{"columns": []}', '{"columns": [{"name": "a"}]}', '{"columns": [{"name": "a", "type": ""}]}'])
def test_a_schema_that_says_nothing_is_refused(confide: Any, tmp_path: Path, schema: str) -> None:
    (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
    (tmp_path / "s.json").write_text(schema, encoding="utf-8")
    words = (tmp_path / "a.csv", tmp_path / "d", "--schema", tmp_path / "s.json", "--key", "ann/k")
    assert confide("data", "encrypt", *words).status == 5
    assert confide("data", "encrypt", *words, "--format", "files").status == 2
