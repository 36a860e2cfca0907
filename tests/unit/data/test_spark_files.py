"""Spark's file systems without Spark: what they believe of a storage that hides files of an input, and what they let be written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from support.container_jvm import ContainerJvm, container_jvm
from support.tables import OwnedTable

from confide.canonical import Json
from confide.jobs.inputs import InputLengths, VerifiedInput
from confide.node.keyring import Keyring

pytestmark = [pytest.mark.spark, pytest.mark.timeout(120)]

NO_FILE = "FileNotFoundException"


@pytest.fixture(scope="module")
def lengths() -> InputLengths:
    return InputLengths()


@pytest.fixture(scope="module")
def renames() -> list[str]:
    """New names that the agent heard of."""
    return []


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory, lengths: InputLengths, renames: list[str]) -> Iterator[ContainerJvm]:
    def slowly(request: Json) -> None:
        renames.append(request["to"])
        time.sleep(1)

    with container_jvm(tmp_path_factory.mktemp("classes"), Keyring(), lengths, slowly) as made:
        yield made


@pytest.fixture
def table(tmp_path: Path, lengths: InputLengths) -> OwnedTable:
    """An input of one file, beside which something else lies."""
    made = OwnedTable(tmp_path / "flights", pa.table({"x": [1, 2, 3]}))
    lengths.know([VerifiedInput("flights", made.place, {}, made.manifest, "", made.manifest.signer)])
    (made.place / "stray.parquet").write_bytes(made.file.read_bytes())
    return made


@pytest.mark.parametrize("scheme", ["file", "enc"])
def test_a_file_of_an_input_that_storage_hides_is_missed_and_not_passed_over(jvm: ContainerJvm, table: OwnedTable, scheme: str) -> None:
    """Spark takes ``FileNotFoundException`` of a listing for an empty folder, and a query would go on without the rows."""
    table.file.unlink()
    for word, path in (("list", table.place), ("list", table.file), ("status", table.file)):
        answer = jvm.ask(word, f"{scheme}:{path}")
        assert answer == ["refused", "IOException", f"[data-integrity] a file of the dataset is missing: {table.file.name}"], (word, path)
    assert jvm.ask("status", f"{scheme}:{table.place}/none.parquet")[:2] == ["refused", NO_FILE]  # which is no file of an input


@pytest.mark.parametrize("word", ["status", "list"])
def test_a_file_of_an_input_that_storage_cuts_is_refused_whatever_it_showed_before(jvm: ContainerJvm, table: OwnedTable, word: str) -> None:
    """Spark looks at each file that it is given, and has it list itself: that is the length that it plans with."""
    assert jvm.ask("status", f"file:{table.file}") == ["found", table.file.name]
    whole = table.file.read_bytes()
    table.file.write_bytes(whole[:-1])
    message = f"[data-integrity] {table.file.name} has another length than its manifest says: {len(whole) - 1}"
    assert jvm.ask(word, f"file:{table.file}") == ["refused", "IOException", message]


@pytest.mark.parametrize("scheme", ["file", "enc"])
@pytest.mark.parametrize("holds", ["nothing", "its name"])
def test_a_folder_in_the_place_of_an_inputs_file_is_not_taken_for_one_without_rows(
    jvm: ContainerJvm, table: OwnedTable, scheme: str, holds: str
) -> None:
    """Also if it was a file when Spark looked."""
    whole = table.file.read_bytes()
    assert jvm.ask("status", f"file:{table.file}") == ["found", table.file.name]
    table.file.unlink()
    table.file.mkdir()
    if holds == "its name":
        (table.file / table.file.name).write_bytes(whole)
    for word, path in (("status", table.file), ("list", table.file), ("list", table.place)):
        answer = jvm.ask(word, f"{scheme}:{path}")
        assert answer == ["refused", "IOException", f"[data-integrity] a file of the dataset is missing: {table.file.name}"], (word, path)


@pytest.mark.parametrize("scheme", ["file", "enc"])
def test_a_folder_of_an_input_that_storage_hides_is_missed(jvm: ContainerJvm, tmp_path: Path, lengths: InputLengths, scheme: str) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.csv").write_text("x")
    made = OwnedTable(tmp_path / "notes", tmp_path / "plain")
    lengths.know([VerifiedInput("notes", made.place, {}, made.manifest, "", made.manifest.signer)])
    made.file.parent.rename(tmp_path / "elsewhere")
    answer = jvm.ask("list", f"{scheme}:{made.place}")
    assert answer == ["refused", "IOException", f"[data-integrity] a file of the dataset is missing: {made.file.parent.name}"]


def test_a_listing_of_an_input_is_the_manifests(jvm: ContainerJvm, table: OwnedTable) -> None:
    assert jvm.ask("list", f"file:{table.place}") == ["found", table.file.name]


def test_another_length_than_the_manifests_is_refused(jvm: ContainerJvm, table: OwnedTable) -> None:
    table.file.write_bytes(table.file.read_bytes()[:-1])
    for word, path in (("list", table.place), ("status", table.file)):
        verdict, kind, said = jvm.ask(word, f"file:{path}")
        assert (verdict, kind, "another length than its manifest says" in said) == ("refused", "IOException", True)


@pytest.mark.parametrize(
    ("name", "head", "refused"),
    [
        ("a.parquet", b"PARE1", False),
        ("a.parquet", b"PAR1x", True),
        ("a.parquet", b"PAxE", True),
        ("a.csv", b"PARE1", True),
        ("a.parquet.crc", b"PARE1", True),
    ],
)
def test_what_is_written_to_a_plain_path_is_encrypted_parquet(
    jvm: ContainerJvm, tmp_path: Path, name: str, head: bytes, *, refused: bool
) -> None:
    answer = jvm.ask("put", f"file:{tmp_path}/{name}", head.hex())
    if not refused:
        assert answer == ["found"]
        assert (tmp_path / name).read_bytes() == head
        return
    assert answer[0] == "refused"
    assert "[plaintext-found]" in answer[2]
    written = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else b""
    assert b"PARE".startswith(written)


@pytest.mark.parametrize("scheme", ["file", "enc"])
def test_nothing_is_appended_to_a_file(jvm: ContainerJvm, tmp_path: Path, scheme: str) -> None:
    """What is there begins as encrypted Parquet does, and the guard looks at first bytes only."""
    (tmp_path / "a.parquet").write_bytes(b"PARE")
    assert jvm.ask("append", f"{scheme}:{tmp_path}/a.parquet", b"PARE, and plaintext".hex())[0] == "refused"
    assert (tmp_path / "a.parquet").read_bytes() == b"PARE"


def test_what_the_agent_heard_of_is_done_though_the_thread_is_interrupted(jvm: ContainerJvm, tmp_path: Path, renames: list[str]) -> None:
    """Spark stops a query by interrupting it, and its log would lack a file that the agent knows."""
    folder = tmp_path / ".o.staging-r-1" / "offsets"
    folder.mkdir(parents=True)
    (folder / ".1.tmp").write_bytes(b"CONFIDE")
    answer = jvm.ask("interrupted-rename", f"enc:{folder}/.1.tmp", f"enc:{folder}/1")
    assert answer == ["found", "true", "true"]
    assert (renames, [path.name for path in folder.iterdir()]) == ([f"{folder}/1"], ["1"])
