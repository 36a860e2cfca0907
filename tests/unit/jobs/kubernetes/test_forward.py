"""A port of this machine that leads to a pod."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from support.kubernetes_api import InMemoryApi

from confide.jobs.kubernetes.forward import HOST, Forward

PORT = 7443


@pytest.fixture
def pod() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


@pytest.fixture
def api(pod: socket.socket) -> InMemoryApi:
    made = InMemoryApi()
    made.ports[PORT] = pod.getsockname()[:2]
    return made


def echo(pod: socket.socket) -> None:
    there, _ = pod.accept()
    with there:
        while data := there.recv(65536):
            there.sendall(data)


def test_bytes_pass_both_ways(api: InMemoryApi, pod: socket.socket) -> None:
    threading.Thread(target=echo, args=(pod,), daemon=True).start()
    forward = Forward(api, "driver", PORT)
    sent = bytes(range(256)) * 4096
    with socket.create_connection((HOST, forward.port), timeout=5) as here:
        threading.Thread(target=here.sendall, args=(sent,), daemon=True).start()
        got = b""
        while len(got) < len(sent):
            got += here.recv(65536)
    assert got == sent
    forward.close()


def test_end_of_the_pods_side_ends_this_one(api: InMemoryApi, pod: socket.socket) -> None:
    forward = Forward(api, "driver", PORT)
    with socket.create_connection((HOST, forward.port), timeout=5) as here:
        there, _ = pod.accept()
        there.close()
        assert here.recv(1) == b""
    forward.close()


def test_end_of_this_side_ends_the_pods(api: InMemoryApi, pod: socket.socket) -> None:
    forward = Forward(api, "driver", PORT)
    socket.create_connection((HOST, forward.port), timeout=5).close()
    there, _ = pod.accept()
    there.settimeout(5)
    assert there.recv(1) == b""
    forward.close()


def test_pod_that_nobody_listens_in_ends_the_connection(api: InMemoryApi) -> None:
    forward = Forward(api, "driver", 1)
    with socket.create_connection((HOST, forward.port), timeout=5) as here:
        assert here.recv(1) == b""
    forward.close()


def test_port_is_closed_at_the_end(api: InMemoryApi) -> None:
    forward = Forward(api, "driver", PORT)
    forward.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, forward.port), timeout=5)
