"""What an uncaught error of a job's program leaves in the node's log: where and what, without the texts of Spark's tasks.

Spark puts values of rows into its errors (a text that is no number, what a user's function raised over a row), and the log lies on the
host.  A program that wants such a text catches the error; what a program prints is its own.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType

from confide.data.failure import reasons_in
from confide.errors import ExtraMissingError

try:
    from py4j.protocol import Py4JError
    from pyspark.errors import AnalysisException
    from pyspark.errors.exceptions.captured import CapturedException
    from pyspark.logger import PySparkLogger
except ImportError as missing:
    raise ExtraMissingError("PySpark is not installed", hint="pip install 'confide[spark]'") from missing

_LEFT_OUT = "what tasks said is left out, because it may hold values of rows and this log lies on the host: catch the error to see it"


def install() -> None:
    """Report uncaught errors of this process by :func:`report` from now on."""
    sys.excepthook = report
    threading.excepthook = lambda args: report(args.exc_type, args.exc_value, args.exc_traceback)
    py4j = logging.getLogger("py4j")  # it would print what a function that the JVM called raised
    py4j.addHandler(logging.NullHandler())
    py4j.propagate = False
    PySparkLogger.getLogger("SQLQueryContextLogger").disabled = True  # it would print what Spark's errors say, caught or not


def report(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print an uncaught error, as Python does; of one that came out of Spark's JVM only its class, its condition and our own codes."""
    if error is None or not any(_of_a_task(one) for one in _chain(error)):
        sys.__excepthook__(kind, error if error is not None else kind(), trace)
        return
    try:
        condition, reasons = _condition(error), reasons_in(str(error))
    except Exception:  # noqa: BLE001 - the JVM is asked for them and may be gone; what a hook raises, Python prints, with all of `error`
        condition, reasons = "an error of Spark", []
    lines = ["Traceback (most recent call last):\n", *traceback.format_tb(trace)]
    lines.append(f"{kind.__module__}.{kind.__qualname__}: {condition}\n")
    lines += [f"  {reason}\n" for reason in reasons]
    lines.append(f"  ({_LEFT_OUT})\n")
    sys.stderr.write("".join(lines))


def _of_a_task(error: BaseException) -> bool:
    """Whether the error's text is of the JVM's; errors of planning name columns and the program's own words, and no row."""
    return isinstance(error, CapturedException | Py4JError) and not isinstance(error, AnalysisException)


def _condition(error: BaseException) -> str:
    return (error.getCondition() if isinstance(error, CapturedException) else None) or "an error of Spark"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and those that Python would print before it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
