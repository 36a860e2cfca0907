"""From BigDL's output to a dataset: which files are taken, that all are checked first, and that nothing is left of a failure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.bigdl_encoder import PRIMARY, SHORT, STRONG, Encoded, wrapped_by_aes

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.bigdl_import import Checked, check_files
from confide.data.bigdl_keys import DataKey, PrimaryKey
from confide.data.commit import create_dataset
from confide.data.decrypting import decrypt
from confide.data.folder import verify_files
from confide.data.snapshots import SignedManifest
from confide.errors import DataError, IntegrityError, ParseError, WeakKeyError
from confide.ids import new_dataset_id

CANARY = "CANARY-4c1f"
ROWS = [f"id,name\n{n},{CANARY}-{n}\n" * 40 for n in range(3)]
SIGNER = SigningKey.generate()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What Spark leaves with BigDL's codec: parts, one of them in a partition's folder, marks and checksums."""
    folder = tmp_path / "flights"
    (folder / "year=2020").mkdir(parents=True)
    for place, text in zip(("part-0.csv.cbc", "part-1.csv.cbc", "year=2020/part-0.csv.cbc"), ROWS, strict=True):
        (folder / place).write_bytes(bytes(Encoded(text.encode())))
    (folder / "_SUCCESS").touch()
    (folder / ".meta").write_text('{"encryptedDataKey":"wrapped"}\n')
    (folder / ".part-0.csv.cbc.crc").write_bytes(b"crc\0")
    return folder


def checked(*sources: Path, key: str = STRONG, **options: Any) -> Checked:
    data_key = DataKey.parse(key.encode())
    return check_files(sources, lambda _: data_key, **options)


class Made:
    """A dataset of checked files."""

    def __init__(self, files: Checked, place: Path, on_read: Callable[[int], None] = lambda _: None) -> None:
        self.key, dataset = SecretBytes.random(), new_dataset_id()
        wrapped = wrap(SecretBytes.random(), self.key, key="airline/flights", version=1, dataset=dataset)
        self.signed: SignedManifest = create_dataset(
            files.sources(on_read), place, name="flights", owner="airline", dataset=dataset, dataset_key=self.key,
            wrapped=wrapped, signer=SIGNER, now=datetime(2026, 1, 1, tzinfo=UTC),
        )  # fmt: skip


def test_output_of_spark_becomes_a_dataset_of_the_same_files(output: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    made = Made(checked(output), tmp_path / "made")
    manifest = made.signed.unverified
    verify_files(tmp_path / "made", manifest)
    assert manifest.kind == "files"
    decrypt(tmp_path / "made", manifest, made.key, tmp_path / "back")
    back = tmp_path / "back"
    found = {path.relative_to(back).as_posix(): path.read_text() for path in back.rglob("*") if path.is_file()}
    assert found == {"part-0.csv": ROWS[0], "part-1.csv": ROWS[1], "year=2020/part-0.csv": ROWS[2]}
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_no_plaintext_is_on_the_disk_while_or_after_it_is_imported(output: Path, tmp_path: Path) -> None:
    seen: list[bytes] = []

    def look(_: int) -> None:
        seen.extend(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    Made(checked(output), tmp_path / "made", look)
    look(0)
    assert len(seen) > 10
    assert not any(CANARY.encode() in data for data in seen)


def test_progress_counts_all_bytes(output: Path, tmp_path: Path) -> None:
    told: list[int] = []
    files = checked(output, told=told.append)
    total = sum(file.size - 432 for _, file in files.files)
    assert (told[-1], sorted(told)) == (total, told)
    Made(files, tmp_path / "made", told.append)
    assert told[-1] == total


def test_single_files_are_taken_under_any_name(output: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bytes(Encoded(b"\xff\0")))
    files = checked(tmp_path / "old", output / "part-0.csv.cbc")
    assert [name for name, _ in files.files] == ["old", "part-0.csv"]


def test_each_file_has_the_data_key_of_its_header(output: Path) -> None:
    other = "AAECAwQFBgcICQoLDA0ODg=="
    (output / "part-0.csv.cbc").write_bytes(bytes(Encoded(b"a", SHORT, wrapped_by_aes(SHORT))))
    (output / "part-1.csv.cbc").write_bytes(bytes(Encoded(b"b", other, wrapped_by_aes(other))))
    (output / "year=2020" / "part-0.csv.cbc").unlink()
    primary = PrimaryKey.parse(PRIMARY.encode())
    files = check_files([output], lambda header: primary.unwrap(header.wrapped), accept_weak=True)
    assert [file.open().read() for _, file in files.files] == [b"a", b"b"]
    assert files.weaknesses == ("has 32 secret bits: BigDL cut it from 24 letters, and anybody can try them all",)
    with pytest.raises(WeakKeyError):
        check_files([output], lambda header: primary.unwrap(header.wrapped))


# --- refused ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["notes.txt", "part-2.snappy.parquet", "part-3.csv", "_metadata", "sub/x"])
def test_file_that_the_codec_did_not_write_is_not_left_out_unsaid(output: Path, name: str) -> None:
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_bytes(b"plain")
    with pytest.raises(DataError, match=r"not a \.cbc file"):
        checked(output)


def test_folder_without_such_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(DataError, match=r"there is no \.cbc file"):
        checked(tmp_path)


def test_two_files_of_one_name_are_refused(output: Path) -> None:
    with pytest.raises(DataError, match="two files would be"):
        checked(output, output / "year=2020")


def test_name_that_is_nothing_without_its_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".cbc").write_bytes(bytes(Encoded(b"a")))
    with pytest.raises(ParseError):
        checked(tmp_path / ".cbc")


def test_empty_file_is_refused_or_left_out_as_told(output: Path) -> None:
    (output / "part-1.csv.cbc").write_bytes(b"")
    with pytest.raises(IntegrityError, match="is empty"):
        checked(output)
    files = checked(output, skip_empty=True)
    assert (files.left_out, len(files.files)) == (("part-1.csv",), 2)


def test_copy_of_a_file_under_another_name_is_refused(output: Path) -> None:
    (output / "part-9.csv.cbc").write_bytes((output / "part-0.csv.cbc").read_bytes())
    with pytest.raises(IntegrityError, match="copy of"):
        checked(output)


def test_copy_with_another_header_is_refused(output: Path) -> None:
    data = bytearray((output / "part-0.csv.cbc").read_bytes())
    data[15] ^= 1  # the IV's first byte: "id,…" becomes "hd,…", which is text
    (output / "part-9.csv.cbc").write_bytes(data)
    with pytest.raises(IntegrityError, match="copy of"):
        checked(output)


def test_header_of_another_file_is_refused_while_that_one_is_there(output: Path) -> None:
    """Both files begin alike, so the text says nothing."""
    one, other = (output / name for name in ("part-0.csv.cbc", "part-1.csv.cbc"))
    one_iv = one.read_bytes()[15:31]
    other.write_bytes(bytes(Encoded(b"", iv=one_iv)))
    with pytest.raises(IntegrityError, match="copy of"):
        checked(output)


def test_one_bad_file_stops_all_before_anything_is_made(output: Path, tmp_path: Path) -> None:
    last = output / "year=2020" / "part-0.csv.cbc"
    last.write_bytes(last.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError):
        checked(output)
    assert [path.name for path in tmp_path.iterdir()] == ["flights"]


def test_file_that_changes_between_check_and_import_leaves_no_dataset(output: Path, tmp_path: Path) -> None:
    files = checked(output)
    last = output / "year=2020" / "part-0.csv.cbc"
    data = bytearray(last.read_bytes())
    data[450] ^= 1
    last.write_bytes(data)
    with pytest.raises(IntegrityError):
        Made(files, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["flights"]


def test_file_that_goes_between_check_and_import_leaves_no_dataset(output: Path, tmp_path: Path) -> None:
    files = checked(output)
    (output / "part-1.csv.cbc").unlink()
    with pytest.raises(DataError, match="cannot read"):
        Made(files, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["flights"]
