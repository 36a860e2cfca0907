"""The types of columns of CSV and JSON Lines, from all of their rows, with the memory of one block.

Arrow's readers take the types of a whole file only if they may hold all of it.  Read a block at a time they take the first block's, and
fail where a later one does not fit: from there on each block's own types are found, and joined with what was seen before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, types

from confide.data.partitions import path_values
from confide.data.sources import Source
from confide.data.tables import BLOCK, SCHEMAS, CountingFile, TableInput, Told, jsonl_blocks, open_csv, read_jsonl, reading, unlike_columns
from confide.errors import DataError

_DAYS_AND_TIMES: Final = (pa.date32(), pa.timestamp("s"), pa.timestamp("ns"))
"""Each also reads what those before it read (Arrow's ISO 8601 parsers)."""
_ZONED: Final = (pa.timestamp("s", tz="UTC"), pa.timestamp("ns", tz="UTC"))


@dataclass
class _Seen:
    """What one column's values looked like, block by block."""

    kinds: set[pa.DataType] = field(default_factory=set)
    only_bits: bool = True
    """Whether all integers were 0 or 1, which Arrow takes for truth values beside ``true`` and ``false``."""

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        self.kinds.add(column.type)
        if column.type == pa.int64() and self.only_bits:
            span = pc.min_max(column)
            least, most = span["min"].as_py(), span["max"].as_py()
            self.only_bits = least is None or (least >= 0 and most <= 1)

    def kind(self) -> pa.DataType:
        """The first type in Arrow's order of trying that reads all of them."""
        kinds = self.kinds - {pa.null()}
        if not kinds:
            return pa.null()
        if len(kinds) == 1:
            return next(iter(kinds))
        if kinds == {pa.int64(), pa.float64()}:
            return pa.float64()
        if kinds == {pa.int64(), pa.bool_()} and self.only_bits:
            return pa.bool_()
        for ordered in (_DAYS_AND_TIMES, _ZONED):
            if kinds <= set(ordered):
                return next(kind for kind in reversed(ordered) if kind in kinds)
        return pa.binary() if pa.binary() in kinds else pa.string()


def with_columns(table: TableInput, told: Told) -> TableInput:
    """A table with its columns: all rows of CSV and JSON Lines are read for them, of other formats the files' own schemas.

    Raises:
        DataError: a file is not what its format says, its columns are not those of the others, or names of folders (``year=2013``) are
            those of columns that are not in the files.
    """
    if table.columns is not None:
        return table
    if table.format == "csv":
        columns = csv_columns(table.sources, told)
    elif table.format == "jsonl":
        columns = jsonl_columns(table.sources, told)
    else:
        columns = _own_columns(table)
    named = dict.fromkeys(name for source in table.sources for name in path_values(source.name))
    lost = [name for name in named if name not in columns.names]
    if lost:
        hint = "write the column into the files; or keep them as they are with --format files; or leave it out with --schema"
        raise DataError(f"the values of {', '.join(lost[:20])} are in names of folders alone, and a table would not have them", hint=hint)
    return replace(table, columns=columns)


def _own_columns(table: TableInput) -> pa.Schema:
    first: pa.Schema | None = None
    for source in table.sources:
        with reading(source), source.open() as file:
            schema = SCHEMAS[table.format](file)
        if first is None:
            first = schema
        elif [(one.name, one.type) for one in schema] != [(one.name, one.type) for one in first]:
            raise unlike_columns(source, first, schema)
        else:
            first = pa.schema([one.with_nullable(one.nullable or two.nullable) for one, two in zip(first, schema, strict=True)])
    assert first is not None  # noqa: S101 -- a table has a file
    return first


def csv_columns(sources: Sequence[Source], told: Told) -> pa.Schema:
    """The columns of CSV files that make up one table.

    Raises:
        DataError: a file is not CSV, or has other columns than the first.
    """
    names: list[str] | None = None
    seen: list[_Seen] = []
    for source in sources:
        with reading(source), source.open() as file:
            found = _look(source, file, told, seen)
        if names is not None and found != names:
            raise unlike_columns(source, pa.schema([(name, pa.null()) for name in names]), pa.schema([(name, pa.null()) for name in found]))
        names = found
    return pa.schema([(name, one.kind()) for name, one in zip(names or [], seen, strict=True)])


def _look(source: Source, file: BinaryIO, told: Told, seen: list[_Seen]) -> list[str]:
    """Add what a source holds, opened as ``file``; its columns' names.  If it has another number of them than before, nothing is added."""
    reader = open_csv(CountingFile(file, told), None)
    names = list(reader.schema.names)
    if not seen:
        seen.extend(_Seen() for _ in names)
    if len(names) != len(seen):
        return names
    _add(seen, reader.schema.empty_table())
    rows = 0
    try:
        for batch in reader:
            rows += batch.num_rows
            _add(seen, batch)
    except pa.ArrowInvalid as cause:
        if "CSV conversion error" not in str(cause):
            raise
        with source.open() as again:  # Arrow may be reading ahead in the other one yet
            for table in _retyped(CountingFile(again, told), names, rows):
                _add(seen, table)
    return names


def _add(seen: list[_Seen], rows: pa.Table | pa.RecordBatch) -> None:
    for one, column in zip(seen, rows.columns, strict=True):
        one.add(column)


def _retyped(file: CountingFile, names: list[str], skip: int) -> Iterator[pa.Table]:
    """The rows after the first ``skip`` in pieces, each with types of its own: read as text, written as CSV, and read again."""
    options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), check_utf8=False)
    read = csv.ReadOptions(block_size=BLOCK, use_threads=False, skip_rows_after_names=skip)
    parse = csv.ParseOptions(newlines_in_values=True)
    for batch in csv.open_csv(pa.PythonFile(file, mode="r"), read_options=read, parse_options=parse, convert_options=options):
        if not batch.num_rows:
            continue
        sink = pa.BufferOutputStream()
        csv.write_csv(batch, sink, csv.WriteOptions(include_header=False, quoting_style="all_valid"))
        text = sink.getvalue()
        whole = csv.ReadOptions(block_size=text.size + 1, use_threads=False, column_names=[str(n) for n in range(len(names))])
        yield csv.read_csv(pa.BufferReader(text), read_options=whole, parse_options=parse)


def jsonl_columns(sources: Sequence[Source], told: Told) -> pa.Schema:
    """The columns of JSON Lines files that make up one table: all fields that any of their objects has, in the order of appearance.

    Raises:
        DataError: a file is not JSON Lines, has no row, or a field has values of two kinds.
    """
    found: dict[str, pa.DataType] = {}
    for source in sources:
        with reading(source), source.open() as file:
            for block in jsonl_blocks(CountingFile(file, told)):
                if block.strip():
                    _merge(found, read_jsonl(block, None).schema, "")
    if not found:
        raise DataError("there is no row in it, so nobody knows its columns", hint="name them with --schema", path=sources[0].name)
    return pa.schema(list(found.items()))


def _merge(known: dict[str, pa.DataType], fields: Iterable[pa.Field], above: str) -> None:
    for one in fields:
        known[one.name] = _join(known.get(one.name, pa.null()), one.type, above + one.name)


def _join(one: pa.DataType, other: pa.DataType, name: str) -> pa.DataType:
    """The type that reads the values of both, as JSON has them."""
    if types.is_null(one) or one.equals(other):
        return other
    if types.is_null(other):
        return one
    if types.is_struct(one) and types.is_struct(other):
        fields = {part.name: part.type for part in one}
        _merge(fields, other, f"{name}.")
        return pa.struct(list(fields.items()))
    if types.is_list(one) and types.is_list(other):
        return pa.list_(_join(one.value_type, other.value_type, f"{name}[]"))
    both = {one, other}
    if both == {pa.int64(), pa.float64()}:
        return pa.float64()
    if both == {pa.timestamp("s"), pa.string()}:
        return pa.string()
    raise DataError(f"the field {name} has values of two kinds: {one} and {other}", hint="make them one kind first", field=name)
