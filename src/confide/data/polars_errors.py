"""Uncaught errors of a program with Polars, told without the texts of Polars, DuckDB, Arrow and pandas (``confide.data.uncaught``).

They put values of rows into their errors: a text that is no number, a key that is there twice.  So does what a program's own function
raises over a row, which Polars and pandas pass on as it is.
"""

from __future__ import annotations

import traceback
from itertools import pairwise
from types import TracebackType
from typing import Final

from confide.data import uncaught
from confide.errors import ConfideError

_ENGINES: Final = frozenset({"polars", "pyo3_runtime", "duckdb", "_duckdb", "pandas", "pyarrow"})
"""Packages whose errors are about rows, and whose functions call those of programs; ``pyo3_runtime`` is where Polars' panics are."""
_OF_PLANNING: Final = frozenset(
    {
        *("ColumnNotFoundError", "SchemaFieldNotFoundError", "StructFieldNotFoundError", "DuplicateError", "NoDataError"),
        *("SQLSyntaxError", "SQLInterfaceError", "ArgumentRemovedError", "AttributeRemovedError", "ModuleUpgradeRequiredError"),
        *("ParserException", "BinderException", "CatalogException"),
    }
)
"""Errors of engines that name columns, tables and the program's own words, and no row: where no function made those of a row."""
_FROM_ELSEWHERE: Final = frozenset({"_RemoteTraceback", "RemoteTraceback"})
"""What pools of processes put before an error of one of them: all that Python would have printed there, as a text."""


def install() -> None:
    """Have uncaught errors of this process that came out of an engine told by class, place and what ours say from now on."""
    HOOKS.install()


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    ours = [one for one in uncaught.chain(error) if isinstance(one, ConfideError)]
    reasons = [f"[{one.code}] {one.message}" + (f" (hint: {one.hint})" if one.hint else "") for one in ours]
    uncaught.tell_place(kind, trace, "an error of the engine, or after one", reasons, left_out="what it said")


def _of_rows(error: BaseException) -> bool:
    if isinstance(error, ConfideError):
        return False
    in_engine = [_is_engine(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    if type(error).__name__ in _OF_PLANNING:
        return any(before and not after for before, after in pairwise(in_engine))
    return _is_engine(type(error).__module__) or any(in_engine) or type(error).__name__ in _FROM_ELSEWHERE


def _is_engine(module: object) -> bool:
    return str(module).partition(".")[0] in _ENGINES


HOOKS: Final = uncaught.Hooks(_tell, _of_rows)
"""Of this engine."""
