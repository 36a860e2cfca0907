"""Fixtures of the broker's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker_world import World
from support.databases import Place, PostgresServer, SqlitePlace
from support.escrow_world import Trust

from confide.attest.insecure import Installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


@pytest.fixture
def world(tmp_path: Path, installation: Installation) -> Iterator[World]:
    made = World(tmp_path, installation)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "s" / "broker.db")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new()


@pytest.fixture
def trust(tmp_path: Path, installation: Installation) -> Iterator[Trust]:
    made = Trust(tmp_path, installation)
    yield made
    made.close()
