"""A job's data for Polars: its inputs as lazy frames, its outputs as encrypted datasets.

Runs in the user's process, a child of the driver's agent, and knows only the agent's socket.  It is given the keys of single files, when a
query comes to them, and never a dataset's key.  What may be read and written is decided by the agent, not here.
"""

from __future__ import annotations

import atexit
import base64
import io
import os
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, NoReturn, TypeAlias

import pyarrow as pa

from confide.crypto import core_dumps
from confide.crypto.container import FileKeyReader, KeysOfSalt, seal_stream_under
from confide.crypto.derive import ContainerKeys, check_data_path
from confide.crypto.secret import SecretBytes
from confide.data import polars_errors
from confide.data.agent_files import AgentFolder
from confide.data.committed import AGENT_SOCKET, Committed
from confide.data.grouped_scan import GroupedScan
from confide.data.opened_table import OpenedMemory
from confide.data.parquet_keys import FileKeys, file_keys
from confide.data.parquet_scan import TableScan
from confide.data.pinned_parquet import FileAccess, TableFile
from confide.data.places import FilePlace, RangedFolder, open_place
from confide.data.read_counts import Counts, Totals
from confide.data.schema import storable
from confide.data.text_scan import TextFormat, TextScan
from confide.errors import DataError, ExtraMissingError, IntegrityError, ManifestError, ProtocolError, SecretLeakError, UsageError
from confide.node.local_socket import LocalSocketClient

try:
    import polars as pl
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

if TYPE_CHECKING:
    import duckdb

    from confide.canonical import Json

Frame: TypeAlias = "pl.LazyFrame | pl.DataFrame | pa.Table"
_PART_ROWS: Final = 1 << 20
_PART_BYTES: Final = 128 * 1024 * 1024
"""An output's file ends when it holds as many rows, or bytes in memory: what is written is never held as a whole."""


class DataContext:
    """A job's data.  Not to be pickled: what it gives out are ordinary frames of Polars."""

    def __init__(self, agent: LocalSocketClient, info: Json, memory: OpenedMemory | None = None) -> None:
        """``memory``: of columns that stay open; a part of what is free, if nothing is said."""
        self._agent = agent
        self._info = info
        self._listed: dict[str, list[Json]] = {}
        self._frames: dict[str, pl.LazyFrame] = {}
        self._memory = memory or OpenedMemory()
        self._counts = Totals(lambda totals: agent.call("data-counts", counts=totals))
        self.arguments: tuple[str, ...] = tuple(info["arguments"])

    def __repr__(self) -> str:
        return f"DataContext(run={self._info['run']!r}, inputs={self.inputs}, outputs={self.outputs})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretLeakError("a data context was about to be pickled", hint="send results instead")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the job's inputs."""
        return tuple(sorted(self._info["inputs"]))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the job's outputs."""
        return tuple(sorted(self._info["outputs"]))

    # --- reading -------------------------------------------------------------------------------------------------------

    def read(self, name: str, format: TextFormat | None = None, **options: Any) -> pl.LazyFrame:  # noqa: A002 - as Spark's
        """The input ``name`` as a lazy frame, with the columns of its verified manifest.

        A dataset of other files needs a ``format``: ``csv``, ``ndjson`` (JSON Lines) or ``lines`` (any text, a row a line), with that
        reader's ``options`` (``polars.read_csv``, ``read_ndjson``, ``read_lines``).  Columns are inferred from the first file with a row.

        Raises:
            UsageError: the job has no such input, or ``format`` is missing or superfluous.
            IntegrityError: its first file does not open.

        A query that reads a column of a column group that the job does not name ends with a ``KeyAccessError``.
        """
        found = self._input(name)
        is_table = found["kind"] == "parquet"
        if is_table != (format is None):
            hint = "leave format out" if is_table else 'say format="csv", "ndjson" or "lines", or read the files with open()'
            raise UsageError(f"input {name!r} holds {'a table' if is_table else 'files'}", hint=hint)
        if format is not None:
            return TextScan(self.files(name), lambda path: self.open(name, path), format, options, self._counts).frame(name)
        folder = self._folder(name)
        files = [TableFile(one["path"], one["size"], one["rows"]) for one in self._files(name)]
        if not files:
            raise DataError(f"input {name!r} has no file", name=name)
        if "hidden" in found:  # a table with column groups
            columns, hidden, totals = found["schema"]["columns"], found["hidden"], self._counts
            return GroupedScan(folder, files, lambda path: self._group_keys(folder / path), columns, hidden, totals=totals).frame(name)
        return self._table(name, folder, files)

    def files(self, name: str) -> list[str]:
        """The paths of the files of an input that holds no table, for :meth:`open`.

        Raises:
            UsageError: the job has no such input, or it is a table.
        """
        if self._input(name)["kind"] == "parquet":
            raise UsageError(f"input {name!r} is a table", hint=f"use read({name!r})")
        return [one["path"] for one in self._files(name)]

    def open(self, name: str, path: str) -> BinaryIO:
        """One file of an input that holds no table, decrypted as it is read: a binary file to read and seek in.

        Raises:
            UsageError: the job has no such input, or it is a table.
            ManifestError: the input's manifest does not list the file.
            IntegrityError: it does not open.
        """
        found = self._input(name)
        if found["kind"] == "parquet":
            raise UsageError(f"input {name!r} is a table", hint=f"use read({name!r})")
        if path not in self.files(name):
            raise ManifestError("the manifest does not list this file", path=path[:200])
        place = self._folder(name) / path
        keys_of = self._container_keys("read-key", place)
        try:
            file = open_place(place)
        except OSError as cause:
            raise IntegrityError(f"a file of the dataset is missing: {path}", path=path) from cause
        return io.BufferedReader(FileKeyReader(file, path, keys_of), 1 << 20)

    # --- querying ------------------------------------------------------------------------------------------------------

    def sql(self, query: str, **tables: Frame) -> pl.LazyFrame:
        """Run SQL of Polars over ``tables`` by their names, and over the inputs that are tables by theirs."""
        named = {name: _lazy(frame) for name, frame in tables.items()}
        inputs = {name: self.read(name) for name in self._tables_in(query) if name not in named}
        return pl.SQLContext(frames={**inputs, **named}, eager=False).execute(query)

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB in memory that has the inputs that are tables under their names, through Arrow; it reads and writes nothing else.

        What a query needs of an input, after its own filters and columns, is in memory at one time.

        Raises:
            ExtraMissingError: DuckDB is not installed.
        """
        try:
            import duckdb  # noqa: PLC0415 - an extra of its own
        except ImportError as absent:
            raise ExtraMissingError("DuckDB is not installed", hint="pip install 'confide[duckdb]'") from absent
        connection = duckdb.connect(":memory:", config={"temp_directory": ""})  # what does not fit is an error, not a file
        connection.execute("SET enable_external_access = false")
        for name in self.inputs:
            if self._input(name)["kind"] == "parquet":
                connection.register(name, self.read(name))
        connection.execute("SET lock_configuration = true")
        return connection

    # --- writing -------------------------------------------------------------------------------------------------------

    def write(self, frame: Frame, name: str) -> Committed:
        """Write ``frame`` as the output ``name``, part by part as the query makes it, each encrypted; then commit it as a whole.

        Raises:
            UsageError: the job has no such output.
            DataError: a column has a type that cannot be stored.
            ConfideError: the commit was refused; nothing is visible then.
        """
        lazy = _storable(_lazy(frame))
        folder = self._stage(name, "parquet")
        for number, part in enumerate(_parts(lazy)):
            place = folder / f"part-{number:05d}-{uuid.uuid4()}.parquet"
            access = self._file_key("write-key", place)
            properties = pl.ParquetEncryptionProperties(footer_key=access.key.reveal(), aad_prefix=access.aad_prefix)
            with warnings.catch_warnings(), place.open("xb") as file:
                warnings.simplefilter("ignore")  # the parameter may change: the tests would say so
                part.write_parquet(file, encryption=properties, compression="zstd")
            access.key.wipe()
            self._counts.add(Counts(tasks=1, rows_written=part.height, bytes_written=place.stat().st_size))
        return self._commit(name, "parquet")

    def write_files(self, files: Mapping[str, bytes | BinaryIO], name: str) -> Committed:
        """Write ``files``, by their relative paths, as the output ``name``: encrypted as they are read, then committed as a whole.

        Raises:
            UsageError: the job has no such output.
            ParseError: a path is not a plain relative one.
            ConfideError: the commit was refused; nothing is visible then.
        """
        paths = {check_data_path(path): source for path, source in files.items()}
        folder = self._stage(name, "files")
        for path, source in paths.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            plain = io.BytesIO(source) if isinstance(source, bytes) else source
            with place.open("xb") as sealed:
                began = perf_counter()
                seal_stream_under(plain, sealed, self._container_keys("write-key", place))
            seal_us = int((perf_counter() - began) * 1e6)
            self._counts.add(Counts(tasks=1, bytes_written=plain.tell(), seal_us=seal_us))
        return self._commit(name, "files")

    def stop(self) -> None:
        """Leave the agent, and say what was read.  What is used afterwards connects again."""
        self._frames.clear()
        try:
            self._counts.tell_rest()
        finally:
            self._agent.close()

    # --- inside --------------------------------------------------------------------------------------------------------

    def _table(self, name: str, folder: Path | RangedFolder, files: Sequence[TableFile]) -> pl.LazyFrame:
        """An input's frame: the same each time, since its columns stay open."""
        if name not in self._frames:
            key_of, schema = (lambda path: self._read_key(folder / path)), self._input(name)["schema"]
            self._frames[name] = TableScan(folder, files, key_of, schema, totals=self._counts, memory=self._memory).frame(name)
        return self._frames[name]

    def _input(self, name: str) -> Json:
        found = self._info["inputs"].get(name)
        if found is None:
            raise UsageError(f"the job has no input {name!r}", hint=f"inputs: {', '.join(self.inputs) or 'none'}")
        return dict(found)

    def _folder(self, name: str) -> Path | RangedFolder:
        """Where an input's files are: in a folder of this node, or at the agent, which fetches what is asked of a remote storage."""
        found = self._input(name)
        if not found["remote"]:
            return Path(found["path"])
        return AgentFolder(self._agent, found["path"], {one["path"]: one["size"] for one in self._files(name)})

    def _files(self, name: str) -> list[Json]:
        if name not in self._listed:  # a run reads one snapshot to its end
            files: list[Json] = []
            while page := self._agent.call("input-files", name=name, start=len(files))["files"]:
                files += page
            self._listed[name] = files
        return self._listed[name]

    def _tables_in(self, query: str) -> list[str]:
        """Inputs that are tables and whose name is a word of the query: others need not be opened."""
        tables = [name for name in self.inputs if self._input(name)["kind"] == "parquet"]
        return [name for name in tables if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", query, re.IGNORECASE)]

    def _stage(self, name: str, kind: Literal["parquet", "files"]) -> Path:
        if name not in self._info["outputs"]:
            raise UsageError(f"the job has no output {name!r}", hint=f"outputs: {', '.join(self.outputs) or 'none'}")
        return Path(self._agent.call("stage", name=name, kind=kind)["path"])

    def _commit(self, name: str, kind: Literal["parquet", "files"]) -> Committed:
        return Committed.from_json(name, self._agent.call("commit", name=name, kind=kind, schema=None))

    def _read_key(self, place: FilePlace) -> FileAccess:
        return self._file_key("read-key", place)

    def _group_keys(self, place: FilePlace) -> FileKeys:
        answer = self._agent.call("read-key", path=str(place))
        if "groups" not in answer:
            raise IntegrityError("the table has column groups by its manifest, and the agent knows none", path=place.name)
        return file_keys(_secret(answer["key"]), {name: _secret(key) for name, key in answer["groups"].items()})

    def _file_key(self, operation: Literal["read-key", "write-key"], place: FilePlace) -> FileAccess:
        answer = self._agent.call(operation, path=str(place))
        return FileAccess(SecretBytes(base64.b64decode(answer["key"])), base64.b64decode(answer["aad_prefix"]))

    def _container_keys(self, operation: Literal["read-key", "write-key"], place: FilePlace) -> KeysOfSalt:
        def keys_of(salt: bytes) -> ContainerKeys:
            answer = self._agent.call(operation, path=str(place), kind="container", salt=base64.b64encode(salt).decode())
            return ContainerKeys(SecretBytes(base64.b64decode(answer["key"])), base64.b64decode(answer["commitment"]))

        return keys_of


def _secret(text: str) -> SecretBytes:
    return SecretBytes(base64.b64decode(text))


def _lazy(frame: object) -> pl.LazyFrame:
    if isinstance(frame, pl.LazyFrame):
        return frame
    if isinstance(frame, pl.DataFrame):
        return frame.lazy()
    if isinstance(frame, pa.Table):
        return pl.DataFrame(frame).lazy()
    raise UsageError(f"not a frame: {type(frame).__name__}", hint="give a LazyFrame or DataFrame of Polars, or an Arrow table")


def _storable(frame: pl.LazyFrame) -> pl.LazyFrame:
    """``frame`` with the types that are stored, for Spark to read it as well.

    Raises:
        DataError: a column has a type that cannot be stored.
    """
    schema = frame.collect_schema()
    try:
        made = pl.DataFrame(storable(pl.DataFrame(schema=schema).to_arrow().schema).empty_table()).schema
    except (pa.ArrowException, pl.exceptions.PolarsError) as cause:
        raise DataError("a column has a type that cannot be stored", hint="cast it first") from cause
    return frame.with_columns(_as_stored(name, kind, made[name]) for name, kind in schema.items() if made[name] != kind)


def _as_stored(name: str, kind: pl.DataType, stored: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(kind, pl.Datetime) and kind.time_zone:
        column = column.dt.convert_time_zone("UTC")
    return column.cast(stored)


def _parts(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The query's rows in their order, as much at a time as one file holds; one part without rows if there are none."""
    held: list[pl.DataFrame] = []
    rows = size = count = 0
    for batch in frame.collect_batches(chunk_size=max(1, _PART_ROWS // 32), maintain_order=True):
        held.append(batch)
        rows, size = rows + batch.height, size + int(batch.estimated_size())
        if rows >= _PART_ROWS or size >= _PART_BYTES:
            yield pl.concat(held)
            held, rows, size, count = [], 0, 0, count + 1
    if rows or not count:
        yield pl.concat(held) if held else pl.DataFrame(schema=frame.collect_schema())


@cache
def session() -> DataContext:
    """The data context of this program; the same one however often it is asked for.

    Raises:
        UsageError: this is not a program that Confide runs with ``engine = "polars"``.
    """
    socket = os.environ.get(AGENT_SOCKET)
    if not socket:
        raise UsageError("not inside a Confide run", hint="start the program with `confide run job.toml --simulate`")
    core_dumps.forbid()  # from here on there are keys of files in this process
    polars_errors.install()
    # Commits of large outputs take as long as hashing them does.
    agent = LocalSocketClient(Path(socket), timeout_s=3600.0)
    info = agent.call("run-info")
    if "gateway_socket" in info:
        raise UsageError("this job's engine is Spark", hint='write engine = "polars" into the job file, or use confide.data.spark')
    try:
        context = DataContext(agent, info)
    except KeyError as cause:
        raise ProtocolError("the agent's answer lacks a field", field=str(cause)) from cause
    atexit.register(context.stop)
    return context
