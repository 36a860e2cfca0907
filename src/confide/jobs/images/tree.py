"""An image's files, before they are one: written with fixed modes and times, and told by one digest.

What a builder makes of the tree depends on nothing else: all belongs to root, nobody but root could write, and no time says when it was
made.  Nothing here knows what the files are for.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confide.canonical import sha256_hex
from confide.errors import ImageError
from confide.regular_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confide.canonical import Json

_LABEL: Final = "confide-image-tree-v1"
_EPOCH_NS: Final = (0, 0)
_FOLDER, _STICKY, _FILE, _PROGRAM = 0o755, 0o1777, 0o644, 0o755


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of the tree: an absolute path in the image, and what is there.

    ``content``: a file's SHA-256, a link's target, nothing for a folder.
    """

    path: str
    mode: int
    content: str = ""
    link: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return bool(self.content)

    def line(self) -> str:
        """What counts of it."""
        return f"{self.path}\0{self.mode:o}\0{self.content}\0{self.link}\n"

    def to_json(self) -> Json:
        """The entry as JSON, without what is empty."""
        found = {"path": self.path, "mode": f"{self.mode:04o}", "sha256": self.content, "link": self.link}
        return {name: value for name, value in found.items() if value}


class Tree:
    """A folder that becomes the root of an image."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, path: str) -> Path:
        """Where an absolute path of the image is now.

        Raises:
            ImageError: it is none, or leads out.
        """
        if not path.startswith("/") or posixpath.normpath(path) != path:
            raise ImageError("a path of an image is absolute and has no dots", path=path)
        return self.root / path[1:]

    def folder(self, path: str, mode: int = _FOLDER) -> None:
        """Make a folder and those above it."""
        place = self.place(path)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(mode)

    def shared_folder(self, path: str) -> None:
        """Make a folder in which everybody may make files, and remove only their own: ``/tmp``."""
        self.folder(path, _STICKY)

    def write(self, path: str, data: bytes) -> None:
        """Write a file that nobody runs."""
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def copy(self, source: Path, path: str) -> None:
        """Copy a file's bytes; links are followed, and whether it can be run is kept.

        Raises:
            ImageError: it cannot be read, or is another file than one that is there already.
        """
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_regular(source) as file, place.open("xb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
                place.chmod(_PROGRAM if os.fstat(file.fileno()).st_mode & 0o100 else _FILE)
        except FileExistsError:
            with open_regular(source) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != _sha256(place):
                    raise ImageError(f"two files of the image would have one name: {path}", path=path, source=str(source)) from None
        except OSError as cause:
            raise ImageError(f"cannot copy {source}: {cause.strerror}", path=path) from cause

    def copy_folder(self, source: Path, path: str, *, keeps: Callable[[str], bool] = lambda _: True) -> None:
        """Copy a folder.  ``keeps`` gets each path below ``source`` and says whether it is wanted, with all that is below it.

        Links are followed, into other folders too; those that lead nowhere, and what is neither file nor folder, are left out.
        """
        self.folder(path)
        for inner in sorted(source.iterdir()):
            self._copy_any(inner, f"{path}/{inner.name}", inner.name, keeps)

    def _copy_any(self, source: Path, path: str, below: str, keeps: Callable[[str], bool]) -> None:
        if not keeps(below):
            return
        if source.is_dir():
            self.folder(path)
            for inner in sorted(source.iterdir()):
                self._copy_any(inner, f"{path}/{inner.name}", f"{below}/{inner.name}", keeps)
        elif source.is_file():
            self.copy(source, path)

    def link(self, path: str, target: str) -> None:
        """Make a link to a file or folder of the image, by a path that is relative: so that the tree can be read where it is."""
        if target.startswith("/"):
            raise ImageError("a link of an image is relative", path=path, target=target)
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def seal(self) -> None:
        """Give every file and folder its final mode and time.  Call it last."""
        for place in self._places():
            status = place.lstat()
            if place.is_symlink():
                os.utime(place, ns=_EPOCH_NS, follow_symlinks=False)
                continue
            sticky, runs = status.st_mode & 0o1000, status.st_mode & 0o100
            if place.is_dir():
                place.chmod(_STICKY if sticky else _FOLDER)
            else:
                place.chmod(_PROGRAM if runs else _FILE)
        for place in self._places():
            os.utime(place, ns=_EPOCH_NS, follow_symlinks=False)
        self.root.chmod(_FOLDER)
        os.utime(self.root, ns=_EPOCH_NS)

    def entries(self) -> tuple[Entry, ...]:
        """Everything in the tree, by path."""
        return tuple(self._entry(place) for place in self._places())

    def files(self) -> Iterator[Path]:
        """Its regular files."""
        return (place for place in self._places() if place.is_file() and not place.is_symlink())

    def _places(self) -> list[Path]:
        found = []
        for folder, folders, files in os.walk(self.root):
            found += [Path(folder) / name for name in (*folders, *files)]
        return sorted(found, key=lambda place: place.relative_to(self.root).as_posix())

    def _entry(self, place: Path) -> Entry:
        path = f"/{place.relative_to(self.root).as_posix()}"
        if place.is_symlink():
            return Entry(path, 0o777, link=str(place.readlink()))
        mode = place.stat().st_mode & 0o7777
        return Entry(path, mode) if place.is_dir() else Entry(path, mode, _sha256(place))


def digest(entries: tuple[Entry, ...]) -> str:
    """One digest of all of it: SHA-256, lower-case hex.  It is not the image's, which a builder makes."""
    return sha256_hex("".join([f"{_LABEL}\n", *(entry.line() for entry in entries)]).encode("utf-8", "surrogateescape"))


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
