"""The program's end of the gateway: calls from the JVM are taken from who shows the token, and from nobody else."""

from __future__ import annotations

import gc
import shutil
import socket
import stat
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from py4j.clientserver import JavaParameters, PythonParameters

from confide.data.gateway import CALLBACK_SOCKET, _Reference, _UnixGateway

TOKEN = "5e" * 32
REFUSED, TAKEN, DONE = b"!xn\n", b"!yv\n", b"!yn\n"
"""What Py4J answers (``py4j.protocol``): an error, that a token was taken, that a call returned ``None``."""


class Batches:
    """What a program gives the JVM to call, as ``foreachBatch`` does."""

    class Java:
        implements = ("java.lang.Runnable",)

    def __init__(self) -> None:
        self.runs = 0

    def run(self) -> None:
        self.runs += 1


class Callbacks:
    """A gateway without a JVM, whose socket anybody here may connect to."""

    def __init__(self, folder: Path) -> None:
        self.path, self.batches = folder / CALLBACK_SOCKET, Batches()
        self.gateway = _UnixGateway(
            java_parameters=JavaParameters(address=str(folder / "gateway.sock"), port=0, auth_token=TOKEN, auto_convert=True),
            python_parameters=PythonParameters(port=0, eager_load=False),
        )
        self.gateway.listen(self.path, TOKEN)
        self.call = f"c\n{self.gateway.gateway_property.pool.put(self.batches)}\nrun\ne\n".encode()

    def answer_to(self, sent: bytes) -> bytes:
        """All that comes back on a connection of its own, until it is closed or both the token and a call were answered."""
        found = b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
            raw.settimeout(10)
            raw.connect(str(self.path))
            raw.sendall(sent)
            while found.count(b"\n") < 2:
                try:
                    part = raw.recv(4096)
                except ConnectionResetError:
                    break
                if not part:
                    break
                found += part
        return found


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    folder = Path(tempfile.mkdtemp(prefix="ct-"))  # a socket's path is short
    made = Callbacks(folder)
    yield made
    made.gateway._callback_server.shutdown()
    shutil.rmtree(folder)


def shown(token: str) -> bytes:
    return f"A\n{token}\ne\n".encode()


def test_who_shows_the_token_may_call(callbacks: Callbacks) -> None:
    assert callbacks.answer_to(shown(TOKEN) + callbacks.call) == TAKEN + DONE
    assert callbacks.batches.runs == 1


def test_a_connection_without_the_token_calls_nothing(callbacks: Callbacks) -> None:
    assert callbacks.answer_to(callbacks.call) == b""
    assert callbacks.batches.runs == 0


@pytest.mark.parametrize("token", ["", TOKEN[:-1], TOKEN + "0", "00" * 32])
def test_a_connection_with_another_token_calls_nothing(callbacks: Callbacks, token: str) -> None:
    assert callbacks.answer_to(shown(token) + callbacks.call) in {b"", REFUSED}
    assert callbacks.batches.runs == 0


def test_nobody_else_can_connect(callbacks: Callbacks) -> None:
    assert stat.S_IMODE(callbacks.path.stat().st_mode) == 0o600


def test_a_reference_whose_methods_were_used_dies_with_its_last_name(callbacks: Callbacks) -> None:
    """Py4J's own waits for Python to look for cycles."""
    frame = _Reference("o1", callbacks.gateway._gateway_client)
    assert frame.collect.name == "collect"
    assert frame.collect.container is frame
    seen = weakref.ref(frame)
    gc.disable()
    try:
        del frame
        assert seen() is None
    finally:
        gc.enable()
