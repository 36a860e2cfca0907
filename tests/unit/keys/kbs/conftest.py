"""A broker with one owner, one resource and rules for it; guests of simulated TEEs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import broker_world
from support.kbs_world import Kbs

from confide.attest.insecure import InsecureAttester, Installation
from confide.ids import Tee


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


@pytest.fixture
def world(tmp_path: Path, installation: Installation) -> Iterator[Any]:
    made = broker_world.World(tmp_path, installation)
    yield made
    made.close()


@pytest.fixture
def kbs(world: Any) -> Kbs:
    return Kbs(world)


@pytest.fixture(scope="session")
def attester(installation: Installation) -> InsecureAttester:
    return InsecureAttester(installation, Tee.SGX, broker_world.MEASUREMENT)
