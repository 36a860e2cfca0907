"""What tests need of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def require_root(what: str) -> None:
    """Skip the test if this is not root; fail it in CI, where nothing may be left out unseen."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} needs root, and CI runs every test")
    pytest.skip(f"{what} needs root")


def need_file(path: str, installed_by: str) -> Path:
    """A file of this machine; skip the test if it is not there, fail it in CI, where nothing may be left out unseen."""
    found = Path(path)
    if found.is_file():
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{path} is not there, and CI runs every test: {installed_by} installs it")
    pytest.skip(f"{path} is not there: {installed_by} installs it")
