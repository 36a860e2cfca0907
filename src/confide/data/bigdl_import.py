"""From files and folders that BigDL PPML wrote to what a dataset is made of: which files there are, and that all of them are in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from confide.crypto.derive import check_data_path
from confide.data.bigdl import CheckedFile, KeyOf, check_file, readable
from confide.data.sources import Source, named_files
from confide.errors import DataError, IntegrityError

SUFFIX: Final = ".cbc"
"""What BigDL's Hadoop codec puts behind a file's own name."""
_SIDE_FILES: Final = frozenset({"_SUCCESS", ".meta"})
"""Hadoop's mark of a finished job, and BigDL's copy of the wrapped key that each header has too: neither holds data."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Files that were all found to be in order, each with its name in the dataset, and names of empty ones that are left out."""

    files: tuple[tuple[str, CheckedFile], ...]
    left_out: tuple[str, ...]

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """What is weak about their keys."""
        return tuple(sorted({file.key.weakness for _, file in self.files if file.key.weakness}))

    def sources(self, told: Callable[[int], None] = lambda _: None) -> list[Source]:
        """What a dataset is made of.  Each stream checks its file once more (:meth:`CheckedFile.open`).

        ``told`` is given the number of bytes read so far.
        """
        count = _summed(told)
        return [Source(name, partial(file.open, count)) for name, file in self.files]


def check_files(
    sources: Sequence[Path],
    key_of: KeyOf,
    *,
    accept_weak: bool = False,
    skip_empty: bool = False,
    told: Callable[[int], None] = lambda _: None,
) -> Checked:
    """Find the ``.cbc`` files in ``sources`` (files, and folders of Spark output) and check every one.

    ``told`` is given the number of bytes checked so far.  That no file is missing is not checked: nothing of BigDL's tells.

    Raises:
        DataError: a source is not there, holds a file that BigDL's codec did not write, or two files would have one name.
        IntegrityError: a file is not whole, is empty and ``skip_empty`` is not set, or is a copy of another.
        ConfideError: as :func:`confide.data.bigdl.check_file` says.
    """
    count = _summed(told)
    files: dict[str, CheckedFile] = {}
    left_out: list[str] = []
    for name, path in _found(sources):
        with readable(path):
            empty = path.stat().st_size == 0
        if empty:
            if not skip_empty:
                raise _empty(path)
            left_out.append(name)
            continue
        files[name] = check_file(path, name, key_of, accept_weak=accept_weak, told=count)
    _refuse_copies(files)
    return Checked(tuple(files.items()), tuple(left_out))


def _summed(told: Callable[[int], None]) -> Callable[[int], None]:
    done = 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        told(done)

    return count


def _found(sources: Sequence[Path]) -> list[tuple[str, Path]]:
    """Name in the dataset, and where it is now."""
    found: dict[str, Path] = {}
    for source in sources:
        for name, path in named_files(source):
            if source.is_dir() and _is_beside(path):
                continue
            if source.is_dir() and path.suffix != SUFFIX:
                hint = "name the files to import one by one; Parquet that BigDL encrypted is not read"
                raise DataError(f"not a {SUFFIX} file: {path}", hint=hint, path=str(path))
            inner = check_data_path(name.removesuffix(SUFFIX))
            if inner in found:
                raise DataError(f"two files would be {inner}", hint="import them as two datasets", path=str(path), other=str(found[inner]))
            found[inner] = path
    if not found:
        raise DataError(f"there is no {SUFFIX} file", path=str(sources[0]) if sources else None)
    return sorted(found.items())


def _is_beside(path: Path) -> bool:
    """Whether Hadoop or BigDL writes such a file beside the data: marks, and checksums (which nothing authenticates)."""
    return path.name in _SIDE_FILES or (path.name.startswith(".") and path.suffix == ".crc")


def _empty(path: Path) -> IntegrityError:
    hint = "BigDL wrote no byte for a partition without rows, so nothing says that it was empty; `--skip-empty` leaves such files out"
    return IntegrityError(f"{path.name} is empty", hint=hint, path=str(path))


def _refuse_copies(files: dict[str, CheckedFile]) -> None:
    """IVs are random and no two files have one ciphertext, so a file or a header was put in a second place."""
    ivs: dict[bytes, str] = {}
    macs: dict[bytes, str] = {}
    for name, file in files.items():
        for seen, value in ((ivs, file.header.iv), (macs, file.mac)):
            other = seen.setdefault(value, name)
            if other != name:
                raise IntegrityError(f"{name} is a copy of {other}, or has its header", path=name, other=other)
