"""Encrypted Parquet files whose footer is read once, and plain images of what a query needs of them, in memory, for Polars.

Polars takes a file without encryption for an answer even where it was given a key (``scan_parquet``, ``decryption``), and storage can show
another file each time that it is asked.  So a file's footer is read once, must be an encrypted one (``PARE``) and must open under the key
and the AAD prefix of the file.  It says where column chunks lie; their pages are read once, opened here, and put into an image: a Parquet
file without encryption that exists in this process alone.  Nothing here writes to disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from confide.data.folder import PARQUET_MAGIC, PARQUET_TAIL_BYTES
from confide.data.parquet_footer import PLAIN_MAGIC, Chunk, Column, Footer, Layout, PlacedChunk, image_footer
from confide.data.parquet_image import Image, Room
from confide.data.parquet_modules import Modules, file_unique
from confide.data.places import FilePlace, RangedFolder
from confide.errors import ExtraMissingError, IntegrityError, ParseError, PlaintextError
from confide.regular_file import open_regular
from confide.seekable import SeekableReader

try:
    from polars.exceptions import PolarsError
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

if TYPE_CHECKING:
    from types import TracebackType

    from confide.crypto.secret import SecretBytes


_FIRST_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table, as the verified manifest has it."""

    path: str
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class FileAccess:
    """What opens one Parquet file."""

    key: SecretBytes
    aad_prefix: bytes


class Facts(NamedTuple):
    """What a file's footer says of the values of one column, a row group each; ``None`` where it says nothing."""

    lowest: list[object]
    highest: list[object]
    nulls: list[int | None]


@dataclass(frozen=True, slots=True)
class PinnedFooter:
    """A footer that was opened.  It stays what it is, whatever storage shows later."""

    unique: bytes
    footer: Footer
    _facts: dict[str, Facts] = field(default_factory=dict)

    def facts(self, name: str) -> Facts:
        """The statistics of a column that has one leaf."""
        if name not in self._facts:
            layout = self.footer.layout
            column = next(column for column in layout.columns if column.name == name)
            placed = [(one.rows, [_nowhere(one.chunks[leaf]) for leaf in column.leaves]) for one in self.footer.groups]
            metadata = pq.read_metadata(pa.BufferReader(PLAIN_MAGIC + image_footer(layout, [column], placed)))
            said = [metadata.row_group(index).column(0).statistics for index in range(metadata.num_row_groups)]
            self._facts[name] = Facts(
                [one.min if one is not None and one.has_min_max else None for one in said],
                [one.max if one is not None and one.has_min_max else None for one in said],
                [one.null_count if one is not None and one.has_null_count else None for one in said],
            )
        return self._facts[name]

    def bytes_of(self, group: int, columns: Sequence[Column]) -> int:
        """How long these columns of a row group are without compression."""
        chunks = self.footer.groups[group].chunks
        return sum(max(chunks[leaf].length, chunks[leaf].unpacked) for column in columns for leaf in column.leaves)

    def sharing(self, layout: Layout) -> PinnedFooter:
        """The same with an equal layout that others have."""
        return replace(self, footer=replace(self.footer, layout=layout))


@dataclass(slots=True)
class Fetched:
    """How much was read of files: bytes as they are stored, and seconds in the cipher.  Of one thread at a time."""

    size: int = 0
    cipher_s: float = 0.0
    _buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_FIRST_BYTES)), repr=False)

    def room(self, length: int) -> memoryview:
        """Memory for so many bytes, as they are stored: the same each time, which costs less than new memory."""
        if length > len(self._buffer):
            self._buffer = memoryview(bytearray(max(length, 2 * len(self._buffer))))
        return self._buffer[:length]


class PinnedFile:
    """An encrypted Parquet file whose footer was read once and opened.  A context manager that forgets the key."""

    def __init__(
        self,
        folder: Path | RangedFolder,
        entry: TableFile,
        access: FileAccess,
        pinned: PinnedFooter | None = None,
        *,
        like: Layout | None = None,
    ) -> None:
        """Open it.  ``pinned``: its footer, if it was opened before.  ``like``: the layout that is expected of it.

        Raises:
            PlaintextError: its footer is not encrypted.
            IntegrityError: it is missing, has another length or number of rows than the manifest says, or does not open.
        """
        self.path = entry.path
        self._size = entry.size
        with ExitStack() as undo:
            undo.callback(access.key.wipe)
            try:
                self._file = undo.enter_context(_opened(folder / entry.path))
            except OSError as cause:
                raise IntegrityError(f"a file of the dataset is missing: {entry.path}", path=entry.path) from cause
            found = self._file.seek(0, os.SEEK_END)
            if found != self._size:
                message = f"a file has another length than its manifest says: {self.path}"
                raise IntegrityError(message, path=self.path, expected=self._size, got=found)
            if pinned is None:
                pinned, self._modules = self._open_footer(access, like)
                if pinned.footer.rows != entry.rows:
                    raise IntegrityError(f"a file has another number of rows than the manifest says: {entry.path}", path=entry.path)
            else:
                self._modules = Modules(access.key, access.aad_prefix + pinned.unique)
            self.pinned = pinned
            self._undo = undo.pop_all()

    def put_pages(self, group: int, columns: Sequence[Column], image: Image, fetched: Fetched) -> None:
        """Read these columns of a row group, and put them into an image.

        Raises:
            IntegrityError: they do not open, or the file was cut meanwhile.
        """
        described = self.pinned.footer.groups[group]
        leaves = [(leaf, described.chunks[leaf]) for column in columns for leaf in column.leaves]
        most = sum(chunk.length for _, chunk in leaves)  # opened pages are never longer than they were
        with as_integrity(self.path), image.group(described.rows, most) as (room, placed):
            for leaf, chunk in leaves:
                first = room.at
                after_dictionary = self.open_chunk((group, leaf), room, fetched)
                placed.append(PlacedChunk(chunk, first if chunk.dictionary else None, after_dictionary, room.at - first))

    def open_chunk(self, place: tuple[int, int], room: Room, fetched: Fetched) -> int:
        """Read the chunk of a row group and a leaf column, and put its pages into ``room``.  Returns where its first page of data is.

        Raises:
            IntegrityError: the file was cut meanwhile.
            ParseError: a page does not open.
        """
        group, leaf = place
        chunk = self.pinned.footer.groups[group].chunks[leaf]
        data = self._fetch(chunk.start, chunk.length, fetched)
        began = perf_counter()
        after_dictionary = self._modules.pages(data, place, room, dictionary=chunk.dictionary)
        fetched.cipher_s += perf_counter() - began
        fetched.size += chunk.length
        return after_dictionary

    def close(self) -> None:
        """Close the file and forget its key."""
        del self._modules
        self._undo.close()

    def _open_footer(self, access: FileAccess, like: Layout | None) -> tuple[PinnedFooter, Modules]:
        fetched = Fetched()
        end = bytes(self._fetch(max(0, self._size - PARQUET_TAIL_BYTES), min(self._size, PARQUET_TAIL_BYTES), fetched))
        if end[4:] != PARQUET_MAGIC:
            raise PlaintextError(f"not an encrypted Parquet file: {self.path}", path=self.path)
        length = int.from_bytes(end[:4], "little")
        if length > self._size - PARQUET_TAIL_BYTES - len(PARQUET_MAGIC):
            raise _does_not_open(self.path)
        footer = bytes(self._fetch(self._size - PARQUET_TAIL_BYTES - length, length, fetched))
        with as_integrity(self.path):  # of another algorithm than AES_GCM_V1, too
            unique, start = file_unique(footer)
            modules = Modules(access.key, access.aad_prefix + unique)
            parsed = Footer.parse(modules.footer(footer[start:]), like)
        if any(chunk.start + chunk.length > self._size for group in parsed.groups if group.rows for chunk in group.chunks):
            raise _does_not_open(self.path)
        return PinnedFooter(unique, parsed), modules

    def _fetch(self, offset: int, length: int, fetched: Fetched) -> memoryview:
        """What is there, until the next of this ``fetched``."""
        data, at = fetched.room(length), 0
        while at < length:  # Linux reads at most 2 GiB at a time
            found = self._fill(data[at:], offset + at)
            if not found:
                raise IntegrityError(f"a file was cut while it was read: {self.path}", path=self.path)
            at += found
        return data

    def _fill(self, data: memoryview, offset: int) -> int:
        if isinstance(self._file, SeekableReader):
            self._file.seek(offset)
            return self._file.readinto(data) or 0
        return os.preadv(self._file.fileno(), [data], offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _opened(place: FilePlace) -> BufferedReader | SeekableReader:
    return open_regular(place) if isinstance(place, Path) else place.open()


def _nowhere(chunk: Chunk) -> PlacedChunk:
    """A chunk of which only the metadata are looked at."""
    return PlacedChunk(chunk, len(PLAIN_MAGIC) if chunk.dictionary else None, len(PLAIN_MAGIC), chunk.length)


@contextmanager
def as_integrity(path: str) -> Iterator[None]:
    """What Polars and Arrow say of bytes that do not open, in our words: theirs may describe bytes that nobody vouches for."""
    try:
        yield
    except (OSError, pa.ArrowException, PolarsError, ParseError, ValueError) as cause:
        raise _does_not_open(path) from cause


def _does_not_open(path: str) -> IntegrityError:
    return IntegrityError(f"an encrypted file does not open: {path}", hint="it was changed, swapped or renamed", path=path)
