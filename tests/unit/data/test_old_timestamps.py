"""Parquet's old timestamps (INT96), as Spark writes them by itself, are read as what they are, in any year."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.scanned_table import DATASET
from support.tables import OwnedTable

from confide.crypto.derive import file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.data import parquet_keys
from confide.data.files import encrypt_table, open_parquet
from confide.data.sources import plain_sources
from confide.data.staging import Attempt
from confide.data.tables import TableInput

MOMENTS = [datetime(1, 1, 1), datetime(1677, 1, 1, 0, 0, 0, 1), datetime(2024, 2, 29, 12), None, datetime(9999, 12, 31, 23, 59, 59, 999999)]  # noqa: DTZ001 - without a zone
TABLE = pa.table({"at": pa.array(MOMENTS, pa.timestamp("us"))})


def test_a_file_of_them_becomes_a_table_of_the_same_moments(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "old.parquet", use_deprecated_int96_timestamps=True)
    assert pq.ParquetFile(tmp_path / "old.parquet").schema.column(0).physical_type == "INT96"
    attempt, key = Attempt(tmp_path / "dataset"), SecretBytes.random()
    attempt.files.mkdir(parents=True)
    written = encrypt_table(TableInput(tuple(plain_sources(tmp_path / "old.parquet")), "parquet"), attempt, key, dataset=DATASET)
    (entry,) = written.files
    assert open_parquet(attempt.files, entry.path, key, DATASET).read()["at"].to_pylist() == MOMENTS


@pytest.mark.parametrize("old", [True, False])
def test_an_encrypted_file_of_them_opens_to_the_same_moments(tmp_path: Path, old: bool) -> None:
    key = SecretBytes.random()
    properties = pq.encryption.create_encryption_properties(
        file_key(key, kind="parquet", dataset=DATASET, path="a.parquet").reveal(),
        aad_prefix=parquet_aad_prefix(DATASET, "a.parquet"),
        store_aad_prefix=False,
    )
    pq.write_table(TABLE, tmp_path / "a.parquet", use_deprecated_int96_timestamps=old, encryption_properties=properties)
    assert open_parquet(tmp_path, "a.parquet", key, DATASET).read()["at"].to_pylist() == MOMENTS


def test_a_file_of_them_under_keys_of_columns_opens_to_the_same_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Spark of another installation may write it."""
    monkeypatch.setattr(parquet_keys, "WRITTEN", {**parquet_keys.WRITTEN, "use_deprecated_int96_timestamps": True})
    table = OwnedTable(tmp_path / "grouped", TABLE.append_column("n", pa.array(range(len(MOMENTS)))), grouped={"numbers": ("n",)})
    (entry,) = table.manifest.files
    keys = parquet_keys.TableKeys(table.manifest.dataset, table.key, table.keys("numbers"))
    with parquet_keys.open_grouped(tmp_path / "grouped" / entry.path, keys, entry.path) as file:
        assert file.schema.column(0).physical_type == "INT96"
        assert file.read(["at"])["at"].to_pylist() == MOMENTS
