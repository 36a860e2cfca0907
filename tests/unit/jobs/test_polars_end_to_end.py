"""A job with ``engine = "polars"`` through all its steps: no worker, no JVM, and what ends a Spark run ends it as well."""

from __future__ import annotations

import _thread
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.polars_agent import PolarsAgent
from support.stage import CANARY, Stage, outputs_of

from confide.attest.policy import Policy
from confide.data.files import read_table
from confide.data.manifest import verify_manifest
from confide.data.snapshots import load_manifest
from confide.errors import GrantError, IntegrityError, InterruptedRunError, JobError, JobFailedError
from confide.ids import Role
from confide.job import Job
from confide.jobs.receipt import verify

run = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]
PROGRAM = b"""
from confide.data.polars import session
from helpers import by_city

ctx = session()
people, cities = ctx.read("people"), ctx.read("cities")
joined = people.join(cities, on="city")
ctx.write(by_city(joined), "summary")
ctx.write(ctx.sql("SELECT name, country FROM people JOIN cities USING (city)"), "names")
ctx._counts.begin().rows_read = 100  # as of a query that is left before its end
"""
HELPERS = b"""
def by_city(frame):
    return frame.group_by("country").len("count")
"""
FAILING = b"""
from confide.data.polars import session
session().write(session().read("people"), "names")
raise SystemExit(7)
"""
OVER_ROWS = b"""
import polars as pl
from confide.data.polars import session
session().read("people").select(pl.col("name").cast(pl.Int64)).collect()
"""
SLEEPING = b"""
import pathlib, time
from confide.data.polars import session
ctx = session()
ctx.write(ctx.read("people"), "names")
pathlib.Path(ctx.arguments[0]).write_text("asleep")
time.sleep(120)
"""


def job_of(stage: Stage, program: bytes = PROGRAM, **changes: Any) -> Job:
    given = {"engine": "polars", "resources": {}, "files": {"main.py": program, "helpers.py": HELPERS}, **changes}
    return stage.job(program, **given)


class TestRuns:
    pytestmark = run

    def test_a_job_runs_to_a_verified_receipt_in_the_drivers_node_alone(self, stage: Stage) -> None:
        job = job_of(stage)
        stage.grant(job)
        result, events = stage.run(job)
        statement = result.verification.require()
        assert [node.node for node in statement.nodes] == ["driver"]
        assert {(row.node, row.name, row.purpose) for row in statement.releases} == {
            ("driver", "people", "read"), ("driver", "cities", "read"), ("driver", "summary", "write"), ("driver", "names", "write"),
        }  # fmt: skip
        (did,) = statement.data  # people and cities read twice, two files written, and a query that was left
        assert (did.node, did.tasks, did.rows_read, did.rows_written) == ("driver", 7, 2 * (100 + 5) + 100, 100 + 2)
        assert min(did.bytes_read, did.bytes_written, did.open_us) > 0
        assert did.keys_asked >= 4
        assert [event.node for event in events if event.type == "node-started"] == ["driver"]
        signed = load_manifest(Path(job.outputs["summary"].path))
        manifest = verify_manifest(signed.envelope, signed.signer)
        table = read_table(signed.folder, manifest, stage.clients["analyst"].open(signed.envelope).secret).sort_by("country").to_pylist()
        assert table == [{"country": "a", "count": 40}, {"country": "b", "count": 60}]
        assert load_manifest(Path(job.outputs["names"].path)).unverified.rows == 100
        verify(result.folder, settings=stage.settings)
        for path in stage.root.rglob("*"):
            assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path

    def test_a_grant_for_workers_only_gives_the_program_no_key(self, stage: Stage) -> None:
        job = job_of(stage, arguments=("workers-only",))
        stage.grant(job, "airline")
        stage.clients["weather"].grant("cities", job=job.digest, policy=Policy.from_json(stage.policy), roles=[Role.WORKER])
        with pytest.raises(GrantError):
            stage.run(job)
        assert outputs_of(job) == []

    def test_a_failing_program_leaves_no_output_not_even_the_one_it_finished(self, stage: Stage) -> None:
        job = job_of(stage, FAILING, outputs=("names",))
        stage.grant(job)
        with pytest.raises(JobFailedError) as caught:
            stage.run(job)
        assert caught.value.facts["status"] == 7
        assert outputs_of(job) == []

    def test_values_of_rows_in_an_error_of_the_engine_are_in_no_file_of_the_host(self, stage: Stage) -> None:
        job = job_of(stage, OVER_ROWS, outputs=("names",))
        stage.grant(job)
        with pytest.raises(JobFailedError):
            stage.run(job)
        logs = [path.read_bytes() for path in stage.root.rglob("*.log")]
        assert any(b"InvalidOperationError: an error of the engine" in log for log in logs)
        assert not any(CANARY.encode() in log for log in logs)

    def test_a_changed_byte_in_the_data_ends_the_run_with_its_right_name(self, stage: Stage) -> None:
        job = job_of(stage, arguments=("changed",), resources={"verify_inputs": "as-read"})
        stage.grant(job)
        victim = max((stage.root / "people").glob("*.parquet"), key=lambda path: path.stat().st_size)
        good = victim.read_bytes()
        victim.write_bytes(good[: len(good) // 3] + bytes([good[len(good) // 3] ^ 1]) + good[len(good) // 3 + 1 :])
        try:
            with pytest.raises(IntegrityError):
                stage.run(job)
        finally:
            victim.write_bytes(good)
        assert outputs_of(job) == []

    def test_an_interrupted_run_leaves_nothing(self, stage: Stage, tmp_path: Path) -> None:
        mark = tmp_path / "asleep"
        job = job_of(stage, SLEEPING, outputs=("names",), arguments=(str(mark),))
        stage.grant(job)

        def press_ctrl_c() -> None:
            while not mark.exists():
                time.sleep(0.05)
            _thread.interrupt_main()

        threading.Thread(target=press_ctrl_c, daemon=True).start()
        with pytest.raises(InterruptedRunError):
            stage.run(job)
        assert outputs_of(job) == []


# --- the job file -------------------------------------------------------------------------------------------------


def described(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small", "program": "main.py", "files": {"main.py": b""}, "engine": "polars",
        "policy": {"name": "p", "measurements": {"sgx": ["ab" * 32]}}, "broker": {"url": "https://127.0.0.1:1", "spki": "ab" * 32},
        **changes,
    }  # fmt: skip


def test_the_engine_without_workers_has_none_and_all_cores_unless_told() -> None:
    for job in (Job.build(described()), Job.build(described(resources={"verify_inputs": "as-read"}))):
        assert (job.resources.workers, job.resources.min_workers, job.resources.cores) == (0, 0, 0)
        assert Job.from_json(job.to_json()) == job
    assert Job.build(described(resources={"cores": 4})).resources.cores == 4


@pytest.mark.parametrize("wrong", [{"workers": 1}, {"workers": 2, "min_workers": 1}, {"min_workers": 1}])
def test_workers_of_an_engine_that_has_none_are_refused_with_a_way_out(wrong: dict[str, int]) -> None:
    with pytest.raises(JobError, match=r"has no workers|larger than") as caught:
        Job.build(described(resources=wrong))
    assert "leave out workers" in (caught.value.hint or "")


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"min_workers": 0}, {"cores": 0}, {"workers": 0, "min_workers": 0}])
def test_spark_needs_a_worker_with_a_core(wrong: dict[str, int]) -> None:
    with pytest.raises(JobError):
        Job.build(described(engine="spark", resources=wrong))


# --- larger than memory -------------------------------------------------------------------------------------------

MOST_KIB = 2_200_000
"""Of 3.3 GB of data.  Mostly 1.2 to 1.3 GB were seen; 2.0 GB at most, where what is written takes longer than what is read, and no more of
twice the data."""
STREAM = """
import json, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
import polars as pl
from confide.data.opened_table import OpenedMemory
from confide.data.polars import DataContext
from confide.node.local_socket import LocalSocketClient
info = json.loads(sys.argv[2])
ctx = DataContext(LocalSocketClient(Path(sys.argv[1])), info, OpenedMemory(1 << 30))
frame = ctx.read("wide")
ctx.write(frame.filter(pl.col("n") % 10 != 3).with_columns(text=pl.col("text") + "!"), "result")
status = Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's, which had made the table
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
"""


@pytest.mark.unmeasured
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_table_larger_than_the_memory_used_streams_through_into_encrypted_parts(tmp_path: Path) -> None:
    rows, width = 4_050_000, 800
    agent = PolarsAgent(tmp_path)
    try:
        block = pa.array([f"{n:0{width}}" for n in range(150_000)])
        table = pa.table({"n": range(rows), "text": pa.chunked_array([block] * (rows // len(block)))})
        assert table.nbytes > 3_200_000_000
        agent.add("wide", table)
        del table, block
        argv = [sys.executable, "-c", STREAM, str(tmp_path / "agent.sock"), json.dumps(agent.context()._info), *filter(None, sys.path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert int(done.stdout) < MOST_KIB
        (made,) = agent.outputs.committed()
        assert made.manifest.rows == rows - rows // 10
        assert len(made.manifest.files) > 3
    finally:
        agent.close()
