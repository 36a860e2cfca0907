"""An encrypted table of several files of several row groups, of few rows, and its frames of Polars."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest

from confide.crypto.derive import file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.data import table_files
from confide.data.files import encrypt_table
from confide.data.opened_table import OpenedMemory
from confide.data.parquet_scan import TableScan
from confide.data.pinned_parquet import FileAccess, TableFile
from confide.data.staging import Attempt
from confide.ids import DatasetId

if TYPE_CHECKING:
    from confide.data.read_counts import Totals

DATASET = DatasetId("5c" * 16)
ROWS = 5000


def access_under(key: SecretBytes, dataset: DatasetId = DATASET) -> Callable[[str], FileAccess]:
    """What opens the files of a table under the dataset's key, by their paths."""
    return lambda path: FileAccess(file_key(key, kind="parquet", dataset=dataset, path=path), parquet_aad_prefix(dataset, path))


class ScannedTable:
    """An encrypted table in a folder; ``given`` are the keys that scans of it were given."""

    def __init__(self, folder: Path, table: pa.Table, *, kept: bool = False) -> None:
        """``kept``: columns stay open from one query of a frame to the next."""
        attempt = Attempt(folder)
        self.folder = attempt.files
        self.folder.mkdir(parents=True)
        self.key = SecretBytes.random()
        written = encrypt_table(table, attempt, self.key, dataset=DATASET)
        assert written.schema is not None
        self.schema = written.schema
        self.columns = written.schema["columns"]
        self.files = [TableFile(entry.path, entry.size, entry.rows or 0) for entry in written.files]
        self.given: list[tuple[str, SecretBytes]] = []
        self.kept = kept

    def key_of(self, path: str) -> FileAccess:
        access = access_under(self.key)(path)
        self.given.append((path, access.key))
        return access

    def scan(self, *, totals: Totals | None = None, memory: OpenedMemory | None = None, **changes: Any) -> TableScan:
        given: dict[str, Any] = {"files": self.files, "key_of": self.key_of, "columns": self.columns, **changes}
        schema = {**self.schema, "columns": given["columns"]}
        kept = memory or (OpenedMemory() if self.kept else None)
        return TableScan(self.folder, given["files"], given["key_of"], schema, totals=totals, memory=kept)

    def frame(self, **changes: Any) -> pl.LazyFrame:
        return self.scan(**changes).frame("table")

    @property
    def first(self) -> Path:
        return self.folder / self.files[0].path


def make_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files with up to four row groups each, of :data:`ROWS` rows."""
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 2000)
    monkeypatch.setattr(table_files, "ROWS_PER_GROUP", 500)


def all_types() -> pa.Table:
    """Columns of every type."""
    numbers = list(range(ROWS))
    return pa.table({
        "id": pa.array(numbers, pa.int64()),
        "small": pa.array([n % 100 if n % 7 else None for n in numbers], pa.int8()),
        "real": pa.array([n / 3 if n % 11 else float("nan") for n in numbers], pa.float64()),
        "price": pa.array([Decimal(n) / 100 for n in numbers], pa.decimal128(15, 2)),
        "day": pa.array([date.fromordinal(730_000 + n // 10) for n in numbers], pa.date32()),
        "at": pa.array([datetime(2020, 1, 1, n % 24, tzinfo=UTC) for n in numbers], pa.timestamp("us", tz="UTC")),
        "local": pa.array([datetime(2020, 1, 1, n % 24) for n in numbers], pa.timestamp("us")),  # noqa: DTZ001 - without a zone
        "text": pa.array([f"Zeile {n} \u2713" if n % 5 else None for n in numbers], pa.string()),
        "flag": pa.array([n % 2 == 0 for n in numbers], pa.bool_()),
        "raw": pa.array([n.to_bytes(3, "big") for n in numbers], pa.binary()),
        "many": pa.array([[n, n + 1][: n % 3] for n in numbers], pa.list_(pa.int64())),
        "pair": pa.array([{"a": n, "b": str(n)} for n in numbers], pa.struct([("a", pa.int64()), ("b", pa.string())])),
    })  # fmt: skip
