"""The broker: whole cycles, releases on open sessions, re-wraps, audit appends and proofs, memory; on SQLite and PostgreSQL, in one run.

The broker has one core; its clients are other processes on the other cores (``broker_clients``).  Beside the wall clock, which a busy
machine stretches, each row has the CPU time that the broker's process used for one operation: what one core of its own would do.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from benchmarks.broker_clients import Done, Task, work
from benchmarks.broker_server import APPROVED, SIMPLE, World, serve
from confide.keys.storage.locations import Location, SqliteFile

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

_TESTS = Path(__file__).parents[1] / "tests"
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
_DATASETS = 16
_KINDS = {
    "tls": "TLS 1.3 handshake alone",
    "cycle": "cycle of a node",
    "guest": "cycle of a KBS guest",
    "release": "release, session open",
    "releases": f"release, session open, {_DATASETS} in one request",
}

_INSIDE = ("append", "proof", "re-wrap", "memory")
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: ``repeat`` stretches the seconds of each row."""

    seconds: float = 4.0
    clients: tuple[int, ...] = (1, 8, 64)
    processes: int = 8
    appends: int = 2000
    proofs: int = 500
    rewraps: int = 5000
    releases: int = 100_000
    only: tuple[str, ...] = ()

    def has(self, row: str) -> bool:
        """Whether that row is wanted."""
        return not self.only or row in self.only


_QUICK = Scale(seconds=0.3, clients=(1, 4), processes=2, appends=50, proofs=20, rewraps=150, releases=300)


@dataclass
class Row:
    """One line: what, where, by how many clients; each operation's milliseconds, the seconds in all, and the broker's CPU seconds."""

    what: str
    where: str
    clients: int | None = None
    values: list[float] = field(default_factory=list)
    each: int = 1
    """Operations that one value is of."""
    wall: float = 0.0
    used: float = 0.0
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        clients = "" if self.clients is None else str(self.clients)
        if not self.values:
            return self.what, self.where, clients, "", "", "", "", "", "", self.note
        count = len(self.values) * self.each
        middle, late = median(self.values), quantiles(self.values, n=100)[98] if len(self.values) > 1 else self.values[0]
        cpu = 1000 * self.used / count
        rates = f"{count / self.wall:,.0f}", f"{1000 / cpu:,.0f}" if cpu else ""
        times = f"{middle:.2f} ms", f"{late:.2f} ms", f"{late / middle:.1f}", f"{cpu:.3f} ms"
        return self.what, self.where, clients, rates[0], *times, rates[1], self.note


def measure(repeat: int, *, quick: bool = False, only: tuple[str, ...] = (), sqlite: bool = False, rewraps: int | None = None) -> list[Row]:
    """All rows, or those ``only`` that are named: clients' kinds, or one of :data:`_INSIDE`."""
    if not set(only) <= {*_KINDS, *_INSIDE}:
        sys.exit(f"--only: rows are {', '.join((*_KINDS, *_INSIDE))}")
    scale = _QUICK if quick else Scale()
    scale = replace(scale, only=only, rewraps=rewraps or scale.rewraps)
    seconds = scale.seconds if quick else scale.seconds * repeat / 3
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="confide-bench-")))
        rows.append(_disk(folder))
        places: list[tuple[str, Location]] = [(f"SQLite {sqlite3.sqlite_version}", SqliteFile(folder / "store" / "broker.db"))]
        server = None if sqlite else _postgres(stack)
        if server is not None:
            places.append(server)
        clients = stack.enter_context(_clients(scale.processes))
        for number, (where, place) in enumerate(places):
            home = folder / str(number)
            home.mkdir()
            with _broker(home, place) as broker:
                rows += _of_place(broker, clients, where, scale, seconds, first=number == 0)
    return rows


def _of_place(broker: _Broker, clients: list[Connection], where: str, scale: Scale, seconds: float, *, first: bool) -> list[Row]:
    several = scale.clients[1]
    plan = [("tls", SIMPLE, several)] if first else []
    plan += [(kind, policy, n) for kind in ("cycle",) for policy in (SIMPLE, APPROVED) for n in scale.clients]
    plan += [("guest", SIMPLE, n) for n in scale.clients]
    plan += [(kind, SIMPLE, n) for kind in ("release", "releases") for n in scale.clients]
    plan += [("release", APPROVED, several)]
    rows = []
    for kind, policy, n in plan:
        if not scale.has(kind):
            continue
        _note(f"{where}: {_KINDS[kind]}, {policy}, {n} clients")
        rows.append(_load(broker, clients, Task(kind, policy, n, seconds), where))
    _note(f"{where}: audit log, re-wrap")
    rows += _inside(broker, where, scale)
    if first and scale.has("memory"):
        rows.append(_memory(broker, clients, where, scale, several))
    return rows


def _inside(broker: _Broker, where: str, scale: Scale) -> list[Row]:
    """What the broker's process measures in itself."""
    rows = []
    if scale.has("append"):
        values, used = broker.ask("append", scale.appends)
        rows.append(Row("audit append, one step each", where, None, values, wall=sum(values) / 1000, used=used))
    if scale.has("proof"):
        values, used, size = broker.ask("prove", scale.proofs)
        of = f"of {size:,} entries"
        rows.append(Row("audit proof with its signed head", where, None, values, wall=sum(values) / 1000, used=used, note=of))
    if scale.has("re-wrap"):
        broker.ask("make", scale.rewraps)
        before = broker.memory()
        wall, used = broker.ask("rewrap", scale.rewraps)
        note = f"{scale.rewraps:,} datasets: {before:.0f} MiB before, {broker.memory():.0f} MiB after, {broker.most:.0f} MiB at most"
        rows.append(Row("re-wrap of a dataset's key", where, None, [1000 * wall], scale.rewraps, wall, used, note))
    return rows


# --- rows -------------------------------------------------------------------------------------------------------------


def _load(broker: _Broker, clients: list[Connection], task: Task, where: str) -> Row:
    """What clients get who all ask at once."""
    of = f", {task.policy}" if task.kind not in {"tls", "guest"} else ""
    row = Row(f"{_KINDS[task.kind]}{of}", where, task.threads, each=_DATASETS if task.kind == "releases" else 1)
    busy = clients[: min(len(clients), task.threads)]
    for number, pipe in enumerate(busy):
        threads = len(range(number, task.threads, len(busy)))
        pipe.send((broker.world, Task(task.kind, task.policy, threads, task.seconds)))
    for pipe in busy:
        _expect(pipe, str)
    used, began = broker.used(), time.perf_counter()
    for pipe in busy:
        pipe.send("go")
    done = [_expect(pipe, Done) for pipe in busy]
    row.wall, row.used = time.perf_counter() - began, broker.used() - used
    row.values = [value for one in done for value in one.values]
    count = len(row.values) * row.each
    row.note = f"clients' CPU: {1000 * sum(one.used for one in done) / count:.2f} ms each"
    return row


def _memory(broker: _Broker, clients: list[Connection], where: str, scale: Scale, several: int) -> Row:
    """The broker's resident memory over many releases, looked at after each tenth of them."""
    row = Row("memory over releases on open sessions", where, several)
    seen, count = [broker.memory()], 0
    while count < scale.releases:
        one = _load(broker, clients, Task("release", SIMPLE, several, max(0.2, scale.seconds)), where)
        count += len(one.values)
        seen.append(broker.memory())
    row.note = f"{count:,} releases: {seen[0]:.0f} MiB before, {seen[-1]:.0f} MiB after, {max(seen):.0f} MiB at most"
    return row


def _disk(folder: Path) -> Row:
    """What a step that is on the disk cannot be faster than: 4 KiB written behind a file and synced."""
    row = Row("write of 4 KiB and fdatasync alone", "the same disk")
    with (folder / "synced").open("wb", buffering=0) as file:
        began, used = time.perf_counter(), time.process_time()
        for _ in range(200):
            at = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file)
            row.values.append(1000 * (time.perf_counter() - at))
        row.wall, row.used = time.perf_counter() - began, time.process_time() - used
    return row


# --- processes ----------------------------------------------------------------------------------------------------------


class _Broker:
    """The broker's process."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe
        self.world = _expect(pipe, World)
        self.most = 0.0
        """The largest resident memory during the last :meth:`ask`, in MiB."""

    def ask(self, name: str, number: int) -> Any:
        """Have the broker measure something inside itself."""
        self._pipe.send((name, number))
        self.most = self.memory()
        while not self._pipe.poll(_LOOK_S):
            self.most = max(self.most, self.memory())
        return _expect(self._pipe, tuple)

    def used(self) -> float:
        """CPU seconds of all its threads so far, in user and system (proc(5), ``stat``, fields 14 and 15)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def memory(self) -> float:
        """Resident memory in MiB."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_MIB


def _cores() -> tuple[int, list[int]]:
    """The broker's core, and those of everybody else."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[1:] or cores


@contextmanager
def _broker(folder: Path, place: Location) -> Iterator[_Broker]:
    ours, process = _started(serve, folder, place, _cores()[0], _DATASETS)
    try:
        yield _Broker(process, ours)
        ours.send(None)
        process.join(60)
    finally:
        process.kill()


@contextmanager
def _clients(number: int) -> Iterator[list[Connection]]:
    started = [_started(work, _cores()[1], n) for n in range(number)]
    try:
        yield [pipe for pipe, _ in started]
    finally:
        for _, process in started:
            process.kill()


def _started(work_of: Any, *arguments: object) -> tuple[Connection, BaseProcess]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=work_of, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _expect(pipe: Connection, kind: type[Any]) -> Any:
    try:
        found = pipe.recv()
    except EOFError:
        sys.exit("a process of the benchmark has ended: what it said is above")
    if not isinstance(found, kind):
        sys.exit(f"a process of the benchmark answered with {type(found).__name__}")
    return found


def _postgres(stack: ExitStack) -> tuple[str, Location] | None:
    """A server of its own, as the tests have one; it is not held to the broker's core.  ``None`` without PostgreSQL."""
    if not sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        _note("no PostgreSQL server is installed: its rows are left out")
        return None
    sys.path.insert(0, str(_TESTS))
    server = stack.enter_context(importlib.import_module("support.databases").postgres())
    rows = server.new().run("SHOW server_version")
    return f"PostgreSQL {str(rows[0][0]).split()[0]}", server.location("postgres")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def markdown(rows: list[Row], about: dict[str, str], _repeat: int) -> str:
    """The table as docs/benchmarks.md has it."""
    names = ("what", "where", "clients", "per second", "p50", "p99", "p99 / p50", "broker's CPU each", "per second of its CPU", "")
    head = (f"| {' | '.join(names)} |", "| --- | --- |" + " ---: |" * 7 + " --- |")
    lines = [f"| {' | '.join(row.cells())} |" for row in rows]
    facts = [f"* {name}: {value}" for name, value in about.items() if name != "java"]
    walls = [row.wall for row in rows if row.clients and row.wall]
    seconds = f"; about {median(walls):.1f} seconds a row of clients" if walls else ""
    return "\n".join([*head, *lines, "", *facts, f"* date: {datetime.now(UTC):%Y-%m-%d}{seconds}"])
