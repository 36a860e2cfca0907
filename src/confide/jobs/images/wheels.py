"""An image's packages: fetched by pip by the hashes of a lock, and unpacked as the wheels that they are.

pip is asked for wheels and never installs: what it would write beside them (scripts, records of where from) differs between machines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import confide
from confide.canonical import sha256_hex
from confide.errors import ImageError
from confide.jobs.images import lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from confide.canonical import Json
    from confide.jobs.images.tree import Tree

_NAME: Final = re.compile(r"([A-Za-z0-9._]+)-([A-Za-z0-9._!+]+)(-[0-9][^-]*)?-[^-]+-[^-]+-[^-]+\.whl")
_FIXED: Final = {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
"""For packages that are built here.  The time is 1980-01-01, the first that a zip file can say."""
_KEPT: Final = ("HOME", "PATH", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
_SAID: Final = 2000


@dataclass(frozen=True, slots=True)
class Wheel:
    """One package as a file."""

    path: Path
    name: str
    version: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Wheel:
        """A wheel by its file.

        Raises:
            ImageError: it cannot be read, or is none by its name.
        """
        named = _NAME.fullmatch(path.name)
        if named is None:
            raise ImageError(f"not the name of a wheel: {path.name}", path=str(path))
        try:
            return cls(path, lock.normal(named[1]), named[2], sha256_hex(path.read_bytes()))
        except OSError as cause:
            raise ImageError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause

    def metadata(self) -> str:
        """Its core metadata.

        Raises:
            ImageError: it has none.
        """
        with _opened(self.path) as archive:
            names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")]
            if len(names) != 1:
                raise ImageError(f"{self.path.name} is no wheel: it has no metadata, or several", path=str(self.path))
            return archive.read(names[0]).decode("utf-8", "replace")

    def unpack(self, tree: Tree, site: str) -> list[Path]:
        """Write its modules and data below ``site``; scripts and headers are left out.  The files that were written.

        Raises:
            ImageError: it holds a name that leads out of the folder.
        """
        written = []
        with _opened(self.path) as archive:
            for info in archive.infolist():
                path = None if info.is_dir() else _inside(info.filename)
                if path is None:
                    continue
                if path.startswith("/") or "\\" in path or ".." in path.split("/"):
                    raise ImageError(f"{self.path.name} holds a name that leads out of its folder", path=path[:200])
                tree.write(f"{site}/{path}", archive.read(info))
                written.append(tree.place(f"{site}/{path}"))
        return written

    def to_json(self) -> Json:
        """Name, version and digest."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}


def own_wheel(folder: Path) -> Wheel:
    """Confide itself, built from the source tree that this runs from.

    Raises:
        ImageError: it does not run from one, or the build failed.
    """
    source = Path(confide.__file__).resolve().parents[2]
    if not (source / "pyproject.toml").is_file():
        raise ImageError("Confide does not run from its source tree here", hint="give its wheel: --wheel confide-VERSION-py3-none-any.whl")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    return _only(folder, "confide")


def default_lock() -> Path:
    """The lock of the source tree that this runs from.

    Raises:
        ImageError: it does not run from one.
    """
    path = Path(confide.__file__).resolve().parents[2] / "requirements.lock"
    if not path.is_file():
        raise ImageError("Confide does not run from its source tree here, which has a lock", hint="give one: --lock requirements.lock")
    return path


def fetch(locked: Mapping[str, lock.Locked], folder: Path, *, found_in: Path | None = None) -> list[Wheel]:
    """Wheels of these packages, each by its hashes; from ``found_in`` alone, or from where pip is set up to look.

    A package that is published as source only is built.  Its hash is that of the source.

    Raises:
        ImageError: one is not to be had, or has another hash.
    """
    listed = folder / "lock"
    listed.write_text("".join(f"{one.requirement()}\n" for one in locked.values()), encoding="utf-8")
    where = ["--no-index", "--find-links", str(found_in)] if found_in is not None else []
    _pip("wheel", "--no-deps", "--require-hashes", *where, "--requirement", str(listed), "--wheel-dir", str(folder))
    found = [_only(folder, name) for name in locked]
    for wheel in found:
        if wheel.version != locked[wheel.name].version:
            raise ImageError(f"pip gave {wheel.name} {wheel.version}", expected=locked[wheel.name].version)
    return found


def compile_modules(tree: Tree, folders: Iterable[str]) -> None:
    """Write byte code beside every module: nothing is written when a node runs, and without it each start would take seconds more.

    It is tied to no time and depends on the modules alone.

    Raises:
        ImageError: the compiler could not be run.
    """
    # One after the other in one process, with fixed hashes: what is written depends on what that process has seen before.
    options = ["-qq", "-j1", "-r40", "--invalidation-mode", "unchecked-hash", "-s", str(tree.root), "-p", "/"]
    command = [sys.executable, "-I", "-S", "-m", "compileall", *options, *(str(tree.place(folder)) for folder in folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_FIXED)
    if done.returncode not in {0, 1}:  # 1: a file is no Python of this version, as some templates are, and stays as it is
        raise ImageError("modules could not be compiled", said=done.stderr[-_SAID:])


def _only(folder: Path, name: str) -> Wheel:
    found = [wheel for wheel in map(Wheel.of, sorted(folder.glob("*.whl"))) if wheel.name == lock.normal(name)]
    if len(found) != 1:
        raise ImageError(f"pip gave {len(found)} wheels of {name}", path=str(folder))
    return found[0]


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", "--no-input", *words[1:]]
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("PIP_")}
    with tempfile.TemporaryDirectory() as here:  # pip looks for settings and packages in its current folder
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**kept, **_FIXED}, cwd=here)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise ImageError("pip could not get or make the packages", said="\n".join(said)[-_SAID:], hint="its own words say which, and why")


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as cause:
        raise ImageError(f"{path.name} is no wheel", path=str(path)) from cause


def _inside(name: str) -> str | None:
    """Where a wheel's file goes below the folder of packages, if it goes there (PyPA, "Binary distribution format")."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    kind, _, path = rest.partition("/")
    return path if kind in {"purelib", "platlib"} else None
