"""Arrow schemas as Spark reads them.  Pure; knows nothing of files or keys.

Spark's Parquet reader has no type for some Arrow types (nanoseconds, dictionaries, unsigned 64 bit, ...): :func:`storable` says
what a column is stored as, so that what the manifest promises is what Spark finds in the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from pyarrow import types

from confide.canonical import Json
from confide.errors import DataError

# Spark's names (org.apache.spark.sql.types, "typeName"); the second list is what Spark's Parquet reader makes of unsigned columns.
_PRIMITIVE: dict[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.uint8(): "short",
    pa.uint16(): "integer",
    pa.uint32(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "binary",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp_ntz",
}
INT96_UNIT: Final = "us"
"""Of Parquet's old timestamps, which Spark writes by itself.  Nanoseconds, as Arrow reads them, hold no year before 1678 or after 2261."""
_MAX_DECIMAL_DIGITS = 38
_DECIMAL = re.compile(r"decimal128\((\d{1,2}), ?(\d{1,2})\)")
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=([A-Za-z0-9_+:/-]{1,64})\]")
_ALIASES = {"date32[day]": "date32", "date64[ms]": "date64"}


def schema_json(schema: pa.Schema) -> Json:
    """The manifest's form of a storable schema: Arrow's words for readers, Spark's JSON for Spark.

    Raises:
        DataError: a column has a type that Spark cannot read.
    """
    columns = [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in schema]
    return {"columns": columns, "spark": {"type": "struct", "fields": [_spark_field(field) for field in schema]}}


def schema_of(columns: Sequence[Json]) -> pa.Schema | None:
    """The schema that the manifest's ``columns`` mean; ``None`` if one has a type with parts, which are not read back from their words.

    Raises:
        DataError: not a list of columns with names and types.
    """
    try:
        kinds = [(str(column["name"]), type_named(str(column["type"]))) for column in columns]
    except (KeyError, TypeError) as cause:
        hint = 'each is {"name": ..., "type": ...}, as `confide data inspect --json` has them'
        raise DataError("not a list of columns", hint=hint) from cause
    return None if any(kind is None for _, kind in kinds) else pa.schema(kinds)


def type_named(text: str) -> pa.DataType | None:
    """The type without parts that Arrow writes so; ``None`` if there is none."""
    if found := _DECIMAL.fullmatch(text):
        precision, scale = int(found[1]), int(found[2])
        return pa.decimal128(precision, scale) if 1 <= precision <= _MAX_DECIMAL_DIGITS and scale <= precision else None
    if found := _ZONED.fullmatch(text):
        return pa.timestamp(found[1], tz=found[2])
    try:
        return pa.type_for_alias(_ALIASES.get(text, text))
    except ValueError:
        return None


def storable(schema: pa.Schema) -> pa.Schema:
    """``schema`` with each column's type replaced by the one it is stored as.

    Raises:
        DataError: a column has a type that cannot be stored, or two columns have one name.
    """
    names = [name.lower() for name in schema.names]  # Spark's column names are case-insensitive
    if len(set(names)) != len(names):
        raise DataError("two columns have the same name (Spark does not tell upper from lower case)")
    return pa.schema([pa.field(field.name, _map(field.type, field.name), field.nullable) for field in schema])


def _map(kind: pa.DataType, column: str) -> pa.DataType:
    """The type that Spark can read; nested types by their parts."""
    if types.is_nested(kind):
        return _map_parts(kind, column)
    if types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if types.is_date(kind):
        return pa.date32()
    if types.is_dictionary(kind):
        return _map(kind.value_type, column)
    if types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if kind in _PRIMITIVE or (types.is_decimal(kind) and kind.precision <= _MAX_DECIMAL_DIGITS and kind.scale >= 0):
        return kind
    raise _unstorable(kind, column)


def _map_parts(kind: pa.DataType, column: str) -> pa.DataType:
    if types.is_struct(kind):
        return pa.struct([pa.field(part.name, _map(part.type, column), part.nullable) for part in kind])
    if types.is_map(kind):
        return pa.map_(_map(kind.key_type, column), _map(kind.item_type, column))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(_map(kind.value_type, column))
    raise _unstorable(kind, column)


def _unstorable(kind: pa.DataType, column: str) -> DataError:
    return DataError(f"column {column!r} has a type that cannot be stored: {kind}", hint="cast it first", column=column, type=str(kind))


def _spark_field(field: pa.Field) -> Json:
    return {"name": field.name, "type": _spark_type(field.type, field.name), "nullable": field.nullable, "metadata": {}}


def _spark_type(kind: pa.DataType, column: str) -> Any:
    if types.is_timestamp(kind) and kind.tz:
        return "timestamp"
    if types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if types.is_struct(kind):
        return {"type": "struct", "fields": [_spark_field(part) for part in kind]}
    if types.is_list(kind):
        return {"type": "array", "elementType": _spark_type(kind.value_type, column), "containsNull": True}
    if types.is_map(kind):
        parts = {"keyType": _spark_type(kind.key_type, column), "valueType": _spark_type(kind.item_type, column)}
        return {"type": "map", **parts, "valueContainsNull": True}
    if kind in _PRIMITIVE:
        return _PRIMITIVE[kind]
    raise DataError(f"column {column!r} has a type that Spark cannot read: {kind}", column=column, type=str(kind))
