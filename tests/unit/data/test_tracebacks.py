"""What an uncaught error of a program leaves in a log that lies on the host."""

from __future__ import annotations

import subprocess
import sys

import pytest
from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.errors.exceptions.captured import CapturedException

from confide.data.tracebacks import HOOKS

ROW = "row-5f21"


class OfATask(CapturedException):
    def __init__(self, text: str) -> None:
        self._origin, self._desc, self._stackTrace, self._cause = None, text, "", None

    def __str__(self) -> str:
        return str(self._desc)

    def getCondition(self) -> str:  # noqa: N802 - Spark's name
        return "CAST_INVALID_INPUT"


def printed(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    try:
        raise error
    except (Py4JError, PySparkException, LookupError, ValueError) as raised:
        HOOKS.uncaught(type(raised), raised, raised.__traceback__)
    return capsys.readouterr().err


def test_errors_of_tasks_are_told_by_class_condition_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(OfATask(f"{ROW} is no number\nCaused by: java.io.IOException: [data-integrity] /d/a.csv: chunk 3 does not open"), capsys)
    assert ROW not in text
    assert "OfATask: CAST_INVALID_INPUT" in text
    assert "[data-integrity] /d/a.csv: chunk 3" in text
    assert "in printed" in text


def test_an_error_that_was_raised_from_a_tasks_error_does_not_tell_it_either(capsys: pytest.CaptureFixture[str]) -> None:
    made = ValueError(f"cannot use {ROW}")
    made.__cause__ = Py4JError(ROW)
    assert ROW not in printed(made, capsys)
    other = ValueError(f"cannot use {ROW}")
    other.__context__ = OfATask(ROW)
    HOOKS.uncaught(ValueError, other, None)
    assert ROW not in capsys.readouterr().err


def test_an_error_whose_jvm_is_gone_is_not_told_in_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: object) -> str:
        raise Py4JError("the gateway is closed")

    monkeypatch.setattr(OfATask, "getCondition", gone)
    text = printed(OfATask(ROW), capsys)
    assert ROW not in text
    assert "OfATask: an error of Spark" in text


def test_errors_of_the_program_and_of_planning_are_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such city" in printed(KeyError("no such city"), capsys)
    assert "no column x" in printed(AnalysisException("no column x"), capsys)


PROGRAM = f"""
import sys, threading
from py4j.protocol import Py4JError
from confide.data import tracebacks
tracebacks.install()

def bad():
    raise Py4JError("{ROW[::-1]}"[::-1])  # from Python 3.13 on a traceback shows the lines of `-c`

class Left:
    def __del__(self):
        bad()

if sys.argv[1] == "thread":
    threading.Thread(target=bad).start()
elif sys.argv[1] == "object":
    Left()
else:
    bad()
"""


@pytest.mark.parametrize("way", ["program", "thread", "object"])
def test_errors_of_tasks_are_told_so_wherever_nobody_catches_them(way: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=False, timeout=60)
    assert ROW not in done.stderr
    assert "Py4JError: an error of Spark" in done.stderr
