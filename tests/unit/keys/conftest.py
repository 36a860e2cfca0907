"""Fixtures of the broker's tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.databases import Place, PostgresServer, SqlitePlace, postgres

from confide.attest.insecure import Installation

_spec = importlib.util.spec_from_file_location("broker_world", Path(__file__).with_name("broker_world.py"))
assert _spec is not None
assert _spec.loader is not None
broker_world = sys.modules.setdefault("broker_world", importlib.util.module_from_spec(_spec))
if not hasattr(broker_world, "World"):
    _spec.loader.exec_module(broker_world)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


@pytest.fixture
def world(tmp_path: Path, installation: Installation) -> Iterator[object]:
    made = broker_world.World(tmp_path, installation)
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with postgres("-c fsync=off") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "s" / "broker.db")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new()
