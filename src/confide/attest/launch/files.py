"""Files that builds made, read whole and up to a size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confide.errors import UsageError
from confide.regular_file import open_regular

if TYPE_CHECKING:
    from pathlib import Path


def read_capped(path: Path, limit: int) -> bytes:
    """A file's bytes, at most ``limit``.

    Raises:
        UsageError: it cannot be read, or is larger.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as cause:
        raise UsageError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    if len(data) > limit:
        raise UsageError(f"{path} is too large for what it should be", path=str(path), limit=limit)
    return data
