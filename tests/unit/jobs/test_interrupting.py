"""Ctrl-C and SIGTERM while a run is driven: whenever they come, and however many, everything is ended, once, and the run is interrupted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

from confide.errors import ConfideError, InterruptedRunError, NodeLostError
from confide.ids import RunId
from confide.jobs import drive as module
from confide.jobs.drive import Report, drive
from confide.jobs.result import RunEvent
from confide.jobs.store import RunDir, RunStore
from confide.node.remains import Remains


def send(*numbers: signal.Signals) -> None:
    """To this thread: what a process gets, another thread may take, and Python looks at it later than the next step."""
    for number in numbers:
        signal.raise_signal(number)


class Run:
    """A run without nodes.  ``looked`` runs when it is looked whether the run was left to itself: just before everything is ended."""

    succeeded = False
    remains = Remains

    def __init__(self, store: RunStore, name: str) -> None:
        self.folder: RunDir = store.create(RunId(name), {"job": "interrupted"})
        self.events: list[RunEvent] = []
        self.begun, self.ended = False, 0
        self.looked: Callable[[], None] = lambda: None
        self.ending: Callable[[], None] = lambda: None
        self.error: ConfideError | None = None

    @property
    def left(self) -> bool:
        self.looked()
        return False

    def end(self) -> None:
        self.ending()
        self.ended += 1

    def drive(self, follow: Callable[[], None]) -> None:
        def begin() -> None:
            self.begun = True
            follow()

        try:
            drive(begin, cast(Any, self), self.folder, {}, Report(self.folder, self.events.append))
        except KeyboardInterrupt:  # it would end the tests
            raise AssertionError("an interruption was not taken for one of the run") from None

    @property
    def status(self) -> object:
        return self.folder.read("result.json")["status"]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Whatever a test leaves, its successor has the handlers of before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    left = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert left == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_right_before_the_end_does_not_keep_it_away(store: RunStore, first: signal.Signals, second: signal.Signals) -> None:
    run = Run(store, "twice")
    run.looked = run.ending = lambda: send(second)
    with pytest.raises(InterruptedRunError):
        run.drive(lambda: send(first))
    assert (run.ended, run.status) == (1, "interrupted")
    assert run.events[-1].fields["status"] == "interrupted"


def test_two_signals_at_once_are_one(store: RunStore) -> None:
    """Both are there before Python looks for any: the second is handled when the first is raised."""

    def at_once() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        send(signal.SIGINT, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

    run = Run(store, "at-once")
    with pytest.raises(InterruptedRunError):
        run.drive(at_once)
    assert (run.ended, run.status) == (1, "interrupted")


def test_signal_that_comes_when_the_run_has_failed_does_not_keep_the_end_away(store: RunStore) -> None:
    def fail() -> None:
        raise NodeLostError("a node is gone")

    run = Run(store, "failed")
    run.looked = lambda: send(signal.SIGINT)
    with pytest.raises(NodeLostError):
        run.drive(fail)
    assert (run.ended, run.status) == (1, "failed")


def test_signal_that_is_ignored_stays_ignored_and_anothers_handler_is_asked(store: RunStore) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = Run(store, "ignored")
    run.drive(lambda: send(signal.SIGINT))
    assert (run.ended, signal.signal(signal.SIGINT, lambda *_: asked.append(1))) == (1, signal.SIG_IGN)
    asked: list[int] = []
    other = Run(store, "asked")
    other.looked = lambda: send(signal.SIGINT)
    other.drive(lambda: send(signal.SIGINT))
    assert (other.ended, asked) == (1, [1])
    signal.signal(signal.SIGINT, signal.default_int_handler)


# --- between any two steps -------------------------------------------------------------------------------------------


@contextmanager
def _signal_at(step: int, run: Run) -> Iterator[list[int]]:
    """Send SIGINT before the given step (bytecode) of ``confide.jobs.drive`` of those from when the run has begun until it is ended."""
    steps = [0]

    def traced(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and run.begun and not run.ended:
            steps[0] += 1
            if steps[0] == step:
                send(signal.SIGINT)
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        yield steps
    finally:
        sys.settrace(before)


def _interrupt() -> None:
    send(signal.SIGINT)


def _fail() -> None:
    raise NodeLostError("a node is gone")


def _be_wrong() -> None:
    raise ValueError("a mistake")


def _be_well() -> None:
    """Come to the end."""


@pytest.mark.parametrize("follow", [_interrupt, _fail, _be_wrong, _be_well])
def test_signal_between_any_two_steps_from_the_begin_to_the_end_keeps_no_end_away(store: RunStore, follow: Callable[[], None]) -> None:
    """Proven for each bytecode of this module, once what starts nodes has begun; what it calls in other modules is their affair."""
    step = 0
    while True:
        step += 1
        run = Run(store, f"step-{step}")
        with _signal_at(step, run) as steps, suppress(ConfideError, ValueError):
            run.drive(follow)
        assert run.ended == 1, f"step {step} of {steps[0]}"
        assert run.folder.path.joinpath("result.json").exists()
        if steps[0] < step:
            break
    assert step > 15
