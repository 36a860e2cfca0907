"""A table's files as one plain Parquet file in memory, whose columns are opened when a query first needs them.

The file has its footer, and a place for every column chunk, from the beginning.  The places are empty and take no memory until their column
is opened, once: its pages are read, opened and put there, and stay.  Nothing here writes to disk, and no frames are made here.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Final, NoReturn

from confide.data.parquet_footer import PLAIN_MAGIC, Chunk, Footer, Group, PlacedChunk, image_footer
from confide.data.parquet_image import Room
from confide.data.pinned_parquet import Fetched, PinnedFile, PinnedFooter, TableFile, as_integrity
from confide.errors import SecretLeakError
from confide.free_memory import free_memory

_SHARE: Final = 4
"""One part in so many of the memory that is free holds opened columns: what queries make of them needs more."""


class OpenedMemory:
    """How many bytes opened columns may take, of all tables of a program."""

    def __init__(self, most: int | None = None) -> None:
        """``most``: a fourth of the memory that is free now, if nothing is said."""
        self.most = free_memory() // _SHARE if most is None else most
        self._left = self.most
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether so many bytes were left.  They are taken then."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """So many bytes are free again."""
        with self._lock:
            self._left += size


class OpenedTable:
    """Files of one layout.  Safe to use from several threads.  Not to be pickled: it holds data in the clear."""

    def __init__(self, files: Sequence[tuple[TableFile, PinnedFooter]], memory: OpenedMemory) -> None:
        """Nothing is opened yet.

        Raises:
            MemoryError: the system has not even the addresses for it.
        """
        self._files = files
        self._memory = memory
        self._lock = threading.Lock()
        layout = files[0][1].footer.layout
        self._columns = layout.columns
        self._opened: set[int] = set()
        groups = tuple(group for _, pinned in files for _, group in _of_rows(pinned))
        self.footer = PinnedFooter(b"", Footer(sum(group.rows for group in groups), layout, groups))
        """Of all files together, as if their row groups were those of one."""
        leaves = range(layout.columns[-1].leaves.stop)
        self._sizes = [sum(group.chunks[leaf].length for group in groups) for leaf in leaves]
        self._unpacked = [sum(group.chunks[leaf].unpacked for group in groups) for leaf in leaves]
        self._places: list[list[int]] = [[] for _ in groups]
        end = len(PLAIN_MAGIC)
        for leaf in leaves:  # a column's chunks lie together: it is opened as a whole
            for group, places in zip(groups, self._places, strict=True):
                places.append(end)
                end += group.chunks[leaf].length
        placed = [
            (group.rows, [_placed(chunk, at) for chunk, at in zip(group.chunks, places, strict=True)])
            for group, places in zip(groups, self._places, strict=True)
        ]
        footer = image_footer(layout, layout.columns, placed)
        self.file = bytes(end + len(footer))
        """The file.  What is in the places of columns that were not opened is no Parquet page and is refused by any reader."""
        self._view = _writable(self.file)
        self._view[: len(PLAIN_MAGIC)] = PLAIN_MAGIC
        self._view[end:] = footer

    def open(self, names: Collection[str] | None, open_file: Callable[[TableFile], PinnedFile], fetched: Fetched) -> bool:
        """Open the columns of these names, ``None`` for all, that are not open yet.  Returns whether there is memory for a query of them.

        Of its own files, Polars may have all in memory that a query names, without their compression.

        Raises:
            IntegrityError: one does not open.  It counts as not opened.
        """
        with self._lock:
            wanted = self._leaves(names)
            leaves = [leaf for leaf in wanted if leaf not in self._opened]
            size = sum(self._sizes[leaf] for leaf in leaves)
            if sum(self._unpacked[leaf] for leaf in wanted) > self._memory.most or not self._memory.take(size):
                return False
            done = False
            try:
                places = iter(self._places)
                for entry, pinned in self._files if leaves else ():
                    with open_file(entry) as file, as_integrity(entry.path):
                        for index, group in _of_rows(pinned):
                            starts = next(places)
                            for leaf in leaves:
                                end = starts[leaf] + group.chunks[leaf].length  # opened pages are never longer than they were
                                file.open_chunk((index, leaf), Room(self._view[starts[leaf] : end], 0), fetched)
                done = True
            finally:
                if not done:
                    self._clear(leaves)
                    self._memory.give(size)
            self._opened.update(leaves)
            return True

    def _clear(self, leaves: Sequence[int]) -> None:
        """Leave nothing of what did not open as a whole: the cipher writes before it has seen the tag."""
        for group, starts in zip(self.footer.footer.groups, self._places, strict=True):
            for leaf in leaves:
                length = group.chunks[leaf].length
                self._view[starts[leaf] : starts[leaf] + length] = bytes(length)

    def is_open(self, names: Collection[str] | None) -> bool:
        """Whether these columns are open."""
        with self._lock:
            return self._opened.issuperset(self._leaves(names))

    def _leaves(self, names: Collection[str] | None) -> list[int]:
        return [leaf for column in self._columns if names is None or column.name in names for leaf in column.leaves]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise SecretLeakError("opened columns were about to be pickled", hint="send the query's result instead")


def _of_rows(pinned: PinnedFooter) -> list[tuple[int, Group]]:
    """A file's row groups and their numbers, without those of no row, which may have no page where the footer says."""
    return [(index, group) for index, group in enumerate(pinned.footer.groups) if group.rows]


def _placed(chunk: Chunk, at: int) -> PlacedChunk:
    """A chunk that begins there.

    How long its dictionary is says the dictionary's header, once it is opened: readers go by that, and the footer's place of the first
    page of data says only that it is not the first.
    """
    return PlacedChunk(chunk, at if chunk.dictionary else None, at + chunk.dictionary, chunk.length)


def _writable(data: bytes) -> memoryview:
    """The memory of ``data``, which nobody else has yet.  It need not be there in one piece until it is written.

    Polars takes ``bytes`` as they are, and copies what any other object gives it.  That the memory is used in large pages is asked for
    because the kernel gives small ones one at a time, which takes longer than the cipher.
    """
    start = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + len(data)) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:  # a kernel without large pages says so, and gives small ones
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_HUGEPAGE)
    return memoryview((ctypes.c_char * len(data)).from_address(start)).cast("B")
