"""What an uncaught error of a job's program leaves in the node's log: where and what, without texts that may hold values of rows.

The log lies on the host.  A program that wants such a text catches the error; what a program prints is its own.  Knows no engine: which
errors are told by their place alone is for the caller to say.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

Tell = Callable[[type[BaseException], BaseException, TracebackType | None], None]
OfRows = Callable[[BaseException], bool]
_LEFT_OUT = "is left out, because it may hold values of rows and this log lies on the host: catch the error to see it"
_LOGGERS: Final = ("asyncio", "concurrent.futures")
"""Python's own, for errors of tasks and of callbacks that nobody waits for; what they say quotes the errors."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What Python calls with errors that nobody catches.

    ``tell``: prints one that Python would print with an error that may hold values of rows (``of_rows``); others Python prints itself.
    """

    tell: Tell
    of_rows: OfRows

    def install(self) -> None:
        """Be called from now on, also where Python only notes that there was an error.

        That is in threads, at the program's end, in what is called when an object goes, and in tasks and callbacks that nobody waits for.
        """
        sys.excepthook, threading.excepthook, sys.unraisablehook = self.uncaught, self.in_thread, self.ignored
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self.noted)

    def uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """As ``sys.excepthook``."""
        if not self._told(kind, error, trace):
            sys.__excepthook__(kind, error, trace)

    def in_thread(self, args: threading.ExceptHookArgs) -> None:
        """As ``threading.excepthook``."""
        if not self._told(args.exc_type, args.exc_value, args.exc_traceback):
            threading.__excepthook__(args)

    def ignored(self, args: UnraisableHookArgs) -> None:
        """As ``sys.unraisablehook``."""
        if not self._told(args.exc_type, args.exc_value, args.exc_traceback):
            sys.__unraisablehook__(args)

    def noted(self, record: logging.LogRecord) -> bool:
        """As a filter of a logger: whether it prints the record."""
        return not self._told(*(record.exc_info or (None, None, None)))

    def _told(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if kind is None or error is None or not any(self.of_rows(one) for one in chain(error)):
            return False
        self.tell(kind, error, trace)
        return True


def tell_place(kind: type[BaseException], trace: TracebackType | None, what: str, reasons: Sequence[str], *, left_out: str) -> None:
    """Print where an error came from, ``what`` it is and our own ``reasons``; its text, which ``left_out`` names, is not printed."""
    lines = ["Traceback (most recent call last):\n", *traceback.format_tb(trace)]
    lines.append(f"{kind.__module__}.{kind.__qualname__}: {what}\n")
    lines += [f"  {reason}\n" for reason in reasons]
    lines.append(f"  ({left_out} {_LEFT_OUT})\n")
    sys.stderr.write("".join(lines))


def chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and those that Python would print with it: what was before it, and the members of a group."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(reversed(current.exceptions))
        before = current.__context__ if current.__cause__ is None and not current.__suppress_context__ else current.__cause__
        if before is not None:
            waiting.append(before)
