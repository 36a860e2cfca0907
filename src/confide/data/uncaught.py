"""What an uncaught error of a job's program leaves in the node's log: where and what, without texts that may hold values of rows.

The log lies on the host.  A program that wants such a text catches the error; what a program prints is its own.  Knows no engine: which
errors are told by their place alone is for the caller to say.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

Report = Callable[[type[BaseException], BaseException | None, TracebackType | None], None]
_LEFT_OUT = "is left out, because it may hold values of rows and this log lies on the host: catch the error to see it"


def install(report: Report) -> None:
    """Report uncaught errors of this process, of its threads too, by ``report`` from now on."""
    sys.excepthook = report
    threading.excepthook = lambda args: report(args.exc_type, args.exc_value, args.exc_traceback)


def tell_place(kind: type[BaseException], trace: TracebackType | None, what: str, reasons: Sequence[str], *, left_out: str) -> None:
    """Print where an error came from, ``what`` it is and our own ``reasons``; its text, which ``left_out`` names, is not printed."""
    lines = ["Traceback (most recent call last):\n", *traceback.format_tb(trace)]
    lines.append(f"{kind.__module__}.{kind.__qualname__}: {what}\n")
    lines += [f"  {reason}\n" for reason in reasons]
    lines.append(f"  ({left_out} {_LEFT_OUT})\n")
    sys.stderr.write("".join(lines))


def chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and those that Python would print before it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
