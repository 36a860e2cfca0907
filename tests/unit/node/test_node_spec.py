from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from confide.errors import ConfigError
from confide.ids import Role
from confide.node.agent import DriverAgent, WorkerAgent
from confide.node.spec import Announcement, NodeSpec, Simulation


def test_spec_survives_its_file(specs: Any, world: Any, tmp_path: Path) -> None:
    spec = specs.make(world.job, Role.WORKER, "worker-1", port=7000, simulation=Simulation(dir=tmp_path, fault="debug"))
    spec.save(tmp_path / "sub" / "spec.json")
    assert NodeSpec.load(tmp_path / "sub" / "spec.json") == spec
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["spec.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "confide-node-v0"},
        {"extra": 1},
        {"job_digest": "abc"},
        {"run_id": "../x"},
        {"node_id": "a/b"},
        {"role": "boss"},
        {"driver_port": None},
        {"driver_port": 70000},
        {"timing": {"nonce_ttl_s": 86400}},
    ],
)
def test_spec_of_another_form_is_refused(change: Any, specs: Any, world: Any) -> None:
    data = specs.make(world.job, Role.WORKER, "worker-1", port=7000).to_json()
    with pytest.raises(ConfigError):
        NodeSpec.from_json({**data, **change})


def test_driver_needs_a_place_to_announce_itself(specs: Any, world: Any) -> None:
    data = specs.make(world.job, Role.DRIVER, "driver").to_json()
    with pytest.raises(ConfigError, match="announce_path"):
        NodeSpec.from_json({**data, "announce_path": None})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":"confide-announce-v1"}', '{"format":"confide-announce-v1","run_id":"r"}'])
def test_file_that_is_no_announcement_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError):
        Announcement.load(tmp_path / "a.json")
    with pytest.raises(ConfigError):
        Announcement.load(tmp_path / "missing.json")
    with pytest.raises(ConfigError):
        NodeSpec.load(tmp_path / "a.json")


def test_agents_refuse_the_other_roles_spec(specs: Any, world: Any) -> None:
    driver, worker = specs.make(world.job, Role.DRIVER, "driver"), specs.make(world.job, Role.WORKER, "worker-1", port=7000)
    with pytest.raises(ConfigError):
        DriverAgent(worker, None, attester=world.attester(), verifier=world.verifier)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        WorkerAgent(driver, None, attester=world.attester(), verifier=world.verifier)  # type: ignore[arg-type]
