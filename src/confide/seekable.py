"""What every file-like reader of known length does alike: it says where it is, and goes elsewhere."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from typing import Any


class SeekableReader(io.RawIOBase):
    """A read-only file of known :attr:`size` in bytes.  ``readinto`` is the subclass's, from ``_position`` on, which it moves."""

    def __init__(self) -> None:
        super().__init__()
        self._position = 0

    @property
    @abstractmethod
    def size(self) -> int:
        """Length in bytes."""

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move; past the end reads nothing.

        Raises:
            ValueError: to a place before the start.
        """
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = base + offset
        return self._position


class ReaderOver(SeekableReader):
    """One that reads another file, which it closes."""

    def __init__(self, file: Any, size: int) -> None:
        super().__init__()
        self._file, self._size = file, size

    @property
    def size(self) -> int:
        """Length in bytes, as it was when the file was opened."""
        return self._size

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()
