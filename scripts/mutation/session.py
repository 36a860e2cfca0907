"""One collected pytest session, forked for everything that runs: each fork starts with no test run and nothing remembered.

Which lines a test reaches is measured with the test alone in its fork, so that what another test left behind (a remembered chain, a
fixture) hides nothing.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING

import hypothesis
import pytest

from .mutants import ATTEST, Mutant

if TYPE_CHECKING:
    from _typeshed import TraceFunction

TESTS = (
    "tests/unit/attest",
    "tests/unit/core/test_regular_file.py",
    "tests/attacks/attestation",
    "tests/attacks/test_policy_attacks.py",
    "tests/property/test_evidence_properties.py",
    "tests/property/test_policy_properties.py",
    "tests/property/test_signed_document_properties.py",
    "tests/cli/test_cli_measure.py",
    "tests/cli/test_cli_policies.py",
    "tests/cli/test_cli_tokens.py",
)
KILLED, SURVIVED, NOT_APPLICABLE = 1, 0, 3
_STARTING_S = 30.0
_SLACK = 5
_NAME_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Reach:
    """What one test reaches: seconds, and "file:line" of ``confide.attest``."""

    seconds: float
    lines: frozenset[str]


def pytest_options(basetemp: Path) -> list[str]:
    """Options of every session: nothing is printed or kept, and what hypothesis draws is the same each time."""
    settings = hypothesis.settings
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    checks = list(hypothesis.HealthCheck)
    settings.register_profile("mutation", database=None, derandomize=True, deadline=None, phases=phases, suppress_health_check=checks)
    settings.load_profile("mutation")
    options = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:terminal", "-p", "no:cacheprovider", "-s", "-x"]
    return [*options, "-m", "not slow and not run and not spark", f"--basetemp={basetemp}"]


class Session:
    """A pytest plugin: collects, then hands itself to ``work`` instead of running the tests."""

    def __init__(self, work: Callable[[Session], None]) -> None:
        self._work = work
        self._failed = False
        self.items: dict[str, pytest.Item] = {}
        self._functions: dict[tuple[str, str, int], list[FunctionType]] = {}
        self._failed_first = mmap.mmap(-1, _NAME_BYTES)  # shared with the forks

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Work, and run nothing."""
        self.items = {item.nodeid: item for item in session.items}
        for found in gc.get_objects():
            if isinstance(found, FunctionType) and found.__code__.co_filename.startswith(str(ATTEST)):
                self._functions.setdefault(_identity(found.__code__), []).append(found)
        gc.freeze()  # forks share these pages
        self._work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A failed test is the end of a fork."""
        if report.failed:
            self._failed_first[:] = report.nodeid.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
            os._exit(KILLED)

    def failed_first(self) -> str:
        """The test that noticed the last mutant."""
        return self._failed_first[:].rstrip(b"\0").decode(errors="replace")

    def reach(self, nodeid: str) -> Reach | None:
        """What a test reaches, alone in a fork; None if it fails there."""
        out, into = os.pipe()

        def measure() -> int:
            begins = time.monotonic()
            with _traced() as reached:
                self._run([nodeid])
            lines = [f"{Path(file).relative_to(ATTEST)}:{line}" for file, line in reached]
            with os.fdopen(into, "w") as stream:
                json.dump([time.monotonic() - begins, lines], stream)
            return 0

        child = _forked(measure)
        os.close(into)
        with os.fdopen(out) as stream:
            text = stream.read()
        if _ended(child, 300.0) != 0:
            return None
        seconds, lines = json.loads(text)
        return Reach(seconds, frozenset(lines))

    def try_function(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> str:
        """The outcome of a mutant in a function: the code of the live function is replaced in a fork."""

        def attempt() -> int:
            code = mutant.function_code()
            functions = [] if mutant.function is None or code is None else self._functions.get(_identity(code), [])
            if code is None or not functions:
                return NOT_APPLICABLE
            for inner in _with_inner(code):  # what the function made when its module was imported, such as a validator, changes too
                for function in self._functions.get(_identity(inner), []):
                    if len(function.__closure__ or ()) != len(inner.co_freevars):
                        return NOT_APPLICABLE
                    function.__code__ = inner
            self._run(tests)
            return SURVIVED

        return outcome_of(attempt, seconds)

    def _run(self, tests: Sequence[str]) -> None:
        items = [self.items[test] for test in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def outcome_of(attempt: Callable[[], int], seconds: float) -> str:
    """``survived``, ``killed``, ``timeout`` or ``not applicable``; ``seconds`` is what the tests take without a mutant."""
    return {SURVIVED: "survived", NOT_APPLICABLE: "not applicable", -1: "timeout"}.get(
        _ended(_forked(attempt), _STARTING_S + _SLACK * seconds), "killed"
    )


def in_session(work: Callable[[Session], None], basetemp: Path, tests: Iterable[str] = TESTS) -> None:
    """Collect the tests in a fork of this process, which itself stays without them, and do the work there."""

    def collect() -> int:
        return int(pytest.main([*pytest_options(basetemp), *tests], plugins=[Session(work)]))

    status = _ended(_forked(collect, quiet=False), 1e9)
    if status != 0:
        raise SystemExit(f"the tests could not be collected ({status})")


@contextmanager
def _traced() -> Iterator[set[tuple[str, int]]]:
    """The lines of ``confide.attest`` that run meanwhile."""
    # The coverage package does the same, but takes longer to start than most of these tests run.
    reached: set[tuple[str, int]] = set()
    below = f"{ATTEST}/"

    def line(frame: FrameType, event: str, _: object) -> TraceFunction:
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: FrameType, _: str, __: object) -> TraceFunction | None:
        return line if frame.f_code.co_filename.startswith(below) else None

    threading.settrace(call)
    sys.settrace(call)
    try:
        yield reached
    finally:
        sys.settrace(None)


def _identity(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _with_inner(inner)


def _forked(work: Callable[[], int], *, quiet: bool = True) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = KILLED
    try:
        if quiet:
            os.setsid()  # what the tests start ends with them
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
        status = work()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _ended(child: int, seconds: float) -> int:
    """Exit status of a fork, or -1 if it had to be stopped."""
    handle = os.pidfd_open(child)
    try:
        late = not select.select([handle], [], [], seconds)[0]
        with suppress(ProcessLookupError):  # what its tests started (a TPM, a service) ends with it, however it ended
            os.killpg(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(handle)
    return -1 if late else KILLED if status < 0 else status
