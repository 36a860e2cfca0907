"""The run store: whole files, honest states, stopping by the right process."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from confide.errors import RunNotFoundError
from confide.ids import NodeId, RunId
from confide.jobs.backend import NodeHandle
from confide.jobs.store import RunDir, RunStore
from confide.node.private_dir import MEMORY_BASE, PrivateDir, sweep

PLAN = {"job": "demo", "digest": "ab" * 48, "simulated": True}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def test_a_run_of_this_process_is_running_until_it_has_a_result(store: RunStore) -> None:
    run = store.create(RunId("demo-1"), PLAN)
    assert run.summary().status == "running"
    run.write("result.json", {"status": "succeeded", "ended": "2026-01-01T00:00:00+00:00"})
    assert run.summary().status == "succeeded"
    assert run.summary().to_json()["ended"] == "2026-01-01T00:00:00+00:00"


def test_a_run_whose_client_is_gone_is_lost(store: RunStore) -> None:
    run = store.create(RunId("demo-1"), PLAN)
    run.write("client.json", {"pid": os.getpid(), "start": 1})  # the id is in use, by another process than the client
    assert run.summary().status == "lost"


def test_folders_and_files_are_private(store: RunStore) -> None:
    run = store.create(RunId("demo-1"), PLAN)
    run.add_event({"type": "x"})
    for path in (run.path, run.logs, run.evidence):
        assert path.stat().st_mode & 0o077 == 0
    for path in run.path.glob("*.json*"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_run_is_found_by_the_beginning_of_its_id(store: RunStore) -> None:
    store.create(RunId("demo-1a"), PLAN)
    store.create(RunId("demo-2b"), PLAN)
    assert store.open("demo-2").run == "demo-2b"
    assert store.open("demo-1a").run == "demo-1a"


@pytest.mark.parametrize("name", ["demo", "nothing", "", "../demo-1a"])
def test_an_unknown_or_ambiguous_run_is_refused(store: RunStore, name: str) -> None:
    store.create(RunId("demo-1a"), PLAN)
    store.create(RunId("demo-2b"), PLAN)
    with pytest.raises(RunNotFoundError):
        store.open(name)


def test_runs_are_listed_newest_first_and_foreign_folders_are_left_out(store: RunStore) -> None:
    store.create(RunId("demo-1"), PLAN)
    store.create(RunId("demo-2"), PLAN)
    (store.path / "other").mkdir()
    (store.path / "broken").mkdir()
    (store.path / "broken" / "plan.json").write_text("{")
    assert [summary.run for summary in store.list()] == ["demo-2", "demo-1"]


def test_an_event_that_was_cut_off_is_left_out(store: RunStore) -> None:
    run = store.create(RunId("demo-1"), PLAN)
    run.add_event({"type": "a"})
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"type": "b')
    assert list(run.events()) == [{"type": "a"}]


def test_a_value_that_cannot_be_written_leaves_the_old_file(store: RunStore) -> None:
    run = store.create(RunId("demo-1"), PLAN)
    run.write("result.json", {"a": 1})
    with pytest.raises(TypeError):
        run.write("result.json", {"a": object()})
    assert run.read("result.json") == {"a": 1}
    assert not list(run.path.glob(".*.tmp"))


CLIENT = """
import json, signal, sys, time
from pathlib import Path
from confide.jobs.store import RunDir
signal.signal(signal.SIGTERM, signal.default_int_handler)
run = RunDir(Path(sys.argv[1]))
run.claim()
try:
    print("ready", flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    run.write("result.json", {"status": "interrupted", "ended": "now"})
"""


def test_stop_ends_the_driving_process_and_waits_for_its_result(store: RunStore) -> None:
    run = store.create(RunId("demo-1"), PLAN)
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(run.path)], stdout=subprocess.PIPE, env=dict(os.environ))
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    begun = time.monotonic()
    assert store.stop("demo-1").status == "interrupted"
    assert time.monotonic() - begun < 5
    client.wait(timeout=5)


def test_stop_of_an_ended_run_touches_nothing(store: RunStore) -> None:
    run = store.create(RunId("demo-1"), PLAN)
    run.write("client.json", {"pid": os.getpid(), "start": 1})
    assert store.stop("demo-1").status == "lost"


def test_scratch_is_dropped_and_the_rest_stays(store: RunStore) -> None:
    run = store.create(RunId("demo-1"), PLAN)
    (run.nodes / "driver" / "scratch").mkdir(parents=True)
    (run.nodes / "driver" / "spec.json").write_text("{}")
    run.drop_scratch()
    assert not (run.nodes / "driver" / "scratch").exists()
    assert json.loads((run.nodes / "driver" / "spec.json").read_text()) == {}
    assert isinstance(run, RunDir)


def test_only_lost_runs_lose_their_scratch(store: RunStore) -> None:
    living, lost = store.create(RunId("demo-1"), PLAN), store.create(RunId("demo-2"), PLAN)
    lost.write("client.json", {"pid": os.getpid(), "start": 1})
    for run in (living, lost):
        (run.nodes / "driver" / "scratch").mkdir(parents=True)
    store.clear_lost()
    assert (living.nodes / "driver" / "scratch").exists()
    assert not (lost.nodes / "driver" / "scratch").exists()


def test_what_killed_nodes_of_a_lost_run_left_in_memory_is_wiped(store: RunStore) -> None:
    """Of a run whose client is gone; not of a node whose process is still there, nor of a run that goes on."""
    runs = {name: store.create(RunId(f"{name}-{secrets.token_hex(6)}"), PLAN) for name in ("living", "lost")}
    runs["lost"].write("client.json", {"pid": os.getpid(), "start": 1})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    private = []
    try:
        for run in runs.values():
            lines = []
            for node, process in (("driver", ended.pid), ("worker-1", os.getpid())):
                (run.nodes / node).mkdir(parents=True)
                handle = NodeHandle(run.run, NodeId(node), str(process))
                lines.append(json.dumps({"type": "node-started", "node": node, "fields": {"process": handle.name}}))
                private.append(PrivateDir(run.run, NodeId(node)))
                private[-1].write("key", b"secret")
            (run.path / "events.jsonl").write_text("\n".join([*lines, json.dumps({"type": "node-started"})]) + "\n")
        store.clear_lost()
        assert [folder.path.exists() for folder in private] == [True, True, False, True]
    finally:
        for folder in private:
            folder.wipe()


def test_a_node_that_leaves_by_force_takes_its_children_and_its_secrets_along(tmp_path: Path) -> None:
    run = f"forced-{secrets.token_hex(6)}"
    source = f"""
import subprocess, sys
from pathlib import Path
from confide.ids import NodeId, RunId
from confide.jobs.node_main import leave_by_force
from confide.node.private_dir import PrivateDir
private = PrivateDir(RunId({run!r}), NodeId("driver"))
private.write("key", b"secret")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=0)
Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
leave_by_force(RunId({run!r}), NodeId("driver"))
"""
    done = subprocess.run([sys.executable, "-c", source], start_new_session=True, check=False, timeout=60)
    left = list(MEMORY_BASE.glob(f"confide-{run}-*"))
    sweep(RunId(run), NodeId("driver"))  # what a node that does not do it left
    assert done.returncode == -signal.SIGKILL
    assert not left
    child = Path("/proc") / (tmp_path / "child").read_text()
    until = time.monotonic() + 10
    while child.exists() and child.joinpath("stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)
