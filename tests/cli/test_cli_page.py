"""``confide keys page`` as its user runs it: a process, an address, Ctrl-C."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from confide.cli.owners import BrokerAddress
from confide.errors import ChannelError
from confide.keys.page.loopback import Loopback


@pytest.fixture
def owner(confide: Any, home: Path, address: BrokerAddress, tmp_path: Path) -> tuple[str, Path]:
    """An enrolled owner's name and home."""
    name = f"owner{os.urandom(3).hex()}"
    enrolment = tmp_path / "enrolment.json"
    made = confide("--home", home, "broker", "enrol", name, "--key-file", home / "master.key", "--out", enrolment, "--url", address.url)
    assert made.status == 0, made.err
    mine = tmp_path / "home"
    made = confide("--home", mine, "keys", "init", name, "--enrolment", enrolment)
    assert made.status == 0, made.err
    return name, mine


def start(home: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "confide.cli.main", "--home", str(home), "keys", "page", *options]
    environment = {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def get(host: str, path: str, **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.getheader("set-cookie") or ""


def files_of(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*")}


def test_code_is_in_no_command_line_and_nothing_is_written(owner: tuple[str, Path]) -> None:
    name, home = owner
    before = files_of(home)
    process = start(home)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        found = re.fullmatch(r"http://(127\.0\.0\.1:\d+)(/start\?code=([\w-]{32}))", address)
        assert found, address
        host, path, code = found.groups()
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert code.encode() not in line.read_bytes()
            except OSError:
                continue  # it has ended meanwhile
        status, text, cookie = get(host, path)
        assert status == 200
        folder = re.search(r'href="(/[\w-]+/)overview"', text)
        assert folder
        status, text, _ = get(host, folder[1] + "overview", Cookie=cookie.partition(";")[0])
        assert status == 200
        assert f"seen by <b>{name}</b>" in text
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err.splitlines()[-1] == "ended"
    assert code not in out + err
    assert files_of(home) == before


def test_address_is_json_if_asked_for(owner: tuple[str, Path]) -> None:
    name, home = owner
    process = start(home, "--json", "--no-browser")
    try:
        assert process.stdout is not None
        text = "".join(iter(process.stdout.readline, "}\n"))
        assert json.loads(text + "}")["as"] == name
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_port_that_is_taken_is_said() -> None:
    taken = Loopback()
    with pytest.raises(ChannelError, match="cannot listen"):
        Loopback(int(taken.host.partition(":")[2]))
    taken.close()


def test_page_without_a_credential_is_refused(confide: Any, tmp_path: Path) -> None:
    said = confide("--home", tmp_path, "keys", "page", "--no-browser")
    assert said.status != 0
    assert "there is no credential" in said.err
