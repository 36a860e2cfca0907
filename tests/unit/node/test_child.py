from __future__ import annotations

import base64
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from confide.crypto.secret import SecretBytes
from confide.errors import UnavailableError
from confide.node.child import Child, Children, ChildSpec, Redactor, scrubbed_environment, session_members

Start = Callable[..., Child]


@pytest.fixture
def children() -> Iterator[Children]:
    found = Children()
    yield found
    found.stop(grace_s=1)


@pytest.fixture
def start(children: Children, tmp_path: Path) -> Start:
    def begin(code: str, **options: Any) -> Child:
        argv = [sys.executable, "-c", textwrap.dedent(code)]
        return children.start(ChildSpec("engine", argv, tmp_path / "logs" / "engine.log", tmp_path, **options))

    return begin


def log(tmp_path: Path) -> str:
    return (tmp_path / "logs" / "engine.log").read_text()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_child_gets_only_the_environment_it_was_given(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    child = start("import os; print(sorted(os.environ))", environment={"ENGINE": "x"})
    assert child.wait(10) == 0
    assert "SECRET_TOKEN" not in log(tmp_path)
    assert "'ENGINE'" in log(tmp_path)


def test_scrubbed_environment_is_an_allow_list() -> None:
    assert scrubbed_environment({"A": "1"}, environ={"PATH": "/bin", "HOME": "/root", "LD_PRELOAD": "x"}) == {"PATH": "/bin", "A": "1"}


def test_log_is_private_and_ends_complete(start: Start, tmp_path: Path) -> None:
    child = start("print('x' * 100000); print('end')")
    assert child.wait(10) == 0
    assert log(tmp_path).endswith("end\n")
    assert (tmp_path / "logs" / "engine.log").stat().st_mode & 0o777 == 0o600


def test_secrets_do_not_reach_the_log(children: Children, start: Start, tmp_path: Path) -> None:
    raw = b"an auth secret of the engine"
    children.redactor.hide(SecretBytes(raw))
    heard: list[str] = []
    spellings = [raw.decode(), raw.hex(), base64.b64encode(raw).decode(), "-----BEGIN EC PRIVATE KEY-----"]
    child = start(f"for s in {spellings!r}: print('got', s)", on_line=heard.append)
    assert child.wait(10) == 0
    assert not any(text.rstrip("=") in log(tmp_path) + "".join(heard) for text in spellings)
    assert len(heard) == 4


def test_redactor_keeps_other_lines() -> None:
    assert Redactor().line(b"task 1 finished\n") == b"task 1 finished\n"


def test_listener_that_fails_does_not_stop_the_log(start: Start, tmp_path: Path) -> None:
    def fail(_: str) -> None:
        raise ValueError

    assert start("print('a'); print('b')", on_line=fail).wait(10) == 0
    assert log(tmp_path) == "a\nb\n"


def test_child_dumps_no_core_and_makes_private_files(start: Start, tmp_path: Path) -> None:
    child = start("import resource,os; print(max(resource.getrlimit(resource.RLIMIT_CORE)), oct(os.umask(0)))")
    assert child.wait(10) == 0
    assert log(tmp_path) in ("1 0o77\n", "0 0o77\n")  # 0 where it was so: see test_core_dumps


def test_inherited_descriptor_is_there(start: Start, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"by descriptor")
    os.close(writing)
    child = start(f"import os; print(len(os.read({reading}, 100)))", pass_fds=(reading,))
    os.close(reading)
    assert child.wait(10) == 0
    assert log(tmp_path) == "13\n"


def test_held_stdin_closes_when_the_child_is_stopped(start: Start, tmp_path: Path) -> None:
    child = start("import sys; print('ready', flush=True); sys.stdin.read(); print('closed', flush=True); sys.exit(3)", hold_stdin=True)
    wait_for(lambda: (tmp_path / "logs/engine.log").exists() and "ready" in log(tmp_path))
    assert child.poll() is None
    child.stop(grace_s=2)
    assert child.poll() in {3, -15}


def test_stopping_takes_the_whole_group_even_if_it_resists(children: Children, start: Start, tmp_path: Path) -> None:
    child = start(
        """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
        other = subprocess.Popen([sys.executable, "-c", code])
        print(other.pid, flush=True)
        time.sleep(60)
        """
    )
    wait_for(lambda: (tmp_path / "logs/engine.log").exists() and "up" in log(tmp_path))
    grandchild = int(log(tmp_path).split()[0] if log(tmp_path).split()[0] != "up" else log(tmp_path).split()[1])
    begun = time.monotonic()
    children.stop(grace_s=0.3)
    assert time.monotonic() - begun < 3
    assert child.poll() == -9
    wait_for(lambda: not alive(grandchild))


def test_nothing_starts_after_the_end(children: Children, start: Start) -> None:
    children.stop()
    with pytest.raises(UnavailableError, match="ending"):
        start("pass")


def test_program_that_does_not_exist_ends_with_its_status(children: Children, tmp_path: Path) -> None:
    child = children.start(ChildSpec("engine", ["/no/such/program"], tmp_path / "log", tmp_path))
    assert child.wait(10) == 1
    with pytest.raises(UnavailableError):
        children.start(ChildSpec("engine", ["true"], tmp_path / "log", tmp_path / "no-such-folder"))


def test_child_survives_the_thread_that_asked_for_it(start: Start) -> None:
    found: list[Child] = []
    thread = threading.Thread(target=lambda: found.append(start("import time; time.sleep(60)")))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert found[0].poll() is None


AGENT = """
import sys, time
from pathlib import Path
from confide.node.child import Children, ChildSpec
folder = Path(sys.argv[1])
child = Children().start(ChildSpec("e", [sys.executable, "-c", "import time; time.sleep(60)"], folder / "log", folder))
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", AGENT, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_child_dies_with_its_agent(agent: subprocess.Popen[str]) -> None:
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    time.sleep(0.2)
    assert alive(pid)
    agent.kill()
    wait_for(lambda: not alive(pid))


def test_everything_that_an_agent_starts_is_in_its_session(agent: subprocess.Popen[str]) -> None:
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    assert {agent.pid, pid} <= set(session_members(agent.pid))
