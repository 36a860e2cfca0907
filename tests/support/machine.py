"""What tests need of the machine."""

from __future__ import annotations

import os

import pytest


def require_root(what: str) -> None:
    """Skip the test if this is not root; fail it in CI, where nothing may be left out unseen."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} needs root, and CI runs every test")
    pytest.skip(f"{what} needs root")
