"""The program that both Sparks run: does what it is asked on its standard input, one JSON object a line, until that closes.

Inside a Confide group it is the job's program; alone it makes a session of plain Spark.  Nothing here knows which files are encrypted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from confide.data.committed import AGENT_SOCKET

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pyspark.sql import DataFrame, SparkSession

MARK = "benchmark: "
_START_S = 600.0


class Data(Protocol):
    """What a job's program has: ``confide.data.spark.DataContext``, and :class:`PlainData`."""

    spark: SparkSession

    def read(self, name: str) -> DataFrame:
        """An input that is a table."""

    def files(self, name: str) -> list[str]:
        """The files of another input."""

    def write(self, frame: DataFrame, name: str) -> object:
        """Write a table."""

    def writing(self, name: str) -> AbstractContextManager[str]:
        """A folder for other files."""


class PlainData:
    """Plain files in plain Spark, under the names that the group uses."""

    def __init__(self, given: Any) -> None:
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master("local[2]")
        for name, value in given["properties"].items():
            builder = builder.config(name, value)
        self.spark = builder.getOrCreate()
        self.inputs, self.outputs = given["inputs"], Path(given["outputs"])

    def read(self, name: str) -> DataFrame:
        """A plain table, with the schema of the encrypted one's manifest, as Confide reads it."""
        from pyspark.sql.types import StructType

        schema = StructType.fromJson(self.inputs[name]["schema"]["spark"])
        return self.spark.read.schema(schema).parquet(*self.files(name))

    def files(self, name: str) -> list[str]:
        """Plain files."""
        found = self.inputs[name]
        return [f"file://{found['path']}/{file}" for file in found["files"]]

    def write(self, frame: DataFrame, name: str) -> None:
        """A plain table."""
        frame.write.parquet(f"file://{self.outputs / name}")

    @contextmanager
    def writing(self, name: str) -> Iterator[str]:
        """A plain folder."""
        yield f"file://{self.outputs / name}"


# --- what can be asked for ---------------------------------------------------------------------------------------------


def view(data: Data, name: str) -> None:
    """Name a table for SQL."""
    data.read(name).createOrReplaceTempView(name)


def sql(data: Data, text: str) -> list[str]:
    """All rows of a query, as text."""
    from benchmarks.tpch.answers import line

    return [line(row) for row in data.spark.sql(text).collect()]


def scan(data: Data, source: dict[str, Any]) -> None:
    """Read every row and column and do nothing with them."""
    _frame(data, source).write.format("noop").mode("overwrite").save()


def checksum(data: Data, source: dict[str, Any]) -> list[str]:
    """How many rows there are, and the sum of their hashes."""
    from pyspark.sql import functions as F  # noqa: N812 - everybody's name for it

    frame = _frame(data, source)
    hashes = F.sum(F.xxhash64(*frame.columns).cast("decimal(38,0)"))
    return [str(value) for value in frame.agg(F.count(F.lit(1)), hashes).collect()[0]]


def keep(data: Data, name: str) -> int:
    """Hold a table in the executors' memory, to write it from there."""
    return data.read(name).cache().count()


def write(data: Data, name: str, kind: str, output: str) -> None:
    """Write a table to a new output."""
    frame = data.read(name)
    if kind == "parquet":
        data.write(frame, output)
        return
    if kind == "text":
        frame = frame.selectExpr("concat_ws('|', *) AS value")
    with data.writing(output) as folder:
        frame.write.mode("append").format(kind).save(folder)


def _frame(data: Data, source: dict[str, Any]) -> DataFrame:
    """``source``: a name; for other files than tables ``format`` with ``options`` and ``schema``; ``where``: only rows that match."""
    if "format" not in source:
        frame = data.read(source["name"])
    else:
        reader = data.spark.read.format(source["format"]).options(**source.get("options", {}))
        reader = reader.schema(source["schema"]) if "schema" in source else reader  # guessing it would read the files twice
        frame = reader.load(data.files(source["name"]))
    return frame.where(source["where"]) if "where" in source else frame


_ASKED: dict[str, Callable[..., Any]] = {"view": view, "sql": sql, "scan": scan, "checksum": checksum, "keep": keep, "write": write}


def main() -> None:
    """Answer until nobody asks."""
    data: Data
    if AGENT_SOCKET in os.environ:
        from confide.data import spark
        from confide.node.local_socket import LocalSocketClient

        agent = LocalSocketClient(Path(os.environ[AGENT_SOCKET]), timeout_s=_START_S)
        agent.call("await-driver")  # on a busy machine a driver takes longer than a program waits for it
        agent.close()
        data = spark.session()
    else:
        data = PlainData(json.loads(sys.argv[1]))
    _say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        value = _ASKED[request.pop("do")](data, **request)
        _say({"value": value, "wall": time.perf_counter() - began})


def _say(answer: object) -> None:
    sys.stdout.write(f"{MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
