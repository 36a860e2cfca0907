"""The client's part of a run with real nodes but no engine: whom it gives the job to, and how it ends when it must."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from support.manifests import listed

from confide.config import Settings
from confide.crypto.sign import SigningKey
from confide.errors import AttestationError, BrokerError, ManifestError, NodeLostError, OutputExistsError, UnavailableError, UsageError
from confide.ids import DatasetId, RunId
from confide.job import Job
from confide.jobs.drive import Report, drive
from confide.jobs.local.backend import TAMPERED
from confide.jobs.local.simulation import FALLS_BEHIND, FAULTS, SimulatedTee
from confide.jobs.result import RunEvent
from confide.jobs.store import RunStore
from confide.jobs.submit import pin_datasets, submit
from confide.node.child import session_members
from confide.node.remains import Remains

DATASET = DatasetId("12" * 16)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), node_start_timeout_s=60.0)


@pytest.fixture(scope="module")
def measured(settings: Settings) -> dict[str, list[str]]:
    return SimulatedTee.at(settings.simulation_dir).reference_values()


def job(measured: dict[str, list[str]], **changes: Any) -> Job:
    policy = {"name": "p", "measurements": measured, "allow": ["simulated"]}
    return Job.build({
        "name": "submitted", "program": "main.py", "files": {"main.py": b"pass"}, "policy": policy,
        "broker": {"url": "https://127.0.0.1:1", "spki": "ab" * 32}, "resources": {"workers": 1}, **changes,
    })  # fmt: skip


class Listener:
    """Keeps events and the nodes' process ids."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def __call__(self, event: RunEvent) -> None:
        self.events.append(event)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def left_running(self) -> list[int]:
        nodes = [int(event.fields["process"]) for event in self.events if event.type == "node-started"]
        return [pid for node in nodes for pid in session_members(node)]


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    assert made.left_running == []
    assert list(Path("/dev/shm").glob("confide-submitted-*")) == []


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != FALLS_BEHIND])
def test_a_driver_with_a_fault_is_refused_and_never_gets_the_job(
    settings: Settings, measured: dict[str, list[str]], listener: Listener, fault: str
) -> None:
    with pytest.raises(AttestationError) as caught:
        submit(job(measured), simulate=True, settings=settings, on_event=listener, faults={"driver": fault})
    assert caught.value.exit_status == 3
    assert "job-accepted" not in listener.types
    assert "driver-attested" not in listener.types
    assert listener.events[-1].fields["error"]["code"] == caught.value.code
    if fault == TAMPERED:
        assert caught.value.facts["check"] == "measurement"


def test_a_broker_that_is_down_ends_the_run(settings: Settings, measured: dict[str, list[str]], listener: Listener, tmp_path: Path) -> None:
    outputs = {"result": {"path": str(tmp_path / "out" / "result")}}
    with pytest.raises(BrokerError) as caught:
        submit(job(measured, outputs=outputs), simulate=True, settings=settings, on_event=listener)
    assert caught.value.exit_status == 6
    assert not (tmp_path / "out").exists()


def test_a_driver_that_does_not_start_is_reported_in_time(tmp_path: Path, measured: dict[str, list[str]], listener: Listener) -> None:
    impatient = Settings(home=tmp_path, node_start_timeout_s=0.05)
    begun = time.monotonic()
    with pytest.raises(NodeLostError):
        submit(job(measured), simulate=True, settings=impatient, on_event=listener)
    assert time.monotonic() - begun < 5
    assert RunStore(impatient.runs_dir).list()[0].status == "failed"


def test_an_unknown_fault_starts_nothing(settings: Settings, measured: dict[str, list[str]], listener: Listener) -> None:
    with pytest.raises(UsageError):
        submit(job(measured), simulate=True, settings=settings, on_event=listener, faults={"driver": "nonsense"})
    assert listener.events == []


def test_a_listener_that_raises_does_not_keep_nodes_running(settings: Settings, measured: dict[str, list[str]], listener: Listener) -> None:
    def broken(event: RunEvent) -> None:
        listener(event)
        if event.type == "node-started":
            raise RuntimeError("display gone")

    with pytest.raises(RuntimeError):
        submit(job(measured), simulate=True, settings=settings, on_event=broken)


FULL = "/dev/full"
"""Takes no byte: every write to it fails with ENOSPC (full(4))."""


@pytest.mark.parametrize("at", ["run-created", "node-started"])
def test_a_full_disk_under_the_runs_folder_ends_the_run_in_words(
    settings: Settings, measured: dict[str, list[str]], listener: Listener, at: str
) -> None:
    def fill(event: RunEvent) -> None:
        listener(event)
        if event.type == at:
            events = settings.runs_dir / str(listener.events[0].fields["run"]) / "events.jsonl"
            events.unlink()
            events.symlink_to(FULL)

    with pytest.raises(UnavailableError, match="No space left on device"):
        submit(job(measured), simulate=True, settings=settings, on_event=fill)
    assert listener.events[-1].fields["status"] == "failed"
    assert RunStore(settings.runs_dir).list()[0].status == "failed"


class Done:
    """Follows a run that has ended well."""

    succeeded = True
    left = False
    error = None
    remains = Remains

    def follow(self) -> None:
        """Nothing is left to follow."""

    end = follow


def test_a_run_whose_end_cannot_be_kept_has_failed_and_shows_no_output(settings: Settings, tmp_path: Path) -> None:
    run = RunStore(settings.runs_dir).create(RunId("submitted-full"), {"job": "submitted"})
    outputs = {"late": dataset(tmp_path / "late", SigningKey.generate(), run=run.run)}
    (run.path / f".result.json.{os.getpid()}.tmp").symlink_to(FULL)
    events: list[RunEvent] = []
    with pytest.raises(UnavailableError, match="No space left on device"):
        drive(lambda: None, cast(Any, Done()), run, outputs, Report(run, events.append))
    assert [event.fields["status"] for event in events] == ["failed"]
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_was_committed_is_not_taken_back(settings: Settings, tmp_path: Path) -> None:
    """Its folder is an earlier run's dataset too, and others may have read what is new in it."""
    run = RunStore(settings.runs_dir).create(RunId("submitted-further"), {"job": "submitted"})
    outputs = {name: dataset(tmp_path / name, SigningKey.generate(), run=run.run) for name in ("late", "more")}
    (run.path / f".result.json.{os.getpid()}.tmp").symlink_to(FULL)
    with pytest.raises(UnavailableError) as caught:
        drive(lambda: None, cast(Any, Done()), run, outputs, Report(run, None), further={"more"})
    assert [path.name for path in tmp_path.iterdir()] == ["more"]
    assert caught.value.facts["committed"] == "more"


# --- pins ---------------------------------------------------------------------------------------------------------


def dataset(folder: Path, key: SigningKey, *, run: RunId | None = None) -> Path:
    return listed(folder, key, DATASET, owner=None if run else "airline", run=run)


def test_inputs_are_pinned_to_the_dataset_and_signer_that_lie_there(tmp_path: Path, measured: dict[str, list[str]]) -> None:
    key = SigningKey.generate()
    given = job(measured, inputs={"flights": {"path": str(dataset(tmp_path / "flights", key))}})
    pinned = pin_datasets(given)
    assert (pinned.inputs["flights"].dataset, pinned.inputs["flights"].signer) == (DATASET, key.spki_digest)
    assert pin_datasets(pinned).digest == pinned.digest


def test_a_pin_that_the_job_has_is_kept(tmp_path: Path, measured: dict[str, list[str]]) -> None:
    folder = dataset(tmp_path / "flights", SigningKey.generate())
    given = job(measured, inputs={"flights": {"path": str(folder), "dataset": DATASET, "signer": "cd" * 32}})
    assert pin_datasets(given).inputs["flights"].signer == "cd" * 32
    other = job(measured, inputs={"flights": {"path": str(folder), "dataset": "34" * 16}})
    with pytest.raises(ManifestError):
        pin_datasets(other)


def test_an_input_without_a_manifest_is_refused(tmp_path: Path, measured: dict[str, list[str]]) -> None:
    with pytest.raises(ManifestError):
        pin_datasets(job(measured, inputs={"flights": {"path": str(tmp_path)}}))


def test_an_output_in_an_inputs_folder_is_refused_before_anything_starts(
    settings: Settings, measured: dict[str, list[str]], tmp_path: Path
) -> None:
    folder = dataset(tmp_path / "flights", SigningKey.generate())
    given = job(measured, inputs={"flights": {"path": str(folder)}}, outputs={"late": {"path": str(folder / "late")}})
    before = len(RunStore(settings.runs_dir).list())
    with pytest.raises(OutputExistsError, match="in an input's folder"):
        submit(given, simulate=True, settings=settings)
    assert len(RunStore(settings.runs_dir).list()) == before


@pytest.mark.parametrize("damage", ["signer", "missing", "longer"])
def test_an_input_that_is_not_what_was_pinned_ends_the_run(
    settings: Settings, measured: dict[str, list[str]], listener: Listener, tmp_path: Path, damage: str
) -> None:
    from confide.jobs.inputs import open_inputs

    folder = dataset(tmp_path / "flights", SigningKey.generate())
    pin = {"dataset": DATASET, "signer": "cd" * 32} if damage == "signer" else {}
    if damage == "longer":
        (folder / "a.bin").write_bytes(b"xy")
    given = pin_datasets(job(measured, inputs={"flights": {"path": str(folder), **pin}}))
    with pytest.raises(Exception, match=r"pins|missing|length"):
        open_inputs(given)
