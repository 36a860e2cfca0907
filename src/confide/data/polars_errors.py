"""Uncaught errors of a program with Polars, told without the texts of Polars, DuckDB and Arrow (``confide.data.uncaught``).

They put values of rows into their errors: a text that is no number, a key that is there twice.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final

from confide.data import uncaught
from confide.errors import ConfideError

_ENGINES: Final = frozenset({"polars", "pyo3_runtime", "duckdb", "_duckdb", "pyarrow"})
"""Packages whose errors are about rows; ``pyo3_runtime`` is where Polars' panics are."""
_OF_PLANNING: Final = frozenset(
    {
        *("ColumnNotFoundError", "SchemaFieldNotFoundError", "StructFieldNotFoundError", "DuplicateError", "NoDataError"),
        *("SQLSyntaxError", "SQLInterfaceError", "ArgumentRemovedError", "AttributeRemovedError", "ModuleUpgradeRequiredError"),
        *("ParserException", "BinderException", "CatalogException"),
    }
)
"""Errors that name columns, tables and the program's own words, and no row."""


def install() -> None:
    """Report uncaught errors of this process by :func:`report` from now on."""
    uncaught.install(report)


def report(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print an uncaught error, as Python does; of one that came out of an engine only its class, its place and what ours say."""
    if error is None or not any(_of_rows(one) for one in uncaught.chain(error)):
        sys.__excepthook__(kind, error if error is not None else kind(), trace)
        return
    ours = [one for one in uncaught.chain(error) if isinstance(one, ConfideError)]
    reasons = [f"[{one.code}] {one.message}" + (f" (hint: {one.hint})" if one.hint else "") for one in ours]
    uncaught.tell_place(kind, trace, "an error of the engine, or after one", reasons, left_out="what it said")


def _of_rows(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _ENGINES and type(error).__name__ not in _OF_PLANNING
