"""Files that were sent to a dataset's place at a URL: they count once a snapshot that lists them is committed there, or go away again.

For whoever writes there: an owner's command (``data.remote_staging``), or a run (``jobs.sending``).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from confide.data.parallel import in_order
from confide.data.places import Place, RemoteFolder
from confide.data.snapshots import SignedManifest, commit_snapshot
from confide.errors import IntegrityError, OutputExistsError, SnapshotConflictError, UnavailableError

AT_ONCE: Final = 8
"""Requests at one time for what was sent."""
LEFT: Final = "remove what was sent with `confide data clean`, and try again"


@dataclass
class SentFiles:
    """What one writer sent to ``target``.  ``sizes`` are by path, and may be added to by several threads."""

    target: RemoteFolder
    sizes: dict[str, int] = field(default_factory=dict)
    in_doubt: bool = False
    """Whether a manifest may be there that lists what was sent: from then on nothing of it is removed."""
    committed: bool = False
    """Whether it is."""

    @property
    def needless(self) -> list[str]:
        """The paths of what may be removed if the work is not done: none any more once a manifest may be there that lists them."""
        return [] if self.in_doubt else list(self.sizes)

    def commit(self, made: SignedManifest, parent: SignedManifest) -> None:
        """Send the manifest of the snapshot after ``parent``: from then on it is the newest of the dataset.

        Raises:
            SnapshotConflictError: another writer was first.
            ManifestError, IntegrityError: what it goes on from, or what was sent, is not there any more.
            UnavailableError: the storage refuses, or does not answer, or does not know conditional writes.
        """
        self.require_there()
        try:
            commit_snapshot(parent, made, at_last=self.doubt)
        except SnapshotConflictError:
            self.in_doubt = False
            raise
        except UnavailableError as error:
            if self.in_doubt:
                number = made.unverified.snapshot
                error.hint = f"see with `confide data log {self.target}` whether snapshot {number} is there; if not, {LEFT}"
            raise
        self.committed = True

    def doubt(self) -> None:
        """A manifest that lists what was sent is about to be sent."""
        self.in_doubt = True

    def require_there(self) -> None:
        """Return if the storage has what was sent: ``confide data clean`` may have taken for left behind what is a day old.

        Raises:
            IntegrityError: it does not.
            UnavailableError: it refuses, or does not answer.
        """
        for path, found in zip(self.sizes, in_order(self.target.look, self.sizes, threads=AT_ONCE), strict=True):
            if found is None or found.size != self.sizes[path]:
                hint = "was it removed there meanwhile, as by `confide data clean`? do it again"
                raise IntegrityError(f"{self.target} does not have what was sent to it", hint=hint, path=path)


def refuse_existing(folder: Place, *, sent: Collection[str] = ()) -> None:
    """Return if nothing is at ``folder``, but what was ``sent`` there.

    Raises:
        OutputExistsError: something is.
        UnavailableError: a storage refuses to say, or does not answer.
    """
    there = os.path.lexists(folder) if isinstance(folder, Path) else not folder.files().keys() <= {*sent}
    if there:
        raise OutputExistsError(f"{folder} exists", path=str(folder))
