"""Kills processes of runs at random moments.  ``python -m scripts.run_kills``.

Each run is whole, with Spark or with Polars: a client, a broker, two owners' tables, simulated nodes; its program joins, calls a Python
function, writes a table, files and JSON, and appends to a table that earlier runs wrote.  One process of it is killed, as by ``kill -9``,
at a random moment of that process's life, while outputs are written, or while they are published.  Afterwards:

* if the client says that the run succeeded, every output is there and its receipt holds; if a process of a worker was killed, it did;
* otherwise an error says what happened, and no new output is visible; if the client was killed, each output is there as a whole or not;
* the earlier table has every snapshot that it had, to the last row, and at most this run's as well; so has another run's output;
* no process, no private folder and no staged output of the run is left, and no row lies in any file.

Not checked here: what a run keeps in memory while it goes on (``tests/attacks/test_leaks.py``).  Needs Linux: proc(5).
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from tests.support.going_runs import ENGINES, KINDS, PHASES, Going, spans_of
from tests.support.stage import Stage, outputs_of

from confide.data.cleaning import clean
from confide.data.files import open_file, read_table
from confide.data.folder import listed_files, refuse_foreign, verify_files
from confide.data.manifest import Manifest
from confide.data.snapshots import load_manifest, manifest_path, verify_manifests
from confide.job import Job
from confide.jobs.receipt import verify
from confide.jobs.store import RunDir, RunStore
from confide.jobs.submit import pin_datasets
from confide.node.child import session_members
from confide.node.private_dir import MEMORY_BASE

SPARK: Final = b"""
import confide
from pyspark.sql import functions as f
ctx = confide.session()
people, cities = ctx.read("people"), ctx.read("cities")
same = f.udf(lambda text: text)
joined = people.join(cities.hint("shuffle_hash"), "city").repartition(2, "name")
ctx.write(joined.select(same("name").alias("name"), "country"), "names")
ctx.write.csv(joined.select("name"), "lines")
ctx.write(joined.select("name", "country"), "log", mode="append")
ctx.stop()
"""
POLARS: Final = b"""
from confide.data.polars import session
ctx = session()
joined = ctx.read("people").join(ctx.read("cities"), on="city").select("name", "country").collect()
ctx.write(joined, "names")
ctx.write_files({"a.csv": joined.select("name").write_csv(include_header=False).encode()}, "lines")
ctx.write(joined, "log")
"""
NEW: Final = ("names", "lines")
"""Outputs that are new with each run; ``log`` is the table that every run appends to."""
LEFT_S: Final = 30.0
"""How long what ends by itself may take to be gone, on a busy machine."""
ENDS_S: Final = 240.0
"""How long a run may take."""
_LATER: Final = timedelta(days=1)


def require(so: object, otherwise: str) -> None:
    """Go on only if it is so."""
    if not so:
        raise AssertionError(otherwise)


@dataclass(frozen=True)
class Ended:
    """How a run ended: ``succeeded``, ``failed``, or ``lost`` (its client was killed); and the error of a failed one."""

    job: Job
    folder: RunDir | None
    status: str
    error: Any = None
    agents: Collection[int] = ()

    @property
    def how(self) -> str:
        """In a word."""
        return str(self.error["code"]) if self.error else self.status


@dataclass
class Tally:
    """How many kills of each engine's kinds ended how, and the longest time until nothing was left."""

    ends: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    missed: int = 0
    longest_s: float = 0.0

    def add(self, engine: str, kind: str, how: str | None) -> None:
        """One more run that ended so (``None``: before the kill)."""
        if how is None:
            self.missed += 1
        else:
            self.ends.setdefault((engine, kind), Counter())[how] += 1

    @property
    def kills(self) -> int:
        """Of all kinds."""
        return sum(map(Counter.total, self.ends.values()))


class Runs:
    """Runs on one stage, and what must hold after each."""

    def __init__(self, root: Path) -> None:
        self.canary = f"row-{secrets.token_hex(12)}"
        self.people = [f"{self.canary}-{number}" for number in range(100)]
        self.stage = Stage(root)
        self.stage.open(people=pa.table({"name": self.people, "city": [number % 5 for number in range(100)]}))
        self.log = root / "log"
        self.snapshots = 0
        self.longest_s = 0.0
        self.kept = self.end(self.start("polars"))
        require(self.kept.status == "succeeded", f"a run that nobody killed ended by {self.kept.how}")

    def start(self, engine: str) -> Going:
        """Begin a run."""
        program = SPARK if engine == "spark" else POLARS
        changes = {} if engine == "spark" else {"engine": "polars", "resources": {}}
        arguments = (secrets.token_hex(4),)  # a job of its own
        job = self.stage.job(program, files={"main.py": program}, arguments=arguments, outputs=NEW, **changes)
        log = {"path": str(self.log), "recipients": ["analyst"], "mode": "append"}
        job = pin_datasets(Job.build({**job.model_dump(), "outputs": {**job.model_dump()["outputs"], "log": log}}))
        self.stage.grant(job)
        return Going(self.stage, job)

    def kill(self, engine: str, kind: str, phase: str, delay: float) -> tuple[Ended, bool]:
        """One run, of which a process of a kind is killed so long after a phase began; whether it was."""
        going, killed = self.start(engine), False
        often = 0.0005 if phase == "publishing" else 0.01
        if going.wait_for(lambda: going.reached(phase), often) and going.wait_for(lambda: going.processes(kind), 0.01):
            with suppress(subprocess.TimeoutExpired):
                going.client.wait(delay)
            for process in random.SystemRandom().sample(found := going.processes(kind), min(1, len(found))):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed = True
        return self.end(going, kind if killed else ""), killed

    def end(self, going: Going, killed: str = "") -> Ended:
        """Wait for the end of a run, and check what it left."""
        try:
            going.client.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            going.client.kill()
            raise AssertionError(f"the run does not end; its {killed or 'nothing'} was killed") from None
        status, error = "lost", None
        if going.folder is not None and (going.folder.path / "result.json").exists():
            result = going.folder.read("result.json")
            status, error = str(result["status"]), result["error"]
        ended = Ended(going.job, going.folder, status, error, tuple(going.agents().values()))
        self.check(ended, killed)
        if killed:
            for name in NEW:
                shutil.rmtree(going.job.outputs[name].path, ignore_errors=True)
            if going.folder is not None:
                shutil.rmtree(going.folder.path)
        return ended

    def check(self, ended: Ended, killed: str) -> None:
        """All that the module says."""
        self.nothing_left(ended)
        visible = set(outputs_of(ended.job)) & set(NEW)
        if ended.status == "succeeded":
            require(visible == set(NEW), "the run succeeded and an output is not there")
            if ended.folder is not None:
                verify(ended.folder.path, settings=self.stage.settings)
        elif ended.status == "lost":
            require(killed == "client", "the client ended and left no result")
        else:
            of_a_worker = bool(killed) and KINDS[killed][0].startswith("worker")
            require(not of_a_worker, f"a worker's process was killed, and the run ended: {ended.error}")
            require(ended.error and ended.error["code"] and ended.error["message"], "the error is not one that a user can use")
            require(not visible, f"the run failed, and {', '.join(visible)} is visible")
        for name in visible:
            self.whole(Path(ended.job.outputs[name].path), name)
        if ended.folder is not None and self.snapshots:
            for name in NEW:
                self.whole(Path(self.kept.job.outputs[name].path), name)
        self.snapshots = self.log_is_whole(ended)

    def whole(self, folder: Path, name: str) -> None:
        """An output has every row once."""
        signed = load_manifest(folder)
        manifest = verify_manifests(signed)[0].unverified
        verify_files(folder, manifest)
        refuse_foreign(folder, {entry.path for entry in manifest.files})
        key = self.stage.clients["analyst"].open(signed.envelope).secret
        if name == "lines":
            rows = [line for entry in manifest.files for line in open_file(folder, manifest, entry.path, key).read().decode().splitlines()]
        else:
            rows = read_table(folder, manifest, key).column("name").to_pylist()
        require(sorted(rows) == sorted(self.people), f"rows of {name} are not those that they should be")

    def log_is_whole(self, ended: Ended) -> int:
        """The table that runs append to has what it had, and of this run all or nothing; how many snapshots it has."""
        if not os.path.lexists(self.log):
            require(self.snapshots == 0, "a committed table is gone")
            return 0
        signed = load_manifest(self.log)
        chain: list[Manifest] = [one.unverified for one in verify_manifests(signed)]
        number = chain[0].snapshot
        may_be = {"succeeded": {self.snapshots + 1}, "lost": {self.snapshots, self.snapshots + 1}}
        said = "log" in str((ended.error or {}).get("facts", {}).get("committed", ""))
        require(
            number in may_be.get(ended.status, {self.snapshots + said}),
            "a committed snapshot is gone, or one that nobody committed is there",
        )
        require([one.snapshot for one in chain] == [*range(number, 0, -1)], "snapshots are gone")
        verify_files(self.log, *chain)
        rows = read_table(self.log, chain[0], self.stage.clients["analyst"].open(signed.envelope).secret).column("name").to_pylist()
        require(sorted(rows) == sorted(self.people * number), "rows of the table that runs append to are not those that they should be")
        if ended.status != "succeeded":  # whoever was stopped may have left files there that no snapshot lists
            clean(self.log, keep=None, before=datetime.now(UTC) + _LATER, remove=True)
        refuse_foreign(self.log, {*listed_files(*chain), *map(manifest_path, chain)})
        return number

    def nothing_left(self, ended: Ended) -> None:
        """Nothing of the run is left, and no row in the clear."""
        began = time.monotonic()
        while (left := [*self._running(ended), *self._in_memory(ended)]) and time.monotonic() < began + LEFT_S:
            time.sleep(0.05)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        require(not left, f"something is left: {left}")
        staged = [path for place in ended.job.outputs.values() for path in Path(place.path).parent.glob(".*")]
        require(not staged, f"a staged output is left: {staged}")
        if ended.status == "lost":
            RunStore(self.stage.settings.runs_dir).clear_lost()  # what the next run does first
        require(not list(self.stage.settings.runs_dir.glob("*/nodes/*/scratch")), "a node's scratch folder is left")
        self.no_plaintext()

    def _running(self, ended: Ended) -> list[str]:
        marks = (str(self.stage.root), f"confide-{ended.folder.run}-" if ended.folder else str(self.stage.root))
        members = {pid for agent in ended.agents for pid in session_members(agent)}
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                line, process = path.read_bytes().replace(b"\0", b" ").decode(errors="replace"), int(path.parent.name)
                if process != os.getpid() and (process in members or any(mark in line for mark in marks)):
                    found.append(line)
        return found

    def _in_memory(self, ended: Ended) -> list[str]:
        return [str(path) for path in MEMORY_BASE.glob(f"confide-{ended.folder.run}-*")] if ended.folder else []

    def no_plaintext(self) -> None:
        """No file has a row in it: data, run folders with their logs, temporary files, memory that outlived its run."""
        for place in (*self.stage.root.rglob("*"), *(path for path in MEMORY_BASE.iterdir() if not path.name.startswith("confide-"))):
            with suppress(FileNotFoundError):  # in memory there are others' files too
                require(not place.is_file() or self.canary.encode() not in place.read_bytes(), f"plaintext is left: {place}")


def run(root: Path, *, count: int, seed: int, engines: Collection[str], say: Callable[[str], None]) -> Tally:
    """Kill ``count`` processes, of each engine and each of its kinds in turn."""
    chosen, runs, tally = random.Random(seed), Runs(root), Tally()
    spans: dict[str, dict[tuple[str, str], float]] = {}
    try:
        for engine in engines:
            going = runs.start(engine)
            spans[engine] = spans_of(going, ENGINES[engine])
            require(runs.end(going).status == "succeeded", "a run that nobody killed did not succeed")
        for turn in itertools.count():
            engine = tuple(engines)[turn % len(engines)]
            kind = ENGINES[engine][turn // len(engines) % len(ENGINES[engine])]
            phase = chosen.choice([phase for phase in PHASES if (kind, phase) in spans[engine]])
            # The last steps follow each other fast, and then the client checks the receipt.
            delay = chosen.random() ** (3 if phase == "publishing" else 1) * spans[engine][kind, phase]
            ended, killed = runs.kill(engine, kind, phase, delay)
            tally.add(engine, kind, ended.how if killed else None)
            say(f"{tally.kills}: {engine}, {kind}, {delay:.3f} s into {phase}: {ended.how if killed else 'it was over by then'}")
            if tally.kills == count:
                break
        tally.longest_s = runs.longest_s
    finally:
        runs.stage.close()
    return tally


def main() -> int:
    """Say what was killed; a failure ends it and keeps the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="kills, of each engine and kind of process in turn [default: %(default)s]")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="runs of this engine only [default: all]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    began, root = time.monotonic(), Path(tempfile.mkdtemp(prefix="confide-kills-"))
    print(f"seed {options.seed}, in {root}", flush=True)
    engines = options.engine or tuple(ENGINES)
    tally = run(root, count=options.count, seed=options.seed, engines=engines, say=lambda line: print(line, flush=True))
    shutil.rmtree(root)
    for (engine, kind), ends in sorted(tally.ends.items()):
        print(f"{engine}, {kind}: " + ", ".join(f"{count} x {how}" for how, count in sorted(ends.items())))
    print(f"{tally.kills} were killed, {tally.missed} had ended before; all of a run was gone within {tally.longest_s:.1f} s")
    print(f"nothing was lost, half there or in the clear ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
