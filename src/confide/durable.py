"""Makes what was written durable: it is there after the power was cut.  Knows nothing of what it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable (fsync(2) of the directory)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: BinaryIO) -> None:
    """Make the file's bytes durable (fsync(2))."""
    file.flush()
    os.fsync(file.fileno())
