"""Runs on a real Kubernetes, side by side: the main job by ``confide run`` and by plain ``spark-submit``; and fifty idle workers.

The cluster is the tests' own (two nodes on this machine, root; it is built when it never was).  Wall time; the machine should do
nothing else.  Every figure is the median of its repetitions.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from statistics import median
from typing import Final

from benchmarks.cluster.idle import Idle, idle_workers
from benchmarks.cluster.place import CONTEXT, NAMESPACE, place
from benchmarks.cluster.runs import confide_run, plain_run, prepare_plain
from benchmarks.spine import Row
from confide.jobs.kubernetes.client import Cluster

IDLE: Final = 50
MOST_TIMES: Final = 1.25
MOST_ATTESTING_S: Final = 2.0
_PLAIN = "`spark-submit` in cluster mode, plain Parquet"
_STEPS: Final = {
    "pod": "the driver's pod runs",
    "driver": "driver attested",
    "pods": "all workers' pods run (executors')",
    "workers": "all workers attested",
    "task": "first task done",
    "work": "from first task to end",
    "end": "end of the run",
    "attesting": "attestation, until the first task",
    "cpu": "CPU of all pods",
}


def measure(repeat: int) -> list[Row]:
    """All rows; ``repeat`` runs of each kind, in turn, and one of the idle workers."""
    rows = {step: Row(what, "s") for step, what in _STEPS.items()}
    with place() as made, Cluster.connect(CONTEXT, namespace=NAMESPACE, kubeconfig=made.kubeconfig) as api:
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        template = prepare_plain(api, made)
        for number in range(repeat):
            _note(f"run {number + 1} of {repeat}: Confide")
            add_run(rows, confide_run(made, api, number), confide=True)
            _note(f"run {number + 1} of {repeat}: plain")
            add_run(rows, plain_run(made, api, template), confide=False)
        _note(f"{IDLE} idle workers")
        return [*rows.values(), *idle_rows(idle_workers(made, api, IDLE))]


def add_run(rows: dict[str, Row], seconds: dict[str, float], *, confide: bool) -> None:
    """Add one run's seconds to the rows of its steps."""
    for step, value in {**seconds, "work": seconds["end"] - seconds["task"]}.items():
        row = rows[step]
        (row.confide if confide else row.plain).append(value)
        if not confide:
            row.plain_is = _PLAIN


def idle_rows(found: Idle) -> list[Row]:
    """The rows of the idle workers."""
    since = f"{IDLE} idle workers, from the driver's attestation:"
    sleeping = f"{IDLE} pods that only sleep, from the first request"
    return [
        Row(f"{since} all pods run", "s", [found.running], [found.sleeping], sleeping),
        Row(f"{since} all attested", "s", [found.accepted], [found.sleeping], sleeping),
        Row("the driver's CPU for each of them, its pod's creation included", "ms", [1000 * found.driver_cpu / IDLE]),
        Row("memory of each of them", "MiB", [found.worker_mb]),
    ]


def verdicts(rows: list[Row]) -> list[str]:
    """The targets, and whether they are met."""
    by_name = {row.what: row for row in rows}
    end, attesting = by_name[_STEPS["end"]], by_name[_STEPS["attesting"]]
    times, seconds = median(end.confide) / median(end.plain), median(attesting.confide)
    return [
        f"* target: at most {MOST_TIMES}x plain `spark-submit` from end to end: {times:.2f}x, {_met(good=times <= MOST_TIMES)}",
        f"* target: attestation adds at most {MOST_ATTESTING_S:.0f} s: {seconds:.2f} s, {_met(good=seconds <= MOST_ATTESTING_S)}",
    ]


def _met(*, good: bool) -> str:
    return "met" if good else "**not met**"


def markdown(rows: list[Row], about: dict[str, str], repeat: int) -> str:
    """The table as docs/benchmarks.md has it."""
    head = ("| what | Confide (simulated TEE) | plain | ratio | plain means |", "| --- | ---: | ---: | ---: | --- |")
    lines = [f"| {' | '.join(row.cells())} |" for row in rows]
    facts = [f"* {name}: {value}" for name, value in about.items()]
    when = f"* date: {datetime.now(UTC):%Y-%m-%d}; medians of {repeat} runs; {IDLE} idle workers once"
    return "\n".join([*head, *lines, "", *verdicts(rows), *facts, when])


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
