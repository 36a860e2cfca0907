"""What the tasks of a job left in an output's staging folder: each file is looked at before anything is signed for it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from confide.canonical import Json
from confide.crypto.container import ContainerReader
from confide.crypto.secret import SecretBytes
from confide.data.files import open_parquet
from confide.data.folder import check_encrypted, data_files, describe
from confide.data.manifest import Kind, Written
from confide.data.partitions import require_columns, whole_schema
from confide.data.schema import schema_json, storable
from confide.durable import sync_file
from confide.errors import DataError
from confide.ids import DatasetId
from confide.regular_file import open_regular


def collect_staged(
    folder: Path,
    kind: Kind,
    dataset_key: SecretBytes,
    *,
    dataset: DatasetId,
    spark_schema: Json | None = None,
    kept: Written | None = None,
) -> Written:
    """Describe what a job wrote into its staging folder: each file opens under its own path, and nothing else is there.

    Makes the files durable.  Those that are ``kept`` were described before, and are not looked at again.

    Raises:
        PlaintextError: a file is not encrypted.
        IntegrityError: a file does not open under the dataset's key and its path.
        DataError: an uncommitted task's file is left, or there is nothing.
    """
    before = {entry.path: entry for entry in kept.files} if kept is not None else {}
    entries, columns = [], None
    for path in data_files(folder):
        if path in before:
            entries.append(before[path])
            continue
        check_encrypted(folder / path, kind)
        rows = None
        if kind == "parquet":
            meta = open_parquet(folder, path, dataset_key, dataset)
            rows, columns = meta.metadata.num_rows, meta.schema_arrow
            if spark_schema is not None:
                require_columns(path, columns.names, spark_schema)
        else:
            ContainerReader(open_regular(folder / path), dataset_key, dataset, path).close()
        with (folder / path).open("rb+") as file:
            sync_file(file)
        entries.append(describe(folder, path, rows=rows))
    if not entries:
        raise DataError("the job wrote no file", path=str(folder))
    schema = kept.schema if columns is None and kept is not None else _written_schema(columns, spark_schema)
    return Written(kind, tuple(sorted(entries, key=lambda entry: entry.path)), schema)


def _written_schema(columns: pa.Schema | None, spark: Json | None) -> Json | None:
    if columns is None:
        return None
    if spark is None:
        return schema_json(storable(columns))
    return {"columns": schema_json(storable(whole_schema(columns, spark)))["columns"], "spark": spark}
