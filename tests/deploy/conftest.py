"""Fixtures of what the broker is deployed with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder of the recipes."""
    return Path(__file__).resolve().parents[2] / "deploy"
