"""Structured Streaming in a job's program: streams over inputs, and what queries leave in an output.

A stream's checkpoint is encrypted like the output that it lies in and goes when that is committed: it serves restarts within one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from confide.errors import UsageError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from confide.canonical import Json

_CHECKPOINTS: Final = "_checkpoints"
_SETTING: Final = "spark.sql.streaming.checkpointLocation"


def read_stream(
    spark: SparkSession, found: Json, file_format: str, schema: StructType | str | None, options: Mapping[str, Any]
) -> DataFrame:
    """A stream over the files of an input; ``found`` is what the agent says of it."""
    reader = spark.readStream.format(file_format)
    if schema is not None:
        reader = reader.schema(schema)
    if not any("=" in folder for file in found["files"] for folder in file.split("/")[:-1]):
        reader = reader.option("recursiveFileLookup", value=True)  # else Spark takes the folders for partitions
    scheme = "file" if file_format == "parquet" and found["kind"] == "parquet" else "enc"
    return reader.options(**options).load(f"{scheme}://{found['path']}")


@contextmanager
def settled(spark: SparkSession, place: str) -> Iterator[None]:
    """Around everything that writes into ``place``: queries keep their checkpoints in it unless they name another folder.

    On leaving, files that no finished batch wrote are taken away, and so are the checkpoints.

    Raises:
        UsageError: a streaming query still runs.
    """
    checkpoints = f"{place}/{_CHECKPOINTS}"
    spark.conf.set(_SETTING, checkpoints)
    try:
        yield
    finally:
        spark.conf.unset(_SETTING)
    active = [query.name or query.id for query in spark.streams.active]
    if active:
        hint = "await its end, or stop() it, before the output is committed"
        raise UsageError(f"a streaming query still runs: {active[0]}", hint=hint, queries=", ".join(active))
    gateway: Any = spark.sparkContext._gateway  # noqa: SLF001 - PySpark has no other way to it
    gateway.entry_point.settle(place, checkpoints)
