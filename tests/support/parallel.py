"""Which tests run side by side where `make test` starts several processes of pytest (pytest-xdist), and in which order.

The tests of a file stay together: they share what is expensive, a broker or a database or a TPM.  Tests of whole runs and of Spark, and
tests that look at the whole machine (every process, ``/dev/shm``, the loopback interface), follow each other in one process: they would
find what another's run has there, and a run's JVMs fill two cores by themselves.
"""

from __future__ import annotations

import functools
import re
import signal
from pathlib import Path
from typing import Any

import pytest

_GROUP = "machine"
_NEEDS = re.compile(r"mark\.(run|spark)\b|\b(stage|leak_watch|nothing_left_behind)\b")
"""What is in the text of a file whose tests need the machine."""
_CLUSTER = "tests/cluster/"
"""Tests of one cluster for all processes, each by itself or together with some."""
_TOGETHER = re.compile(
    r"(?P<main_run>test_main_job|test_a_pod_that_copied|test_no_canary)"
    r"|(?P<lone_run>test_a_job_without|test_drivers_service_account|test_what_a_killed_driver|test_a_runs_priority)"
    r"|(?P<broker>test_broker\.py)|(?P<chart>test_charts\.py)|(?P<image>test_with_a_built_image\.py)"
    r"|(?P<attempts>test_driver_whose_pod_was_changed)|(?P<enclaves>enclaves)"
    r"|(?P<while_a_forgotten_run_lives>test_(why_a_driver_waits|an_image_that_is_nowhere|a_quota|ctrl_c|a_finished_job))"
)
"""What shares something expensive, or changes what the others look at.  (pytest 9.2 has no name for xdist to write its groups into.)"""


def pytest_configure(config: pytest.Config) -> None:
    """A shell ignores SIGINT in what it starts in the background, and children inherit that: the programs that tests interrupt too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    # What takes longest begins first, so that no process is left alone with it at the end.
    items.sort(key=lambda item: (not _needs_the_machine(item.path), item.path not in slow))


@functools.cache
def _needs_the_machine(path: Path) -> bool:
    return _NEEDS.search(path.read_text(encoding="utf-8")) is not None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, files in the order above; those that need the machine together."""
    from xdist.scheduler import LoadGroupScheduling

    class ByGroupOrFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith(_CLUSTER):
                found = _TOGETHER.search(nodeid)
                return nodeid if found is None else str(found.lastgroup)
            return _GROUP if _needs_the_machine(config.rootpath / file) else file

    if config.getvalue("dist") != "loadgroup":
        return None
    config.option.loadscopereorder = False
    return ByGroupOrFile(config, log)
