"""Encrypted Parquet files that lie in a remote storage, as Arrow reads them: the part that says how they are encrypted is read once.

Arrow takes a file without encryption for an answer even where it was given a key, and pages without tags if the footer's file metadata say
so; a storage can show another file each time that it is asked.  So what was checked is what Arrow gets.  All else is authenticated page by
page (Parquet Modular Encryption, AES_GCM_V1).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from confide.data.folder import PARQUET_MAGIC, PARQUET_TAIL_BYTES, check_encrypted, require_encrypted_parquet
from confide.data.places import FilePlace, RemoteFile
from confide.errors import IntegrityError
from confide.seekable import ReaderOver, SeekableReader


class PinnedTail(ReaderOver):
    """A file whose end, from its footer on, was read and checked.  Each read of the rest is a read of ``file``, which it closes."""

    def __init__(self, file: SeekableReader, path: str) -> None:
        """Read the end.

        Raises:
            PlaintextError: the footer is not encrypted.
            IntegrityError: the file says that its pages have no tags, or ends too early.
        """
        super().__init__(file, file.size)
        self._path = path
        end = self._rest(max(0, self._size - PARQUET_TAIL_BYTES), min(self._size, PARQUET_TAIL_BYTES))
        length = min(int.from_bytes(end[: -len(PARQUET_MAGIC)], "little"), max(0, self._size - PARQUET_TAIL_BYTES))
        self._from = max(0, self._size - PARQUET_TAIL_BYTES - length)
        self._tail = self._rest(self._from, length) + end
        require_encrypted_parquet(PARQUET_MAGIC + self._tail, path)

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer``: the checked end from memory, the rest from the file."""
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self._size)
        if start >= stop:
            return 0
        data = self._rest(start, min(stop, self._from) - start) if start < self._from else b""
        data += self._tail[max(0, start - self._from) : max(0, stop - self._from)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _rest(self, start: int, length: int) -> bytes:
        self._file.seek(start, os.SEEK_SET)
        data = self._file.read(length) or b""
        if len(data) != length:
            raise IntegrityError(f"a file was cut while it was read: {self._path}", path=self._path)
        return data


def parquet_source(place: FilePlace, *, buffered: int) -> tuple[Path | BinaryIO, int]:
    """An encrypted Parquet file for Arrow, and of how many bytes its buffers should be: a remote one is read a column's chunk at a time.

    Raises:
        PlaintextError, IntegrityError: it is not encrypted, or not so that all of it is authenticated.
    """
    if isinstance(place, RemoteFile):
        try:
            return cast("BinaryIO", PinnedTail(place.open(), place.path)), 0
        except OSError as cause:
            raise IntegrityError(f"a file of the dataset is missing: {place.path}", path=place.path) from cause
    check_encrypted(place, "parquet")
    return place, buffered
