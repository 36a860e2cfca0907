"""Where outputs lie until they count.  An output is a hidden folder beside its place, and appears by one rename.

A run that ends in any other way leaves nothing visible: the driver removes its folders, the client removes them after a killed driver, and
the next run with the same output removes those of runs whose client was killed too.  Where the client does not see the storage, the next
driver does it: a driver touches its folders while it lives (:class:`Presence`), and one that nobody has touched for long is nobody's.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from confide.durable import sync_folder
from confide.errors import DataError, OutputExistsError
from confide.ids import RunId
from confide.jobs.ledger import PENDING

_MARK = ".staging-"
TOUCH_EVERY_S = 60.0
ABANDONED_AFTER_S = 3600.0
"""Of the storage's own clock: many times as long as a driver's storage may hang."""


@dataclass(frozen=True, slots=True)
class SentPlace:
    """An output at a URL: where it goes, and what its folder would be where nodes stage it."""

    url: str
    folder: Path


def staging_path(output: Path, run: RunId) -> Path:
    """The hidden folder that ``run`` writes ``output`` into."""
    return output.parent / f".{output.name}{_MARK}{run}"


def check_free(outputs: Mapping[str, Path], inputs: Collection[Path] = (), *, going_on: Collection[str] = ()) -> None:
    """Check that nothing is at the outputs' places, that no two are in or around each other, and that none is in an input's folder.

    A dataset's folder holds what its manifest lists and nothing else: with an output in it, it would be refused from then on.
    At the places of those that are ``going_on`` is the dataset that they go on with.

    Raises:
        OutputExistsError: something is.
    """
    taken = {place.resolve() for place in inputs}
    for name, path in outputs.items():
        if name not in going_on and os.path.lexists(path):
            hint = 'choose another path, remove the folder, or write mode = "append" or "overwrite" into the job file'
            raise OutputExistsError(f"output {name!r} exists: {path}", hint=hint, name=name, path=str(path))
        if not taken.isdisjoint(path.resolve().parents):
            raise OutputExistsError(f"output {name!r} lies in an input's folder", hint="write it elsewhere", name=name, path=str(path))
        for other, place in outputs.items():
            if other != name and (place == path or place in path.parents):
                message = f"outputs {name!r} and {other!r} lie in each other"
                raise OutputExistsError(message, hint="separate them", name=name, path=str(path))


def drop_pending(folder: Path) -> None:
    """Remove what attempts of tasks left that Spark has given up: lost executors, and copies that were slower than another.

    Their committer is done with the folder.  A copy that still runs makes a new one, which is removed with the next call, or refused.
    """
    for pending in sorted(folder.rglob(PENDING), reverse=True):
        shutil.rmtree(pending, ignore_errors=True)


def keep_only(folder: Path, paths: Collection[str]) -> None:
    """Remove everything in a staging folder but the files at ``paths`` (relative) and the folders that they are in.

    Raises:
        DataError: something cannot be removed.
    """
    drop_pending(folder)
    try:
        for place in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
            if place.is_symlink() or not place.is_dir():
                if place.relative_to(folder).as_posix() not in paths:
                    place.unlink(missing_ok=True)
            else:
                with contextlib.suppress(OSError):  # it holds something that stays, or that a lost task is about to write
                    place.rmdir()
    except OSError as cause:
        raise DataError(f"an output's files cannot be removed: {cause.strerror}", path=str(cause.filename)) from cause


def publish(staged: Mapping[Path, Path], last: Callable[[], None] = lambda: None) -> None:
    """Move finished folders (staging place to final place) into view, and then do ``last``: all of it or nothing.

    Raises:
        OutputExistsError: something is in the place of one.
        DataError: one cannot be moved.
        ConfideError: what ``last`` raises.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for source, place in staged.items():
            if os.path.lexists(place):  # rename(2) would replace an empty folder
                raise OutputExistsError(f"the output appeared while the job ran: {place}", path=str(place))
            source.rename(place)
            moved.append((source, place))
            sync_folder(place.parent)
        last()
    except BaseException as cause:
        for source, place in reversed(moved):
            with contextlib.suppress(OSError):
                place.rename(source)
        if isinstance(cause, OSError):
            raise DataError(f"an output cannot be published: {cause.strerror}", path=str(cause.filename)) from cause
        raise


def discard(outputs: Mapping[str, Path], run: RunId) -> None:
    """Remove what ``run`` has staged."""
    for path in outputs.values():
        shutil.rmtree(staging_path(path, run), ignore_errors=True)


def discard_abandoned(outputs: Mapping[str, Path], ended: Callable[[RunId], bool]) -> None:
    """Remove what runs that are known to have ended left staged for these outputs."""
    for path in outputs.values():
        prefix = f".{path.name}{_MARK}"
        for folder in path.parent.glob(f"{prefix}*"):
            if ended(RunId(folder.name.removeprefix(prefix))):
                shutil.rmtree(folder, ignore_errors=True)


def discard_untouched(output: Path, own: Path, *, after_s: float = ABANDONED_AFTER_S) -> None:
    """Remove what other runs have staged for an output and nobody has touched for ``after_s``.

    ``own`` is a folder that was touched just now: its time is the storage's, whatever the clocks of machines say.
    """
    with contextlib.suppress(OSError):  # what stays is in nobody's way
        now = own.stat().st_mtime
        for folder in output.parent.glob(f".{glob.escape(output.name)}{_MARK}*"):
            if folder != own and not folder.is_symlink() and now - folder.stat().st_mtime > after_s:
                shutil.rmtree(folder, ignore_errors=True)


class Presence:
    """Touches this run's staging folders, so that no other driver takes them for abandoned ones."""

    def __init__(self, *, every_s: float = TOUCH_EVERY_S) -> None:
        self._every_s = every_s
        self._folders: list[Path] = []
        self._over = threading.Event()

    def add(self, folder: Path) -> None:
        """Touch that one too from now on."""
        self._folders.append(folder)
        if len(self._folders) == 1:
            threading.Thread(target=self._touch, name="confide-staging", daemon=True).start()

    def close(self) -> None:
        """Touch them no more."""
        self._over.set()

    def _touch(self) -> None:
        while not self._over.wait(self._every_s):
            for folder in list(self._folders):
                with contextlib.suppress(OSError):  # published, or storage that hangs: the next time
                    os.utime(folder)


def withdraw(outputs: Mapping[str, Path], run: RunId, made_by: Callable[[Path], str | None]) -> None:
    """Take published outputs of a run that failed after all (killed between two renames) out of view.

    ``made_by`` tells which run a folder's manifest names: another run's output in the same place stays.
    """
    for path in outputs.values():
        if path.is_dir() and made_by(path) == run:
            hidden = staging_path(path, run)
            with contextlib.suppress(OSError):
                path.rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)
