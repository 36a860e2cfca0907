"""``confide data inspect``: all that is visible without a key, of tables, files, snapshots and partitions; and that the rest is not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.support.parquet_parts import parts_of

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import add_snapshot, create_dataset
from confide.data.manifest import FileEntry, sign_manifest
from confide.data.outside import partitions
from confide.data.snapshots import SignedManifest, load_manifest, write_manifest
from confide.ids import new_dataset_id

SIGNER, KEY, NOW = SigningKey.generate(), SecretBytes.random(), datetime(2026, 11, 27, tzinfo=UTC)


def made(source: Path | pa.Table, folder: Path) -> SignedManifest:
    dataset = new_dataset_id()
    wrapped = wrap(SecretBytes.random(), KEY, key="airline/flights", version=3, dataset=dataset)
    return create_dataset(
        source, folder, name="d", owner="airline", dataset=dataset, dataset_key=KEY, wrapped=wrapped, signer=SIGNER, now=NOW
    )


@pytest.fixture
def table(tmp_path: Path) -> SignedManifest:
    return made(pa.table({"city": ["CANARY-A", "CANARY-B"], "n": pa.array([7, None], pa.int64())}), tmp_path / "d")


def test_table_shows_its_manifest_and_no_value(confide: Any, table: SignedManifest) -> None:
    said = confide("data", "inspect", table.folder, "--json")
    manifest, seen = table.unverified, said.json
    (entry,) = manifest.files
    told = {"name": "d", "dataset": manifest.dataset, "kind": "parquet", "snapshot": 1, "created": "2026-11-27T00:00:00Z", "files": 1}
    told |= {"rows": 2, "bytes": entry.size, "key": "airline/flights@3", "signer": SIGNER.spki_digest, "made_by": "airline"}
    told |= {"manifest": table.digest, "verified": False, "plaintext_bytes": None, "partitions": {}, "snapshots": [1], "unlisted_files": 0}
    assert told.items() <= seen.items()
    assert seen["columns"] == [{"name": "city", "type": "string", "nullable": True}, {"name": "n", "type": "int64", "nullable": True}]
    (file,) = seen["file_list"]
    written = datetime.fromtimestamp((table.folder / entry.path).stat().st_mtime, UTC).isoformat(timespec="seconds")
    listed = {"path": entry.path, "size": entry.size, "sha256": entry.sha256, "rows": 2}
    assert file == {**listed, "plaintext_bytes": None, "written": written}
    assert any("minima, maxima" in text for text in seen["hidden"])
    text = confide("data", "inspect", table.folder, "--files").out
    assert entry.path in text
    assert "not visible without the key: values; minima, maxima" in text
    assert "CANARY" not in text + said.out


def test_what_it_says_of_pages_is_so(confide: Any, table: SignedManifest) -> None:
    assert "how many pages each file has" in confide("data", "inspect", table.folder).out
    (entry,) = table.unverified.files
    assert len(parts_of(table.folder / entry.path)) >= 4  # of each column a page and its header at least
    assert b"CANARY" not in (table.folder / entry.path).read_bytes()


def test_files_show_their_names_and_lengths(confide: Any, tmp_path: Path) -> None:
    source = tmp_path / "many"
    (source / "in").mkdir(parents=True)
    (source / "a.txt").write_bytes(b"x" * 70_000)
    (source / "in" / "b.txt").write_bytes(b"CANARY")
    folder = made(source, tmp_path / "d").folder
    seen = confide("data", "inspect", folder, "--json").json
    assert [(Path(one["path"]).name, one["plaintext_bytes"]) for one in seen["file_list"]] == [("a.txt", 70_000), ("b.txt", 6)]
    assert (seen["plaintext_bytes"], seen["rows"], seen["columns"]) == (70_006, None, [])
    text = confide("data", "inspect", folder).out
    assert "lengths of the contents, 70,006 bytes together" in text
    assert "not visible without the key: the files' contents" in text


def test_snapshots_are_seen_each_for_itself(confide: Any, table: SignedManifest) -> None:
    add_snapshot(pa.table({"city": ["x"], "n": [1]}), table, "append", dataset_key=KEY, signer=SIGNER, now=NOW)
    newest, first = (confide("data", "inspect", table.folder, *words, "--json").json for words in ((), ("--snapshot", 1)))
    assert (newest["snapshot"], newest["files"], newest["snapshots"]) == (2, 2, [2, 1])
    assert (first["snapshot"], first["files"], first["snapshots"]) == (1, 1, [2, 1])
    assert "snapshots 2, 1" in confide("data", "inspect", table.folder).out


def test_names_of_partition_folders_give_values_away(confide: Any, table: SignedManifest) -> None:
    (entry,) = table.unverified.files
    paths = [f"year={year}/city={city}/{entry.path}" for year in range(2010, 2020) for city in ("a%2Fb", "__HIVE_DEFAULT_PARTITION__")]
    manifest = replace(table.unverified, files=tuple(FileEntry(path, entry.size, entry.sha256, entry.rows) for path in sorted(paths)))
    for path in paths:
        (table.folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(table.folder / entry.path, table.folder / path)
    write_manifest(table.folder, sign_manifest(manifest, SIGNER))
    seen = confide("data", "inspect", table.folder, "--json").json
    assert seen["partitions"] == {"year": [str(year) for year in range(2010, 2020)], "city": [None, "a/b"]}
    assert seen["unlisted_files"] == 1
    text = confide("data", "inspect", table.folder).out
    assert "values of column city, in the names of folders: (none), a/b\n" in text
    assert "2017 and 2 more" in text
    assert "1 files that no snapshot lists" in text


def test_a_damaged_folder_is_still_shown(confide: Any, table: SignedManifest) -> None:
    (entry,) = table.unverified.files
    (table.folder / entry.path).unlink()
    (file,) = confide("data", "inspect", table.folder, "--json").json["file_list"]
    assert file["written"] is None
    manifest = replace(table.unverified, kind="files", schema=None, files=(replace(entry, size=1, rows=None),))
    write_manifest(table.folder, sign_manifest(manifest, SIGNER))
    seen = confide("data", "inspect", table.folder, "--json").json
    assert (seen["plaintext_bytes"], seen["file_list"][0]["plaintext_bytes"]) == (None, None)
    assert load_manifest(table.folder).unverified.kind == "files"


def test_only_folders_with_name_and_value_are_partitions() -> None:
    assert partitions(["a=1", "x/=2/f", "v-1/f", "a=1=2/f", "a=/f", "a%3Db=c/f"]) == {"a": ("", "1=2"), "a=b": ("c",)}
