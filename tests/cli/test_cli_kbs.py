"""``confide kbs`` against a broker process, as an owner and a (simulated) guest use it."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from confide.cli.broker import spawn
from confide.cli.owners import BrokerAddress
from confide.config import Settings
from confide.jobs.local.simulation import SimulatedTee

SECRET = b"thirty-two bytes of a dataset key"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kbs-home")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[BrokerAddress]:
    with spawn(home, home / "master.key") as found:
        yield found


@pytest.fixture
def owner(confide: Any, home: Path, address: BrokerAddress, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    monkeypatch.setenv("CONFIDE_HOME", str(home))
    name = re.sub(r"[^a-z0-9]", "-", request.node.name)[-40:].strip("-")
    ticket = home / f"{name}.json"
    assert confide("broker", "enrol", name, "--key-file", home / "master.key", "--out", ticket).status == 0
    assert confide("keys", "init", name, "--enrolment", ticket).status == 0
    return name


@pytest.fixture
def policy_file(home: Path, tmp_path: Path) -> Path:
    values = SimulatedTee.at(Settings.load(environ={}, home=home).simulation_dir).reference_values()
    path = tmp_path / "policy.toml"
    path.write_text(f'name = "guests"\nallow = ["simulated"]\n[measurements]\ntdx = ["{values["tdx"][0]}"]\n', encoding="utf-8")
    return path


@pytest.mark.slow
def test_owner_keeps_a_resource_and_a_simulated_guest_takes_it(
    confide: Any, owner: str, address: BrokerAddress, policy_file: Path, tmp_path: Path
) -> None:
    content, out = tmp_path / "content", tmp_path / "out"
    content.write_bytes(SECRET)
    name = f"{owner}/key/flights"
    uri = f"kbs://{address.url.removeprefix('https://')}/{name}"
    take = ("kbs", "get", uri, "--spki", address.spki, "--simulate", "--out")
    assert confide("kbs", "put", name, content, "--as", owner, "--json").json == {"resource": name, "version": 1}
    assert confide(*take, out).status == 4  # no rule yet
    assert not out.exists()
    assert "simulated guests" in confide("kbs", "policy", "set", "guests", policy_file, "--as", owner).err
    assert confide("kbs", "policy", "allow", f"{owner}/key/*", "guests", "--as", owner).status == 0
    assert confide("kbs", "policy", "allow", f"{owner}/key/*", "guests", "--as", owner).status == 0  # the same rule is one rule
    listed = confide("kbs", "policy", "ls", "--as", owner, "--json").json
    assert listed == {"rules": [{"resource": f"{owner}/key/*", "policy": "guests", "init_data": []}], "policies": ["guests"]}
    said = confide(*take, out, "--json")
    assert (said.status, said.json) == (0, {"resource": name, "file": str(out), "bytes": len(SECRET)})
    assert out.read_bytes() == SECRET
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    too_large = confide("kbs", "put", name, "/dev/zero", "--as", owner)  # which has no end
    assert (too_large.status, "at most 1048576 bytes" in too_large.err) == (2, True)
    assert confide(*take, tmp_path / "again").status == 0
    assert (tmp_path / "again").read_bytes() == SECRET
    assert SECRET.decode() not in said.err
    assert confide(*take, out).status == 2  # never overwritten
    assert confide("kbs", "policy", "deny", f"{owner}/key/*", "--as", owner).status == 0
    assert confide("kbs", "policy", "deny", f"{owner}/key/*", "--as", owner).status == 2
    assert confide(*take, tmp_path / "other").status == 4
    assert confide("kbs", "rm", name, "--as", owner).status == 0
    assert confide("kbs", "rm", name, "--as", owner).status == 4
    assert "no guest gets anything" in confide("kbs", "policy", "ls", "--as", owner).err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("kbs://127.0.0.1:1/a/b/c", "--out", "x"), 2),
        (("kbs://127.0.0.1:1/a/b/c", "--out", "x", "--spki", "00" * 32, "--ca", __file__), 2),
        (("kbs:///a/b/c", "--out", "x", "--spki", "00" * 32), 2),
        (("kbs://127.0.0.1:1/a/b/c", "--out", "x", "--spki", "00" * 32), 6),
        (("https://127.0.0.1/a/b/c", "--out", "x", "--spki", "00" * 32), 5),
    ],
)
def test_server_that_nobody_has_checked_or_an_address_that_is_none_is_refused(
    confide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int
) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert confide("kbs", "get", *words, "--simulate").status == status
    assert not (tmp_path / "x").exists()
