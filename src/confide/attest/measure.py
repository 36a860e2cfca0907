"""What a node runs, as one digest: interpreter, standard library, installed packages and the ``confide`` package itself.

The simulated TEE reports it as its measurement, as a real one reports the pages that were loaded; the same list of files is what a
manifest for a real TEE has to cover.  One changed line in an installed package changes it; where things are installed does not.

Not covered: byte code in ``__pycache__`` (made at run time, so it differs between machines that run the same code), code outside these
folders that a path file or ``PYTHONPATH`` adds, shared libraries, and anything below the interpreter.  A real TEE measures those; the
simulated one protects nothing anyway.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import confide
from confide.attest.collateral_sources import write_atomic
from confide.errors import ConfigError
from confide.ids import Tee

_LABEL = "confide-measurement-v1"
_SKIPPED = {"__pycache__", "site-packages", "dist-packages"}
"""Folders left out below the standard library; ``__pycache__`` everywhere."""
_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Measurement:
    """The digest over ``files`` files: SHA-384, lower-case hex."""

    digest: str
    files: int

    def of(self, tee: Tee) -> str:
        """The digest in the length of a kind of TEE: 64 hex characters for SGX (MRENCLAVE), 96 for TDX and SNP."""
        if tee is Tee.SGX:
            return hashlib.sha256(f"{_LABEL}\0sgx\0{self.digest}".encode()).hexdigest()
        return self.digest

    def after(self, events: Sequence[str]) -> Measurement:
        """The measurement with what else there is to say of how the code was started; the same without anything."""
        if not events:
            return self
        total = hashlib.sha384(f"{_LABEL}\0started\0{self.digest}\n".encode())
        for event in events:
            total.update(len(event.encode("utf-8", "surrogateescape")).to_bytes(8) + event.encode("utf-8", "surrogateescape"))
        return Measurement(total.hexdigest(), self.files)


@dataclass(frozen=True, slots=True)
class Installed:
    """Where what is measured lies: of this process (:meth:`here`), or of a tree that another will run from."""

    interpreter: Path
    package: Path
    site: tuple[Path, ...]
    stdlib: tuple[Path, ...]

    @classmethod
    def here(cls) -> Self:
        """This process's."""
        site, stdlib = _folders("purelib", "platlib"), _folders("stdlib", "platstdlib")
        return cls(Path(sys.executable).resolve(), Path(confide.__file__).resolve().parent, site, stdlib)


def measure(installed: Installed | None = None, *, cache: Path | None = None, extra: Sequence[Path] = ()) -> Measurement:
    """Measure interpreter, packages and ``confide`` (this process's, if not told otherwise), and what is in ``extra`` under its own names.

    ``cache`` keeps file digests by path, size, times and inode, so that a second measurement takes a fraction of a second.  Whoever can
    write the cache can lie, so it belongs into a folder of the user's own.

    Raises:
        ConfigError: a file cannot be read.
    """
    known = _load(cache)
    found: dict[str, list[int | str]] = {}
    lines = []
    for name, path in _files(installed or Installed.here(), extra):
        digest = _digest(path, known, found)
        lines.append(f"{name}\0{digest}\n")
    total = hashlib.sha384(f"{_LABEL}\n".encode())
    for line in sorted(lines):
        total.update(line.encode("utf-8", "surrogateescape"))
    if cache is not None and found != known:
        # A cache that cannot be written only costs time.
        with suppress(OSError):
            write_atomic(cache, json.dumps(found).encode("utf-8", "surrogateescape"), mode=0o600)
    return Measurement(total.hexdigest(), len(lines))


def _files(installed: Installed, extra: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Each file by its name in the measurement, and its path: as text, because there are tens of thousands."""
    package = installed.package
    yield "interpreter", str(installed.interpreter)
    yield from _walk("confide", package, set())
    for number, folder in enumerate(installed.site):
        # The package is measured where it was imported from; an installed copy that is not in use must not count as well.
        yield from _walk(f"site{number}", folder, {package, folder / "confide"})
    for number, folder in enumerate(installed.stdlib):
        yield from _walk(f"stdlib{number}", folder, {folder / part for part in _SKIPPED})
    for path in extra:
        if path.is_dir():
            yield from _walk(f"extra/{path.name}", path, set())
        else:
            yield f"extra/{path.name}", str(path)


def _folders(*keys: str) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(Path(sysconfig.get_path(key)).resolve() for key in keys))


def _walk(name: str, folder: Path, skipped: set[Path]) -> Iterator[tuple[str, str]]:
    stack, linked = [(name, str(folder))], set()
    left_out = {str(path) for path in skipped}
    while stack:
        label, path = stack.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as cause:
            raise ConfigError(f"cannot measure {path}: {cause.strerror}", path=path) from cause
        for entry in entries:
            if entry.name == "__pycache__" or entry.path in left_out:
                continue
            if entry.is_dir():
                # A linked folder is code like any other; each target is walked once, so that links cannot make a circle.
                target = os.path.realpath(entry.path) if entry.is_symlink() else None
                if target is None or target not in linked:
                    linked.add(target)
                    stack.append((f"{label}/{entry.name}", entry.path))
            elif entry.is_file():
                yield f"{label}/{entry.name}", entry.path


def _digest(path: str, known: dict[str, list[int | str]], found: dict[str, list[int | str]]) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116  a third of the time
        # ctime cannot be set by a program, so an edit that puts size and mtime back is still seen.
        identity: list[int | str] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        entry = known.get(path)
        if entry is None or entry[:4] != identity:
            entry = [*identity, _hash(path, status.st_size)]
    except OSError as cause:
        raise ConfigError(f"cannot measure {path}: {cause.strerror}", path=path) from cause
    found[path] = entry
    return str(entry[4])


def _hash(path: str, size: int) -> str:
    """Of most files a few kilobytes: ``hashlib.file_digest`` would clear a quarter of a megabyte for each."""
    digest = hashlib.sha256()
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while data := os.read(file, min(size, _AT_ONCE) + 1):
            digest.update(data)
    finally:
        os.close(file)
    return digest.hexdigest()


def _load(cache: Path | None) -> dict[str, list[int | str]]:
    if cache is None:
        return {}
    try:
        data = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {path: entry for path, entry in data.items() if isinstance(entry, list) and len(entry) == 5}
