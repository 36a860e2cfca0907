from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confide.canonical import Json
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import commit, decrypting, files, folder, table_files
from confide.data.manifest import MANIFEST_NAME, Manifest, verify_manifest
from confide.data.schema import schema_json, storable
from confide.data.snapshots import SignedManifest, load_manifest, write_manifest
from confide.errors import DataError, IntegrityError, ManifestError, OutputExistsError, PlaintextError, UnavailableError, UsageError
from confide.ids import DatasetId, RunId, new_dataset_id

SIGNER = SigningKey.generate()
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CANARY = "CANARY-7f3a"


class Owned:
    """A dataset with its key."""

    def __init__(self, source: Path | pa.Table, place: Path) -> None:
        self.key = SecretBytes.random()
        self.dataset: DatasetId = new_dataset_id()
        self.wrapped = wrap(SecretBytes.random(), self.key, key="airline/flights", version=1, dataset=self.dataset)
        self.folder = place
        self.signed: SignedManifest = commit.create_dataset(
            source,
            place,
            name="flights",
            owner="airline",
            dataset=self.dataset,
            dataset_key=self.key,
            wrapped=self.wrapped,
            signer=SIGNER,
            now=NOW,
        )

    @property
    def manifest(self) -> Manifest:
        return verify_manifest(load_manifest(self.folder).envelope, SIGNER.public)

    def read(self) -> pa.Table:
        return files.read_table(self.folder, self.manifest, self.key)


def table(rows: int = 1000) -> pa.Table:
    return pa.table({"x": list(range(rows)), "s": [f"{CANARY}-{i}" for i in range(rows)]})


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_table_reads_back_and_no_plaintext_lies_in_the_folder(tmp_path: Path) -> None:
    owned = Owned(table(), tmp_path / "d")
    assert owned.read().equals(table())
    for file in owned.folder.iterdir():
        assert CANARY.encode() not in file.read_bytes()
    folder.verify_files(owned.folder, owned.manifest)
    assert owned.manifest.rows == 1000


def test_large_table_becomes_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 300)
    owned = Owned(table(1000), tmp_path / "d")
    assert [entry.rows for entry in owned.manifest.files] == [300, 300, 300, 100]
    assert owned.read().equals(table(1000))


def test_empty_table_keeps_its_schema(tmp_path: Path) -> None:
    owned = Owned(table(0), tmp_path / "d")
    assert owned.manifest.rows == 0
    assert owned.read().schema.names == ["x", "s"]


def test_csv_and_parquet_files_are_read_as_tables(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,when\n1,2013-01-01 05:00:00\n2,\n")
    csv = Owned(tmp_path / "a.csv", tmp_path / "from-csv")
    assert csv.read().column("when").to_pylist()[0] == dt.datetime(2013, 1, 1, 5)  # noqa: DTZ001  CSV has no zone
    pq.write_table(table(), tmp_path / "a.parquet")
    assert Owned(tmp_path / "a.parquet", tmp_path / "from-parquet").read().equals(table())


def test_types_that_spark_cannot_read_are_converted_or_refused(tmp_path: Path) -> None:
    source = pa.table({
        "ns": pa.array([1_000], pa.timestamp("ns", tz="Europe/Berlin")),
        "cat": pa.array(["a"]).dictionary_encode(),
        "large": pa.array(["a"], pa.large_string()),
        "nothing": pa.nulls(1),
        "decimal": pa.array([Decimal("1.25")], pa.decimal128(10, 2)),
        "nested": pa.array([[{"k": 1}]], pa.list_(pa.struct([("k", pa.int32())]))),
        "day": pa.array([0], pa.date64()),
    })  # fmt: skip
    owned = Owned(source, tmp_path / "d")
    schema = owned.manifest.schema
    assert schema is not None
    spark = {field["name"]: field["type"] for field in schema["spark"]["fields"]}
    assert spark["ns"] == "timestamp"
    assert (spark["cat"], spark["large"], spark["nothing"], spark["decimal"], spark["day"]) == ("string",) * 3 + ("decimal(10,2)", "date")
    assert spark["nested"]["elementType"]["fields"][0]["type"] == "integer"
    for kind in (pa.uint64(), pa.time64("us"), pa.duration("s"), pa.float16()):
        with pytest.raises(DataError, match="cannot be stored"):
            storable(pa.schema([("c", kind)]))
    with pytest.raises(DataError, match="same name"):
        storable(pa.schema([("a", pa.int8()), ("A", pa.int8())]))


def test_any_flipped_byte_is_refused_by_digest_and_by_decryption(tmp_path: Path) -> None:
    owned = Owned(table(50), tmp_path / "d")
    file = owned.folder / owned.manifest.files[0].path
    whole = file.read_bytes()
    for offset in [*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        flip(file, offset)
        with pytest.raises(IntegrityError):
            folder.verify_files(owned.folder, owned.manifest)
        with pytest.raises((IntegrityError, PlaintextError)):
            owned.read()
        file.write_bytes(whole)
    assert owned.read().num_rows == 50


def test_swapped_missing_added_and_cut_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 20)
    owned = Owned(table(40), tmp_path / "d")
    first, second = (owned.folder / entry.path for entry in owned.manifest.files)
    copy = tmp_path / "copy"
    shutil.copytree(owned.folder, copy)
    first.write_bytes((copy / second.name).read_bytes())
    with pytest.raises(IntegrityError):
        folder.verify_files(owned.folder, owned.manifest)
    with pytest.raises(IntegrityError):  # also without its digest: the file's key is bound to its path
        owned.read()
    first.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        folder.verify_files(owned.folder, owned.manifest)
    first.write_bytes((copy / first.name).read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="length"):
        folder.verify_files(owned.folder, owned.manifest)
    first.write_bytes((copy / first.name).read_bytes())
    (owned.folder / "part-99999.parquet").write_bytes((copy / first.name).read_bytes())
    with pytest.raises(ManifestError, match="not in the manifest"):
        folder.refuse_foreign(owned.folder, folder.listed_files(owned.manifest))


def test_link_in_a_dataset_is_refused(tmp_path: Path) -> None:
    owned = Owned(table(5), tmp_path / "d")
    (owned.folder / "x").symlink_to("/etc/hostname")
    with pytest.raises(ManifestError):
        folder.refuse_foreign(owned.folder, folder.listed_files(owned.manifest))


def test_other_key_or_other_dataset_does_not_open(tmp_path: Path) -> None:
    owned, other = Owned(table(5), tmp_path / "a"), Owned(table(5), tmp_path / "b")
    with pytest.raises(IntegrityError):
        files.read_table(owned.folder, owned.manifest, other.key)


def test_plaintext_is_told_from_encrypted(tmp_path: Path) -> None:
    pq.write_table(table(5), tmp_path / "plain.parquet")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("plain.parquet", "text", "empty"):
        with pytest.raises(PlaintextError):
            folder.check_encrypted(tmp_path / name)
    owned = Owned(table(5), tmp_path / "d")
    path = owned.folder / owned.manifest.files[0].path
    assert folder.check_encrypted(path) == "parquet"
    with pytest.raises(PlaintextError):
        folder.check_encrypted(path, "files")


@pytest.mark.parametrize("kind", ["link to a folder", "link to nothing", "pipe"])
def test_nothing_in_a_folder_is_left_out_unsaid(tmp_path: Path, kind: str) -> None:
    """The owner removes the plaintext when the command has succeeded."""
    source, elsewhere = tmp_path / "src", tmp_path / "elsewhere"
    for place in (source, elsewhere):
        place.mkdir()
        (place / "a.txt").write_text(CANARY)
    if kind == "pipe":
        os.mkfifo(source / "odd")
    else:
        (source / "odd").symlink_to(elsewhere if kind == "link to a folder" else tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a file or folder"):
        Owned(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_folder_of_files_reads_back(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "sub").mkdir(parents=True)
    (source / "a.txt").write_text(CANARY)
    (source / "sub" / "b.json").write_bytes(b"{}" * 100_000)
    owned = Owned(source, tmp_path / "d")
    paths = [entry.path for entry in owned.manifest.files]
    assert len(paths) == 2
    assert files.open_file(owned.folder, owned.manifest, paths[0], owned.key).read() == CANARY.encode()
    decrypting.decrypt(owned.folder, owned.manifest, owned.key, tmp_path / "out")
    assert (tmp_path / "out" / "sub" / "b.json").read_bytes() == b"{}" * 100_000
    with pytest.raises(ManifestError):
        files.open_file(owned.folder, owned.manifest, "other", owned.key)
    with pytest.raises(DataError):
        owned.read()
    (owned.folder / paths[0]).unlink()
    with pytest.raises(IntegrityError):
        files.open_file(owned.folder, owned.manifest, paths[0], owned.key)


def test_nothing_to_encrypt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"no")
    for source in ("src", "missing.txt", "missing.csv", "broken.parquet"):
        with pytest.raises(DataError):
            Owned(tmp_path / source, tmp_path / "d")
        assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_is_decrypted_to_a_file(tmp_path: Path, suffix: str) -> None:
    owned = Owned(table(10), tmp_path / "d")
    target = tmp_path / f"out.{suffix}"
    decrypting.decrypt(owned.folder, owned.manifest, owned.key, target)
    assert CANARY.encode() in target.read_bytes()
    with pytest.raises(OutputExistsError):
        decrypting.decrypt(owned.folder, owned.manifest, owned.key, target)
    with pytest.raises(DataError):
        decrypting.decrypt(owned.folder, owned.manifest, owned.key, tmp_path / "out.xlsx")


def test_failed_decryption_leaves_nothing(tmp_path: Path) -> None:
    owned = Owned(table(10), tmp_path / "d")
    with pytest.raises(IntegrityError):
        decrypting.decrypt(owned.folder, owned.manifest, SecretBytes.random(), tmp_path / "out.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_output_that_exists_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(OutputExistsError):
        Owned(table(), tmp_path / "d")
    assert not list((tmp_path / "d").iterdir())


def test_full_disk_leaves_nothing_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_files, "sync_file", full)
    with pytest.raises(UnavailableError, match="No space left"):
        Owned(table(), tmp_path / "d")
    assert not list(tmp_path.iterdir())


def test_dataset_that_the_broker_refuses_does_not_appear(tmp_path: Path) -> None:
    def refuse(_: object) -> None:
        raise UsageError("no")

    key, dataset = SecretBytes.random(), new_dataset_id()
    wrapped = wrap(SecretBytes.random(), key, key="a/b", version=1, dataset=dataset)
    facts = {"name": "d", "owner": "a", "dataset": dataset, "dataset_key": key, "wrapped": wrapped, "signer": SIGNER, "now": NOW}
    with pytest.raises(UsageError):
        commit.create_dataset(table(), tmp_path / "d", register=refuse, **facts)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# --- what a job wrote ---------------------------------------------------------------------------------------------


def staged(tmp_path: Path) -> tuple[Path, Owned]:
    owned = Owned(table(20), tmp_path / "d")
    (owned.folder / MANIFEST_NAME).unlink()
    return owned.folder, owned


def commit_it(
    owned: Owned, kind: str = "parquet", check_paths: Callable[[Sequence[str]], None] = list, spark: Json | None = None
) -> SignedManifest:
    signed = commit.commit_staged(
        owned.folder,
        kind=kind,
        spark_schema=spark,
        name="result",
        run=RunId("delays-1"),
        dataset=owned.dataset,
        dataset_key=owned.key,
        wrapped=owned.wrapped,
        signer=SIGNER,
        now=NOW,
        check_paths=check_paths,
    )
    write_manifest(owned.folder, signed.envelope)
    return signed


def test_commit_makes_a_dataset_of_staged_files(tmp_path: Path) -> None:
    _, owned = staged(tmp_path)
    signed = commit_it(owned)
    assert signed.unverified.run == "delays-1"
    assert owned.manifest.rows == 20
    folder.verify_files(owned.folder, owned.manifest)
    assert owned.read().num_rows == 20


def test_commit_refuses_plaintext_leftovers_and_emptiness(tmp_path: Path) -> None:
    place, owned = staged(tmp_path)
    pq.write_table(table(5), place / "part-x.parquet")
    with pytest.raises(PlaintextError):
        commit_it(owned)
    (place / "part-x.parquet").unlink()
    (place / "_temporary").mkdir()
    with pytest.raises(DataError, match="uncommitted"):
        commit_it(owned)
    (place / "_temporary").rmdir()
    with pytest.raises(UsageError):
        commit_it(owned, "orc")
    with pytest.raises(PlaintextError):
        commit_it(owned, "files")
    for file in place.glob("*.parquet"):
        file.rename(place / "renamed.parquet")
    with pytest.raises(IntegrityError):  # its key is bound to the old name
        commit_it(owned)
    (place / "renamed.parquet").unlink()
    with pytest.raises(DataError, match="no file"):
        commit_it(owned)
    assert not (place / MANIFEST_NAME).exists()


def test_commit_refuses_a_file_in_the_place_of_another(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_text(name)
    owned = Owned(source, tmp_path / "d")
    (owned.folder / MANIFEST_NAME).unlink()
    first, second = sorted(path for path in owned.folder.rglob("*") if path.is_file())
    first.write_bytes(second.read_bytes())
    with pytest.raises(IntegrityError):
        commit_it(owned, "files")


def test_commit_refuses_a_file_without_a_column_of_its_table(tmp_path: Path) -> None:
    _, owned = staged(tmp_path)
    more = schema_json(pa.schema([("x", pa.int64()), ("s", pa.string()), ("day", pa.date32())]))["spark"]
    with pytest.raises(DataError, match="lacks columns: day"):
        commit_it(owned, spark=more)
