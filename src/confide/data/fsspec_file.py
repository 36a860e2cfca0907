"""A file of fsspec, read from any offset, whose connection may break."""

from __future__ import annotations

import time
from typing import Any, Final

from confide.errors import UnavailableError
from confide.seekable import ReaderOver

_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.2
"""Before an fsspec read is tried a second time; doubled each time.  S3's refusals botocore repeats."""


class FsspecFile(ReaderOver):
    """A file of fsspec whose reads are tried again when the connection breaks."""

    def __init__(self, what: str, size: int, file: Any) -> None:
        super().__init__(file, size)
        self._what = what

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer``.

        Raises:
            UnavailableError: the connection breaks again and again.
        """
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))
        pause = _PAUSE_S
        for left in reversed(range(_ATTEMPTS)):
            try:
                self._file.seek(self._position)
                data = self._file.read(wanted)
            except (OSError, ValueError) as cause:
                if not left:
                    hint = "its transfers break off: try again later"
                    raise UnavailableError(f"cannot read {self._what}: {type(cause).__name__}", hint=hint, path=self._what) from cause
                time.sleep(pause)
                pause *= 2
                continue
            break
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
