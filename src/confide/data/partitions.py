"""Columns of a table whose values are the names of folders: ``year=2013/month=1/part-….parquet``, as Spark's ``partitionBy`` writes them.

Pure.  The values of such a column are in no file, and they are not encrypted: paths stand in the manifest.  A path is authentic all the
same: the manifest is signed, and a file's key is derived from its path.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

import pyarrow as pa

from confide.canonical import Json
from confide.errors import DataError

_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
"""How Spark and Hive name the folder of rows that have no value."""
_ESCAPED: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_DECIMAL: Final = re.compile(r"decimal\((\d{1,2}),(\d{1,2})\)")
_TYPES: Final[Mapping[str, pa.DataType]] = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "byte": pa.int8(),
    "short": pa.int16(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp_ntz": pa.timestamp("us"),
}
"""Spark's types whose text in a folder's name means one value only.  A ``timestamp`` is another one in another session's time zone."""


_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)


def path_values(path: str) -> dict[str, str | None]:
    """The columns that a data path names in its folders, and their values as text."""
    pairs = [folder.partition("=") for folder in path.split("/")[:-1] if "=" in folder]
    return {_unescaped(name): None if value == _NULL else _unescaped(value) for name, _, value in pairs}


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def partition_field(column: Json) -> pa.Field:
    """The Arrow field of a column (Spark's JSON) whose values are the names of folders.

    Raises:
        DataError: it has a type whose values cannot be told from their text.
    """
    kind = _arrow_type(column["type"])
    if kind is None:
        hint = "cast it to a date or a string before you write"
        shown = str(column["type"])[:40]
        raise DataError(f"a table cannot be partitioned by {column['name']!r}, which is {shown}", hint=hint, column=column["name"])
    return pa.field(column["name"], kind, nullable=True)


def _arrow_type(kind: Any) -> pa.DataType | None:
    if not isinstance(kind, str):
        return None
    decimal = _DECIMAL.fullmatch(kind)
    return pa.decimal128(int(decimal[1]), int(decimal[2])) if decimal else _TYPES.get(kind)


def whole_schema(in_files: pa.Schema, spark: Json) -> pa.Schema:
    """The Arrow schema of a whole table in the order of Spark's: the columns of its files and those of its folders.

    Raises:
        DataError: a column of the files is not Spark's, or one is missing that cannot be a folder's.
    """
    columns = {column["name"]: column for column in spark["fields"]}
    foreign = sorted(set(in_files.names) - set(columns))
    if foreign:
        raise DataError(f"a file has columns that the table has not: {', '.join(foreign[:20])}")
    return pa.schema([in_files.field(name) if name in in_files.names else partition_field(column) for name, column in columns.items()])


def require_columns(path: str, in_file: Collection[str], spark: Json) -> None:
    """Check that each column of a table is in a file of it or in the file's path.

    Raises:
        DataError: one is in neither.
    """
    lacking = {column["name"] for column in spark["fields"]} - set(in_file) - set(path_values(path))
    if lacking:
        raise DataError(f"a file of the table lacks columns: {', '.join(sorted(lacking)[:20])}", path=path)


def with_folders(table: _Rows, path: str, schema: Json | None, wanted: Sequence[str] | None = None) -> _Rows:
    """``table``, which the file at ``path`` holds, with the columns that are in the names of its folders (of those ``wanted``)."""
    values = path_values(path)
    if not values or schema is None:
        return table
    for column in schema["spark"]["fields"]:
        name = column["name"]
        if name in values and name not in table.column_names and (wanted is None or name in wanted):
            field = partition_field(column)
            table = table.append_column(field, pa.repeat(_value(values[name], field), table.num_rows))
    return table


def _value(text: str | None, field: pa.Field) -> pa.Scalar:
    if text is not None and pa.types.is_floating(field.type):
        return pa.scalar(float(text), field.type)  # Spark's words for infinity are Python's, and not Arrow's
    try:
        return pa.scalar(text, pa.string()).cast(field.type)
    except pa.ArrowInvalid as cause:
        raise DataError(f"the folder of column {field.name!r} is not of its type", column=field.name, type=str(field.type)) from cause
