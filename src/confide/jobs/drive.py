"""One run from the outside: follow it, and whatever happens, end everything and say how it ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Final

from confide.data.snapshots import load_manifest
from confide.errors import ConfideError, InterruptedRunError, UnavailableError
from confide.jobs.result import ClientEvent, OnEvent, RunEvent
from confide.jobs.staging import SentPlace, discard, withdraw

if TYPE_CHECKING:
    from confide.ids import RunId
    from confide.jobs.follow import Follower
    from confide.jobs.store import RunDir
    from confide.node.remains import Remains

    _Handler = Callable[[int, FrameType | None], object] | int | None

_NONE: Final[Mapping[str, SentPlace]] = MappingProxyType({})


class Report:
    """Keeps each event and passes it on.  Listeners do not end runs: what one raises is theirs, after the run is cleaned up."""

    def __init__(self, folder: RunDir, on_event: OnEvent | None) -> None:
        self._folder = folder
        self._on_event = on_event

    def __call__(self, event: RunEvent) -> None:
        """Keep one event, and pass it on.

        Raises:
            UnavailableError: it cannot be kept.
        """
        self._folder.add_event(event.to_json())
        if self._on_event is not None:
            self._on_event(event)

    def end(self, event: RunEvent) -> None:
        """Pass on how the run ended, also if it cannot be kept: the run's result says it, or could not be kept either."""
        with suppress(UnavailableError):
            self._folder.add_event(event.to_json())
        if self._on_event is not None:
            self._on_event(event)


def drive(
    follow: Callable[[], None],
    follower: Follower,
    folder: RunDir,
    outputs: Mapping[str, Path],
    report: Report,
    *,
    further: Collection[str] = frozenset(),
    sent: Mapping[str, SentPlace] = _NONE,
) -> None:
    """``follow`` the run; unless it was left to itself, end everything, whatever happens, then say how it ended.

    Ctrl-C and SIGTERM end it in order; from the first on, and once the run is over, no other one is heard until all is done.
    """
    error: ConfideError | None = None
    with _one_interruption() as interruption:
        try:
            try:
                follow()
                error = follower.error
            except ConfideError as failure:
                error = failure
            finally:
                interruption.hold()
        except KeyboardInterrupt:  # also one that came before the hold: it is the only one
            error = InterruptedRunError("the run was interrupted")
        finally:
            if not follower.left:
                follower.end()
                new = {name: path for name, path in outputs.items() if name not in further}
                remains = follower.remains()
                error, last = _conclude(folder, outputs, error, succeeded=follower.succeeded, remains=remains, new=new, sent=sent)
                report.end(last)
    if error is not None:
        error.facts.setdefault("run", folder.run)
        raise error


def _conclude(
    folder: RunDir,
    outputs: Mapping[str, Path],
    error: ConfideError | None,
    *,
    succeeded: bool,
    remains: Remains,
    new: Mapping[str, Path],
    sent: Mapping[str, SentPlace],
) -> tuple[ConfideError | None, RunEvent]:
    """Keep in the run's folder how the run ended; one that cannot has failed.  New outputs of a failed run are taken out of view."""
    if error is not None or not succeeded:
        _take_back(outputs, new, folder.run, error)
        if not folder.receipt.exists():
            with suppress(UnavailableError):  # what ended the run is more than what is left of it
                folder.keep(remains)
    discard({**outputs, **{name: place.folder for name, place in sent.items()}}, folder.run)
    folder.drop_scratch()
    status = _status(error, succeeded=succeeded)
    last = RunEvent(ClientEvent.RUN_ENDED, fields={"status": status, "error": error.to_json() if error else None})
    places = {**{name: str(path) for name, path in outputs.items()}, **{name: place.url for name, place in sent.items()}}
    written = places if status == "succeeded" else {}
    try:
        folder.write("result.json", {"status": status, "ended": last.at, "outputs": written, "error": last.fields["error"]})
    except UnavailableError as failure:
        error = error or failure
        _take_back(outputs, new, folder.run, error)
        last = RunEvent(ClientEvent.RUN_ENDED, fields={"status": "failed", "error": error.to_json()})
    return error, last


def _take_back(outputs: Mapping[str, Path], new: Mapping[str, Path], run: RunId, error: ConfideError | None) -> None:
    """Take the new outputs of a run that failed out of view, and say in ``error`` what stays.

    That is a snapshot of an earlier dataset, if the run had committed it: others may have read it, and the broker refuses the one before.
    """
    withdraw(new, run, _maker)
    committed = [name for name, path in outputs.items() if name not in new and _maker(path) == run]
    if error is not None and committed:
        error.facts["committed"] = ", ".join(committed)


def _status(error: ConfideError | None, *, succeeded: bool) -> str:
    if succeeded and error is None:
        return "succeeded"
    return "interrupted" if isinstance(error, InterruptedRunError) else "failed"


def _maker(folder: Path) -> str | None:
    try:
        return load_manifest(folder).unverified.run
    except ConfideError:
        return None


class _Interruption:
    """Ctrl-C and SIGTERM as one exception: the first is raised, and no other after it, nor after :meth:`hold`.

    Impatient second ones are kept out of the clean-up, which is quick and must be whole.  As a handler it only looks at and sets an
    attribute, and there is no moment between the exception and the silence.
    """

    def __init__(self, before: Mapping[int, _Handler]) -> None:
        self._before = before
        self._held = False

    def hold(self) -> None:
        """Raise nothing from now on."""
        self._held = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: SIGINT as whoever started this has it handled, SIGTERM like Ctrl-C."""
        if self._held:
            return
        asked = self._before[number]
        if number == signal.SIGTERM or not callable(asked):
            asked = signal.default_int_handler
        try:
            asked(number, frame)
        except BaseException:
            self._held = True
            raise


@contextmanager
def _one_interruption() -> Iterator[_Interruption]:
    """While the block runs, SIGTERM ends the run in order, as Ctrl-C does.

    Only the main thread can set handlers; elsewhere nothing changes.  What is ignored stays ignored, and a handler that was not set from
    Python is left alone: it could not be put back.
    """
    before: dict[int, _Handler] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = [number for number, asked in before.items() if asked is not None and (number, asked) != (signal.SIGINT, signal.SIG_IGN)]
    made = _Interruption(before)
    try:
        for number in ours:
            signal.signal(number, made)
        yield made
    finally:
        made.hold()
        for number in ours:
            signal.signal(number, before[number])
