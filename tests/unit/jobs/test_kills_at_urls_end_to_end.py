"""A driver that is killed, with its program, while its run goes on with a dataset on S3: one snapshot more as a whole, or none."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.remote_runs import PLACE, SECRET, named, past_the_gate
from support.s3_gate import S3Gate
from support.stage import CANARY, Stage

from confide.data.files import read_table
from confide.data.folder import listed_files, refuse_foreign, verify_files
from confide.data.manifest import MANIFEST_NAME
from confide.data.snapshots import load_manifest, manifest_path, verify_manifests
from confide.errors import NodeLostError
from confide.job import Job
from confide.jobs.receipt import verify
from confide.jobs.result import RunEvent
from confide.node.child import session_members

pytestmark = [pytest.mark.run, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left_behind")]
POLARS = b"""
from confide.data.polars import session
ctx = session()
ctx.write(ctx.read("people").join(ctx.read("cities"), on="city").select("name", "country"), "summary")
"""
SPARK = b"""
import confide
ctx = confide.session()
ctx.write(ctx.read("people").join(ctx.read("cities"), "city").select("name", "country").repartition(3), "summary", mode="append")
ctx.stop()
"""
WRITTEN_S = 90
"""Within so many seconds a run has written its rows, on a machine that does much else."""
OF_SPARK = {"program": SPARK, "engine": "spark", "resources": {"workers": 1, "memory_mb": 700, "driver_memory_mb": 700}}


class Killed:
    """A dataset on S3 that runs append a hundred rows to, and the driver of one of them, which is killed."""

    def __init__(self, stage: Stage, jobs: Callable[..., Job], s3: Any, gate: S3Gate) -> None:
        self.stage, self.jobs, self.s3, self.gate = stage, jobs, s3, gate
        self.driver = 0

    def job(self, name: str, **changes: Any) -> Job:
        return self.jobs(name, **{"program": POLARS, "goes_on": named(self.s3) if self.there() else {"mode": "append"}, **changes})

    def there(self) -> set[str]:
        return {one["Key"].removeprefix("results/summary/") for one in self.s3.list_objects_v2(Bucket="bkt").get("Contents", [])}

    def note(self, event: RunEvent) -> None:
        if event.type == "node-started" and event.node == "driver":
            self.driver = int(event.fields["process"])

    def kill(self) -> None:
        """The agent and everything that it has started."""
        for process in session_members(self.driver):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def run(self, job: Job) -> None:
        """It is killed, and the client says so."""
        try:
            with pytest.raises(NodeLostError):
                self.stage.run(job, listener=self.note)
        finally:
            self.gate.before, self.gate.after = lambda *_: None, lambda *_: None

    def check(self, snapshots: int, *, foreign: Iterable[str] = ()) -> None:
        """There are so many snapshots, to the last row; ``foreign`` lie beside them; and no row lies anywhere in the clear."""
        place = past_the_gate(self.s3)
        newest = load_manifest(place)
        chain = [one.unverified for one in verify_manifests(newest)]
        assert [one.snapshot for one in chain] == [*range(snapshots, 0, -1)]
        verify_files(place, *chain)
        refuse_foreign(place, {*listed_files(*chain), *map(manifest_path, chain), *foreign})
        key = self.stage.clients["analyst"].open(newest.envelope).secret
        for one in chain:
            names = read_table(place, one, key).column("name").to_pylist()
            assert sorted(names) == sorted([f"{CANARY}-{n}" for n in range(100)] * one.snapshot)
        for name in self.there():
            data = self.s3.get_object(Bucket="bkt", Key=f"results/summary/{name}")["Body"].read()
            assert CANARY.encode() not in data, name
        for path in (*self.stage.root.parent.rglob("*"), *Path(tempfile.gettempdir()).glob("confide*"), *Path("/dev/shm").glob("confide*")):
            with suppress(OSError):  # others' files, which go meanwhile
                data = path.read_bytes() if path.is_file() else b""
                assert CANARY.encode() not in data, path
                assert SECRET.encode() not in data or "kbs" in path.parts, path


@pytest.fixture
def killed(stage: Stage, s3_output: Callable[..., Job], s3: Any, run_gate: S3Gate) -> Iterator[Killed]:
    made = Killed(stage, s3_output, s3, run_gate)
    stage.run(made.job("first"))
    yield made
    made.check(len(verify_manifests(load_manifest(past_the_gate(s3)))))


def at(killed: Killed, part: str, *, passed: bool) -> None:
    """Kill it when it puts something of that name: once that is there (``passed``), or before."""

    def met(method: str, path: str) -> None:
        if method == "PUT" and part in path:
            killed.kill()
            raise ConnectionAbortedError("whoever asked is gone")

    if passed:
        killed.gate.after = met
    else:
        killed.gate.before = met


@pytest.mark.parametrize("changes", [{}, pytest.param(OF_SPARK, marks=pytest.mark.spark)], ids=["polars", "spark"])
def test_a_kill_before_the_commit_leaves_the_dataset_as_it_was_and_what_was_sent_can_be_cleaned(
    killed: Killed, data_command: Callable[..., str], tmp_path: Path, changes: dict[str, Any]
) -> None:
    before = killed.there()
    for turn, (part, passed) in enumerate(((".parquet", True), ("_snapshots/2.json", False))):
        at(killed, part, passed=passed)
        killed.run(killed.job(f"{part}-{len(changes)}", **changes))
        assert list((tmp_path / "staging").iterdir()) == []
        sent = killed.there() - before
        assert len([name for name in sent if name.endswith(".parquet")]) > turn
        killed.check(1, foreign=sent)
        assert [one["snapshot"] for one in json.loads(data_command("log", PLACE, "--json"))["snapshots"]] == [1]
    data_command("head", PLACE, "--as", "analyst")  # what is beside the dataset is in nobody's way
    result, _ = killed.stage.run(killed.job(f"next-{len(changes)}", **changes))
    verify(result.folder, settings=killed.stage.settings)
    left = sent - {"_snapshots/1.json"}
    killed.check(2, foreign=left)
    data_command("clean", PLACE)  # it may be a writer's who is at work
    assert left < killed.there()
    data_command("clean", PLACE, "--older-than", "0")
    assert not left & killed.there()
    data_command("verify", PLACE)


@pytest.mark.parametrize("part", ["_snapshots/2.json", MANIFEST_NAME])
def test_a_kill_after_the_commit_loses_no_snapshot_and_the_next_run_goes_on_from_it(
    killed: Killed, data_command: Callable[..., str], tmp_path: Path, part: str
) -> None:
    """Whether the answer to the commit has come, or what was committed has been put where readers begin: the broker was told of neither."""
    at(killed, part, passed=True)
    killed.run(killed.job(f"kill-{part}"))
    assert list((tmp_path / "staging").iterdir()) == []
    killed.check(2)
    data_command("clean", PLACE, "--older-than", "0")
    killed.check(2)
    assert [one["snapshot"] for one in json.loads(data_command("log", PLACE, "--json"))["snapshots"]] == [2, 1]
    data_command("verify", PLACE)
    result, _ = killed.stage.run(killed.job(f"next-{part}"))
    verify(result.folder, settings=killed.stage.settings)
    killed.check(3)


def test_a_kill_once_rows_are_written_sends_nothing(killed: Killed, tmp_path: Path) -> None:
    mark, before = tmp_path / "written", killed.there()
    waits = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep({2 * WRITTEN_S})\n"  # for its end

    def kill() -> None:
        """A driver that writes for longer than this succeeds, and the test fails."""
        end = time.monotonic() + WRITTEN_S
        while not mark.exists() and time.monotonic() < end:
            time.sleep(0.05)
        if mark.exists():
            killed.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    killed.run(killed.job("written", program=POLARS + waits.encode()))
    killer.join()
    assert mark.exists()
    assert killed.there() == before
    assert list((tmp_path / "staging").iterdir()) == []
