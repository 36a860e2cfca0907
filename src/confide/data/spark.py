"""The Spark session of a job's program: its inputs as data frames, its outputs as encrypted datasets.

Runs in the user's process, a child of the driver's agent, and knows only the agent's socket.  Holds no key: executors ask their own
node's agent for the key of each file.  What may be read and written is decided by the agents, not here.
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confide.data import tracebacks
from confide.data.committed import AGENT_SOCKET
from confide.data.gateway import connect
from confide.data.spark_frames import InputReader, OutputWriter, check_options, commit, saving
from confide.data.streaming import read_stream, settled
from confide.errors import ExtraMissingError, ProtocolError, UsageError
from confide.node.local_socket import LocalSocketClient

try:
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import AnalysisException
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType
except ImportError as missing:
    raise ExtraMissingError("PySpark is not installed", hint="pip install 'confide[spark]'") from missing

if TYPE_CHECKING:
    from confide.canonical import Json

class DataContext:
    """A job's data.  ``spark`` is an ordinary ``SparkSession``; everything else of Spark is reached through it."""

    def __init__(self, agent: LocalSocketClient, info: Json, spark: SparkSession) -> None:
        self._agent = agent
        self._info = info
        self._reader = InputReader(spark, info["inputs"])
        self._writer = OutputWriter(agent)
        self._views: set[str] = set()
        self.spark = spark
        self.arguments: tuple[str, ...] = tuple(info["arguments"])

    def __repr__(self) -> str:
        return f"DataContext(run={self._info['run']!r}, inputs={self.inputs}, outputs={self.outputs})"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the job's inputs."""
        return tuple(sorted(self._info["inputs"]))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the job's outputs."""
        return tuple(sorted(self._info["outputs"]))

    @property
    def read(self) -> InputReader:
        """Inputs as data frames: ``ctx.read("flights")``, ``ctx.read.csv("notes", header=True)``."""
        return self._reader

    @property
    def write(self) -> OutputWriter:
        """Data frames as outputs: ``ctx.write(frame, "result")``, ``ctx.write.json(frame, "report", partitionBy="year")``."""
        return self._writer

    def read_stream(self, name: str, format: str | None = None, schema: StructType | str | None = None, **options: Any) -> DataFrame:  # noqa: A002
        """The input ``name`` as a streaming data frame: its files as of the run's start, some at a time (``maxFilesPerTrigger``).

        As :meth:`read`; a dataset of other files needs a ``schema`` too, because streams do not look for one (``text`` has one).

        Raises:
            UsageError: as :meth:`read`; or another input is another snapshot of the same dataset.
        """
        found = self._reader.input(name)
        if (found["kind"] == "parquet") != (format is None):
            raise UsageError(f"input {name!r} holds {found['kind']}", hint="leave format out for tables, name it for other files")
        check_options(options)
        if any(other != name and one["path"] == found["path"] for other, one in self._info["inputs"].items()):
            raise UsageError("two snapshots of one dataset are inputs, and a stream cannot tell them apart", hint=f"use read({name!r})")
        if format is None:
            return read_stream(self.spark, found, "parquet", StructType.fromJson(found["schema"]["spark"]), options)
        return read_stream(self.spark, found, format, schema, options)

    def files(self, name: str) -> list[str]:
        """The paths of the files of an input that holds no tables, as Spark's readers take them (``enc://``).

        Raises:
            UsageError: the job has no such input, or it is a table.
        """
        found = self._reader.input(name)
        if found["kind"] == "parquet":
            raise UsageError(f"input {name!r} is a table", hint=f"use read({name!r})")
        return [f"enc://{found['path']}/{file}" for file in found["files"]]

    def folder(self, name: str) -> str:
        """The folder of an input that holds no table (``enc://``), for what is loaded from one: models of MLlib.

        Raises:
            UsageError: the job has no such input, or it is a table.
        """
        self.files(name)
        return f"enc://{self._reader.input(name)['path']}"

    @contextmanager
    def writing(self, name: str) -> Iterator[str]:
        """A folder (``enc://``) for the output ``name``, to save other files in: models, RDDs, several things.  Committed on leaving.

        Raises:
            UsageError: the job has no such output, or it was saved before.
        """
        with saving(self._agent, name, kind="files") as answer:
            place = f"enc://{answer['path']}"
            with settled(self.spark, place):
                yield place
            commit(self._agent, name, "files", schema=None)

    def sql(self, query: str, args: dict[str, Any] | list[Any] | None = None, **tables: DataFrame) -> DataFrame:
        """Run Spark SQL.  Inputs that are tables are there by their names; a temporary view of the program's own goes first.

        ``{name}`` in the query stands for the data frame of that name, ``:name`` and ``?`` for ``args`` (as ``SparkSession.sql``).

        Raises:
            UsageError: the query names an input of other files that is no view yet.
        """
        while True:
            try:
                return self.spark.sql(query, args, **dict[str, Any](tables))
            except AnalysisException as error:
                if not self._made_view(error):
                    raise

    def _made_view(self, error: AnalysisException) -> bool:
        """Whether a query failed for want of an input's name, and is worth another try now."""
        wanted = (error.getMessageParameters() or {}).get("relationName", "") if error.getCondition() == _NO_SUCH_TABLE else ""
        name = wanted.strip("`").lower()
        if name not in self._info["inputs"] or name in self._views:
            return False
        if self._reader.input(name)["kind"] != "parquet":
            hint = f"ctx.read.csv({name!r}, ...).createOrReplaceTempView({name!r}) first, or another format"
            raise UsageError(f"input {name!r} holds files: a query cannot tell their format", hint=hint) from error
        self._reader(name).createOrReplaceTempView(f"`{name}`")
        self._views.add(name)
        return True

    def stop(self) -> None:
        """End the session: executors go, the run is over."""
        self.spark.stop()
        self._agent.close()


_NO_SUCH_TABLE = "TABLE_OR_VIEW_NOT_FOUND"
"""Spark's name of this error (``error-conditions.json``)."""


@cache
def session() -> DataContext:
    """The data context of this program; the same one however often it is asked for.

    Raises:
        UsageError: this is not a program that Confide runs.
    """
    socket = os.environ.get(AGENT_SOCKET)
    if not socket:
        raise UsageError("not inside a Confide run", hint="start the program with `confide run job.toml --simulate`")
    tracebacks.install()
    # Commits of large outputs take as long as hashing them does.
    agent = LocalSocketClient(Path(socket), timeout_s=3600.0)
    info = agent.call("run-info")
    try:
        return DataContext(agent, info, _attach(info))
    except KeyError as cause:
        raise ProtocolError("the agent's answer lacks a field", field=str(cause)) from cause


def _attach(info: Json) -> SparkSession:
    """Connect PySpark to the Spark context that the driver's JVM has made already."""
    gateway = connect(Path(info["gateway_socket"]), info["gateway_token"])
    java_context = gateway.entry_point.context()
    context = SparkContext(gateway=gateway, jsc=java_context, conf=SparkConf(_jconf=java_context.getConf()))
    if info["modules"]:
        context.addPyFile(_modules(Path(info["code"]), info["modules"]))
    return SparkSession.builder.getOrCreate()


def _modules(code: Path, modules: Sequence[str]) -> str:
    """The job's own modules as one zip, for the Python workers of executors."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in modules:
            archive.writestr(zipfile.ZipInfo(name), (code / name).read_bytes())
    handle, path = tempfile.mkstemp(suffix=".zip", prefix="job-modules-")
    with os.fdopen(handle, "wb") as file:
        file.write(packed.getvalue())
    return path
