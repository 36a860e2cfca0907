"""Encrypted Parquet files by Arrow's own encryption, which readers must read as well as ours."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from confide.crypto.derive import file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.data.parquet_keys import WRITTEN
from confide.ids import DatasetId


def write_by_arrow(
    place: Path,
    rows: pa.Table,
    key: SecretBytes,
    dataset: DatasetId,
    path: str,
    *,
    group: int | None = None,
    algorithm: str = "AES_GCM_V1",
) -> None:
    """Write a file to ``place``, under the dataset's key for what is called ``path`` in it, in row groups of ``group`` rows."""
    properties = encryption.create_encryption_properties(
        file_key(key, kind="parquet", dataset=dataset, path=path).reveal(),
        aad_prefix=parquet_aad_prefix(dataset, path),
        store_aad_prefix=False,
        encryption_algorithm=algorithm,
    )
    with pq.ParquetWriter(place, rows.schema, encryption_properties=properties, **WRITTEN) as writer:
        writer.write_table(rows, row_group_size=group)
