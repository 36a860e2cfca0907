"""The installed files are hashed once in a process of pytest, not once in each simulated installation that its tests make."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from confide.attest.measure import Measurement, measure
from confide.jobs.local import simulation


def share_hashes(kept: Path, patch: pytest.MonkeyPatch) -> None:
    """Give each new installation the digests of files that are in ``kept``, which the first one fills.

    They are what every installation keeps beside its keys: a file that has changed since is hashed anew.
    """

    def measured(*, cache: Path) -> Measurement:
        if kept.exists() and not cache.exists():
            shutil.copy(kept, cache)
        found = measure(cache=cache)
        if cache.exists() and not kept.exists():
            shutil.copy(cache, kept)
        return found

    patch.setattr(simulation, "measure", measured)
