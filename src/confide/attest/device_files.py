"""Reading and writing the pseudo-files through which TEEs give evidence.  Knows nothing of which file means what."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Protocol

from confide.errors import AttesterError

MAX_BLOB_BYTES = 256 * 1024
"""More than any report or certificate table of today (Linux caps its blobs at 32 KiB), and what evidence with a TPM's log may have."""
_CHUNK = 16 * 1024
_TRIES = 20
TRY_EVERY_S = 0.05


class Files(Protocol):
    """The system calls used here: the module ``os`` has them, and so has a kernel that a test makes up.  Failures raise ``OSError``."""

    def open(self, path: Path, flags: int, /) -> int:
        """System call ``open`` of section 2."""
        ...

    def read(self, fd: int, length: int, /) -> bytes:
        """System call ``read`` of section 2: may give less than was asked for, and gives nothing at the end only."""
        ...

    def write(self, fd: int, data: bytes, /) -> int:
        """System call ``write`` of section 2: may take less than it was given."""
        ...

    def close(self, fd: int, /) -> None:
        """System call ``close`` of section 2: pseudo-files may refuse here what was written before."""
        ...

    def mkdir(self, path: Path, /) -> None:
        """System call ``mkdir`` of section 2."""
        ...

    def rmdir(self, path: Path, /) -> None:
        """System call ``rmdir`` of section 2."""
        ...


def read_file(path: Path, files: Files = os) -> bytes:
    """Everything that the file has, however small the pieces in which it gives it.

    Raises:
        AttesterError: it cannot be read, or has no end.
    """
    try:
        return _read_all(path, files)
    except OSError as cause:
        raise AttesterError(f"cannot read {path}: {cause.strerror}", path=str(path), errno=cause.errno or 0) from cause


def read_when_free(path: Path, files: Files = os, *, busy: frozenset[int]) -> bytes:
    """The same, asked again while the answer is an errno of ``busy``: firmware makes one report at a time.

    Raises:
        AttesterError: it cannot be read, has no end, or stayed busy.
    """
    for _ in range(_TRIES):
        try:
            return _read_all(path, files)
        except OSError as cause:
            if cause.errno not in busy:
                raise AttesterError(f"cannot read {path}: {cause.strerror}", path=str(path), errno=cause.errno or 0) from cause
            time.sleep(TRY_EVERY_S)
    raise AttesterError("the TEE's firmware stayed busy", path=str(path), tries=_TRIES)


def write_file(path: Path, data: bytes, files: Files = os) -> None:
    """Hand over ``data`` in one write, as pseudo-files want it.

    Raises:
        AttesterError: it was refused, or taken in part.
    """
    try:
        fd = files.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            taken = files.write(fd, data)
        finally:
            files.close(fd)
    except OSError as cause:
        raise AttesterError(f"cannot write {path}: {cause.strerror}", path=str(path), errno=cause.errno or 0) from cause
    # Gramine fills up with zeros what came short, and each write counts as one in configfs: there is no going on from here.
    if taken != len(data):
        raise AttesterError(f"{path} took a part of what was written", path=str(path), taken=taken)


def _read_all(path: Path, files: Files) -> bytes:
    fd = files.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        got = bytearray()
        while piece := files.read(fd, _CHUNK):
            got += piece
            if len(got) > MAX_BLOB_BYTES:
                raise AttesterError(f"{path} is longer than evidence can be, or has no end", path=str(path), limit=MAX_BLOB_BYTES)
        return bytes(got)
    finally:
        files.close(fd)
