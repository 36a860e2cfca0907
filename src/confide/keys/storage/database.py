"""One connection to a store's database: SQLite in one file, or PostgreSQL.  Whole transactions, errors that name no values.

Not for several threads at once: ``keys.store`` has the lock.  Statements are SQLAlchemy's, so that both databases get the same ones.
"""

from __future__ import annotations

import os
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from alembic.command import upgrade
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Dialect, Engine, Executable, create_engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.schema import Table

from confide.crypto.sign import read_private_file
from confide.errors import CredentialError, StoreError, UsageError
from confide.keys.storage.schema import METADATA

BUSY_S: Final = 10.0
"""How long one process waits for another's transaction, in seconds."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = "SELECT pg_advisory_xact_lock(1129270854)"
"""PostgreSQL's advisory lock of whoever writes the store of a database, or makes its tables.  The number means nothing."""
_PRAGMAS: Final = ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF", "secure_delete = ON", "wal_autocheckpoint = 4000")
"""The last one: whoever commits the step that fills the log moves its pages, and all who wait with it wait for that.  Rarely is better."""

Values = Mapping[str, Any]
Row = tuple[Any, ...]


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


class Location(Protocol):
    """Where a store lies."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def exists(self) -> bool:
        """Whether there is a store, as far as can be seen without opening one."""
        ...

    def prepare(self) -> None:
        """Make room for a new store."""
        ...

    def discard(self) -> None:
        """Remove what :meth:`prepare` made, if making the store has failed."""
        ...

    def engine(self) -> Engine:
        """How SQLAlchemy connects to it."""
        ...


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A store in one file (beside it, SQLite's write-ahead log)."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    def prepare(self) -> None:
        """Make the file, mode 0600, and its folder.

        Raises:
            StoreError: something is there already, or it cannot be written.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as cause:
            hint = "move the store that is there aside, and keep it" if isinstance(cause, FileExistsError) else None
            raise StoreError(f"cannot make a key store at {self.path}: {cause.strerror}", hint=hint, path=str(self.path)) from cause

    def discard(self) -> None:
        """Remove the file and what SQLite keeps beside it."""
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def engine(self) -> Engine:
        """See :class:`Location`."""
        # The lock in keys.store serialises threads; sqlite's own check would forbid sharing the connection.
        arguments = {"timeout": BUSY_S, "check_same_thread": False}
        url = URL.create("sqlite", database=str(self.path))
        return create_engine(url, connect_args=arguments, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True)


@dataclass(frozen=True, slots=True)
class Postgres:
    """A store in a PostgreSQL database (14 or newer): ``postgresql://USER@HOST:PORT/NAME``, over TLS or a socket of this machine.

    The password is in a file of mode 0600.  Over TCP the server's certificate must be under ``ca`` (a PEM file), or the system's roots.
    """

    url: str
    password_file: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "postgresql" or not parts.username or not parts.path.strip("/"):
            raise UsageError("not the address of a PostgreSQL database", hint="write postgresql://USER@HOST:PORT/NAME")
        if parts.password is not None:
            raise UsageError("a database's password does not go into its address", hint="put it into a file and name that")
        if set(dict(parse_qsl(parts.query))) - {"socket"}:
            raise UsageError("the database's address has an unknown option", hint="the one option is ?socket=PATH")

    @property
    def name(self) -> str:
        """The address (it holds no password)."""
        return self.url

    def exists(self) -> bool:
        """Whether the database has a store's tables.

        Raises:
            StoreError: the database cannot be reached.
        """
        with _as_store_error(), self.engine().connect() as connection:
            return bool(connection.dialect.has_table(connection, "meta"))

    def prepare(self) -> None:
        """Nothing: the database is there, and the tables are made in a transaction."""

    def discard(self) -> None:
        """Nothing: the transaction has not happened."""

    def engine(self) -> Engine:
        """See :class:`Location`."""
        parts = urlsplit(self.url)
        socket = dict(parse_qsl(parts.query)).get("socket")
        arguments: dict[str, Any] = {"unix_sock": socket} if socket else {"ssl_context": self._tls()}
        if self.password_file is not None:
            try:
                arguments["password"] = read_private_file(self.password_file).decode().rstrip("\r\n")
            except (CredentialError, UnicodeDecodeError) as cause:
                raise StoreError(f"cannot read the database's password from {self.password_file}") from cause
        url = URL.create(
            "postgresql+pg8000",
            username=unquote(parts.username or ""),
            host=None if socket else parts.hostname,
            port=None if socket else parts.port,
            database=unquote(parts.path.strip("/")),
        )
        try:
            return create_engine(url, connect_args=arguments, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True)
        except ImportError as cause:
            raise UsageError("PostgreSQL needs a driver that is not installed", hint="pip install 'confide[postgres]'") from cause

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except (OSError, ssl.SSLError) as cause:
            raise StoreError(f"cannot read the database's certificate authority from {self.ca}") from cause


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
        with _as_store_error(location.name):
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

    def scrub(self) -> None:
        """Leave nothing of earlier rows in SQLite's files, unless another process reads at this moment.

        With ``secure_delete`` their place in the file is overwritten; the write-ahead log still has them until it is emptied.
        A PostgreSQL server keeps them until it vacuums, and in its own log: that is its operator's affair.
        """
        if not self._postgres:
            self._sql("PRAGMA wal_checkpoint(TRUNCATE)")

    # --- statements --------------------------------------------------------------------------------------------------

    def rows(self, statement: Statement | Executable, values: Values | None = None) -> Sequence[Row]:
        """What a query finds."""
        if isinstance(statement, Statement):
            text, names = statement.text(self._engine.dialect)
            return list(map(tuple, self._driver(text, [values[name] for name in names] if values else ()).fetchall()))
        with _as_store_error():
            return self._live.execute(statement, values).fetchall()

    def rows_at(self, lookup: Lookup, keys: Sequence[tuple[int, ...]]) -> Sequence[Row]:
        """What a query finds at these keys."""
        text, values = lookup.asked(self._engine.dialect.name, keys)
        return [*map(tuple, self._driver(text, values).fetchall())]

    def stream(self, statement: Executable, page: int) -> Iterator[Row]:
        """What a query finds, ``page`` rows in memory at a time where the driver can."""
        with _as_store_error():
            yield from self._live.execute(statement, execution_options={"yield_per": page})

    def run(self, statement: Statement, *sets: Values) -> None:
        """Carry out a statement for each set of values."""
        if not sets:
            return
        if self._step == "announced":
            self.check_begun()
            self._sql("SAVEPOINT step")
            self._step = "begun"
        text, names = statement.text(self._engine.dialect)
        rows = [tuple([values[name] for name in names]) for values in sets]
        if len(rows) == 1:
            self._driver(text, rows[0])
        else:
            self._driver(text, rows, many=True)

    # --- tables ------------------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        """Make or change the tables to those of this version.  Needs :meth:`begin_write`."""
        config = _alembic()
        config.attributes["connection"] = self._live
        with _as_store_error():
            upgrade(config, "head")

    def revision(self) -> str | None:
        """The version of the tables that are there; None without tables."""
        with _as_store_error():
            return MigrationContext.configure(self._live).get_current_revision()

    def has_tables(self) -> bool:
        """Whether any of a store's tables is there."""
        with _as_store_error():
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
            with _as_store_error():
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
            raise _unusable(cause) from None
        except SQLAlchemyError as cause:  # of the connection that it keeps
            raise _unusable(cause) from None
        except (OSError, struct.error) as cause:  # the driver does not wrap what its socket says
            raise _unreachable(cause) from None
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


@contextmanager
def _as_store_error(path: str | None = None) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as cause:
        raise _unusable(getattr(cause, "orig", None) or cause, path) from None
    except (OSError, struct.error) as cause:  # the driver does not wrap what its socket says
        raise _unreachable(cause, path) from None


def _unusable(cause: BaseException, path: str | None = None) -> StoreError:
    return StoreError(f"the key store cannot be used: {_said(cause)}", path=path)


def _unreachable(cause: BaseException, path: str | None = None) -> StoreError:
    return StoreError(f"the key store's database cannot be reached: {cause}", path=path)


def _said(cause: BaseException) -> str:
    """What the driver says: tables, columns and reasons.  SQLAlchemy's own text would hold the statement as well."""
    if isinstance(cause, SQLAlchemyError):
        return type(cause).__name__
    first = cause.args[0] if cause.args else type(cause).__name__
    return str(first.get("M", first.get("C", "")) if isinstance(first, dict) else first)[:200]
