"""Uncaught errors of a program with Spark, told without the texts of Spark's tasks (``confide.data.uncaught``).

Spark puts values of rows into its errors: a text that is no number, what a user's function raised over a row.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Final

from confide.data import uncaught
from confide.data.failure import reasons_in
from confide.errors import ExtraMissingError

try:
    from py4j.protocol import Py4JError
    from pyspark.errors import AnalysisException
    from pyspark.errors.exceptions.captured import CapturedException
    from pyspark.logger import PySparkLogger
except ImportError as missing:
    raise ExtraMissingError("PySpark is not installed", hint="pip install 'confide[spark]'") from missing


def install() -> None:
    """Have uncaught errors of this process that came out of Spark's JVM told by class, condition and our own codes from now on."""
    HOOKS.install()
    py4j = logging.getLogger("py4j")  # it would print what a function that the JVM called raised
    py4j.addHandler(logging.NullHandler())
    py4j.propagate = False
    PySparkLogger.getLogger("SQLQueryContextLogger").disabled = True  # it would print what Spark's errors say, caught or not


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    try:
        condition, reasons = _condition(error), reasons_in(str(error))
    except Exception:  # noqa: BLE001 - the JVM is asked for them and may be gone; what a hook raises, Python prints, with all of `error`
        condition, reasons = "an error of Spark", []
    uncaught.tell_place(kind, trace, condition, reasons, left_out="what tasks said")


def _of_a_task(error: BaseException) -> bool:
    """Whether the error's text is of the JVM's; errors of planning name columns and the program's own words, and no row."""
    return isinstance(error, CapturedException | Py4JError) and not isinstance(error, AnalysisException)


def _condition(error: BaseException) -> str:
    return (error.getCondition() if isinstance(error, CapturedException) else None) or "an error of Spark"


HOOKS: Final = uncaught.Hooks(_tell, _of_a_task)
"""Of this engine."""
