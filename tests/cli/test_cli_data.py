"""``confide data`` with a broker process: tables and files, by their owner, by others, and when something is in the way."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
from support.cli_data import CSV


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
