"""No file of what a process holds is written when it crashes.  Knows nothing of keys.

A process that has keys in its memory has them in its core dump, and CPython's copies of a key are there even after it was wiped.  Each of
our programs calls :func:`forbid` before it reads a secret.  It changes the whole process, so the library does not call it by itself.
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
"""linux/prctl.h; prctl(2): a process that is not dumpable writes no core, and others of its user cannot attach to it or read its memory."""


def forbid() -> None:
    """Write no core dump of this process, whatever ends it, and let no other process of its user read its memory.

    The limit holds for programs that it becomes or starts as well; that it is not dumpable does not (prctl(2): execve sets it anew).

    Raises:
        OSError: the kernel refuses.  Then the process must not go on to secrets.
    """
    # A core that is handed to a program (core_pattern begins with "|", core(5)) is not held up by a limit of 0, but by one of 1: the
    # kernel takes that for the crash of such a program (do_coredump in fs/coredump.c).  A file of a byte is not written either.
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if most else 0  # a limit of 0 can be raised by root only
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
