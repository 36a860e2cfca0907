"""Encrypted Parquet files whose footer is read once, and images of them in memory for Polars to decrypt.

Polars takes a file without encryption for an answer even where it was given a key (``scan_parquet``, ``decryption``), and storage can show
another file each time that it is asked.  So a file's footer is read once, must be an encrypted one (``PARE``) and must open under the key
and the AAD prefix of the file; Polars then reads an image of the file in memory: that very footer, and the column chunks that a query needs
at their places.  Images hold ciphertext.  Nothing here writes to disk.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from confide.data.folder import AES_GCM_V1, PARQUET_MAGIC, PARQUET_TAIL_BYTES
from confide.data.places import FilePlace, RangedFolder
from confide.errors import ExtraMissingError, IntegrityError, PlaintextError
from confide.regular_file import open_regular
from confide.seekable import SeekableReader

try:
    import polars as pl
    from polars.exceptions import PolarsError
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

if TYPE_CHECKING:
    from types import TracebackType

    from confide.crypto.secret import SecretBytes


_RANGE: Final = 8 << 20
"""Bytes of a remote file that are in memory beside the image that they go to."""


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


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A row group's part of one column: where it lies in the file, and how long it is without compression."""

    start: int
    length: int
    unpacked: int


class PinnedFile:
    """An encrypted Parquet file whose footer was read once and opened.  A context manager that forgets the key."""

    def __init__(self, folder: Path | RangedFolder, entry: TableFile, access: FileAccess) -> None:
        """Open it.

        Raises:
            PlaintextError: its footer is not encrypted.
            IntegrityError: it is missing, has another length or number of rows than the manifest says, or does not open.
        """
        self.path = entry.path
        self._size = entry.size
        self._access = access
        with ExitStack() as undo:
            undo.callback(access.key.wipe)
            try:
                self._file = undo.enter_context(_opened(folder / entry.path))
            except OSError as cause:
                raise IntegrityError(f"a file of the dataset is missing: {entry.path}", path=entry.path) from cause
            self._tail = self._read_tail()
            self.metadata = self._open_footer()
            self.schema: pa.Schema = self.metadata.schema.to_arrow_schema()
            if self.metadata.num_rows != entry.rows:
                raise IntegrityError(f"a file has another number of rows than the manifest says: {entry.path}", path=entry.path)
            self._leaves = leaves(self.schema)
            self._undo = undo.pop_all()

    def scan(self, image: BinaryIO) -> pl.LazyFrame:
        """Polars' own scan of an image of this file."""
        properties = pl.ParquetDecryptionProperties(footer_key=self._access.key.reveal(), aad_prefix=self._access.aad_prefix)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parameter may change: the tests would say so
            return pl.scan_parquet(image, decryption=properties, glob=False, hive_partitioning=False)

    def image(self, groups: Sequence[int] = (), columns: frozenset[str] | None = None) -> BinaryIO:
        """The file in memory: footer, and the chunks of these row groups and columns, each at its place; the rest is a hole.

        Raises:
            IntegrityError: the file was cut meanwhile.
        """
        image = os.fdopen(os.memfd_create("confide-parquet"), "w+b", buffering=0)
        image.truncate(self._size)
        image.write(PARQUET_MAGIC)
        image.seek(self._size - len(self._tail))
        image.write(self._tail)
        for chunk in self._chunks(groups, columns):
            self._copy(chunk, image)
        image.seek(0)
        return image

    def bytes_of(self, group: int, columns: frozenset[str] | None) -> int:
        """How long these columns of a row group are without compression."""
        return sum(max(chunk.length, chunk.unpacked) for chunk in self._chunks([group], columns))

    def close(self) -> None:
        """Close the file and forget its key."""
        self._undo.close()

    def _read_tail(self) -> bytes:
        found = self._file.seek(0, os.SEEK_END)
        if found != self._size:
            message = f"a file has another length than its manifest says: {self.path}"
            raise IntegrityError(message, path=self.path, expected=self._size, got=found)
        end = self._fetch(max(0, self._size - PARQUET_TAIL_BYTES), min(self._size, PARQUET_TAIL_BYTES))
        if end[4:] != PARQUET_MAGIC:
            raise PlaintextError(f"not an encrypted Parquet file: {self.path}", path=self.path)
        length = int.from_bytes(end[:4], "little")
        if length > self._size - PARQUET_TAIL_BYTES - len(PARQUET_MAGIC):
            raise _does_not_open(self.path)
        footer = self._fetch(self._size - PARQUET_TAIL_BYTES - length, length)
        if not footer.startswith(AES_GCM_V1):
            raise _does_not_open(self.path)
        return footer + end

    def _open_footer(self) -> pq.FileMetaData:
        properties: Any = encryption.create_decryption_properties(self._access.key.reveal(), aad_prefix=self._access.aad_prefix)
        with self.image() as image, as_integrity(self.path), pq.ParquetFile(image, decryption_properties=properties) as file:
            return file.metadata

    def _chunks(self, groups: Sequence[int], columns: frozenset[str] | None) -> Iterator[_Chunk]:
        for group in groups:
            wanted = [index for index, name in enumerate(self._leaves) if columns is None or name in columns]
            described = self.metadata.row_group(group)
            for index in wanted:
                column = described.column(index)
                first = column.dictionary_page_offset if column.has_dictionary_page else None
                start = min(first or column.data_page_offset, column.data_page_offset)
                yield _Chunk(start, column.total_compressed_size, column.total_uncompressed_size)

    def _copy(self, chunk: _Chunk, image: BinaryIO) -> None:
        image.seek(chunk.start)
        at, end = chunk.start, chunk.start + chunk.length
        if isinstance(self._file, SeekableReader):
            while at < end:
                at += image.write(self._fetch(at, min(_RANGE, end - at)))
            return
        while at < end:
            sent = os.sendfile(image.fileno(), self._file.fileno(), at, end - at)
            if sent == 0:
                raise IntegrityError(f"a file was cut while it was read: {self.path}", path=self.path)
            at += sent

    def _fetch(self, offset: int, length: int) -> bytes:
        if isinstance(self._file, SeekableReader):
            self._file.seek(offset)
            data = self._file.read(length) or b""
        else:
            data = os.pread(self._file.fileno(), length, offset)
        if len(data) != length:
            raise IntegrityError(f"a file was cut while it was read: {self.path}", path=self.path)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _opened(place: FilePlace) -> BufferedReader | SeekableReader:
    return open_regular(place) if isinstance(place, Path) else place.open()


def leaves(schema: pa.Schema) -> list[str]:
    """For each leaf column of a file, in order, the name of the column that it is a part of."""
    return [field.name for field in schema for _ in range(_leaf_count(field.type))]


def _leaf_count(kind: pa.DataType) -> int:
    if pa.types.is_dictionary(kind) or not pa.types.is_nested(kind):
        return 1
    return sum(_leaf_count(kind.field(index).type) for index in range(kind.num_fields))


@contextmanager
def as_integrity(path: str) -> Iterator[None]:
    """What Polars and Arrow say of bytes that do not open, in our words: theirs may describe bytes that nobody vouches for."""
    try:
        yield
    except (OSError, pa.ArrowException, PolarsError, ValueError) as cause:
        raise _does_not_open(path) from cause


def _does_not_open(path: str) -> IntegrityError:
    return IntegrityError(f"an encrypted file does not open: {path}", hint="it was changed, swapped or renamed", path=path)
