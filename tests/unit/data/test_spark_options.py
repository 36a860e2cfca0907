"""Options that a program gives to Spark's readers and writers: of a data format, and none about where data is or how it is sealed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from confide.data.spark import DataContext
from confide.data.spark_frames import check_options
from confide.errors import UsageError

REFUSED = (
    "path",
    "PATH",
    "paths",
    "basePath",
    "__globPaths__",
    "fs.enc.impl",
    "hadoop.security.key.provider.path",
    "mapreduce.output.fileoutputformat.compress",
    "parquet.crypto.factory.class",
    "Parquet.Crypto.factory.class",
    "parquet.encryption.uniform.key",
    "spark.sql.parquet.compression.codec",
)


@pytest.fixture
def context() -> DataContext:
    """Without Spark: options are looked at before anything is asked of it."""
    schema = {"spark": {"type": "struct", "fields": []}}
    inputs = {
        "flights": {"kind": "parquet", "schema": schema, "path": "/data/flights", "files": ["a.parquet"]},
        "notes": {"kind": "files", "schema": None, "path": "/data/notes", "files": ["v-1/a.csv"]},
    }
    return DataContext(cast("Any", None), {"arguments": [], "inputs": inputs, "outputs": {"result": {}}}, cast("Any", None))


USES: dict[str, Callable[[DataContext, dict[str, Any]], object]] = {
    "table": lambda ctx, options: ctx.read("flights", **options),
    "files": lambda ctx, options: ctx.read("notes", "csv", **options),
    "stream of a table": lambda ctx, options: ctx.read_stream("flights", **options),
    "stream of files": lambda ctx, options: ctx.read_stream("notes", "csv", **options),
    "output": lambda ctx, options: ctx.write(cast("Any", None), "result", **options),
}


@pytest.mark.parametrize("option", REFUSED)
@pytest.mark.parametrize("use", USES)
def test_an_option_that_is_confides_is_refused(context: DataContext, use: str, option: str) -> None:
    with pytest.raises(UsageError, match="not one of a data format"):
        USES[use](context, {option: "x"})


def test_options_of_formats_pass() -> None:
    check_options({"header": True, "maxFilesPerTrigger": 2, "compression": "gzip", "pathGlobFilter": "*.csv", "mergeSchema": True})
