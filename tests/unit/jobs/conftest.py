"""A key broker service beside the run's own broker, for jobs whose keys or credentials are there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.broker_world import World
from support.kbs_world import Kbs
from support.several_brokers import BrokerProcess
from support.stage import Stage


@pytest.fixture(scope="module")
def world(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kbs]:
    """The service's store, and its owner: the airline of that other broker."""
    found = World(tmp_path_factory.mktemp("kbs"), stage.tee.installation)
    yield Kbs(found)
    found.close()


@pytest.fixture(scope="module")
def service(world: Kbs) -> Iterator[BrokerProcess]:
    """It serves, in a process of its own."""
    with BrokerProcess.start(world.world) as found:
        yield found
