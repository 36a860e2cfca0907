"""`data encrypt --resume` of a table with column groups: the groups and their keys are what they were, or nothing goes on."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tables import NOW, new_key

from confide.canonical import canonical
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import commit, files, table_files
from confide.data.column_groups import ColumnGroup, NewGroup
from confide.data.manifest import FileEntry, verify_manifest
from confide.data.sources import plain_sources
from confide.data.staging import Attempt, NewKey, open_kept, resumed_or_new, task_of
from confide.data.tables import TableInput
from confide.errors import IntegrityError, KeyAccessError, UnavailableError
from confide.ids import DatasetId

GROUPS = {"names": ("name",), "ages": ("age", "born")}
KEK = SecretBytes(b"k" * 32)


def rows() -> pa.Table:
    return pa.table({"id": list(range(500)), "name": [f"n{i}" for i in range(500)], "age": [i % 90 for i in range(500)], "born": [1] * 500})


class FullDisk(Attempt):
    """There is room for two files."""

    def note(self, entry: FileEntry) -> None:
        super().note(entry)
        if len(self.finished) == 2:
            raise UnavailableError("the disk is full")


def begin(root: Path, key: NewKey, source: TableInput) -> None:
    task = task_of(source)
    assert task is not None
    with resumed_or_new(root, task, open_key=open_kept(KEK)) as attempt:
        attempt.begin_new(task, key, KEK)
        full = FullDisk(attempt.root, attempt.journal)
        files.encrypt_table(source, full, key.secret, dataset=key.dataset, protected=key.groups)


def begun(root: Path, key: NewKey, source: TableInput) -> Path:
    """What a command leaves that was stopped after two files."""
    with pytest.raises(UnavailableError):
        begin(root, key, source)
    (left,) = root.parent.glob(f".{root.name}.new-*")
    return left


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TableInput:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 100)
    place = tmp_path / "in.parquet"
    pq.write_table(rows(), place)
    return TableInput(tuple(plain_sources(place)), "parquet")


def new_table_key() -> NewKey:
    secret, wrapped = new_key("clinic/visits")
    groups = []
    for name, columns in GROUPS.items():
        own, form = new_key(f"clinic/{name}")
        groups.append(NewGroup(ColumnGroup(name, columns, form), own))
    return NewKey(DatasetId(wrapped.dataset), secret, wrapped, tuple(groups))


def test_a_command_that_goes_on_has_the_groups_keys_again(tmp_path: Path, source: TableInput) -> None:
    new, folder, signer = new_table_key(), tmp_path / "out", SigningKey.generate()
    left = begun(folder, new, source)
    journal = (left / "journal").read_bytes()
    assert all(base64.b64encode(one.key.reveal()) not in journal and one.key.reveal() not in journal for one in new.groups)
    first = sorted(path.name for path in (left / "dataset").glob("*.parquet"))
    task = task_of(source)
    with resumed_or_new(folder, task, open_key=open_kept(KEK)) as attempt:
        assert attempt.key is not None
        assert len(attempt.finished) == 2
        assert [one.group for one in attempt.key.groups] == [one.group for one in new.groups]
        signed = commit.create_dataset(
            source, folder, name="d", owner="clinic", dataset=new.dataset, dataset_key=attempt.key.secret, wrapped=attempt.key.wrapped,
            signer=signer, now=NOW, protected=attempt.key.groups, attempt=attempt,
        )  # fmt: skip
    manifest = verify_manifest(signed.envelope, signer.public)
    assert set(first[:2]) <= {entry.path for entry in manifest.files}
    assert [group.name for group in manifest.groups] == sorted(GROUPS)
    keys = {one.group.name: one.key for one in new.groups}
    assert files.read_table(folder, manifest, new.secret, group_keys=keys).to_pydict() == rows().to_pydict()
    with pytest.raises(KeyAccessError):
        files.read_table(folder, manifest, new.secret, columns=["name"])


def test_groups_in_a_journal_that_were_changed_are_refused(tmp_path: Path, source: TableInput) -> None:
    """Whoever could take a group out would have its columns written under the table's key."""
    folder = tmp_path / "out"
    place = begun(folder, new_table_key(), source) / "journal"
    first, *more = place.read_bytes().splitlines(keepends=True)
    said = json.loads(first)
    del said["body"]["begun"]["groups"][0]
    place.write_bytes(canonical(said) + b"\n" + b"".join(more))
    with pytest.raises(IntegrityError, match="journal"), resumed_or_new(folder, task_of(source), open_key=open_kept(KEK)):
        pass
