"""The control of the leak test: the watcher does see what it must see."""

from __future__ import annotations

import base64
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


def send_over_loopback(data: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            client.sendall(data[: len(data) // 2])
            time.sleep(0.05)
            client.sendall(data[len(data) // 2 :])
            client.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass


@pytest.mark.parametrize("form", [bytes, lambda s: s.hex().encode(), base64.b64encode, lambda s: base64.urlsafe_b64encode(b"x" + s + b"y")])
def test_canary_in_a_file_is_found(leak_watch: Any, tmp_path: Path, form: Any) -> None:
    canary = secrets.token_bytes(32)
    with leak_watch({"key": canary}, [tmp_path]) as watch:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "spill").write_bytes(b"....." + form(canary) + b".....")
    assert {name for name, _ in watch.findings} == {"key"}


def test_canary_split_over_two_packets_on_loopback_is_found(leak_watch: Any, tmp_path: Path) -> None:
    canary = secrets.token_hex(16).encode()
    with leak_watch({"row": canary}, [tmp_path]) as watch:
        send_over_loopback(b"head" + canary + b"tail")
        time.sleep(0.5)
    assert any(place.startswith("loopback") for _, place in watch.findings)


def test_canary_in_a_command_line_or_environment_is_found(leak_watch: Any, tmp_path: Path) -> None:
    canaries = {"arg": secrets.token_hex(16).encode(), "env": secrets.token_hex(16).encode()}
    code = [sys.executable, "-c", "import time; time.sleep(1.5)", canaries["arg"].decode()]
    with leak_watch(canaries, [tmp_path]) as watch:
        subprocess.run(code, env={"X": canaries["env"].decode()}, check=True)
    assert {name for name, _ in watch.findings} == {"arg", "env"}


def test_nothing_is_found_where_nothing_is(leak_watch: Any, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(secrets.token_bytes(100_000))
    with leak_watch({"key": secrets.token_bytes(32)}, [tmp_path]) as watch:
        send_over_loopback(secrets.token_bytes(4096))
        time.sleep(0.3)
    assert watch.findings == set()
    assert watch.bytes_captured > 4096
    assert watch.files_scanned == 1
