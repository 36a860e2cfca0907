"""The two databases that a key store can lie in, and what somebody without the master key can do to one."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pg8000.dbapi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from confide.keys.storage.locations import Location, Postgres, SqliteFile

_PORT = 5432


class Place(Protocol):
    """One database in the hands of its operator."""

    location: Location

    def run(self, sql: str, *values: object) -> list[Any]:
        """What a statement finds, with ``?`` for values."""
        ...


@dataclass
class SqlitePlace:
    """A SQLite file."""

    path: Path
    location: Location = field(init=False)

    def __post_init__(self) -> None:
        self.location = SqliteFile(self.path)

    def run(self, sql: str, *values: object) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            return [tuple(row) for row in database.execute(sql, values).fetchall()]


@dataclass
class PostgresPlace:
    """A database of a running server."""

    server: PostgresServer
    name: str
    location: Location = field(init=False)

    def __post_init__(self) -> None:
        self.location = self.server.location(self.name)

    def run(self, sql: str, *values: object) -> list[Any]:
        with contextlib.closing(self.server.connect(self.name)) as connection:
            cursor = connection.cursor()
            cursor.execute(sql.replace("?", "%s"), values)
            found = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            connection.commit()
            return found


class PostgresServer:
    """A PostgreSQL server of its own on a unix socket.  PostgreSQL does not run as root: then it runs as the package's user."""

    def __init__(self, folder: Path, *arguments: str, made_with: Sequence[str] = ()) -> None:
        self.folder = folder
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        self._programs = programs[-1]
        if self._as:
            shutil.chown(folder, "postgres")
        self._call("initdb", "-D", str(folder / "data"), "-U", "confide", "--auth=trust", "--no-sync", "-E", "UTF8", *made_with)
        self._arguments = [f"-k {folder}", "-c listen_addresses=''", "-c max_connections=40", *arguments]
        self.start()

    def start(self) -> None:
        data, log = str(self.folder / "data"), str(self.folder / "log")
        self._call("pg_ctl", "-D", data, "-l", log, "-o", " ".join(self._arguments), "-w", "-s", "start")

    def stop(self, mode: str = "fast") -> None:
        self._call("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "-s", "stop")

    def location(self, name: str) -> Postgres:
        return Postgres(f"postgresql://confide@localhost/{name}?socket={self.folder}/.s.PGSQL.{_PORT}")

    def connect(self, name: str = "postgres") -> Any:
        return pg8000.dbapi.connect("confide", database=name, unix_sock=f"{self.folder}/.s.PGSQL.{_PORT}")

    def new(self) -> PostgresPlace:
        """The server's one database, emptied."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("DROP SCHEMA public CASCADE")
            cursor.execute("CREATE SCHEMA public")
            connection.commit()
        return PostgresPlace(self, "postgres")

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd="/", check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode(errors='replace')[-500:]}")


@contextlib.contextmanager
def postgres(*arguments: str, made_with: Sequence[str] = ()) -> Iterator[PostgresServer]:
    """A server for the block; ``made_with`` are words for initdb.  Its folder is short: a socket's path has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="confide-pg-"))
    server = None
    try:
        server = PostgresServer(folder, *arguments, made_with=made_with)
        yield server
    finally:
        if server is not None:
            with contextlib.suppress(RuntimeError):
                server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate for ``name`` in ``tls.crt``, its key in ``tls.key``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7, now - dt.timedelta(hours=1), now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "tls.crt").write_bytes(made.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "tls.key"
    file.touch(mode=0o600)
    file.write_bytes(private)
    return folder / "tls.crt"
