"""The local backend: nodes start clean, are found again, and are gone when they must be, with everything they started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from confide.errors import ProtocolError, UnavailableError
from confide.ids import NodeId, Role, RunId, Tee
from confide.jobs.backend import Address, NodeHandle
from confide.jobs.local.backend import LocalBackend, tampered_copy
from confide.node.child import session_members
from confide.node.spec import Announcement, NodeSpec, Simulation

NODE = """
import argparse, json, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--spec"); parser.add_argument("--parent", type=int)
given = parser.parse_args()
spec = json.load(open(given.spec))
{body}
"""
FAMILY = """
signal.signal(signal.SIGTERM, {handler})
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", stubborn], process_group=0, stdout=subprocess.PIPE)
child.stdout.readline()
open(os.path.join(spec["work_dir"], "child"), "w").write(str(child.pid))
time.sleep(60)
"""


def spec_for(tmp_path: Path, *, fault: str | None = None) -> NodeSpec:
    return NodeSpec(
        run_id=RunId("demo-1"),
        node_id=NodeId("driver"),
        role=Role.DRIVER,
        job_digest="ab" * 48,
        tee=Tee.SGX,
        announce_path=tmp_path / "nodes" / "driver" / "announce.json",
        log_path=tmp_path / "logs" / "driver.log",
        work_dir=tmp_path / "nodes" / "driver" / "scratch",
        simulation=Simulation(dir=tmp_path / "sim", fault=fault),
    )


def backend_for(tmp_path: Path, body: str) -> LocalBackend:
    script = tmp_path / "stub_node.py"
    script.write_text(NODE.format(body=body))
    return LocalBackend(tmp_path, entry=(str(script),))


def wait_for(condition: object, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_node_sees_nothing_of_the_clients_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    backend = backend_for(tmp_path, 'json.dump(dict(os.environ), open(os.path.join(spec["work_dir"], "env"), "w"))')
    handle = backend.start(spec_for(tmp_path))
    wait_for(lambda: not backend.poll(handle).running)
    environment = json.loads((tmp_path / "nodes/driver/scratch/env").read_text())
    assert "canary" not in str(environment)
    known = {"PATH", "JAVA_HOME", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "HOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LC_CTYPE"}
    assert set(environment) <= known
    backend.stop([handle])


@pytest.mark.parametrize("handler", ["lambda *_: sys.exit(0)", "signal.SIG_IGN"])
def test_stop_ends_a_node_and_its_children_in_time_even_if_they_ignore_it(tmp_path: Path, handler: str) -> None:
    backend = backend_for(tmp_path, FAMILY.format(handler=handler))
    handle = backend.start(spec_for(tmp_path))
    scratch = tmp_path / "nodes/driver/scratch"
    wait_for(lambda: (scratch / "child").exists() and (scratch / "child").read_text())
    child = int((scratch / "child").read_text())
    assert child in session_members(int(handle.name))
    begun = time.monotonic()
    backend.stop([handle])
    assert time.monotonic() - begun < 4
    assert not alive(int(handle.name))
    assert not alive(child)
    assert not scratch.exists()
    assert not backend.poll(handle).running
    backend.stop([handle])  # twice is fine


def test_children_of_a_node_that_died_are_found_and_ended(tmp_path: Path) -> None:
    backend = backend_for(tmp_path, FAMILY.format(handler="signal.SIG_DFL"))
    handle = backend.start(spec_for(tmp_path))
    scratch = tmp_path / "nodes/driver/scratch"
    wait_for(lambda: (scratch / "child").exists() and (scratch / "child").read_text())
    child = int((scratch / "child").read_text())
    os.kill(int(handle.name), signal.SIGKILL)
    wait_for(lambda: not backend.poll(handle).running)
    assert backend.poll(handle).exit_status == -9
    assert alive(child)
    backend.stop([handle])
    assert not alive(child)


def test_the_exit_status_of_a_node_is_reported(tmp_path: Path) -> None:
    backend = backend_for(tmp_path, "sys.exit(3)")
    handle = backend.start(spec_for(tmp_path))
    wait_for(lambda: not backend.poll(handle).running)
    assert backend.poll(handle).exit_status == 3
    backend.stop([handle])
    assert backend.poll(handle).exit_status == 3


def test_a_killed_nodes_private_folder_is_wiped(tmp_path: Path) -> None:
    backend = backend_for(tmp_path, "sys.exit(0)")
    private = Path("/dev/shm/confide-demo-1-driver")
    private.mkdir(mode=0o700)
    (private / "key").write_text("x")
    backend.stop([backend.start(spec_for(tmp_path))])
    assert not private.exists()


def test_a_node_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("in the way")
    with pytest.raises(UnavailableError):
        LocalBackend(tmp_path).start(spec_for(tmp_path))


def test_a_node_that_was_never_started_does_not_run(tmp_path: Path) -> None:
    handle = NodeHandle(RunId("demo-1"), NodeId("driver"), "1")
    assert not LocalBackend(tmp_path).poll(handle).running
    LocalBackend(tmp_path).stop([handle])
    assert alive(1)


def test_an_announcement_is_read_when_it_is_there(tmp_path: Path) -> None:
    backend = backend_for(tmp_path, "time.sleep(60)")
    spec = spec_for(tmp_path)
    handle = backend.start(spec)
    try:
        assert backend.announced(handle) is None
        assert spec.announce_path is not None
        Announcement(run_id=spec.run_id, node_id=spec.node_id, host="127.0.0.1", port=7).save(spec.announce_path)
        assert backend.announced(handle) == Address("127.0.0.1", 7)
        Announcement(run_id=spec.run_id, node_id=NodeId("worker-1"), host="127.0.0.1", port=7).save(spec.announce_path)
        with pytest.raises(ProtocolError):
            backend.announced(handle)
        spec.announce_path.write_text("{")
        with pytest.raises(ProtocolError):
            backend.announced(handle)
    finally:
        backend.stop([handle])


CLIENT = """
import sys, time
from pathlib import Path
from confide.jobs.local.backend import LocalBackend
from confide.node.spec import NodeSpec
handle = LocalBackend(Path(sys.argv[1]), entry=(sys.argv[2],)).start(NodeSpec.load(Path(sys.argv[3])))
print(handle.name, flush=True)
time.sleep(60)
"""


def test_a_killed_client_leaves_no_node(tmp_path: Path) -> None:
    script = tmp_path / "stub_node.py"
    body = "from confide.jobs.local.lifeline import end_with_parent\nend_with_parent(given.parent)\n"
    ready = tmp_path / "ready"
    script.write_text(NODE.format(body=body + f"open({str(ready)!r}, 'w').close()\ntime.sleep(60)"))
    spec_for(tmp_path).save(tmp_path / "spec.json")
    arguments = [sys.executable, "-c", CLIENT, str(tmp_path), str(script), str(tmp_path / "spec.json")]
    client = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert client.stdout is not None
    node = int(client.stdout.readline())
    wait_for(ready.exists)
    client.kill()
    client.wait()
    wait_for(lambda: not alive(node), 5)


def test_a_tampered_copy_differs_in_one_line_and_is_what_gets_measured(tmp_path: Path) -> None:
    packages = tampered_copy(tmp_path / "copy")
    code = "from confide.attest.measure import measure; import confide; print(confide.__file__); print(measure().digest)"

    def run(path: str) -> list[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path}
        answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return answer.stdout.splitlines()

    import confide

    place, digest = run(str(packages))
    assert place.startswith(str(packages))
    assert digest != run(str(Path(confide.__file__).parents[1]))[1]
