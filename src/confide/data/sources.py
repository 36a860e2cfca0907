"""What is to become a dataset of files: each file's path in it, and how its plaintext is read.  Nothing is read here."""

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
    """One file: its path in the dataset, and what opens its plaintext, anew each time."""

    name: str
    open: Callable[[], BinaryIO]


def plain_sources(source: Path) -> list[Source]:
    """The plaintext files in ``source``, a file or a folder.

    Raises:
        DataError: it is not there, or holds something else than files and folders.
    """
    return [Source(name, partial(open_regular, path)) for name, path in named_files(source)]


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
