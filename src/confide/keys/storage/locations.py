"""Where a store lies: SQLite in one file, or a PostgreSQL database.  How it is spoken to is in ``storage.database``."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.pool import NullPool

from confide.crypto.sign import read_private_file
from confide.errors import CredentialError, StoreError, UsageError
from confide.keys.storage.failures import as_store_error

BUSY_S: Final = 10.0
"""How long one process waits for another's transaction, in seconds."""


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
        with as_store_error(), self.engine().connect() as connection:
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
