"""How often executors ask their agent: once for each file of a scan, and no less often than leases need."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from support.container_jvm import ContainerJvm, container_jvm
from support.tables import OwnedTable

from confide.canonical import Json
from confide.crypto.derive import file_key
from confide.crypto.secret import SecretBytes
from confide.errors import KeyRevokedError
from confide.jobs.inputs import InputLengths, VerifiedInput
from confide.node.keyring import Keyring, Lease

pytestmark = [pytest.mark.spark, pytest.mark.timeout(120)]

ASKED_ONCE_S = 1.1  # a little more than what is one question for the executor
REMEMBERED = 1 << 16  # lengths: ``InputFiles.MOST_KNOWN``


class CountedLengths(InputLengths):
    """Counts the questions by path.  All that ``many`` might hold are files of an input, too."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.listed: Counter[str] = Counter()
        self.many = ""

    def operation(self, request: Json) -> Json:
        self.asked[request["path"]] += 1
        if self.many and request["path"].startswith(f"{self.many}/"):
            return {"length": 1000}
        return super().operation(request)

    def listing(self, request: Json) -> Json:
        self.listed[request["path"]] += 1
        return super().listing(request)


@pytest.fixture
def ring() -> Keyring:
    return Keyring()


@pytest.fixture
def lengths() -> CountedLengths:
    return CountedLengths()


@pytest.fixture
def jvm(tmp_path: Path, ring: Keyring, lengths: CountedLengths) -> Iterator[ContainerJvm]:
    with container_jvm(tmp_path / "classes", ring, lengths) as made:
        yield made


def test_a_tables_file_is_one_question_for_its_footer_and_its_rows(jvm: ContainerJvm, ring: Keyring, tmp_path: Path) -> None:
    """Another file is another one, and so is the same file a second later: a key that was withdrawn is not used for longer."""
    table = OwnedTable(tmp_path / "flights", pa.table({"x": [1]}))

    def lease() -> Lease:
        return Lease(SecretBytes(table.key.reveal()), math.inf)

    ring.open_input(str(table.place), table.manifest.dataset, lease(), files=frozenset({"a.parquet", "b.parquet"}), refresh=lease)
    keys = {
        name: file_key(table.key, kind="parquet", dataset=table.manifest.dataset, path=name).reveal().hex()
        for name in ("a.parquet", "b.parquet")
    }

    def ask(name: str) -> int:
        """How many questions were asked when its reader has the right key."""
        assert jvm.ask("key", f"file:{table.place}/{name}") == ["found", keys[name]]
        return ring.counts()[0]

    assert [ask(name) for name in ("a.parquet", "a.parquet", "b.parquet", "a.parquet")] == [1, 1, 2, 3]
    time.sleep(ASKED_ONCE_S)
    assert ask("a.parquet") == 4
    ring.end(KeyRevokedError("the grant was withdrawn"))
    time.sleep(ASKED_ONCE_S)
    refused = jvm.ask("key", f"file:{table.place}/a.parquet")
    assert refused[0] == "refused"
    assert "the grant was withdrawn" in refused[2]


def test_a_length_is_asked_for_once_and_of_what_is_no_input_each_time(jvm: ContainerJvm, lengths: CountedLengths, tmp_path: Path) -> None:
    """It may become one: a stream reads what another snapshot brings."""
    table = OwnedTable(tmp_path / "flights", pa.table({"x": [1]}))
    status = ("status", f"file:{table.file}")
    for _ in range(2):
        assert jvm.ask(*status) == ["found", table.file.name]
    unknown = lengths.asked[str(table.file)]
    assert unknown >= 2
    lengths.know([VerifiedInput("flights", table.place, {}, table.manifest, "", table.manifest.signer)])
    for _ in range(3):
        assert jvm.ask(*status) == ["found", table.file.name]
    assert lengths.asked[str(table.file)] == unknown + 1
    table.file.write_bytes(table.file.read_bytes()[:-1])
    assert jvm.ask(*status)[0] == "refused"


@pytest.mark.parametrize("scheme", ["file", "enc"])
def test_a_file_that_is_known_is_not_asked_for_as_a_folder(jvm: ContainerJvm, lengths: CountedLengths, tmp_path: Path, scheme: str) -> None:
    """Spark has each file that it is given list itself."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.csv").write_text("1\n")
    made = OwnedTable(tmp_path / "notes", tmp_path / "plain")
    lengths.know([VerifiedInput("notes", made.place, {}, made.manifest, "", made.manifest.signer)])
    for word in ("status", "list", "list"):
        assert jvm.ask(word, f"{scheme}:{made.file}") == ["found", made.file.name]
    assert lengths.asked[str(made.file)] == 1
    assert lengths.listed[str(made.file)] == (0 if scheme == "enc" else 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_more_files_than_are_remembered_cost_questions_and_nothing_else(jvm: ContainerJvm, lengths: CountedLengths, tmp_path: Path) -> None:
    """An executor remembers 65,536 lengths, and then begins anew: what storage shows is held against the manifest all the same."""
    table, lengths.many = OwnedTable(tmp_path / "flights", pa.table({"x": [1]})), str(tmp_path / "many")
    lengths.know([VerifiedInput("flights", table.place, {}, table.manifest, "", table.manifest.signer)])
    name, file, folder = table.file.name, f"file:{table.file}", f"file:{table.place}"

    def missed(place: str, count: int) -> None:
        assert jvm.ask("missed", f"file:{lengths.many}/{place}", str(count)) == ["found", str(count)]

    def questions() -> int:
        """How many, when the file has been looked at in each way."""
        for ask in (("status", file), ("list", file), ("list", folder)):
            assert jvm.ask(*ask) == ["found", name], ask
        return lengths.asked[str(table.file)]

    assert questions() == 1
    missed("a", REMEMBERED - 1)
    assert questions() == 1  # as many as can be are remembered
    assert lengths.asked.total() == REMEMBERED
    missed("b", 1)
    whole = table.file.read_bytes()
    table.file.write_bytes(whole[:-1])
    for ask in (("status", file), ("list", folder)):
        assert "has another length than its manifest says" in jvm.ask(*ask)[2], ask
    table.file.write_bytes(whole)
    assert questions() == 2
    missed("a", 100)
    assert lengths.asked.total() == REMEMBERED + 102
    table.file.unlink()
    for ask in (("status", file), ("list", file), ("list", folder)):
        assert jvm.ask(*ask)[2] == f"[data-integrity] a file of the dataset is missing: {name}", ask
