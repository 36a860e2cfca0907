"""Plain Parquet files in memory, made of columns of row groups of files that have one layout.

Memory that the kernel gives anew is what making them costs most, so that buffers are used again.  Nothing here writes to disk.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from confide.data.parquet_footer import PLAIN_MAGIC, Column, Layout, PlacedChunk, image_footer

_FIRST_BYTES: Final = 64 * 1024
_KEPT: Final = 4
"""Buffers that wait for the next images: those of one step are read while those of the next are filled."""


class Buffers:
    """Memory of images that were read."""

    def __init__(self) -> None:
        self._free: list[io.BytesIO] = []

    def take(self) -> io.BytesIO:
        """A buffer, of any length."""
        try:
            return self._free.pop()
        except IndexError:
            return io.BytesIO(bytes(_FIRST_BYTES))

    def give(self, buffer: io.BytesIO) -> None:
        """Nobody writes into it any more.  Who has its value keeps that: :meth:`io.BytesIO.getvalue` gave out unchangeable bytes."""
        if len(self._free) < _KEPT:
            self._free.append(buffer)


class Room:
    """Where the pages of a row group go."""

    def __init__(self, view: memoryview, at: int) -> None:
        self.view = view
        self.at = at

    def put(self, data: bytes) -> None:
        """Append bytes."""
        end = self.at + len(data)
        self.view[self.at : end] = data
        self.at = end

    def next(self, length: int) -> memoryview:
        """Room for so many bytes, which somebody fills."""
        start, self.at = self.at, self.at + length
        return self.view[start : self.at]


class Image:
    """A file that is being made."""

    def __init__(self, layout: Layout, columns: Sequence[Column], buffers: Buffers) -> None:
        self._layout = layout
        self._columns = columns
        self._buffers = buffers
        self._buffer = buffers.take()
        self._groups: list[tuple[int, list[PlacedChunk]]] = []
        self.rows = 0
        self._size = 0
        self._put(PLAIN_MAGIC)

    @contextmanager
    def group(self, rows: int, most: int) -> Iterator[tuple[Room, list[PlacedChunk]]]:
        """Add a row group of at most so many bytes: who fills the room says which chunks are in it, in the order of the columns."""
        self._reserve(most)
        chunks: list[PlacedChunk] = []
        with self._buffer.getbuffer() as view:
            room = Room(view, self._size)
            yield room, chunks
            self._size = room.at
        self._groups.append((rows, chunks))
        self.rows += rows

    def whole(self) -> bytes:
        """The file: between the pages and the footer there may be anything, which no reader looks at.  Nothing is added afterwards."""
        footer = image_footer(self._layout, self._columns, self._groups)
        self._reserve(len(footer))
        with self._buffer.getbuffer() as view:
            view[len(view) - len(footer) :] = footer
        return self._buffer.getvalue()

    def close(self) -> None:
        """It was read."""
        self._buffers.give(self._buffer)

    def _put(self, data: bytes) -> None:
        self._reserve(len(data))
        with self._buffer.getbuffer() as view:
            view[self._size : self._size + len(data)] = data
        self._size += len(data)

    def _reserve(self, more: int) -> None:
        with self._buffer.getbuffer() as view:
            if self._size + more <= len(view):
                return
            larger = io.BytesIO(bytes(max(2 * len(view), self._size + more)))  # memory that is touched when it is used
            with larger.getbuffer() as target:
                target[: self._size] = view[: self._size]
        self._buffer = larger


def arrow_schema(layout: Layout) -> pa.Schema:
    """The columns of files with this layout."""
    return pq.read_schema(pa.BufferReader(Image(layout, layout.columns, Buffers()).whole()))
