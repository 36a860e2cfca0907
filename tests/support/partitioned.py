"""A table whose last columns are the names of folders, as a run's ``partitionBy`` leaves it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
from support.arrow_writer import write_by_arrow

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import commit_staged
from confide.data.manifest import Manifest
from confide.ids import DatasetId, RunId

FOLDERS = {
    "year=2013/day=2013-01-05/part=a%2Fb/price=1.50": [0, 1, 2],
    "year=2013/day=2013-01-06/part=c/price=2.25": [3, 4],
    "year=__HIVE_DEFAULT_PARTITION__/day=2014-02-01/part=__HIVE_DEFAULT_PARTITION__/price=__HIVE_DEFAULT_PARTITION__": [5],
    "year=2014/day=2014-02-01/part=c/price=9.00": [6, 7],
}
ROWS = [
    *({"id": n, "year": 2013, "day": date(2013, 1, 5), "part": "a/b", "price": Decimal("1.50")} for n in (0, 1, 2)),
    *({"id": n, "year": 2013, "day": date(2013, 1, 6), "part": "c", "price": Decimal("2.25")} for n in (3, 4)),
    {"id": 5, "year": None, "day": date(2014, 2, 1), "part": None, "price": None},
    *({"id": n, "year": 2014, "day": date(2014, 2, 1), "part": "c", "price": Decimal("9.00")} for n in (6, 7)),
]
_TYPES = {"id": "long", "year": "integer", "day": "date", "part": "string", "price": "decimal(5,2)"}


def partitioned(folder: Path, dataset: DatasetId, key: SecretBytes) -> Manifest:
    """Write it, sign its manifest."""
    for number, (name, ids) in enumerate(FOLDERS.items()):
        path = f"{name}/part-{number}.parquet"
        (folder / name).mkdir(parents=True)
        rows = pa.table({"id": pa.array(ids, pa.int64())})
        write_by_arrow(folder / path, rows, key, dataset, path, group=2)
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in _TYPES.items()]
    return commit_staged(
        folder,
        kind="parquet",
        spark_schema={"type": "struct", "fields": fields},
        name="flights",
        run=RunId("r-1"),
        dataset=dataset,
        dataset_key=key,
        wrapped=wrap(SecretBytes.random(), key, key="airline/k", version=1, dataset=dataset),
        signer=SigningKey.generate(),
        now=datetime(2026, 11, 27, tzinfo=UTC),
        check_paths=lambda paths: None,
    ).unverified
