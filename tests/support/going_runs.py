"""A run that goes on, seen from outside: its client is a process of its own, as are its nodes, and what nodes start is found in proc(5)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.support.stage import Stage

from confide.data.manifest import MANIFEST_NAME
from confide.job import Job
from confide.jobs.staging import staging_path
from confide.jobs.store import RunDir

KINDS: Final = {
    "executor": ("worker-", b"org.confide.spark.ExecutorMain"),
    "Python worker": ("worker-", b"pyspark.daemon"),
    "worker's agent": ("worker-", b""),
    "driver's JVM": ("driver", b"org.confide.spark.DriverMain"),
    "program": ("driver", b"/main.py"),
    "driver's agent": ("driver", b""),
    "client": ("", b""),
}
"""Whose child it is, and what its command line has (nothing: the agent itself)."""
ENGINES: Final = {"spark": tuple(KINDS), "polars": ("program", "driver's agent", "client")}
PHASES: Final = ("life", "writing", "publishing")
"""From when: since there is such a process, since something is staged, since the first manifest is about to be seen."""
CLIENT: Final = """
import json, sys
from pathlib import Path
from confide.config import Settings
from confide.job import Job
from confide.jobs.submit import submit
job = Job.from_json(json.loads(Path(sys.argv[2]).read_text()))
submit(job, simulate=True, settings=Settings(home=Path(sys.argv[1])))
"""


def children(process: int) -> Iterator[int]:
    """Everything that a process started, and what that started."""
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                yield child
                yield from children(child)


class Going:
    """One run that goes on, seen from outside: its client is a process of its own."""

    def __init__(self, stage: Stage, job: Job) -> None:
        self.job = job
        self._runs = stage.settings.runs_dir
        self._before = set(self._runs.glob("*"))
        description, temporary = stage.root / "job.json", stage.root / "tmp"
        description.write_text(json.dumps(job.to_json()))
        temporary.mkdir(exist_ok=True)
        argv = [sys.executable, "-c", CLIENT, str(stage.settings.home), str(description)]
        self.client = subprocess.Popen(argv, env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.DEVNULL)

    @property
    def folder(self) -> RunDir | None:
        """The run's folder, once there is one."""
        found = set(self._runs.glob("*")) - self._before
        return RunDir(found.pop()) if found else None

    def agents(self) -> dict[str, int]:
        """The nodes that were started, and their processes."""
        events = list(self.folder.events()) if self.folder else []
        return {str(event["node"]): int(event["fields"]["process"]) for event in events if event["type"] == "node-started"}

    def processes(self, kind: str) -> list[int]:
        """Those of a kind that are there now."""
        node, command = KINDS[kind]
        if not node:
            return [self.client.pid] if self.client.poll() is None else []
        agents = [process for name, process in self.agents().items() if name.startswith(node)]
        found = []
        for process in agents if not command else (child for agent in agents for child in children(agent)):
            with suppress(OSError):
                line = Path(f"/proc/{process}/cmdline").read_bytes()  # nothing: it has ended and nobody has waited for it
                if line and command in line and b"launch.py" not in line:
                    found.append(process)
        return found

    def reached(self, phase: str) -> bool:
        """Whether a phase has begun."""
        places = [Path(output.path) for output in self.job.outputs.values() if output.mode == "error"]
        if phase == "life" or self.folder is None:
            return phase == "life"
        staged = [staging_path(place, self.folder.run) for place in places]
        seen = [*places, *(folder / MANIFEST_NAME for folder in staged)] if phase == "publishing" else staged
        return any(map(os.path.lexists, seen))

    def wait_for(self, so: Callable[[], object], every: float) -> bool:
        """Wait until it is so, or the client has ended."""
        while not so():
            if self.client.poll() is not None:
                return False
            time.sleep(every)
        return True


def spans_of(going: Going, kinds: Collection[str]) -> dict[tuple[str, str], float]:
    """Watch a run to its end: how long a process of each kind lived, in seconds, since each phase began."""
    first: dict[str, float] = {}
    spans: dict[tuple[str, str], float] = {}
    while going.client.poll() is None:
        now = time.monotonic()
        began = {phase: first.setdefault(phase, now) for phase in PHASES if going.reached(phase)}
        for kind in kinds:
            if going.processes(kind):
                here = first.setdefault(kind, now)
                spans |= {(kind, phase): now - max(here, since) for phase, since in began.items()}
        time.sleep(0.02)
    return spans
