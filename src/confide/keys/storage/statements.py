"""Statements that a store carries out often, as texts of the database that it lies in.  Knows nothing of connections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Dialect, Executable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.schema import Table

Values = Mapping[str, Any]
"""A statement's values, by name."""
Row = tuple[Any, ...]
"""What a query finds: one row's columns, in its order."""


class Statement:
    """A statement that is carried out often: turned into the database's own text once, not each time."""

    def __init__(self, made: Executable | Callable[[str], Executable]) -> None:
        """``made`` is the statement, or makes it for a kind of database (``sqlite`` or ``postgresql``)."""
        self._made = made
        self._texts: dict[str, tuple[str, tuple[str, ...]]] = {}

    def text(self, dialect: Dialect) -> tuple[str, tuple[str, ...]]:
        """The text, and the names of its values in their order."""
        found = self._texts.get(dialect.name)
        if found is None:
            made = self._made(dialect.name) if callable(self._made) else self._made
            compiled: Any = made.compile(dialect=dialect)  # type: ignore[attr-defined]
            found = self._texts[dialect.name] = (str(compiled), tuple(compiled.positiontup or ()))
        return found


class Lookup:
    """Rows of a table by the values of some columns (numbers), any number of them in one statement."""

    def __init__(self, table: Table, by: tuple[str, ...], what: tuple[str, ...]) -> None:
        self._by = by
        self._types = [str(table.columns[name].type.compile(postgresql.dialect())) for name in by]  # type: ignore[no-untyped-call]
        self._what = ", ".join(f"{table.name}.{name}" for name in what)
        self._joined = f"{table.name} ON {' AND '.join(f'{table.name}.{name} = wanted.{name}' for name in by)}"

    def asked(self, dialect: str, keys: Sequence[tuple[int, ...]]) -> tuple[str, list[Any]]:
        """The text for so many keys, and its values.  PostgreSQL gets one text for any number: its driver reads each letter anew."""
        names = ", ".join(self._by)
        if dialect == "postgresql":
            arrays = ", ".join(f"CAST(%s AS {kind}[])" for kind in self._types)
            text = f"SELECT {self._what} FROM unnest({arrays}) AS wanted ({names}) JOIN {self._joined}"  # noqa: S608 -- names of tables
            return text, [list(column) for column in zip(*keys, strict=True)]
        rows = ", ".join([f"({', '.join('?' * len(self._by))})"] * len(keys))
        # CROSS JOIN keeps SQLite to this order: an index is asked for each key, and the table is not read.
        text = f"WITH wanted ({names}) AS (VALUES {rows}) SELECT {self._what} FROM wanted CROSS JOIN {self._joined}"  # noqa: S608
        return text, [value for key in keys for value in key]


def upsert(table: Table) -> Statement:
    """Put a row into ``table``, in place of the one with the same primary key."""
    keys = [column.name for column in table.primary_key.columns]
    names = [column.name for column in table.columns if not column.primary_key]

    def made(dialect: str) -> Executable:
        new: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
        return new.on_conflict_do_update(index_elements=keys, set_={name: new.excluded[name] for name in names})  # type: ignore[no-any-return]

    return Statement(made)
