"""The run store: one folder a run, public information only.

``<runs>/<run id>/``: ``plan.json``, ``client.json`` (which process drives the run), ``driver.json`` (the key of the driver that it has
attested), ``events.jsonl``, ``logs/``, ``nodes/``, ``evidence/``, ``refused/``, ``collateral/``, ``manifests/``, ``receipt.json``,
``result.json``, and of a run that goes on without its client ``client-key.pem``, which is secret.  Folders are 0700 and files 0600; JSON
files appear whole or not at all.  A run that failed has no receipt; what is left of its nodes' evidence is in the same folders, as records
named by their digests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from confide.canonical import Json, parse_object
from confide.errors import ParseError, RunNotFoundError, UnavailableError
from confide.ids import NodeId, RunId, SpkiDigest, check_name
from confide.node.private_dir import sweep

if TYPE_CHECKING:
    from confide.node.remains import Remains

RunStatus = Literal["running", "detached", "succeeded", "failed", "interrupted", "lost"]
_STOP_WAIT_S = 10.0
_DRIVER = "driver.json"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of ``confide runs ls``.  ``lost``: the client was killed and left no result; ``detached``: it left, and the run goes on."""

    run: RunId
    job: str
    digest: str
    status: RunStatus
    started: str
    ended: str | None
    simulated: bool

    def to_json(self) -> Json:
        """The summary as JSON."""
        return {
            "run": self.run,
            "job": self.job,
            "digest": self.digest,
            "status": self.status,
            "started": self.started,
            "ended": self.ended,
            "simulated": self.simulated,
        }


@contextlib.contextmanager
def _file_system(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise UnavailableError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause


class RunDir:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = RunId(path.name)

    @property
    def logs(self) -> Path:
        """Node logs, ``<node>.log``."""
        return self.path / "logs"

    @property
    def nodes(self) -> Path:
        """Specs, announcements and scratch of the nodes."""
        return self.path / "nodes"

    @property
    def evidence(self) -> Path:
        """Evidence records ``<node>.json`` and the collateral they were verified with."""
        return self.path / "evidence"

    @property
    def manifests(self) -> Path:
        """Signed manifests of inputs and outputs, ``<name>.json``."""
        return self.path / "manifests"

    @property
    def client_key(self) -> Path:
        """The client's private key, of a run that goes on when its client is gone: who has it can come back to the run, and stop it."""
        return self.path / "client-key.pem"

    @property
    def driver_key(self) -> SpkiDigest | None:
        """The key of the run's driver, if this client has attested it: from then on the run has no other driver.

        Raises:
            ParseError: what is kept of it is none.
        """
        try:
            known = self.read(_DRIVER)
        except RunNotFoundError:
            return None
        if set(known) != {"key"} or not isinstance(known["key"], str):
            raise ParseError(f"{_DRIVER} of run {self.run} is not the key of a driver", path=str(self.path / _DRIVER))
        return SpkiDigest(known["key"])

    def keep_driver_key(self, key: SpkiDigest) -> None:
        """Keep the key of the driver that this client has attested.

        Raises:
            UnavailableError: the file system refuses (full, read-only, ...).
        """
        self.write(_DRIVER, {"key": key})

    @property
    def receipt(self) -> Path:
        """The receipt's DSSE envelope."""
        return self.path / "receipt.json"

    def write(self, name: str, value: Json) -> Path:
        """Write ``value`` as ``name`` (a relative path): whole or not at all.

        Raises:
            UnavailableError: the file system refuses (full, read-only, ...).
        """
        path = self.path / name
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with _file_system(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(value, file, indent=1, sort_keys=True)
                    file.write("\n")
                draft.replace(path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return path

    def keep(self, remains: Remains) -> None:
        """Keep the evidence of a run that failed, where a run that succeeded has its own.

        Raises:
            UnavailableError: the file system refuses (full, read-only, ...).
        """
        for folder, records in (("evidence", remains.accepted), ("refused", remains.refused)):
            for record in records:
                self.write(f"{folder}/{record.digest}.json", record.to_json())
        for collateral in remains.collateral:
            self.write(f"collateral/{collateral.digest}.json", dict(collateral.to_json()))

    def read(self, name: str) -> Json:
        """Read a JSON file of the run.

        Raises:
            RunNotFoundError: the file is not there.
            ParseError: it is not JSON.
        """
        try:
            return parse_object((self.path / name).read_bytes())
        except FileNotFoundError as cause:
            raise RunNotFoundError(f"run {self.run} has no {name}", run=str(self.run), path=str(self.path / name)) from cause

    def add_event(self, event: Json) -> None:
        """Append one event to ``events.jsonl``.

        Raises:
            UnavailableError: the file system refuses (full, read-only, ...).
        """
        line = json.dumps(event, sort_keys=True, separators=(",", ":")) + "\n"
        path = self.path / "events.jsonl"
        with _file_system(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                file.write(line)

    def events(self) -> Iterator[Json]:
        """The run's events, oldest first; a last line that was cut off is left out."""
        path = self.path / "events.jsonl"
        if not path.exists():
            return
        with path.open(encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ParseError):
                    yield parse_object(line)

    def claim(self) -> None:
        """Record that this process drives the run."""
        self.write("client.json", {"pid": os.getpid(), "start": _start_time(os.getpid())})

    def release(self) -> None:
        """Record that this process drives the run no more: it goes on by itself."""
        with _file_system(self.path):
            (self.path / "client.json").unlink(missing_ok=True)

    def driving_process(self) -> int | None:
        """The process that drives the run, if it still lives (process ids are reused: the start time must match)."""
        try:
            client = self.read("client.json")
        except (RunNotFoundError, ParseError):
            return None
        pid, start = client.get("pid"), client.get("start")
        if not isinstance(pid, int) or not isinstance(start, int) or _start_time(pid) != start:
            return None
        return pid

    def summary(self) -> RunSummary:
        """The run in one line.

        Raises:
            RunNotFoundError: there is no plan: not a run's folder.
        """
        plan = self.read("plan.json")
        status: RunStatus
        try:
            result = self.read("result.json")
            status, ended = result["status"], str(result.get("ended"))
        except (RunNotFoundError, ParseError):
            alone: RunStatus = "detached" if self.client_key.exists() else "lost"
            status, ended = ("running" if self.driving_process() is not None else alone), None
        return RunSummary(
            run=self.run,
            job=str(plan.get("job")),
            digest=str(plan.get("digest")),
            status=status,
            started=str(plan.get("created")),
            ended=ended,
            simulated=bool(plan.get("simulated")),
        )

    def drop_scratch(self) -> None:
        """Remove what nodes left in their scratch folders; specs, logs and evidence stay."""
        for scratch in self.nodes.glob("*/scratch"):
            shutil.rmtree(scratch, ignore_errors=True)

    def sweep_memory(self) -> None:
        """Wipe what nodes left in memory that were killed.  Not of a node whose process, or another one of its number, is there."""
        started = (event for event in self.events() if event.get("type") == "node-started")
        processes = {event.get("node"): event.get("fields", {}).get("process") for event in started}
        for folder in self.nodes.glob("*"):
            process = str(processes.get(folder.name))  # a process id, unless the node is on another machine
            if process.isdecimal() and not Path(f"/proc/{process}").exists():
                sweep(self.run, NodeId(folder.name))


class RunStore:
    """All runs of this installation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, run: RunId, plan: Json) -> RunDir:
        """Make the folder of a new run and claim it for this process.

        Raises:
            UnavailableError: the file system refuses (full, read-only, ...).
        """
        path = self.path / check_name(run, "run id")
        found = RunDir(path)
        with _file_system(path):
            path.mkdir(mode=0o700, parents=True)
            for folder in (found.logs, found.nodes, found.evidence, found.manifests):
                folder.mkdir(mode=0o700)
        found.write("plan.json", {**plan, "run": run, "created": datetime.now(UTC).isoformat()})
        found.claim()
        return found

    def open(self, run: str) -> RunDir:
        """The folder of a run, by its id or by a beginning of it that fits only one run.

        Raises:
            RunNotFoundError: none fits, or several do.
        """
        runs = {path.name: path for path in self._folders()}
        fitting = [run] if run in runs else [name for name in runs if run and name.startswith(run)]
        if len(fitting) != 1:
            what = "several runs begin with" if fitting else "no run"
            raise RunNotFoundError(f"{what} {run[:80]!r}", hint="see `confide runs ls`", run=run[:80])
        return RunDir(runs[fitting[0]])

    def list(self) -> list[RunSummary]:
        """All runs, newest first."""
        found = []
        for path in self._folders():
            with contextlib.suppress(RunNotFoundError, ParseError):
                found.append(RunDir(path).summary())
        return sorted(found, key=lambda summary: summary.started, reverse=True)

    def clear_lost(self) -> None:
        """Drop the scratch of runs whose client was killed and could not do it, and what is in memory; everything else of them stays."""
        for summary in self.list():
            if summary.status == "lost":
                lost = RunDir(self.path / summary.run)
                lost.drop_scratch()
                lost.sweep_memory()

    def stop(self, run: str) -> RunSummary:
        """Ask the process that drives a run to end it, as Ctrl-C would, and wait until it did.

        SIGTERM, not SIGINT: a client that was started in the background of a script ignores the latter.

        Raises:
            RunNotFoundError: there is no such run.
            UnavailableError: the process did not end in time.
        """
        found = self.open(run)
        pid = found.driving_process() if found.summary().status == "running" else None
        if pid is None:
            return found.summary()
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_WAIT_S
        while found.summary().status == "running":
            if time.monotonic() > deadline:
                raise UnavailableError(f"run {found.run} did not stop within {_STOP_WAIT_S:.0f} s", run=str(found.run), pid=pid)
            time.sleep(0.05)
        return found.summary()

    def _folders(self) -> tuple[Path, ...]:
        return tuple(sorted(path for path in self.path.glob("*") if (path / "plan.json").is_file()))


def _start_time(pid: int) -> int | None:
    """When the process started, in clock ticks after boot (proc(5): field 22 of stat), or ``None`` if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])  # an ended process that nobody has waited for drives nothing
