"""A node's private, memory-backed folder: the only place where secrets lie in files, for engines that read them from files.

Mode 0700 on a RAM file system, files 0600, overwritten and removed at the end.  On a real TEE the memory is the TEE's; under simulation
root can read it, as root can read everything.  A node that is killed leaves its folder behind: :func:`sweep` is for whoever killed it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Self

from confide.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

    from confide.crypto.secret import SecretBytes
    from confide.ids import NodeId, RunId

MEMORY_BASE = Path("/dev/shm")  # noqa: S108  memory-backed on Linux; the folder made in it is private
_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


class PrivateDir:
    """One node's private folder; a context manager that wipes it at the end.

    Raises:
        UnavailableError: there is no memory-backed file system, or no folder can be made in it.  There is no fallback to disk.
    """

    def __init__(self, run: RunId, node: NodeId, *, base: Path = MEMORY_BASE) -> None:
        if not in_memory(base):
            hint = "mount a tmpfs at /dev/shm"
            raise UnavailableError("there is no memory-backed folder for this node's secrets", hint=hint, path=str(base))
        self.path = base / _name(run, node)
        try:
            self.path.mkdir(mode=0o700)
        except OSError as cause:
            raise UnavailableError("the node's private folder cannot be made", path=str(self.path), reason=cause.strerror) from cause
        self.path.chmod(0o700)

    def write(self, name: str, data: bytes | SecretBytes) -> Path:
        """Write a new file of mode 0600 and return its path.

        Raises:
            UsageError: ``name`` is not a plain file name, or taken.
        """
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise UsageError("not a plain file name", name=name[:80])
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise UsageError("the private folder has a file of that name", name=name) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.reveal())
        return path

    def folder(self, name: str) -> Path:
        """Make a sub-folder of mode 0700 (for an engine's own scratch files that must stay in memory)."""
        path = self.path / name
        path.mkdir(mode=0o700)
        return path

    def wipe(self) -> None:
        """Overwrite and remove everything.  Wiping twice is fine."""
        _wipe(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wipe()


def sweep(run: RunId, node: NodeId, *, base: Path = MEMORY_BASE) -> None:
    """Wipe the folder that a killed node left behind, if there is one.  Only for nodes that are known to have ended."""
    _wipe(base / _name(run, node))


def _name(run: RunId, node: NodeId) -> str:
    return f"confide-{run}-{node}"


def _wipe(folder: Path) -> None:
    if folder.is_symlink() or not folder.exists():
        return
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            _overwrite(path)
    shutil.rmtree(folder, ignore_errors=True)


def _overwrite(path: Path) -> None:
    try:
        with path.open("r+b", buffering=0) as file:
            left = os.fstat(file.fileno()).st_size
            while left > 0:
                left -= file.write(secrets.token_bytes(min(left, 1 << 20))) or left
    except OSError:
        return  # an engine may remove its own files meanwhile; the rest is removed below


def in_memory(base: Path, *, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether ``base`` lies on a RAM file system, by the longest mount point above it (proc(5))."""
    try:
        whole, lines = base.resolve(strict=True), mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    found = ("", "")
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        place = point.replace("\\040", " ")
        if whole.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1] in _MEMORY_FILE_SYSTEMS
