"""A Parquet footer (``FileMetaData``): where column chunks lie, and footers of files that hold chunks of others.

Those are images, plain files that hold some columns of some row groups, and files that are encrypted.  What a reader uses (types,
encodings, statistics) is copied as bytes; only places, lengths and what is said of encryption are written anew.  Follows the Apache Parquet
format's ``parquet.thrift``.  Knows no key: the bytes are those of an opened footer, or of one that is still to be encrypted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from confide.data import thrift_spans as thrift
from confide.data.thrift_spans import Value
from confide.errors import ParseError

PLAIN_MAGIC: Final = b"PAR1"
_CHUNK_METADATA: Final = 3
"""Of a ``ColumnChunk``: its ``ColumnMetaData``."""
_UNPACKED, _LENGTH, _DATA_PAGE, _DICTIONARY_PAGE, _STATISTICS, _ENCODING_STATS = 6, 7, 9, 11, 12, 13
"""Of a ``ColumnMetaData``: what is before field 7 is copied in one piece."""
_LENGTH_FIELD, _DATA_PAGE_FIELD, _DICTIONARY_PAGE_FIELD = (
    thrift.written(thrift.I64, step, b"") for step in (1, _DATA_PAGE - _LENGTH, _DICTIONARY_PAGE - _DATA_PAGE)
)
_SCHEMA: Final = 2
"""Of a ``FileMetaData``."""
_NUMBERS: Final = b"(?:%b%b|%b%b)*+\\0" % (
    thrift.a_field(thrift.I32, thrift.I64),
    thrift.A_NUMBER,
    thrift.a_field(thrift.LIST),
    thrift.a_list(thrift.I64, thrift.A_NUMBER),
)
"""A struct of numbers and lists of them, such as ``SizeStatistics``."""
# A field's first byte says how far its number is above that of the one before it, and its kind: \x26 two and i64, \x1c one and struct.
_USUAL_CHUNK: Final = re.compile(
    rb"\x26%b\x1c" % thrift.A_NUMBER  # file_offset; meta_data:
    + rb"(\x15%b\x19%b" % (thrift.A_NUMBER, thrift.a_list(thrift.I32, thrift.A_NUMBER))  # type, encodings
    + rb"\x19%b\x15%b" % (thrift.a_list(thrift.BINARY, thrift.A_TEXT), thrift.A_NUMBER)  # path_in_schema, codec
    + rb"\x16%b\x16(%b))" % (thrift.A_NUMBER, thrift.A_NUMBER)  # num_values, total_uncompressed_size
    + rb"\x16(%b)\x26(%b)" % (thrift.A_NUMBER, thrift.A_NUMBER)  # total_compressed_size, data_page_offset
    + rb"(?:\x26(%b)\x1c|\x3c)(%b)" % (thrift.A_NUMBER, thrift.A_STRUCT_OF_VALUES)  # dictionary_page_offset, statistics
    + rb"(?:\x19(%b))?" % thrift.a_list(thrift.STRUCT, thrift.A_STRUCT_OF_VALUES)  # encoding_stats
    + rb"(?:%b%b|%b%b)*+\0" % (thrift.a_field(thrift.I32, thrift.I64), thrift.A_NUMBER, thrift.a_field(thrift.STRUCT), _NUMBERS)
    + rb"(?:%b%b|[\x1c\x5c]\x1c\0\0)*+\0" % (thrift.a_field(thrift.I32, thrift.I64), thrift.A_NUMBER),  # crypto_metadata
    re.DOTALL,
)
"""A ``ColumnChunk`` as Arrow, Polars and Parquet's Java write one, with statistics of short values, and without metadata of users."""
_CHUNKS: Final = thrift.Usual(_USUAL_CHUNK, {_CHUNK_METADATA: thrift.NOTHING_INSIDE})
_SHAPE: Final[thrift.Shape] = {_SCHEMA: thrift.NOTHING_INSIDE, 4: {1: _CHUNKS}, 7: thrift.NOTHING_INSIDE}
"""Of a ``FileMetaData``: the schema's elements, the row groups' columns, and how the values of columns are ordered."""
_CHUNK_HEAD: Final = thrift.written_integer(thrift.I64, 2, 0) + thrift.written(thrift.STRUCT, 1, b"")
"""Of a ``ColumnChunk``, up to its metadata."""
_UNDER_THE_FOOTERS_KEY: Final = thrift.written(thrift.STRUCT, 5, thrift.written(thrift.STRUCT, 1, thrift.STOP) + thrift.STOP)
"""Of a ``ColumnChunk``, after its metadata: ``ENCRYPTION_WITH_FOOTER_KEY``."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row group's part of one column: where it lies in the file, whether a dictionary begins it, how long it is without compression.

    ``head`` and ``tail``: ``ColumnMetaData`` up to the length, and after the places of the pages.
    """

    start: int
    length: int
    unpacked: int
    dictionary: bool
    head: bytes
    tail: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """A row group: how many rows it has, and its leaf columns' chunks."""

    rows: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its elements of the schema, as bytes, and which of the leaf columns are parts of it."""

    name: str
    elements: tuple[bytes, ...]
    leaves: range


@dataclass(frozen=True, slots=True)
class Layout:
    """What files of one table have in common, byte for byte: schema, writer, the order of values in statistics.

    ``head``: the footer's beginning, up to the schema.
    """

    head: bytes
    columns: tuple[Column, ...]
    root: bytes
    version: int
    writer: bytes | None
    orders: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Footer:
    """A parsed footer."""

    rows: int
    layout: Layout
    groups: tuple[Group, ...]

    @classmethod
    def parse(cls, data: bytes, like: Layout | None = None) -> Footer:
        """Read a ``FileMetaData``; what follows it is not looked at.  ``like``: the layout that it is expected to have.

        Raises:
            ParseError: it is none, or not one of a file that can be read by parts.
        """
        if like is None or not data.startswith(like.head):
            found = thrift.parsed_struct(data, _SHAPE).fields
            if not found.keys() >= {1, _SCHEMA}:
                raise ParseError("a Parquet footer lacks a field")
            columns, root = _columns(data, found[_SCHEMA].elements)
            like = Layout(data[: found[_SCHEMA].end], columns, root, thrift.integer(data, found[1]), None, ())
        else:
            found = thrift.parsed_struct(data, _SHAPE, at=len(like.head), after=_SCHEMA).fields
        if not found.keys() >= {3, 4}:
            raise ParseError("a Parquet footer lacks a field")
        orders = tuple(data[one.start : one.end] for one in found[7].elements) if 7 in found else ()
        layout = replace(like, writer=data[found[6].start : found[6].end] if 6 in found else None, orders=orders)
        leaves = layout.columns[-1].leaves.stop if layout.columns else 0
        groups = tuple(_group(data, one.fields, leaves) for one in found[4].elements)
        rows = thrift.integer(data, found[3])
        if rows != sum(group.rows for group in groups) or (orders and len(orders) != leaves):
            raise ParseError("a Parquet footer contradicts itself")
        return cls(rows, layout, groups)


@dataclass(frozen=True, slots=True)
class PlacedChunk:
    """A chunk in a new file: where its dictionary and its data begin, and how long it is."""

    chunk: Chunk
    dictionary: int | None
    data: int
    length: int


def image_footer(layout: Layout, columns: Sequence[Column], groups: Sequence[tuple[int, Sequence[PlacedChunk]]]) -> bytes:
    """The end of an image: the footer of these columns and row groups (each: its rows, its chunks), its length and the magic."""
    row_groups = [_written_group(rows, chunks, thrift.STOP) + thrift.STOP for rows, chunks in groups]
    # A root without its number of children ends with field 4, the name.
    root = layout.root + thrift.written_integer(thrift.I32, 1, len(columns)) + thrift.STOP
    footer = [
        thrift.written_integer(thrift.I32, 1, layout.version),
        thrift.written_structs(1, [root, *(element for column in columns for element in column.elements)]),
        thrift.written_integer(thrift.I64, 1, sum(rows for rows, _ in groups)),
        thrift.written_structs(1, row_groups),
    ]
    last = 4
    if layout.writer is not None:
        footer.append(thrift.written(thrift.BINARY, 6 - last, layout.writer))
        last = 6
    if layout.orders:
        footer.append(thrift.written_structs(7 - last, [layout.orders[leaf] for column in columns for leaf in column.leaves]))
    data = b"".join((*footer, thrift.STOP))
    return data + len(data).to_bytes(4, "little") + PLAIN_MAGIC


def sealed_footer(plain: bytes, groups: Sequence[tuple[int, Sequence[PlacedChunk]]]) -> bytes:
    """The footer of a plain file, which :meth:`Footer.parse` has read, as that of an encrypted one with these row groups.

    All of their columns are under the footer's key.
    """
    found = thrift.parsed_struct(plain, thrift.NOTHING_INSIDE).fields
    row_groups = []
    for ordinal, (rows, chunks) in enumerate(groups):
        first = chunks[0].data if chunks[0].dictionary is None else chunks[0].dictionary
        length = sum(chunk.length for chunk in chunks)
        after = [(thrift.I64, 2, first), (thrift.I64, 1, length), (thrift.I16, 1, ordinal)]
        row_groups.append(
            _written_group(rows, chunks, _UNDER_THE_FOOTERS_KEY + thrift.STOP)
            + b"".join(thrift.written_integer(*one) for one in after)
            + thrift.STOP
        )
    return b"".join((
        plain[: found[_SCHEMA].end],
        thrift.written_integer(thrift.I64, 1, sum(rows for rows, _ in groups)),
        thrift.written_structs(1, row_groups),
        plain[found[4].end :],  # fields are numbered from the one before them, which is the same one
    ))


def _written_group(rows: int, chunks: Sequence[PlacedChunk], end: bytes) -> bytes:
    """A ``RowGroup`` up to its field 3.  ``end``: of each ``ColumnChunk``, after its metadata."""
    return (
        thrift.written_structs(1, [_written_chunk(chunk) + end for chunk in chunks])
        + thrift.written_integer(thrift.I64, 1, sum(chunk.chunk.unpacked for chunk in chunks))
        + thrift.written_integer(thrift.I64, 1, rows)
    )


def _written_chunk(placed: PlacedChunk) -> bytes:
    places = [_LENGTH_FIELD, thrift.written_varint(placed.length << 1), _DATA_PAGE_FIELD, thrift.written_varint(placed.data << 1)]
    if placed.dictionary is not None:
        places += _DICTIONARY_PAGE_FIELD, thrift.written_varint(placed.dictionary << 1)
    return b"".join((_CHUNK_HEAD, placed.chunk.head, *places, placed.chunk.tail))


def _group(data: bytes, found: Mapping[int, Value], leaves: int) -> Group:
    if not found.keys() >= {1, 3}:
        raise ParseError("a row group of a Parquet footer lacks a field")
    rows = thrift.integer(data, found[3])
    chunks = tuple(_chunk(data, one, rows) for one in found[1].elements)
    if len(chunks) != leaves or rows < 0:
        raise ParseError("a row group of a Parquet footer has not the columns of the schema")
    return Group(rows, chunks)


def _chunk(data: bytes, found: Value, rows: int) -> Chunk:
    said = _described(data, found.fields) if found.matched is None else _matched(found.matched)
    first = said.dictionary if 0 < said.dictionary < said.data_page else said.data_page
    if rows and (said.length < 0 or said.unpacked < 0 or first < len(PLAIN_MAGIC)):  # of no rows, there may be no page
        raise ParseError("a column of a Parquet footer lies nowhere")
    tail, last = b"", _DICTIONARY_PAGE if first < said.data_page else _DATA_PAGE
    for kind, number, value in ((thrift.STRUCT, _STATISTICS, said.statistics), (thrift.LIST, _ENCODING_STATS, said.encoding_stats)):
        if value:
            tail += thrift.written(kind, number - last, value)
            last = number
    return Chunk(first, said.length, said.unpacked, first < said.data_page, said.head, tail + thrift.STOP)


class _Said(NamedTuple):
    """What a footer says of a chunk, in bytes where nobody looks into it; nothing, if it says none."""

    head: bytes
    unpacked: int
    length: int
    data_page: int
    dictionary: int
    statistics: bytes
    encoding_stats: bytes


def _matched(found: re.Match[bytes]) -> _Said:
    """Of a chunk that matches :data:`_USUAL_CHUNK`."""
    head, *numbers, statistics, encoding_stats = found.groups(b"")
    unpacked, length, data_page, dictionary = map(thrift.whole_integer, numbers)
    return _Said(head, unpacked, length, data_page, dictionary, statistics, encoding_stats)


def _described(data: bytes, outer: Mapping[int, Value]) -> _Said:
    """Of any other chunk."""
    if _CHUNK_METADATA not in outer:
        raise ParseError("a column of a Parquet footer has no metadata here: it is under a key of its own")
    start, found = outer[_CHUNK_METADATA].start, outer[_CHUNK_METADATA].fields
    if not found.keys() >= {1, 2, 3, 4, 5, _UNPACKED, _LENGTH, _DATA_PAGE}:
        raise ParseError("a column of a Parquet footer lacks a field")
    unpacked, length, data_page = (thrift.integer(data, found[number]) for number in (_UNPACKED, _LENGTH, _DATA_PAGE))
    dictionary = thrift.integer(data, found[_DICTIONARY_PAGE]) if _DICTIONARY_PAGE in found else 0
    statistics, encoding_stats = (
        data[found[number].start : found[number].end] if number in found and found[number].kind == kind else b""
        for number, kind in ((_STATISTICS, thrift.STRUCT), (_ENCODING_STATS, thrift.LIST))
    )
    return _Said(data[start : found[_UNPACKED].end], unpacked, length, data_page, dictionary, statistics, encoding_stats)


def _columns(data: bytes, elements: Sequence[Value]) -> tuple[tuple[Column, ...], bytes]:
    """The columns of a schema, which is a tree in depth-first order, and the root's element up to its name."""
    parsed = [one.fields for one in elements]
    if not parsed or not all(4 in one for one in parsed):
        raise ParseError("a Parquet schema lacks names")
    children = [thrift.integer(data, one[5]) if 5 in one else 0 for one in parsed]
    found: list[Column] = []
    at, leaf = 1, 0
    for _ in range(children[0]):
        first, first_leaf, open_ = at, leaf, 1
        while open_:
            if at >= len(elements) or children[at] < 0:
                raise ParseError("a Parquet schema is no tree")
            open_ += children[at] - 1
            leaf += not children[at]
            at += 1
        name = thrift.binary(data, parsed[first][4])
        spans = tuple(data[one.start : one.end] for one in elements[first:at])
        try:
            found.append(Column(name.decode(), spans, range(first_leaf, leaf)))
        except UnicodeDecodeError as cause:
            raise ParseError("a column's name is no text") from cause
    if at != len(elements):
        raise ParseError("a Parquet schema is no tree")
    return tuple(found), data[elements[0].start : parsed[0][4].end]
