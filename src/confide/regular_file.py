"""Files that somebody else named or made: regular ones only, and never more bytes than they may have.

Opening a FIFO waits for a writer that may never come, and opening a device may do something.  Both can lie where a policy, a manifest or a
data file is expected.  What is wrong is said as ``OSError``, so that each reader refuses it as it refuses a file that is not there.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading, never waiting for one.  Links are followed.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # asked before it is opened: that alone does something to some devices
        raise _refused(path)
    # What it names may change in between.  A FIFO opened so does not wait, and a terminal does not become this process's own.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(path)
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """All of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return data


def _refused(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file", str(path))
