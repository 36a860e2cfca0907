"""Which tests run side by side where `make test` starts several processes of pytest (pytest-xdist), and in which order.

The tests of a file stay together: they share what is expensive, a broker or a database or a TPM.  Tests of whole runs and of Spark, and
tests that look at the whole machine (every process, ``/dev/shm``, the loopback interface), follow each other in one process: they would
find what another's run has there, and a run's JVMs fill two cores by themselves.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest

_GROUP = "machine"
_MARKS = ("run", "spark")
_FIXTURES = {"stage", "leak_watch", "nothing_left_behind"}


def pytest_configure(config: pytest.Config) -> None:
    """A shell ignores SIGINT in what it starts in the background, and children inherit that: the programs that tests interrupt too."""
    config.addinivalue_line("markers", "xdist_group(name): tests that follow each other in one process; see tests/support/parallel.py")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    machine = {item for item in items if _needs_the_machine(item)}
    for item in machine:
        item.add_marker(pytest.mark.xdist_group(_GROUP))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    # What takes longest begins first, so that no process is left alone with it at the end.
    items.sort(key=lambda item: (item not in machine, item.path not in slow))


def _needs_the_machine(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(mark) for mark in _MARKS) or not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As pytest-xdist's loadgroup; tests without a group go by file, files in the order above."""
    from xdist.scheduler import LoadGroupScheduling

    class ByGroupOrFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return str(super()._split_scope(nodeid)).partition("::")[0]

    if config.getvalue("dist") != "loadgroup":
        return None
    config.option.loadscopereorder = False
    return ByGroupOrFile(config, log)
