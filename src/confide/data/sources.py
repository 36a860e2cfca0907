"""What is to become a dataset: each file's name in it, how its plaintext is read, and what tells that it is still the same.

Nothing is read here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from confide.errors import DataError
from confide.regular_file import open_regular


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its path in the dataset, and what opens its plaintext, anew each time.

    ``size`` is in bytes, if it is known.  ``version`` says which bytes these are, as its storage tells (times, an ETag): it is another one
    when they were changed.  ``once``: it is a stream that can be opened a single time.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int | None = None
    version: str = ""
    once: bool = False


def plain_sources(source: Path) -> list[Source]:
    """The plaintext files in ``source``, a file or a folder.

    Raises:
        DataError: it is not there, or holds something else than files and folders.
    """
    return [local_source(name, path) for name, path in named_files(source)]


def local_source(name: str, path: Path) -> Source:
    """A file as a source of that name.

    Raises:
        DataError: it cannot be looked at.
    """
    try:
        status = path.stat()
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    # Device, inode and change time are not a matter of who wrote the file last: only the system sets them.
    version = f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"
    return Source(name, partial(open_regular, path), status.st_size, version)


def named_files(source: Path) -> list[tuple[str, Path]]:
    """A file, or every file in a folder, each with its path in the dataset.

    Nothing is left out unsaid: its owner may remove the plaintext next.

    Raises:
        DataError: it is not there, or holds something else than files and folders.
    """
    if not source.is_dir():
        if not source.is_file():
            raise DataError(f"there is no file {source}", path=str(source))
        return [(source.name, source)]
    found = sorted(source.rglob("*"))
    for path in found:
        if not path.is_file() and (path.is_symlink() or not path.is_dir()):
            hint = "links to folders are not followed: copy the files there, or remove the link"
            raise DataError(f"not a file or folder: {path}", hint=hint, path=str(path))
    return [(path.relative_to(source).as_posix(), path) for path in found if path.is_file()]
