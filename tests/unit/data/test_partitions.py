"""Columns in folders' names, as Spark writes them."""

from __future__ import annotations

import datetime as dt
import decimal

import pyarrow as pa
import pytest

from confide.canonical import Json
from confide.data import partitions
from confide.errors import DataError


def spark(**types: str) -> Json:
    return {"fields": [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in types.items()]}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("part-0.parquet", {}),
        ("a=1/b=x/part-0.parquet", {"a": "1", "b": "x"}),
        ("a=1/odd=name.parquet", {"a": "1"}),
        ("a=x%2Fy%3A%25z=w/p", {"a": "x/y:%z=w"}),
        ("a%3Db=1/p", {"a=b": "1"}),
        ("a=__HIVE_DEFAULT_PARTITION__/p", {"a": None}),
        ("v-1/plain/a=ü 100%/p", {"a": "ü 100%"}),
    ],
)
def test_values_are_read_from_folders(path: str, values: dict[str, str | None]) -> None:
    assert partitions.path_values(path) == values


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "x", "x"),
        ("boolean", "true", True),
        ("byte", "-3", -3),
        ("long", "5000000000", 5000000000),
        ("double", "1.5E10", 1.5e10),
        ("float", "Infinity", float("inf")),
        ("date", "1969-12-31", dt.date(1969, 12, 31)),
        ("timestamp_ntz", "2024-02-29 01%3A02%3A03.5", dt.datetime(2024, 2, 29, 1, 2, 3, 500000)),  # noqa: DTZ001
        ("decimal(5,2)", "-1.50", decimal.Decimal("-1.50")),
        ("integer", "__HIVE_DEFAULT_PARTITION__", None),
    ],
)
def test_columns_come_back_with_their_type(kind: str, text: str, value: object) -> None:
    schema = {"spark": spark(x="long", p=kind)}
    table = partitions.with_folders(pa.table({"x": [1, 2]}), f"p={text}/part-0.parquet", schema)
    assert table.to_pydict() == {"x": [1, 2], "p": [value, value]}
    assert table.schema.field("p").type == partitions.partition_field({"name": "p", "type": kind}).type


def test_only_wanted_and_missing_columns_are_added() -> None:
    schema = {"spark": spark(x="long", p="string", q="string")}
    whole = pa.table({"x": [1], "q": ["in the file"]})
    assert partitions.with_folders(whole, "p=a/q=b/f", schema).to_pydict() == {"x": [1], "q": ["in the file"], "p": ["a"]}
    assert partitions.with_folders(whole, "p=a/q=b/f", schema, ["x"]).column_names == ["x", "q"]
    assert partitions.with_folders(whole, "f", schema) is whole


@pytest.mark.parametrize("kind", ["timestamp", "binary", {"type": "struct", "fields": []}])
def test_values_that_text_does_not_tell_are_refused(kind: object) -> None:
    with pytest.raises(DataError, match="cannot be partitioned"):
        partitions.partition_field({"name": "p", "type": kind})


def test_a_folder_that_is_not_of_its_columns_type_is_refused() -> None:
    with pytest.raises(DataError, match="not of its type"):
        partitions.with_folders(pa.table({"x": [1]}), "p=one/f", {"spark": spark(x="long", p="integer")})


def test_every_column_is_in_the_file_or_its_path() -> None:
    table = spark(x="long", p="string")
    partitions.require_columns("p=1/f", ["x"], table)
    partitions.require_columns("f", ["x", "p"], table)
    with pytest.raises(DataError, match="lacks columns: p"):
        partitions.require_columns("f", ["x"], table)


def test_the_whole_schema_is_in_sparks_order() -> None:
    found = partitions.whole_schema(pa.schema([("y", pa.int64()), ("x", pa.string())]), spark(x="string", y="long", p="date"))
    assert found == pa.schema([("x", pa.string()), ("y", pa.int64()), ("p", pa.date32())])
    with pytest.raises(DataError, match="columns that the table has not: y"):
        partitions.whole_schema(pa.schema([("y", pa.int64())]), spark(x="string"))
