"""The main job through all its steps, with real processes: broker, driver, workers, JVMs, receipt; and what must end it.

Slow (a JVM a node): one module-scoped stage with two owners and their data serves all runs.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.stage import CANARY, Stage, outputs_of, processes_of

from confide.data.files import read_table
from confide.data.manifest import verify_manifest
from confide.data.snapshots import load_manifest
from confide.errors import (
    ConfideError,
    GrantError,
    IntegrityError,
    InterruptedRunError,
    JobFailedError,
    NodeLostError,
    OutputExistsError,
    ReceiptError,
)
from confide.job import Job
from confide.jobs.receipt import verify
from confide.jobs.result import RunEvent, RunResult
from confide.jobs.store import RunStore
from confide.jobs.submit import submit

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]
FAILING = b"""
import confide
ctx = confide.session()
ctx.write(ctx.read("people"), "names")
raise SystemExit(7)
"""
SLEEPING = b"""
import pathlib, sys, time, confide
ctx = confide.session()
ctx.write(ctx.read("people"), "names")
pathlib.Path(ctx.arguments[0]).write_text("asleep")
time.sleep(120)
"""

WAITING = b"""
import confide
ctx = confide.session()
people = ctx.read("people")
place = ctx.arguments[0]

def say_where_and_wait(rows):
    import os, pathlib, time
    node = pathlib.Path(os.getcwd()).parts[3].removeprefix("confide-")[-len("worker-0"):]  # /dev/shm/confide-RUN-NODE/...
    (pathlib.Path(place) / node).touch()
    while not (pathlib.Path(place) / "go").exists():
        time.sleep(0.05)
    yield from rows

slow = ctx.spark.createDataFrame(people.repartition(6).rdd.mapPartitions(say_where_and_wait), people.schema)
ctx.write(slow, "names")
ctx.write(people, "summary")
"""


def test_the_main_job_runs_to_a_verified_receipt_without_the_tampered_worker(stage: Stage) -> None:
    job = stage.job(resources={"workers": 3, "memory_mb": 700, "driver_memory_mb": 700})
    stage.grant(job)
    result, events = stage.run(job, faults={"worker-3": "tampered"})
    statement = result.verification.require()
    assert result.simulated
    assert [(row.node, row.code) for row in statement.refused] == [("worker-3", "appraisal-refused")]
    assert [node.node for node in statement.nodes] == ["driver", "worker-1", "worker-2"]
    refused = next(event for event in events if event.type == "worker-refused")
    assert refused.fields["facts"]["check"] == "measurement"
    assert not any(event.type == "key-opened" and event.node == "worker-3" for event in events)

    # Outputs are there, encrypted, and open for the analyst whom both owners named.
    analyst = stage.clients["analyst"]
    signed = load_manifest(Path(job.outputs["summary"].path))
    manifest = verify_manifest(signed.envelope, signed.signer)
    assert manifest.run == result.run
    key = analyst.open(signed.envelope).secret
    table = read_table(signed.folder, manifest, key).sort_by("country").to_pylist()
    assert table == [{"country": "a", "count": 40}, {"country": "b", "count": 60}]
    assert load_manifest(Path(job.outputs["names"].path)).unverified.rows == 100
    with pytest.raises(ConfideError):
        stage.clients["airline"].open(signed.envelope)

    # The receipt stands by files alone, and falls with one changed byte of evidence.
    verify(result.folder, settings=stage.settings)
    evidence = result.folder / "evidence" / "worker-1.json"
    text = evidence.read_text()
    evidence.write_text(text.replace('"nonce": "', '"nonce": "A', 1))
    with pytest.raises(ReceiptError):
        verify(result.folder, settings=stage.settings)
    # The plaintext of the data is in no file of the run, its data or its outputs.
    for path in stage.root.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_a_job_that_is_not_granted_gets_no_key_and_leaves_no_output(stage: Stage) -> None:
    job = stage.job(arguments=("not-granted",))
    stage.grant(job, "airline")
    with pytest.raises(GrantError):
        stage.run(job)
    assert outputs_of(job) == []


def test_a_failing_program_leaves_no_output_not_even_the_one_it_finished(stage: Stage) -> None:
    job = stage.job(FAILING, outputs=("names",))
    stage.grant(job)
    with pytest.raises(JobFailedError) as caught:
        stage.run(job)
    assert caught.value.facts["status"] == 7
    assert outputs_of(job) == []
    assert RunStore(stage.settings.runs_dir).open(str(caught.value.facts["run"])).summary().status == "failed"


@pytest.mark.parametrize("verify_inputs", ["whole", "as-read"])
def test_a_changed_byte_in_the_data_ends_the_run_with_its_right_name(stage: Stage, verify_inputs: str) -> None:
    resources = {"workers": 2, "memory_mb": 700, "driver_memory_mb": 700, "verify_inputs": verify_inputs}
    job = stage.job(arguments=("changed",), resources=resources)
    stage.grant(job)
    victim = max((stage.root / "people").glob("*.parquet"), key=lambda path: path.stat().st_size)
    good = victim.read_bytes()
    middle = len(good) // 3
    victim.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    try:
        with pytest.raises(IntegrityError):
            stage.run(job)
    finally:
        victim.write_bytes(good)
    assert outputs_of(job) == []


def test_an_output_that_exists_is_refused_before_anything_starts(stage: Stage) -> None:
    job = stage.job()
    Path(job.outputs["names"].path).mkdir(parents=True)
    before = len(RunStore(stage.settings.runs_dir).list())
    with pytest.raises(OutputExistsError):
        stage.run(job)
    assert len(RunStore(stage.settings.runs_dir).list()) == before


class At:
    """Listens to a run and does something once, when the program sleeps."""

    def __init__(self, marker: Path, action: Any) -> None:
        self.nodes: dict[str, int] = {}
        self._marker = marker
        self._action = action
        threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, event: RunEvent) -> None:
        if event.type == "node-started":
            self.nodes[str(event.node)] = int(event.fields["process"])

    def _watch(self) -> None:
        until = time.monotonic() + 150
        while not self._marker.exists() and time.monotonic() < until:
            time.sleep(0.05)
        self._action(self.nodes)


def sleeping_job(stage: Stage) -> tuple[Job, Path]:
    marker = stage.root / f"marker-{secrets.token_hex(4)}"
    job = stage.job(SLEEPING, outputs=("names",), arguments=(str(marker),))
    stage.grant(job)
    return job, marker


def test_a_killed_driver_ends_the_run_clearly_and_leaves_nothing(stage: Stage) -> None:
    job, marker = sleeping_job(stage)
    listener = At(marker, lambda nodes: os.kill(nodes["driver"], signal.SIGKILL))
    with pytest.raises(NodeLostError) as caught:
        submit(job, simulate=True, settings=stage.settings, on_event=listener)
    assert caught.value.facts["status"] == -9
    assert outputs_of(job) == []


# A test run that was itself started in the background has SIGINT ignored, and children inherit that.
CLIENT = """
import json, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from confide.config import Settings
from confide.job import Job
from confide.jobs.submit import submit
job = Job.from_json(json.loads(Path(sys.argv[2]).read_text()))
submit(job, simulate=True, settings=Settings(home=Path(sys.argv[1])), on_event=lambda e: None)
"""


def wait_for(marker: Path, client: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 150  # a busy machine needs a minute to come so far; what is measured comes later
    while not marker.exists():
        assert time.monotonic() < until
        assert client.poll() is None, client.communicate()[1].decode()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_or_killed_client_leaves_nothing_within_five_seconds(stage: Stage, number: signal.Signals) -> None:
    import json

    job, marker = sleeping_job(stage)
    description = stage.root / "job.json"
    description.write_text(json.dumps(job.to_json()))
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(stage.settings.home), str(description)], stderr=subprocess.PIPE)
    try:
        wait_for(marker, client)
    except BaseException:
        client.kill()  # its nodes end with it
        raise
    begun = time.monotonic()
    client.send_signal(number)
    error = client.communicate(timeout=10)[1].decode()
    while processes_of(stage) and time.monotonic() < begun + 10:
        time.sleep(0.05)
    assert time.monotonic() - begun < 5
    assert outputs_of(job) == []
    newest = RunStore(stage.settings.runs_dir).list()[0]
    if number == signal.SIGKILL:
        assert newest.status == "lost"
        for scratch in stage.settings.runs_dir.glob("*/nodes/*/scratch"):  # nobody was left to clear it away; it holds no data file
            assert list(scratch.rglob("*.parquet")) == []
        RunStore(stage.settings.runs_dir).clear_lost()  # what the next run does first
    else:
        assert newest.status == "interrupted"
        assert InterruptedRunError.__name__ in error


def test_a_killed_worker_does_not_end_the_run(stage: Stage) -> None:
    """Killed in the middle of a stage, while it writes an output: its tasks are done again, and no row is lost or doubled."""
    place = stage.root / f"stage-{secrets.token_hex(4)}"
    place.mkdir()
    job = stage.job(WAITING, arguments=(str(place),))
    stage.grant(job)

    def kill(nodes: dict[str, int]) -> None:
        os.kill(nodes["worker-2"], signal.SIGKILL)
        (place / "go").touch()

    result = submit(job, simulate=True, settings=stage.settings, on_event=At(place / "worker-2", kill))
    assert {node.node: node.ended for node in result.verification.require().nodes}["worker-2"] == "lost"
    assert sorted(outputs_of(job)) == ["names", "summary"]
    signed = load_manifest(Path(job.outputs["names"].path))
    rows = read_table(signed.folder, signed.unverified, stage.clients["analyst"].open(signed.envelope).secret).column("name").to_pylist()
    assert sorted(rows) == sorted(f"{CANARY}-{n}" for n in range(100))


def test_simulation_has_to_be_asked_for(stage: Stage) -> None:
    with pytest.raises(ConfideError) as caught:
        submit(stage.job(), settings=stage.settings)
    assert caught.value.exit_status == 2


def test_two_runs_at_once_do_not_disturb_each_other(stage: Stage) -> None:
    jobs = [stage.job(arguments=(text,), resources={"workers": 1, "memory_mb": 700, "driver_memory_mb": 700}) for text in ("one", "two")]
    results: list[RunResult] = []

    def go(job: Job) -> None:
        results.append(submit(job, simulate=True, settings=stage.settings))

    threads = [threading.Thread(target=go, args=(job,)) for job in jobs]
    for job, thread in zip(jobs, threads, strict=True):
        stage.grant(job)
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.run for result in results}) == 2
    assert all(len(outputs_of(job)) == 2 for job in jobs)
