from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import require_root

from confide.canonical import Json
from confide.errors import ChannelError, CredentialError, GrantError, ProtocolError, UnavailableError
from confide.node import local_socket
from confide.node.local_socket import MAX_LINE, LocalSocketClient, LocalSocketServer, descends_from


def refuse(request: Json) -> Json:
    raise GrantError("no grant", hint="ask", key=str(request["key"]))


def explode(request: Json) -> Json:
    raise ValueError("key bytes: 0123")


OPS = {"echo": lambda request: {"said": request["text"]}, "refuse": refuse, "explode": explode}


@pytest.fixture
def server(short_folder: Path) -> Iterator[LocalSocketServer]:
    found = LocalSocketServer(short_folder / "agent.sock", OPS)
    found.start()
    yield found
    found.close()


@pytest.fixture
def client(server: LocalSocketServer) -> Iterator[LocalSocketClient]:
    found = LocalSocketClient(server.path, timeout_s=5)
    yield found
    found.close()


def test_socket_is_open_to_this_user_only(server: LocalSocketServer) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


def test_operation_answers(client: LocalSocketClient) -> None:
    assert client.call("echo", text="ä") == {"said": "ä"}
    assert client.call("echo", text=["more", 1]) == {"said": ["more", 1]}


@pytest.mark.timeout(60)
def test_a_call_within_a_call_has_a_connection_of_its_own(client: LocalSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector ends a save that was left, which asks the agent, wherever it runs: while an answer is read, too."""
    parse, within = local_socket.parse_object, []

    def collected(line: bytes) -> Json:
        if not within and threading.current_thread() is threading.main_thread():  # not the server's
            within.append(None)
            within.append(client.call("echo", text="within"))
        return parse(line)

    monkeypatch.setattr(local_socket, "parse_object", collected)
    assert client.call("echo", text="around") == {"said": "around"}
    assert within == [None, {"said": "within"}]
    assert client.call("echo", text="after") == {"said": "after"}


def test_refusal_arrives_as_the_same_error(client: LocalSocketClient) -> None:
    with pytest.raises(GrantError) as refused:
        client.call("refuse", key="a/b")
    assert (refused.value.message, refused.value.hint, refused.value.facts) == ("no grant", "ask", {"key": "a/b"})
    assert client.call("echo", text="still here") == {"said": "still here"}


def test_fault_inside_tells_a_child_nothing(client: LocalSocketClient) -> None:
    with pytest.raises(UnavailableError) as failed:
        client.call("explode")
    assert "0123" not in str(failed.value.to_json())


def test_unknown_operation_is_refused(client: LocalSocketClient) -> None:
    with pytest.raises(ProtocolError, match="no such operation"):
        client.call("shutdown")


@pytest.mark.parametrize("line", [b"[]\n", b"nonsense\n", b'{"op":"echo","op":"echo"}\n', b'{"op":["echo"]}\n', b"\xff\n"])
def test_request_that_is_no_object_is_refused(line: bytes, server: LocalSocketServer) -> None:
    assert json.loads(raw(server, line))["ok"] is False


def raw(server: LocalSocketServer, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(str(server.path))
        try:
            peer.sendall(line)
        except BrokenPipeError:
            return b""
        return peer.makefile("rb").readline()


def test_endless_line_is_cut_off(server: LocalSocketServer) -> None:
    answer = raw(server, b"x" * (MAX_LINE + 10))
    assert json.loads(answer)["error"]["code"] == "protocol-violation"


def test_process_outside_the_node_is_refused(short_folder: Path) -> None:
    """The agent is another process here: this one does not descend from it."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    server = LocalSocketServer(short_folder / "agent.sock", OPS, ancestor=sleeper.pid)
    server.start()
    try:
        with pytest.raises(CredentialError):
            LocalSocketClient(server.path, timeout_s=5).call("echo", text="x")
    finally:
        server.close()
        sleeper.kill()
        sleeper.wait()


def test_refusal_is_heard_though_the_server_has_closed(short_folder: Path) -> None:
    """The answer of a server that refuses whoever connects may be there, and the connection closed, before anything was asked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_folder / "agent.sock"))
        listener.listen()
        client = LocalSocketClient(short_folder / "agent.sock", timeout_s=5)
        client._socket = socket.socket(socket.AF_UNIX)
        client._socket.connect(listener.getsockname())
        client._reader = client._socket.makefile("rb")
        peer, _ = listener.accept()
        peer.sendall(json.dumps({"ok": False, "error": CredentialError("not of this node").to_json()}).encode() + b"\n")
        peer.close()
        with pytest.raises(CredentialError, match="not of this node"):
            client.call("echo", text="x")


def test_another_user_is_refused_even_in_a_child_that_may_open_the_socket(server: LocalSocketServer) -> None:
    """A descendant of the agent, so that only the user's id is in its way, at a socket that everybody may open."""
    require_root("starting a process of another user")
    server.path.parent.chmod(0o711)
    server.path.chmod(0o666)
    ask = "import socket,sys;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);print(s.makefile().readline())"
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    assert python is not None
    said = subprocess.run([python, "-c", ask, str(server.path)], user=65534, capture_output=True, text=True, check=True, timeout=20).stdout
    assert json.loads(said)["error"]["message"] == "the peer runs as another user"


def test_grandchild_is_served(server: LocalSocketServer) -> None:
    child = (
        "import socket,sys;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);"
        's.sendall(b\'{"op":"echo","text":"hi"}\\n\');print(s.makefile().readline())'
    )
    parent = "import subprocess,sys;subprocess.run([sys.executable,'-c',sys.argv[2],sys.argv[1]],check=True)"
    done = subprocess.run([sys.executable, "-c", parent, str(server.path), child], capture_output=True, text=True, check=True, timeout=20)
    assert json.loads(done.stdout) == {"ok": True, "said": "hi"}


def test_descent_ends_at_init() -> None:
    assert descends_from(os.getpid(), os.getpid())
    assert descends_from(os.getpid(), os.getppid())
    assert not descends_from(1, os.getpid())
    assert not descends_from(2**22 + 1, os.getpid())


def test_descent_reads_names_with_parentheses(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a) S 5 (b)) S 3 7 7 0\n")
    assert descends_from(7, 3, proc=tmp_path)


def test_agent_that_is_gone_is_an_error(server: LocalSocketServer, client: LocalSocketClient) -> None:
    missing = LocalSocketClient(server.path.with_name("nobody.sock"))
    with pytest.raises(ChannelError):
        missing.call("echo", text="x")


def test_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="too long"):
        LocalSocketServer(tmp_path / ("x" * 120), OPS)
    with pytest.raises(UnavailableError, match="cannot be opened"):
        LocalSocketServer(Path("/nowhere/agent.sock"), OPS)
