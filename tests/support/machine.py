"""What tests need of the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


def require_root(what: str) -> None:
    """Skip the test if this is not root; fail it in CI, where nothing may be left out unseen."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} needs root, and CI runs every test")
    pytest.skip(f"{what} needs root")


@contextlib.contextmanager
def small_disk(megabytes: int, owner: str) -> Iterator[SmallDisk]:
    """A file system of its own, in memory, for the block; skips the test where this machine lets nobody mount one."""
    require_root("a file system of a test's own")
    folder = Path(tempfile.mkdtemp(prefix="confide-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "confide-test", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    try:
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:200]}")
        shutil.chown(folder, owner)
        yield SmallDisk(folder)
    finally:
        if not done.returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@dataclass(frozen=True)
class SmallDisk:
    """A disk that a test fills and makes room on."""

    folder: Path

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """For the block, no byte more fits."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        try:
            yield
        finally:
            ballast.unlink()


def need_file(path: str, installed_by: str) -> Path:
    """A file of this machine; skip the test if it is not there, fail it in CI, where nothing may be left out unseen."""
    found = Path(path)
    if found.is_file():
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{path} is not there, and CI runs every test: {installed_by} installs it")
    pytest.skip(f"{path} is not there: {installed_by} installs it")
