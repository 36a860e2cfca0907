"""A job's inputs and outputs in the words of Spark's ``DataFrameReader`` and ``DataFrameWriter``: a name stands where they take a path.

Spark's own readers, writers and committers do the work, over ``file://`` for tables and ``enc://`` for everything else; what they may read
and write is decided by the agents, not here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from confide.data.committed import Committed
from confide.data.partitions import partition_field, path_values
from confide.errors import ConfideError, ExtraMissingError, UsageError

try:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructField, StructType
except ImportError as missing:
    raise ExtraMissingError("PySpark is not installed", hint="pip install 'confide[spark]'") from missing

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from confide.canonical import Json
    from confide.node.local_socket import LocalSocketClient

_log = logging.getLogger(__name__)
_OURS: Final = frozenset({"path", "paths", "basepath", "__globpaths__"})
_HADOOPS: Final = ("fs.", "hadoop.", "mapreduce.", "parquet.crypto", "parquet.encryption", "spark.")
"""Options that a reader or writer takes for settings of Hadoop, or for where the data is: Confide's."""
_NO_GLOBS: Final = {"__globPaths__": "false"}
"""What Spark's own catalogue sets: a manifest names files, and brackets in a name are no pattern."""


class InputReader:
    """``ctx.read``.  Options are those of Spark's reader of the format; ``column=value`` folders become columns, as with Spark."""

    def __init__(self, spark: SparkSession, inputs: Mapping[str, Json]) -> None:
        self._spark = spark
        self._inputs = inputs

    def __call__(
        self,
        name: str,
        format: str | None = None,  # noqa: A002 - Spark's own word
        schema: StructType | str | None = None,
        **options: Any,
    ) -> DataFrame:
        """The input ``name``.  A table has the schema of its verified manifest; other files need Spark's name of their ``format``.

        Raises:
            UsageError: the job has no such input, ``format`` is missing or superfluous, or an option is Confide's.
        """
        found = self.input(name)
        if (found["kind"] == "parquet") != (format is None):
            raise UsageError(f"input {name!r} holds {found['kind']}", hint="leave format out for tables, name it for other files")
        check_options(options)
        if format == "avro":
            _require_plain_avro(options, schema=schema)
            return self.avro(name)
        if format is not None:
            return self._files(found, format, schema, options)
        if schema is not None:
            raise UsageError(f"input {name!r} is a table and has its schema", hint="select and cast columns of the data frame")
        return self._table(found, options)

    def parquet(self, name: str, **options: Any) -> DataFrame:
        """A table; or, if the input's files are containers, the Parquet files in them."""
        return self(name, None if self.input(name)["kind"] == "parquet" else "parquet", **options)

    def csv(self, name: str, schema: StructType | str | None = None, **options: Any) -> DataFrame:
        """CSV files."""
        return self(name, "csv", schema, **options)

    def json(self, name: str, schema: StructType | str | None = None, **options: Any) -> DataFrame:
        """Files with a JSON object a line."""
        return self(name, "json", schema, **options)

    def orc(self, name: str, schema: StructType | str | None = None, **options: Any) -> DataFrame:
        """ORC files."""
        return self(name, "orc", schema, **options)

    def text(self, name: str, **options: Any) -> DataFrame:
        """Lines of text files, in one column ``value``."""
        return self(name, "text", **options)

    def avro(self, name: str) -> DataFrame:
        """Avro files, with the columns of the first one.  Not Spark's own source, which its wheel lacks: all columns are read.

        Raises:
            UsageError: the job has no such input, or it is a table.
        """
        found = self.input(name)
        if found["kind"] == "parquet":
            raise UsageError(f"input {name!r} holds {found['kind']}", hint=f"use read({name!r})")
        jvm: Any = self._spark._jvm  # noqa: SLF001 - PySpark's only way to a class of ours
        paths = [f"enc://{found['path']}/{file}" for file in _seen_by_spark(found["files"])]
        return DataFrame(jvm.org.confide.spark.AvroFiles.read(self._spark._jsparkSession, paths), self._spark)  # noqa: SLF001

    def binaryFile(self, name: str, **options: Any) -> DataFrame:  # noqa: N802 - Spark's own word
        """Whole files: ``path``, ``modificationTime``, ``length``, ``content``."""
        return self(name, "binaryFile", **options)

    def image(self, name: str, **options: Any) -> DataFrame:
        """Images as MLlib has them."""
        return self(name, "image", **options)

    def input(self, name: str) -> Json:
        """What the agent says of an input.

        Raises:
            UsageError: the job has none of that name.
        """
        found = self._inputs.get(name)
        if found is None:
            raise UsageError(f"the job has no input {name!r}", hint=f"inputs: {', '.join(sorted(self._inputs)) or 'none'}")
        return dict(found)

    def _table(self, found: Json, options: Mapping[str, Any]) -> DataFrame:
        reader = self._spark.read.options(**options, **_NO_GLOBS).schema(StructType.fromJson(found["schema"]["spark"]))
        if any(path_values(file) for file in found["files"]):
            reader = reader.option("basePath", f"file://{found['path']}")
        return reader.parquet(*(f"file://{found['path']}/{file}" for file in found["files"]))

    def _files(self, found: Json, form: str, schema: StructType | str | None, options: Mapping[str, Any]) -> DataFrame:
        place, files = f"enc://{found['path']}", list(found["files"])
        if form == "orc" and schema is None and "mergeSchema" not in options:
            schema = self._orc_schema(f"{place}/{_seen_by_spark(files)[0]}")
        frames = []
        for base, members in _by_base(files).items():
            reader = self._spark.read.format(form).options(**options, **_NO_GLOBS)
            if schema is not None:
                reader = reader.schema(schema)
            if base is not None:
                reader = reader.option("basePath", f"{place}/{base}".rstrip("/"))
            frames.append(reader.load([f"{place}/{file}" for file in members]))
        return reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), frames)

    def _orc_schema(self, file: str) -> StructType:
        """The schema of the first file, as Spark takes it, found by an executor: the driver has no key to read its footer with."""
        return self._spark.read.format("orc").options(mergeSchema="true", **_NO_GLOBS).load(file).schema


class OutputWriter:
    """``ctx.write``.  Executors encrypt what they write, and it is committed as a whole.

    Modes are Spark's, and about what *this run* saved into the output before (``confide.jobs.saves``).
    """

    def __init__(self, agent: LocalSocketClient) -> None:
        self._agent = agent
        self._warned: set[str] = set()

    def __call__(
        self,
        frame: DataFrame,
        name: str,
        format: str = "parquet",  # noqa: A002 - Spark's own word
        mode: str = "error",
        partitionBy: str | Sequence[str] = (),  # noqa: N803 - Spark's own word
        **options: Any,
    ) -> Committed:
        """Write ``frame`` as the output ``name``: a table, or files of another ``format`` of Spark's.

        Raises:
            UsageError: the job has no such output, the mode does not allow the save, or an option is Confide's.
            ConfideError: the commit was refused (plaintext found, ...); nothing of the run becomes visible then.
        """
        check_options(options)
        if format == "avro":
            _require_plain_avro(options, partitionBy=partitionBy)
            return self.avro(frame, name, mode)
        by = _columns_named(frame, [partitionBy] if isinstance(partitionBy, str) else partitionBy)
        schema = _folders_last(frame.schema, by)
        table = format == "parquet"
        if table:
            for column in schema.fields[len(schema) - len(by) :]:
                partition_field(column.jsonValue())
        self._warn(by)
        kind = "parquet" if table else "files"
        with saving(self._agent, name, kind=kind, format=format, mode=mode, partitions=by, columns=_types(schema)) as answer:
            if answer["path"] is None:
                return Committed.from_json(name, answer["committed"])
            folder = Path(answer["path"])
            writer = frame.write.format(format).options(**options).mode("append")  # the folder is there; which mode it is was decided
            place = f"{'file' if table else 'enc'}://{folder}"
            (writer.partitionBy(*by) if by else writer).save(place)
            if by and not any(path.is_file() for path in folder.rglob("*")):  # no row, no folder: the schema would be lost
                frame.limit(0).coalesce(1).write.format(format).options(**options).mode("append").save(place)
            return commit(self._agent, name, kind, schema=schema.jsonValue() if table else None)

    def parquet(self, frame: DataFrame, name: str, mode: str = "error", partitionBy: str | Sequence[str] = (), **options: Any) -> Committed:  # noqa: N803
        """A table."""
        return self(frame, name, "parquet", mode, partitionBy, **options)

    def csv(self, frame: DataFrame, name: str, mode: str = "error", partitionBy: str | Sequence[str] = (), **options: Any) -> Committed:  # noqa: N803
        """CSV files."""
        return self(frame, name, "csv", mode, partitionBy, **options)

    def json(self, frame: DataFrame, name: str, mode: str = "error", partitionBy: str | Sequence[str] = (), **options: Any) -> Committed:  # noqa: N803
        """Files with a JSON object a line."""
        return self(frame, name, "json", mode, partitionBy, **options)

    def orc(self, frame: DataFrame, name: str, mode: str = "error", partitionBy: str | Sequence[str] = (), **options: Any) -> Committed:  # noqa: N803
        """ORC files."""
        return self(frame, name, "orc", mode, partitionBy, **options)

    def text(self, frame: DataFrame, name: str, mode: str = "error", partitionBy: str | Sequence[str] = (), **options: Any) -> Committed:  # noqa: N803
        """Text files of a frame with one column of strings."""
        return self(frame, name, "text", mode, partitionBy, **options)

    def avro(self, frame: DataFrame, name: str, mode: str = "error") -> Committed:
        """Avro files."""
        with saving(self._agent, name, kind="files", format="avro", mode=mode, columns=_types(frame.schema)) as answer:
            if answer["path"] is None:
                return Committed.from_json(name, answer["committed"])
            jvm: Any = frame.sparkSession._jvm  # noqa: SLF001 - PySpark's only way to a class of ours
            jvm.org.confide.spark.AvroFiles.write(frame._jdf, f"enc://{answer['path']}")  # noqa: SLF001
            return commit(self._agent, name, "files", schema=None)

    def _warn(self, by: Sequence[str]) -> None:
        """Say once what a column's values become."""
        new = [name for name in by if name not in self._warned]
        if new:
            self._warned.update(new)
            what = "become names of folders, which are not encrypted and stand in the manifest"
            _log.warning("partitionBy: the values of %s %s", ", ".join(new), what)


@contextlib.contextmanager
def saving(agent: LocalSocketClient, name: str, **announced: Any) -> Iterator[Json]:
    """One save into an output: the agent's answer to its announcement.  What it wrote is taken away if the block fails."""
    answer = agent.call("stage", name=name, **announced)
    try:
        yield answer
    except BaseException:
        with contextlib.suppress(ConfideError):  # the failure at hand says more; what is left, no manifest lists
            agent.call("abandon", name=name)
        raise


def commit(agent: LocalSocketClient, name: str, kind: str, *, schema: Json | None) -> Committed:
    """Have the agent check what a save wrote, and sign for it."""
    return Committed.from_json(name, agent.call("commit", name=name, kind=kind, schema=schema))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that Hadoop would take for its own: how files are encrypted and where they are is not a program's to set.

    Raises:
        UsageError: one is.
    """
    for name in options:
        if name.lower() in _OURS or name.lower().startswith(_HADOOPS):
            raise UsageError(f"option {name!r} is not one of a data format", hint="Confide sets how files are encrypted and where they are")


def _require_plain_avro(options: Mapping[str, Any], **others: Any) -> None:
    """Refuse what Avro's own formats do not know, and Spark's would."""
    given = [*options, *(name for name, value in others.items() if value)]
    if given:
        raise UsageError(f"Avro takes no {given[0]!r} here", hint="its files have their schema; select and cast columns of the data frame")


def _seen_by_spark(files: Iterable[str]) -> list[str]:
    """Files without those that Spark's readers pass over, all of them if it is all.  See ``InMemoryFileIndex`` of Spark."""
    files = list(files)
    return [file for file in files if not file.rsplit("/", 1)[-1].startswith(("_", "."))] or files


def _columns_named(frame: DataFrame, names: Iterable[str]) -> list[str]:
    """Columns of ``frame`` as it spells them: Spark does not tell upper from lower case, folders do."""
    there = {name.lower(): name for name in frame.columns}
    unknown = [name for name in names if name.lower() not in there]
    if unknown:
        raise UsageError(f"partitionBy: there is no column {unknown[0]!r}", hint=f"columns: {', '.join(frame.columns[:50])}")
    return [there[name.lower()] for name in names]


def _folders_last(schema: StructType, by: Sequence[str]) -> StructType:
    """The schema as readers will have it: columns from folders' names come last, and may be null."""
    fields = {field.name: field for field in schema.fields}
    folders = [StructField(name, fields[name].dataType, nullable=True, metadata=fields[name].metadata) for name in by]
    return StructType([field for field in schema.fields if field.name not in by] + folders)


def _types(schema: StructType) -> list[list[str]]:
    return [[field.name, field.dataType.json()] for field in schema.fields]


def _by_base(files: Iterable[str]) -> dict[str | None, list[str]]:
    """Files by the folder below which folders are columns, if any are.

    ``confide data encrypt`` puts each snapshot's files into a folder of its own, and Spark wants the folders of columns in one place.
    """
    files = list(files)
    if not any(path_values(file) for file in files):
        return {None: files}
    found: dict[str | None, list[str]] = {}
    for file in files:
        top = file.split("/", 1)[0]
        found.setdefault(top if top.startswith("v-") and "=" not in top else "", []).append(file)
    return found
