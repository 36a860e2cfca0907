"""Which tests coverage is measured by: those of each part.

Properties, inputs by the thousand, attacks and most whole runs run the same lines again, at half the speed while each is noted.  They run
unmeasured, with what they start: what only they reach does not count as covered, so the figure can only be too low.  So do tests that bound
memory, which the notes of coverage would use.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
_UNMEASURED = {"agreement", "attacks", "deploy", "fuzz", "property"}
"""Folders of tests."""
_MEASURED_RUNS = {"test_main_job_end_to_end.py", "test_polars_end_to_end.py", "test_remote_outputs_end_to_end.py"}
"""Of the tests that are whole runs."""
_FOR_CHILDREN = "COVERAGE_PROCESS_CONFIG"
"""What coverage.py tells the processes that a measured one starts."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    measuring = item.config.pluginmanager.get_plugin("_cov")
    if measuring is None or measuring.cov_controller is None or _is_measured(item):
        return (yield)
    told = os.environ.pop(_FOR_CHILDREN, None)
    measuring.cov_controller.pause()
    try:
        return (yield)
    finally:
        measuring.cov_controller.resume()
        if told is not None:
            os.environ[_FOR_CHILDREN] = told


def _is_measured(item: pytest.Item) -> bool:
    folder = item.path.relative_to(_TESTS).parts[0] if item.path.is_relative_to(_TESTS) else ""
    if folder in _UNMEASURED or item.get_closest_marker("unmeasured") is not None:
        return False
    return item.get_closest_marker("run") is None or item.path.name in _MEASURED_RUNS


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Each process of pytest-xdist measures for itself.  Told to by the first one as well, it would do so twice."""
    os.environ.pop(_FOR_CHILDREN, None)


@pytest.hookimpl(tryfirst=True)  # before pytest-cov's
def pytest_sessionstart(session: pytest.Session) -> None:
    """pytest-cov began in a process of pytest-xdist as if it were the only one, and begins again now.

    What it began first would go on whenever the second is paused.
    """
    measuring = session.config.pluginmanager.get_plugin("_cov")
    if hasattr(session.config, "workerinput") and measuring is not None and measuring.cov_controller is not None:
        measuring.cov_controller.pause()
