"""The memory of processes that do nothing but encrypt or decrypt: what is free there goes back to the system."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Final

_POOL: Final = "ARROW_DEFAULT_MEMORY_POOL"
_ARENAS: Final = -8
"""M_ARENA_MAX of mallopt(3)."""


def spare_memory() -> None:
    """Have Arrow take memory from the C library, and that give it back: allocators keep some for each thread.

    To be called before pyarrow is imported: parts of Arrow, such as its writer of Parquet, know only the pool that an environment variable
    names when it is loaded.  The variable is as it was afterwards.
    """
    before = os.environ.get(_POOL)
    os.environ[_POOL] = "system"
    try:
        import pyarrow as pa  # noqa: PLC0415 -- see above
    finally:
        del os.environ[_POOL]
        if before is not None:
            os.environ[_POOL] = before
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(AttributeError):  # glibc's; other C libraries keep less
        ctypes.CDLL(None).mallopt(_ARENAS, 2)
