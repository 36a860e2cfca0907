"""Tables with column groups: who lacks a group's key reads the other columns; what is moved or changed is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.arrow_writer import write_by_arrow
from support.tables import NOW, OwnedTable, new_key

from confide.crypto.secret import SecretBytes
from confide.data import commit, decrypting, files, parquet_keys, staging, table_files
from confide.data.column_groups import ColumnGroup, NewGroup, groups_named
from confide.data.folder import describe
from confide.data.manifest import Manifest, sign_manifest, verify_manifest
from confide.data.next_snapshot import Mode
from confide.errors import (
    ConfideError,
    DataError,
    IntegrityError,
    KeyAccessError,
    ManifestError,
    PlaintextError,
    UsageError,
)
from confide.ids import DatasetId

GROUPS = {"diagnoses": ("diagnosis", "code", "code2", "parts", "codes"), "names": ("name",)}
CANARY = "CANARY-77aa01"


def rows(count: int = 500) -> pa.Table:
    numbers = list(range(count))
    return pa.table({
        "name": [f"{CANARY}-{i}" for i in numbers],
        "age": numbers,
        "diagnosis": [f"d{i}" for i in numbers],
        "code": numbers,
        "code2": numbers,
        "parts": [{"low": i % 2, "high": i} for i in numbers],
        "codes": pa.array([[i, i] for i in numbers], pa.list_(pa.int64())),
    })  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> OwnedTable:
    return OwnedTable(tmp_path / "visits", rows(), grouped=GROUPS)


def read(table: OwnedTable, *groups: str, columns: list[str] | None = None) -> pa.Table:
    return files.read_table(table.place, table.manifest, table.key, columns=columns, group_keys=table.keys(*groups))


@pytest.mark.parametrize("count", [0, 1, 500])
def test_who_has_all_keys_reads_what_was_written(tmp_path: Path, count: int) -> None:
    table = OwnedTable(tmp_path / "visits", rows(count), grouped=GROUPS)
    assert read(table, *GROUPS).to_pydict() == rows(count).to_pydict()


def test_every_combination_of_keys_opens_its_columns_and_no_others(table: OwnedTable) -> None:
    for held in ([], ["diagnoses"], ["names"], ["diagnoses", "names"]):
        for column in rows().column_names:
            group = next((name for name, columns in GROUPS.items() if column in columns), None)
            if group is None or group in held:
                assert read(table, *held, columns=["age", column])[column].to_pylist() == rows()[column].to_pylist()
            else:
                with pytest.raises(KeyAccessError, match=f"column '{column}' is in the column group '{group}'"):
                    read(table, *held, columns=["age", column])


def test_all_columns_are_refused_to_who_lacks_a_group(table: OwnedTable) -> None:
    with pytest.raises(KeyAccessError, match="'names'"):
        read(table, "diagnoses")


def test_the_first_rows_are_read_under_the_same_keys(table: OwnedTable) -> None:
    args = (table.place, table.manifest, table.key, 3)
    assert files.head_rows(*args, columns=["age"]).to_pydict() == {"age": [0, 1, 2]}
    assert files.head_rows(*args, group_keys=table.keys(*GROUPS)).to_pydict() == rows().slice(0, 3).to_pydict()
    with pytest.raises(KeyAccessError):
        files.head_rows(*args, columns=["name"])


def test_some_columns_are_decrypted_to_a_file(table: OwnedTable, tmp_path: Path) -> None:
    target = tmp_path / "some.parquet"
    decrypting.decrypt(table.place, table.manifest, table.key, target, columns=["age", "code"], group_keys=table.keys("diagnoses"))
    assert pq.read_table(target).to_pydict() == rows().select(["age", "code"]).to_pydict()
    with pytest.raises(KeyAccessError):
        decrypting.decrypt(table.place, table.manifest, table.key, tmp_path / "all.parquet", group_keys=table.keys("diagnoses"))
    with pytest.raises(DataError, match="no column 'address'"):
        decrypting.decrypt(table.place, table.manifest, table.key, tmp_path / "no.parquet", columns=["address"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.parquet", "visits"]


def test_the_tables_key_alone_opens_no_bytes_and_no_statistics_of_a_group(table: OwnedTable) -> None:
    """Not even beneath this code: pyarrow itself, with all that the table's key gives, gets no further than the other columns."""
    file = parquet_keys.open_grouped(table.file, parquet_keys.TableKeys(table.manifest.dataset, table.key, {}), table.path)
    assert file.read(columns=["age"]).num_rows == 500
    for leaf in ("name", "diagnosis", "parts.low", "codes.list.element"):
        with pytest.raises(KeyAccessError):
            file.read_row_group(0, columns=[leaf])
    assert CANARY.encode() not in table.file.read_bytes()


def test_a_wrapped_key_opens_under_its_own_name_and_is_a_key() -> None:
    same = SecretBytes.random()
    keys = parquet_keys.file_keys(same, {"names": same})
    wrapped = keys.wrap_key(bytes(32), "columns/names")
    assert keys.unwrap_key(wrapped, "columns/names") == bytes(32)
    short = keys.wrap_key(bytes(16), "columns/names")
    for text, name in ((wrapped, "table"), (short, "columns/names"), (wrapped[:-4], "columns/names"), (f"\n{wrapped}", "columns/names")):
        with pytest.raises(IntegrityError):
            keys.unwrap_key(text, name)
    with pytest.raises(KeyAccessError):
        keys.unwrap_key(wrapped, "columns/other")


def test_a_groups_key_alone_opens_nothing(table: OwnedTable) -> None:
    keys = parquet_keys.TableKeys(table.manifest.dataset, SecretBytes.random(), table.keys(*GROUPS))
    with pytest.raises(IntegrityError):
        parquet_keys.open_grouped(table.file, keys, table.path)


@pytest.mark.parametrize("groups", [{"names": "diagnoses"}, {"names": "names", "diagnoses": "names"}])
def test_a_groups_key_does_not_open_another_group(table: OwnedTable, groups: dict[str, str]) -> None:
    keys = {as_: table.keys(name)[name] for as_, name in groups.items()}
    with pytest.raises(IntegrityError):
        files.read_table(table.place, table.manifest, table.key, columns=["name", "code"], group_keys={**table.keys("diagnoses"), **keys})


# --- attacks on files -------------------------------------------------------------------------------------------------


LEAVES = ["name", "age", "diagnosis", "code", "code2"]


@pytest.mark.parametrize(("one", "other"), [("code", "code2"), ("age", "code")])
def test_a_column_in_the_place_of_another_is_refused(table: OwnedTable, one: str, other: str) -> None:
    """Of the same group and of none; under one key for all columns the place would be noticed too, here the key is another."""
    table.exchange(*(table.chunk(LEAVES.index(name)) for name in (one, other)))
    for column in (one, other):
        with pytest.raises(IntegrityError):
            read(table, *GROUPS, columns=[column])
    assert read(table, *GROUPS, columns=["diagnosis"]).num_rows == 500


def test_a_column_of_another_row_group_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_GROUP", 250)
    same = pa.table({"code": [*range(250), *range(250)]})
    table = OwnedTable(tmp_path / "t", same, grouped={"codes": ("code",)})
    table.exchange(table.chunk(0, 0), table.chunk(0, 1))
    with pytest.raises(IntegrityError):
        read(table, "codes")


def test_a_file_under_another_name_or_of_another_dataset_is_refused(table: OwnedTable) -> None:
    keys = parquet_keys.TableKeys(table.manifest.dataset, table.key, table.keys(*GROUPS))
    with pytest.raises(IntegrityError):
        parquet_keys.open_grouped(table.file, keys, "part-00001-other.parquet")
    with pytest.raises(IntegrityError):
        parquet_keys.open_grouped(table.file, replace(keys, dataset=DatasetId("0" * 32)), table.path)


def test_any_changed_byte_is_refused(tmp_path: Path) -> None:
    table = OwnedTable(tmp_path / "visits", rows(20), grouped=GROUPS)
    good = table.file.read_bytes()
    for at in range(0, len(good), max(1, len(good) // 150)):
        table.file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(ConfideError):
            pytest.fail(f"byte {at} was changed and read: {read(table, *GROUPS).num_rows} rows")


def test_plaintext_in_the_place_of_a_file_is_refused(table: OwnedTable) -> None:
    pq.write_table(rows(), table.file)
    with pytest.raises(PlaintextError):
        read(table, *GROUPS)
    keys = parquet_keys.TableKeys(table.manifest.dataset, table.key, table.keys(*GROUPS))
    with pytest.raises(IntegrityError, match="must be encrypted"):  # put there between the two looks
        parquet_keys.open_grouped(table.file, keys, table.path)


def test_a_table_without_groups_does_not_pass_for_one_with_groups(table: OwnedTable, tmp_path: Path) -> None:
    plain = OwnedTable(tmp_path / "plain", rows())
    with pytest.raises(IntegrityError):
        files.read_table(plain.place, replace(plain.manifest, groups=table.manifest.groups), plain.key, columns=["age"])
    with pytest.raises(IntegrityError):
        files.read_table(table.place, replace(table.manifest, groups=()), table.key, columns=["age"])


@pytest.mark.parametrize(("left_out", "column"), [("parts.high", "parts"), ("name", "name"), ("age", "age")])
def test_a_column_that_the_writer_left_open_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str, column: str) -> None:
    """As if pyarrow did not know a column by the name that it was given, and left it in the clear: the file is not taken."""
    found = parquet_keys._leaves
    asked: list[pa.Schema] = []

    def leaves(schema: pa.Schema) -> list[tuple[str, str]]:
        asked.append(schema)
        return [(leaf, at) for leaf, at in found(schema) if leaf != left_out or len(asked) > 1]

    monkeypatch.setattr(parquet_keys, "_leaves", leaves)
    with pytest.raises(DataError, match=f"column '{column}' was not encrypted"):
        OwnedTable(tmp_path / "visits", rows(), grouped=GROUPS)
    assert not (tmp_path / "visits").exists()


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_a_manifest_says_which_columns_are_under_which_key(table: OwnedTable) -> None:
    found = verify_manifest(table.signed.envelope, table.signer.public)
    assert {group.name: group.columns for group in found.groups} == GROUPS
    assert [group.wrapped.key for group in found.groups] == ["clinic/diagnoses", "clinic/names"]
    assert "groups" not in OwnedTable(table.place.with_name("plain"), rows()).manifest.to_json()


def test_a_manifest_with_other_groups_has_another_signer(table: OwnedTable) -> None:
    diagnoses, names = table.manifest.groups
    forgeries = ((), (names,), (replace(diagnoses, columns=("code",)), names), (diagnoses, replace(names, name="other")))
    for groups in forgeries:
        envelope = {**table.signed.envelope, "payload": sign_manifest(replace(table.manifest, groups=groups), table.signer)["payload"]}
        with pytest.raises(ManifestError, match="signature"):
            verify_manifest(envelope, table.signer.public)


def invalid(manifest: Manifest) -> dict[str, object]:
    diagnoses, names = (group.to_json() for group in manifest.groups)
    _, foreign = new_key("bank/names")
    return {
        "empty": [],
        "no list": {},
        "unsorted": [names, diagnoses],
        "twice": [names, names],
        "a column in two": [diagnoses, {**names, "columns": ["name", "code"]}],
        "no column": [diagnoses, {**names, "columns": ["address"]}],
        "no columns": [{**names, "columns": []}],
        "column not text": [{**names, "columns": [1]}],
        "another owner's key": [{**names, "wrapped": foreign.to_json()}],
        "the table's key": [{**names, "wrapped": {**names["wrapped"], "key": manifest.key}}],
        "the table's id": [{**names, "wrapped": {**names["wrapped"], "dataset": manifest.dataset}}],
        "one key for two": [diagnoses, {**names, "wrapped": {**names["wrapped"], "key": diagnoses["wrapped"]["key"]}}],
        "no id": [{**names, "wrapped": {**names["wrapped"], "dataset": "x"}}],
        "a field more": [{**names, "more": 1}],
        "no name": [{**names, "name": "No Name"}],
        "no wrapped key": [{**names, "wrapped": {}}],
    }


def test_groups_that_protect_nothing_or_are_none_are_refused(table: OwnedTable) -> None:
    for what, groups in invalid(table.manifest).items():
        with pytest.raises(ManifestError):
            pytest.fail(f"{what}: {Manifest.from_json({**table.manifest.to_json(), 'groups': groups})}")


def test_only_an_owners_table_has_groups(table: OwnedTable) -> None:
    for changes in ({"owner": None, "run": "r-1"}, {"kind": "files", "schema": None, "files": []}):
        with pytest.raises(ManifestError):
            Manifest.from_json({**table.manifest.to_json(), **changes})


def test_asking_for_a_group_that_there_is_not_names_those_that_there_are(table: OwnedTable) -> None:
    with pytest.raises(UsageError, match="no column group 'address'") as refusal:
        groups_named(table.manifest.groups, ["address"], what="it")
    assert refusal.value.hint == "it has: diagnoses, names"


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["a.b", "a,b", "a:b", "a;b", " a", ""])
def test_a_column_whose_name_a_file_cannot_tell_apart_is_refused(tmp_path: Path, column: str) -> None:
    with pytest.raises(DataError):
        OwnedTable(tmp_path / "t", pa.table({"x": [1], column: [2]}), grouped={"names": ("x",)})


def test_a_field_whose_name_arrow_would_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot have a field"):
        OwnedTable(tmp_path / "t", pa.table({"x": [{"a,b": 1}]}), grouped={"names": ("x",)})


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'y'"):
        OwnedTable(tmp_path / "t", pa.table({"x": [1]}), grouped={"names": ("y",)})
    assert not (tmp_path / "t").exists()


def test_files_have_no_columns_to_protect(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    key, wrapped = new_key("clinic/visits")
    secret, group = new_key("clinic/names")
    table = OwnedTable(tmp_path / "any", rows())
    with pytest.raises(DataError, match="only tables"):
        commit.create_dataset(
            tmp_path / "note.txt", tmp_path / "notes", name="notes", owner="clinic", dataset=DatasetId(wrapped.dataset), dataset_key=key,
            wrapped=wrapped, signer=table.signer, now=NOW, protected=[NewGroup(ColumnGroup("names", ("x",), group), secret)],
        )  # fmt: skip


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_further_snapshot_keeps_its_groups_and_needs_their_keys(table: OwnedTable, mode: Mode) -> None:
    def add(*groups: str, source: pa.Table) -> Manifest:
        made = commit.add_snapshot(
            source, table.signed, mode, dataset_key=table.key, signer=table.signer, now=NOW, group_keys=table.keys(*groups)
        )
        return made.unverified

    with pytest.raises(KeyAccessError, match="'names'"):
        add("diagnoses", source=rows(3))
    with pytest.raises(DataError):
        add(*GROUPS, source=rows(3).drop_columns(["name"]))
    made = add(*GROUPS, source=rows(3))
    assert made.groups == table.manifest.groups
    found = files.read_table(table.place, made, table.key, group_keys=table.keys(*GROUPS))
    assert found.num_rows == (503 if mode == "append" else 3)
    with pytest.raises(KeyAccessError):
        files.read_table(table.place, made, table.key, columns=["name"])


def test_folders_of_partitions_are_no_columns_of_files(tmp_path: Path) -> None:
    """Columns whose values are in paths can be asked for like others, alone too."""
    table = OwnedTable(tmp_path / "plain", rows(5))
    attempt = staging.Attempt(tmp_path / "parts")
    (attempt.files / "year=2013").mkdir(parents=True)
    path = "year=2013/part-0.parquet"
    write_by_arrow(attempt.files / path, pa.table({"age": [1, 2]}), table.key, table.manifest.dataset, path)
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in (("age", "long"), ("year", "integer"))]
    schema = {"columns": [], "spark": {"type": "struct", "fields": fields}}
    entry = describe(attempt.files, path, rows=2)
    manifest = replace(table.manifest, files=(entry,), schema=schema)
    for columns, expected in [
        (None, {"age": [1, 2], "year": [2013, 2013]}),
        (["age"], {"age": [1, 2]}),
        (["year"], {"year": [2013, 2013]}),
    ]:
        args = (attempt.files, manifest, table.key)
        assert files.read_table(*args, columns=columns).to_pydict() == expected
        assert files.head_rows(*args, 9, columns=columns).to_pydict() == expected
        target = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        decrypting.decrypt(*args, target, columns=columns)
        assert pq.read_table(target).to_pydict() == expected
    with pytest.raises(DataError, match="no column 'month'"):
        files.read_table(attempt.files, manifest, table.key, columns=["month"])
