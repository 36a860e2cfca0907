"""The broker's systemd units, by systemd's own analyser; the system calls that a broker makes against the filter; a real activation."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.broker_process import manager

from confide.crypto.http import request
from confide.crypto.tls import AnyKeyUntilAttested, Identity, connect
from confide.errors import ChannelError

EXPOSURE = 15
"""At most 1.5 of 10 by `systemd-analyze security`."""


def _analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def units(deploy: Path, tmp_path: Path) -> Path:
    """The units with this installation's program in the place of the one that is installed."""
    for name in ("confide-broker.service", "confide-broker.socket"):
        text = (deploy / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/confide/bin/confide", str(Path(sys.executable).with_name("confide"))))
    return tmp_path


@pytest.fixture
def service(deploy: Path) -> str:
    return (deploy / "systemd" / "confide-broker.service").read_text()


def test_systemd_finds_no_fault_in_the_units(units: Path) -> None:
    done = _analyze("verify", "--man=no", units / "confide-broker.service", units / "confide-broker.socket")
    assert (done.returncode, done.stderr) == (0, "")


def test_mistake_in_a_unit_would_be_found(units: Path) -> None:
    file = units / "confide-broker.service"
    file.write_text(file.read_text().replace("ProtectSystem=strict", "ProtectSystems=strict"))
    assert "ProtectSystems" in _analyze("verify", file).stderr


def test_service_is_exposed_to_little(units: Path) -> None:
    done = _analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", units / "confide-broker.service")
    assert done.returncode == 0, done.stdout[-2000:]


def test_each_protection_counts(units: Path) -> None:
    done = _analyze("security", "--offline=true", "--json=short", "--no-pager", units / "confide-broker.service")
    open_ones = {one["name"] for one in json.loads(done.stdout) if one["set"] is False}
    assert open_ones <= {
        "RootDirectory=/RootImage=",
        "MemoryDenyWriteExecute=",  # pyOpenSSL makes its callbacks at run time
        "RestrictAddressFamilies=~AF_UNIX",  # shares, PostgreSQL and the service manager are on such sockets
        "RestrictAddressFamilies=~AF_(INET|INET6)",
        "PrivateNetwork=",
        "DeviceAllow=",  # ProtectClock= alone adds it
        "IPAddressDeny=",  # whose addresses these are, only the operator knows
    }


def test_no_secret_is_on_the_command_line_or_in_the_environment(service: str) -> None:
    assert "LimitCORE=0" in service
    assert re.search(r"^LoadCredential=master\.key:", service, flags=re.MULTILINE)
    lines = [line for line in service.splitlines() if not line.startswith("#")]
    environment = [line for line in lines if line.startswith("Environment")]
    assert environment == ["Environment=HOME=/var/lib/confide PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1"]
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert "${CREDENTIALS_DIRECTORY}/master.key" in start


def test_end_is_waited_for_longer_than_requests_in_hand(service: str) -> None:
    from confide.config import Settings

    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", service, flags=re.MULTILINE)
    assert int(seconds) > Settings().drain_s + 10


@functools.cache
def _calls_of(group: str) -> frozenset[str]:
    """A group of system calls, with those in it."""
    done = _analyze("syscall-filter", group)
    names = [line.strip() for line in done.stdout.splitlines()[1:] if line.startswith("    ") and "#" not in line]
    return frozenset().union(*(_calls_of(name) if name.startswith("@") else {name} for name in names))


def _allowed(service: str) -> frozenset[str]:
    allowed: frozenset[str] = frozenset()
    for line in re.findall(r"^SystemCallFilter=(.*)$", service, flags=re.MULTILINE):
        found = frozenset().union(*(_calls_of(name) for name in line.removeprefix("~").split()))
        allowed = allowed - found if line.startswith("~") else allowed | found
    return allowed | _calls_of("@default")


@pytest.mark.slow
def test_broker_makes_no_system_call_that_the_unit_forbids(tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = _allowed(service)
    assert "read" in allowed
    assert not {"mount", "ptrace", "setuid", "reboot"} & allowed
    trace = tmp_path / "trace"
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec strace -D -f -qq -o {trace} {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    words = ("--simulate", "--key-file", str(tmp_path / "master.key"))
    with manager(tmp_path, *words, watchdog_s=2.0) as brokers, monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(wrapper))
        process, notices = brokers.serve(seconds=100)
        port = brokers.sock.getsockname()[1]
        channel = connect("127.0.0.1", port, Identity.generate("x"), trust=AnyKeyUntilAttested())
        for path in ("/healthz", "/metrics", "/confide/v0/keys"):
            channel.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert channel.recv(65536).startswith(b"HTTP/1.1 ")
        notices.wait_for("WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        notices.wait_for("READY=1", 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        time.sleep(1)  # the tracer writes its last lines
    made = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", trace.read_text(), flags=re.MULTILINE))
    assert {"accept4", "fsync", "sendto"} <= made or {"accept4", "fdatasync", "sendto"} <= made
    made -= {"fchown"} if os.geteuid() == 0 else set()  # SQLite's, for root alone, which the service is not
    assert made <= allowed, sorted(made - allowed)


@pytest.mark.slow
def test_real_activation_hands_the_waiting_connection_to_the_broker(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "confide.cli.main", "--home", str(tmp_path)]
    broker = [*program, "broker", "serve", "--key-file", str(tmp_path / "master.key")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["systemd-socket-activate", "-l", f"127.0.0.1:{port}", *broker], stdout=log, stderr=log)
    try:
        channel: Any = None
        end = time.monotonic() + 20
        while channel is None:
            try:
                channel = connect("127.0.0.1", port, Identity.generate("x"), trust=AnyKeyUntilAttested(), timeout=60)
            except ChannelError:  # it does not listen yet
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.1)
        assert request(channel, "GET", "/livez").status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
