"""Whole runs that take long: one in which a worker loses its good standing and that goes on without it, and one of many leases."""

from __future__ import annotations

import dataclasses
import secrets
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from support.stage import Stage, outputs_of

from confide.jobs.receipt import verify
from confide.jobs.result import RunEvent

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]

# Waits until the worker was cut off, and then needs executors: the ones that are left have to do.
WAITS = b"""
import confide, pathlib, time
ctx = confide.session()
marker, until = pathlib.Path(ctx.arguments[0]), time.monotonic() + 120
while not marker.exists() and time.monotonic() < until:
    time.sleep(0.05)
ctx.write(ctx.read("people").repartition(4).groupBy("city").count(), "summary")
"""


def test_a_worker_that_falls_behind_is_cut_off_and_the_run_goes_on_without_it(stage: Stage) -> None:
    marker = stage.root / f"marker-{secrets.token_hex(4)}"
    job = stage.job(WAITS, outputs=("summary",), arguments=(str(marker),))
    stage.grant(job)
    stage.settings = dataclasses.replace(stage.settings, reattest_every_s=1.0, reattest_grace_s=60.0)

    def listen(event: RunEvent) -> None:
        if event.type == "worker-cut-off":
            marker.write_text("cut off")

    result, events = stage.run(job, faults={"worker-1": "falls-behind"}, listener=listen)
    (cut,) = [event for event in events if event.type == "worker-cut-off"]
    assert (cut.node, cut.fields["code"], cut.fields["facts"]["check"]) == ("worker-1", "appraisal-refused", "tcb-status")
    assert outputs_of(job) == ["summary"]

    # The receipt: accepted at first, refused later with evidence that anybody can refuse again; the others were attested again and again.
    found = verify(result.folder, settings=stage.settings)
    statement = found.require()
    rows = {row.node: row for row in statement.nodes}
    assert [(name, row.ended) for name, row in sorted(rows.items())] == [("driver", "ok"), ("worker-1", "failed"), ("worker-2", "ok")]
    assert rows["worker-2"].again > 0
    assert rows["driver"].again > 0
    assert [(row.node, row.code) for row in statement.refused] == [("worker-1", "appraisal-refused")]
    got = {check.name: check.got for check in found.checks}
    assert got["refused worker-1"] == "appraisal-refused again: tcb-status"
    assert got["again worker-2"].startswith("UpToDate at ")

    # And the broker was told: it gives that node no key any more.
    (told,) = [e.event for e in stage.broker.store.audit() if e.event is not None and e.event["action"] == "cut-off"]
    assert (told["run"], told["node"], told["cut_off"]) == (result.run, "driver", "worker-1")


# Reads one table again and again, for several leases, and writes at the end.
MANY_LEASES = b"""
import confide, time
ctx = confide.session()
people, until = ctx.read("people"), time.monotonic() + 12
while time.monotonic() < until:
    people.count()
ctx.write(people.groupBy("city").count(), "summary")
"""


def test_keys_are_renewed_throughout_a_run_of_many_leases(stage: Stage, record_property: Callable[[str, object], None]) -> None:
    """Each node asks again for what it reads before its lease ends, with its evidence; nothing of that stops the run."""
    job = stage.job(MANY_LEASES, outputs=("summary",))
    stage.grant(job)
    before, stage.broker._answers.lease = stage.broker._answers.lease, timedelta(seconds=3)
    try:
        stage.run(job)
    finally:
        stage.broker._answers.lease = before
    assert outputs_of(job) == ["summary"]
    events = [entry.event for entry in stage.broker.store.audit() if entry.event is not None]
    asked = Counter(e["node"] for e in events if e["action"] == "release" and e["job"] == job.digest and e["key"] == "airline/people")
    record_property("asked", dict(asked))
    assert max(asked.values()) > 1
    assert not [e for e in events if e["action"] == "refuse" and e.get("job") == job.digest]
