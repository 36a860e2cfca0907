"""Which files there are, by what nodes did and not by what storage shows: a folder's files can be compared with it.

Pure.  Paths are absolute POSIX paths as Hadoop's file systems name them; nothing is looked up.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from confide.errors import IntegrityError

PENDING = "_temporary"
"""Hadoop's ``FileOutputCommitter`` keeps tasks' files below a folder of this name until the job is committed."""
STREAM_LOG = "_spark_metadata"
"""Spark's file sink for streams notes in a folder of this name which files count."""


class FileLedger:
    """The files that were made, moved and deleted.  Not for use from several threads at once."""

    def __init__(self) -> None:
        self._files: set[PurePosixPath] = set()

    def add(self, paths: Iterable[str]) -> None:
        """Files were made."""
        self._files.update(map(PurePosixPath, paths))

    def move(self, source: str, target: str) -> None:
        """A file, or a folder with all that is in it, was renamed."""
        self.add(self.take(source, target))

    def take(self, source: str, target: str) -> list[str]:
        """Like :meth:`move`, but what was moved leaves this ledger: the new paths, for another one."""
        moved = self._below(source)
        self._files -= moved
        return sorted(str(PurePosixPath(target) / path.relative_to(source)) for path in moved)

    def remove(self, path: str) -> None:
        """A file, or a folder with all that is in it, was deleted.

        A committer deletes ``_temporary`` after it has moved all files of committed tasks out of it: one that is still there was not
        moved because storage did not show it, so it stays on the ledger.  So does a part of a stream's log, whose parts are deleted one by
        one after they were read (``StreamOutput.java``), if it is still there when its folder is deleted.
        """
        if PurePosixPath(path).name not in {PENDING, STREAM_LOG}:
            self._files -= self._below(path)

    def keep(self, folder: str, paths: Iterable[str]) -> None:
        """Forget all files in ``folder`` but those of ``paths`` (relative): the others are deleted, whatever became of them."""
        kept = {PurePosixPath(folder) / path for path in paths}
        self._files -= self._below(folder) - kept

    def names(self, folder: str) -> list[str]:
        """The names of the files that are directly in ``folder``."""
        top = PurePosixPath(folder)
        return sorted(path.name for path in self._files if path.parent == top)

    def require(self, folder: str, found: Iterable[str]) -> None:
        """Check that ``found`` (relative paths) are exactly the files that nodes left in ``folder``.

        Raises:
            IntegrityError: storage lost a file, or brought one back.
        """
        made = {str(path.relative_to(folder)) for path in self._below(folder)}
        shown = set(found)
        for path in sorted(made - shown):
            raise IntegrityError(f"a file that a task wrote is gone: {path}", hint=_HINT, path=path, count=len(made - shown))
        for path in sorted(shown - made):
            raise IntegrityError(f"a file that no finished task wrote: {path}", hint=_HINT, path=path, count=len(shown - made))

    def _below(self, folder: str) -> set[PurePosixPath]:
        top = PurePosixPath(folder)
        return {path for path in self._files if path == top or top in path.parents}


_HINT = "storage changed it, or a save into this output failed before: run the job again"
