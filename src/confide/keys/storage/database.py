"""One connection to a store's database: SQLite in one file, or PostgreSQL.  Whole transactions, errors that name no values.

Not for several threads at once: ``keys.store`` has the lock.  Statements are SQLAlchemy's, so that both databases get the same ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self

from alembic.command import upgrade
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.exc import SQLAlchemyError

from confide.errors import StoreError
from confide.keys.storage.failures import as_store_error, unreachable, unusable
from confide.keys.storage.locations import BUSY_S, Location
from confide.keys.storage.schema import METADATA
from confide.keys.storage.statements import Lookup, Row, Statement, Values

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = "SELECT pg_advisory_xact_lock(1129270854)"
"""PostgreSQL's advisory lock of whoever writes the store of a database, or makes its tables.  The number means nothing."""
_PRAGMAS: Final = ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF", "secure_delete = ON", "wal_autocheckpoint = 4000")
"""The last one: whoever commits the step that fills the log moves its pages, and all who wait with it wait for that.  Rarely is better."""

class Database:
    """One connection, and at most one transaction on it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._driver_error: type[Exception] = engine.dialect.import_dbapi().Error
        self._connection: Connection | None = None
        self._closed = False
        self._step: Literal["", "announced", "begun"] = ""
        self.in_transaction = False

    @classmethod
    def open(cls, location: Location) -> Self:
        """Connect.

        Raises:
            StoreError: there is no such database, or it is no database.
        """
        found = cls(location.engine())
        with as_store_error(location.name):
            found._connect()
        return found

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        self._drop()

    # --- transactions ------------------------------------------------------------------------------------------------

    def begin_read(self) -> None:
        """What is read until :meth:`end` is of one moment."""
        self._begin("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def begin_write(self) -> None:
        """Nobody else writes until :meth:`commit` or :meth:`end`, in this process or another."""
        self._begin("BEGIN IMMEDIATE", f"BEGIN ISOLATION LEVEL READ COMMITTED; {_LOCK}")

    def savepoint(self) -> None:
        """Begin a step of the transaction that can be taken back alone.  The database hears of it when the step writes something.

        PostgreSQL hears of it when the step asks something, too: there, a query that fails would undo the steps before it.

        Raises:
            StoreError: as :meth:`check_begun`.
        """
        self.check_begun()
        self._step = "announced"

    def check_begun(self) -> None:
        """Return if the transaction still goes on: SQLite undoes all of it after some failures, even of a query.

        ``sqlite3_get_autocommit`` says so.  What was written then would not be part of any transaction, and happen at once.

        Raises:
            StoreError: it does not.
        """
        if not (self._postgres or self._live.connection.dbapi_connection.in_transaction):  # type: ignore[union-attr]
            raise StoreError("the key store's database has undone what was not kept yet")

    def release(self) -> None:
        """The step stays."""
        self._end_step("RELEASE SAVEPOINT step")

    def take_back(self) -> None:
        """The step has not happened."""
        self._end_step("ROLLBACK TO SAVEPOINT step", "RELEASE SAVEPOINT step")

    def commit(self) -> None:
        """The transaction has happened, and is on the disk."""
        self._sql("COMMIT")
        self.in_transaction = False

    def _end_step(self, *texts: str) -> None:
        begun, self._step = self._step == "begun", ""
        for text in texts if begun else ():
            self._sql(text)

    def end(self) -> None:
        """The transaction has not happened.  If even that cannot be said, the connection is given up: the database undoes it."""
        if not self.in_transaction:
            return
        self.in_transaction = False
        try:
            if self._postgres or self._live.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
                self._sql("ROLLBACK")  # sqlite has ended it itself after some failures
        except (SQLAlchemyError, StoreError):
            self._drop()

    def ask_again(self) -> None:
        """Begin to read after a commit whose answer was not heard: what it was for has happened by now, or never will.

        A PostgreSQL server may be at it still, on a connection that is lost to us; it has the lock of writers until it is done.

        Raises:
            StoreError: the database cannot be reached, or is not done within the time that writers wait.
        """
        if self._postgres:
            self._drop()
            self.begin_write()
        else:
            self.end()
            self.begin_read()

    def scrub(self, *, wait: bool = True) -> None:
        """Leave nothing of earlier rows in SQLite's files, unless another process reads at this moment (with ``wait``, so long as it does).

        With ``secure_delete`` their place in the file is overwritten; the write-ahead log still has them until it is emptied.
        A PostgreSQL server keeps them until it vacuums, and in its own log: that is its operator's affair.
        """
        if not self._postgres:
            self._sql(f"PRAGMA busy_timeout = {int(BUSY_S * 1000) if wait else 0}")
            self._driver("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._sql(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")

    # --- statements --------------------------------------------------------------------------------------------------

    def rows(self, statement: Statement | Executable, values: Values | None = None) -> Sequence[Row]:
        """What a query finds."""
        self._begin_step(writes=False)
        if isinstance(statement, Statement):
            text, names = statement.text(self._engine.dialect)
            return list(map(tuple, self._driver(text, [values[name] for name in names] if values else ()).fetchall()))
        with as_store_error():
            return self._live.execute(statement, values).fetchall()

    def rows_at(self, lookup: Lookup, keys: Sequence[tuple[int, ...]]) -> Sequence[Row]:
        """What a query finds at these keys."""
        self._begin_step(writes=False)
        text, values = lookup.asked(self._engine.dialect.name, keys)
        return [*map(tuple, self._driver(text, values).fetchall())]

    def stream(self, statement: Executable, page: int) -> Iterator[Row]:
        """What a query finds, ``page`` rows in memory at a time where the driver can."""
        self._begin_step(writes=False)
        with as_store_error():
            yield from self._live.execute(statement, execution_options={"yield_per": page})

    def run(self, statement: Statement, *sets: Values) -> None:
        """Carry out a statement for each set of values."""
        if not sets:
            return
        self._begin_step(writes=True)
        text, names = statement.text(self._engine.dialect)
        rows = [tuple([values[name] for name in names]) for values in sets]
        if len(rows) == 1:
            self._driver(text, rows[0])
        else:
            self._driver(text, rows, many=True)

    def _begin_step(self, *, writes: bool) -> None:
        if self._step == "announced" and (writes or self._postgres):
            self.check_begun()
            self._sql("SAVEPOINT step")
            self._step = "begun"

    # --- tables ------------------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        """Make or change the tables to those of this version.  Needs :meth:`begin_write`."""
        config = _alembic()
        config.attributes["connection"] = self._live
        with as_store_error():
            upgrade(config, "head")

    def revision(self) -> str | None:
        """The version of the tables that are there; None without tables."""
        with as_store_error():
            return MigrationContext.configure(self._live).get_current_revision()

    def has_tables(self) -> bool:
        """Whether any of a store's tables is there."""
        with as_store_error():
            return any(self._live.dialect.has_table(self._live, name) for name in METADATA.tables)

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _postgres(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    @property
    def _live(self) -> Connection:
        if self._connection is None:
            raise StoreError("the key store is closed, or its database went away")
        return self._connection

    def _begin(self, lite: str, postgres: str) -> None:
        self._step = ""
        if self._connection is None and not self._closed:
            with as_store_error():
                self._connect()
        try:
            self._sql(postgres if self._postgres else lite)
        except StoreError:
            if self._postgres:  # a server that went away is asked anew next time; the mirror in memory notices if it is another one
                self._drop()
            raise
        self.in_transaction = True

    def _connect(self) -> None:
        self._connection = self._engine.connect()
        if not self._postgres:
            for pragma in _PRAGMAS:
                self._connection.exec_driver_sql(f"PRAGMA {pragma}")
        else:
            self._connection.exec_driver_sql(f"SET lock_timeout = '{int(BUSY_S)}s'")

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.invalidate()
            connection.close()
        self.in_transaction = False

    def _sql(self, text: str) -> None:
        self._driver(text)

    def _driver(self, text: str, values: Sequence[Any] = (), *, many: bool = False) -> Any:
        """The driver's own cursor after a statement: what SQLAlchemy adds to one takes longer than SQLite does."""
        try:
            cursor = self._live.connection.cursor()
            (cursor.executemany if many else cursor.execute)(text, values)
        except self._driver_error as cause:
            raise unusable(cause) from None
        except SQLAlchemyError as cause:  # of the connection that it keeps
            raise unusable(cause) from None
        except (OSError, struct.error) as cause:  # the driver does not wrap what its socket says
            raise unreachable(cause) from None
        return cursor


@cache
def newest_revision() -> str:
    """The version of the tables that this version of Confide works with."""
    found = ScriptDirectory.from_config(_alembic()).get_current_head()
    if found is None:
        raise StoreError("the package lacks its migrations")
    return found


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
