"""Types of CSV and JSON Lines from all rows: block by block as Arrow finds them from the whole."""

from __future__ import annotations

import io
import json
import random
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from confide.data import column_types, tables
from confide.data.column_types import csv_columns, jsonl_columns, with_columns
from confide.data.sources import Source
from confide.data.tables import TableInput
from confide.errors import DataError

VALUES = {
    "whole": ["1", "22", "0"], "truth": ["true", "false", "1"], "day": ["2020-01-01"], "time": ["2020-01-01 10:00:00"],
    "nano": ["2020-01-01 10:00:00.5"], "zoned": ["2020-01-01T10:00:00Z"], "real": ["1.5", "nan"], "empty": ["", "NA"],
    "text": ["abc", '"a\nb"', '"q""x"'], "clock": ["10:00:00"], "bytes": ["\udcff"],
}  # fmt: skip
WHOLE = csv.ParseOptions(newlines_in_values=True)


def source(text: str, name: str = "a.csv") -> Source:
    data = text.encode("utf-8", "surrogateescape")
    return Source(name, lambda: io.BytesIO(data), len(data), "1")


def test_types_of_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK", 130)
    monkeypatch.setattr(column_types, "BLOCK", 130)
    chosen = random.Random(7)
    several = 0
    for _ in range(400):
        kinds = [chosen.sample(list(VALUES), chosen.choice([1, 1, 2, 2, 3])) for _ in "abc"]
        rows = [",".join(chosen.choice(VALUES[chosen.choice(kind)]) for kind in kinds) for _ in range(chosen.randint(0, 12))]
        text = "a,b,c\n" + "".join(f"{row}\n" for row in rows)
        whole = csv.read_csv(io.BytesIO(text.encode("utf-8", "surrogateescape")), parse_options=WHOLE)
        found = csv_columns([source(text)], lambda _: None)
        assert found == whole.schema, text
        several += len(text) > 130
        for skip in (0, 1, 3):
            batches = TableInput((source(text),), "csv", found).batches(lambda _: None, skip=skip)
            read = pa.Table.from_batches(list(batches), found)
            assert str(read.slice(0).to_pydict()) == str(whole.slice(skip).to_pydict()), text
    assert several > 100


def test_several_files_make_one_table() -> None:
    both = [source("a,b\n1,x\n"), source("a,b\n1.5,\n", "b.csv")]
    columns = csv_columns(both, lambda _: None)
    assert columns.types == [pa.float64(), pa.string()]
    for other in ("a,c\n1,2\n", "a\n1\n", "b,a\n1,2\n"):
        with pytest.raises(DataError, match="other columns"):
            csv_columns([both[0], source(other)], lambda _: None)


def test_json_lines_have_the_fields_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK", 40)
    lines = ['{"a": 1, "n": {"x": 1}}', '{"a": 1.5, "l": []}', '{"b": "2020-01-01", "l": [1]}', '{"b": "text", "n": {"y": null}}']
    made = source("\n".join(lines) + "\n\n", "a.jsonl")
    columns = jsonl_columns([made], lambda _: None)
    assert columns.field("a").type == pa.float64()
    assert columns.field("b").type == pa.string()
    assert columns.field("l").type == pa.list_(pa.int64())
    rows = pa.Table.from_batches(list(TableInput((made,), "jsonl", columns).batches(lambda _: None)), columns).to_pylist()
    assert [row["a"] for row in rows] == [1, 1.5, None, None]
    assert [row["b"] for row in rows] == [None, None, "2020-01-01", "text"]


@pytest.mark.parametrize("text", ["", "\n", '{"a": 1}\n{"a": "CANARY"}\n', '{"a": [1]}\n{"a": 2}\n', "CANARY\n", '{"a": 1', '"CANARY"\n'])
def test_what_is_not_json_lines_of_one_kind_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(tables, "BLOCK", 30)
    with pytest.raises(DataError) as caught:
        jsonl_columns([source(text, "a.jsonl")], lambda _: None)
    assert "CANARY" not in str(caught.value.to_json())


@pytest.mark.parametrize("text", ["", "a,b\n1,CANARY\n2\n", "a\n1\n" + "x" * 3_000_000])
def test_what_is_not_csv_is_refused(text: str) -> None:
    with pytest.raises(DataError) as caught:
        csv_columns([source(text)], lambda _: None)
    assert "CANARY" not in str(caught.value.to_json())


def test_a_value_that_does_not_fit_is_told_by_its_column_alone() -> None:
    table = TableInput((source("a,b\n1,2\n3,CANARY\n"),), "csv", pa.schema([("a", pa.int64()), ("b", pa.int64())]))
    with pytest.raises(DataError, match="column 2 is not of the type int64") as caught:
        list(table.batches(lambda _: None))
    assert "CANARY" not in str(caught.value.to_json())


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_that_would_lose_what_names_of_folders_say_is_refused(form: Any) -> None:
    def file(year: int, *columns: str) -> bytes:
        rows = pa.table({name: [1] if name == "x" else [year] for name in columns})
        written = io.BytesIO()
        if form == "csv":
            csv.write_csv(rows, written)
        elif form == "parquet":
            pq.write_table(rows, written)
        else:
            written.write("".join(json.dumps(row) + "\n" for row in rows.to_pylist()).encode())
        return written.getvalue()

    def columns(*names: str) -> list[str]:
        files = [(f"year={year}/a.{form}", file(year, *names)) for year in (2023, 2024)]
        sources = tuple(Source(name, partial(io.BytesIO, data), len(data)) for name, data in files)
        found = with_columns(TableInput(sources, form), lambda _: None).columns
        assert found is not None
        return list(found.names)

    assert columns("x", "year") == ["x", "year"]
    with pytest.raises(DataError, match="values of year are in names of folders") as caught:
        columns("x")
    assert "--format files" in str(caught.value.hint)
