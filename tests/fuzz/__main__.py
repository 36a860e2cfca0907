"""Coverage-guided search with atheris: ``python -m tests.fuzz [TARGET ...] [--seconds N]``.

The seconds are shared by all targets, of which as many are searched at a time as there are cores.

Prints executions per target.  Exit status 1 for a finding (its input is written to ``--findings``), or for a target that ran nothing.
A finding, once understood, goes to ``tests/fuzz/corpus/<target>/<what it is>.bin`` and is replayed by ``test_fuzz_replay.py`` ever after.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest has it: seeds are made by the builders in tests/support

with atheris.instrument_imports(include=["confide"]):
    from . import targets
from .mutations import mutated
from .seeds import seeds

_DONE = re.compile(r"stat::number_of_executed_units: (\d+)")


def _mutator(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the changes are of the structure where the input is JSON; the rest is libFuzzer's own."""
    return mutated(data, random.Random(seed))[:max_size] if seed % 2 else atheris.Mutate(data, max_size)[:max_size]


def _kept(target: Callable[[bytes], object], data: bytes, place: Path) -> None:
    """Run a target; an input that is a finding is kept (libFuzzer itself keeps only crashes of the process, and timeouts)."""
    try:
        targets.run(target, data)
    except BaseException:
        place.write_bytes(data)
        raise


def _search(name: str, seconds: float, folder: Path, findings: Path) -> None:
    """Search in this process, which ends with it."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(data)
    limits = [f"-max_total_time={max(1, round(seconds))}", "-max_len=65536", "-timeout=20", "-rss_limit_mb=2048", "-seed=1"]
    target = targets.TARGETS[name]
    atheris.Setup(
        ["fuzz", str(corpus), *limits, f"-artifact_prefix={findings}/{name}-", "-print_final_stats=1"],
        lambda data: _kept(target, data, findings / f"{name}-crash-{hashlib.sha256(data).hexdigest()[:16]}"),
        custom_mutator=_mutator,
    )
    atheris.Fuzz()


class Search:
    """One target searched in a process of its own: libFuzzer ends its process."""

    def __init__(self, name: str, seconds: float, findings: Path) -> None:
        self.name = name
        self._temporary = tempfile.TemporaryDirectory(prefix="confide-fuzz-")
        self._log = Path(self._temporary.name) / "log"
        self.pid = os.fork()
        if not self.pid:
            try:
                _search(name, seconds, self._log.parent, findings)
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(70)

    def report(self, status: int) -> bool:
        """Print what came of it; whether there was no finding."""
        log = self._log.read_text(errors="replace")
        self._temporary.cleanup()
        done = _DONE.search(log)
        executions, fine = int(done[1]) if done else 0, status == 0
        verdict = "FINDING" if not fine else "ok" if executions else "DID NOT RUN"
        print(f"{self.name:16} {executions:9} executions  {verdict}", flush=True)
        if not fine or not executions:
            print(log[-6000:], flush=True)
        return fine and executions > 0


def search_all(names: list[str], seconds: float, findings: Path, jobs: int) -> list[bool]:
    """Search each target for so many ``seconds``, ``jobs`` of them at a time."""
    waiting, running, good = list(reversed(names)), dict[int, Search](), list[bool]()
    while waiting or running:
        while waiting and len(running) < jobs:
            started = Search(waiting.pop(), seconds, findings)
            running[started.pid] = started
        pid, status = os.wait()
        good.append(running.pop(pid).report(status))
    return good


def main() -> int:
    """Search the targets named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(sorted(targets.TARGETS)))
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets searched at a time")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    names = options.targets or sorted(targets.TARGETS)
    options.findings.mkdir(parents=True, exist_ok=True)
    good = search_all(names, options.seconds * options.jobs / len(names), options.findings, options.jobs)
    print(f"fuzzing: {sum(good)} of {len(good)} targets without a finding")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
