"""One office with a companion a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker_world import World
from support.chromium import chromium, screens
from support.page_world import Office

from confide.attest.insecure import Installation

__all__ = ["chromium", "office", "screens", "tee"]


@pytest.fixture(scope="module")
def tee(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


@pytest.fixture
def office(tmp_path: Path, tee: Installation) -> Iterator[Office]:
    world = World(tmp_path, tee)
    with contextlib.ExitStack() as clean:
        yield Office(world, clean)
    world.close()
