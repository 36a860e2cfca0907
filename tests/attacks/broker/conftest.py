"""One broker on loopback a test, and one simulated vendor a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker_world import World
from support.oidc_issuer import Issuer

from confide.attest.insecure import Installation


@pytest.fixture(scope="module")
def tee(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    made = Issuer(tmp_path_factory.mktemp("issuer"))
    yield made
    made.stop()


@pytest.fixture
def world(tmp_path: Path, tee: Installation) -> Iterator[World]:
    made = World(tmp_path, tee)
    yield made
    made.close()
