"""How much memory a process can still have.  Knows nothing of what it is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")


def free_memory(root: Path = _ROOT) -> int:
    """How many bytes this process can have without others having less: of the machine, and of the container, whichever is less.

    proc(5), ``MemAvailable``, and the kernel's ``cgroup-v2``: what a group uses counts the files that were read, which the kernel gives up
    where memory is needed.  Zero where the machine does not say.
    """
    found = _number(root / "proc/meminfo", r"^MemAvailable:\s+(\d+) kB")
    available = [0 if found is None else found * 1024]
    groups = [part for part in _text(root / "proc/self/cgroup").partition("0::")[2].partition("\n")[0].split("/") if part]
    for depth in range(len(groups) + 1):
        folder = (root / "sys/fs/cgroup").joinpath(*groups[:depth])
        most, used = _number(folder / "memory.max", r"^(\d+)"), _number(folder / "memory.current", r"^(\d+)")
        if most is not None and used is not None:
            files = _number(folder / "memory.stat", r"^inactive_file (\d+)") or 0
            available.append(max(0, most - used + files))
    return min(available)


def _number(path: Path, pattern: str) -> int | None:
    found = re.search(pattern, _text(path), re.MULTILINE)
    return None if found is None else int(found[1])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
