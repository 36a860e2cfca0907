"""A storage that hides the newest snapshot from a run's driver, and shows it to everybody else."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from support.node_services import node
from support.stage import Stage

from confide.data.commit import add_snapshot
from confide.data.snapshots import load_manifest
from confide.errors import ManifestError, ParseError, RollbackError
from confide.ids import DatasetId, Role
from confide.job import Job
from confide.jobs.inputs import open_inputs
from confide.keys.credentials import Credential
from confide.keys.readings import Reading


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("hidden"))
    made.open()
    yield made
    made.close()


def granted(stage: Stage) -> Job:
    """A job of its own: the name of the run is the same in all tests here."""
    job = stage.job(arguments=(secrets.token_hex(8),))
    stage.grant(job)
    return job


def append(stage: Stage) -> None:
    signer = Credential.load(stage.settings.credentials_dir, "airline").key
    add_snapshot(
        pa.table({"name": ["new"], "city": [1]}), load_manifest(stage.root / "people"), "append", dataset_key=stage.dataset_keys["people"],
        signer=signer, now=datetime.now(UTC), register=stage.clients["airline"].register_manifest,
    )  # fmt: skip


def test_driver_that_is_shown_an_older_snapshot_gets_no_output_key(stage: Stage) -> None:
    people = stage.root / "people"
    shutil.copytree(people, stage.root / "shown-to-the-driver")
    append(stage)
    people.rename(stage.root / "shown-to-workers")
    shutil.copytree(stage.root / "shown-to-the-driver", people)
    job = granted(stage)
    hidden = [*open_inputs(job).values()]
    shutil.rmtree(people)
    (stage.root / "shown-to-workers").rename(people)
    with node(stage, job, Role.DRIVER) as (_, keys):
        with pytest.raises(RollbackError):
            keys.output("summary", hidden)
        keys.output("summary", [*open_inputs(job).values()])
    refused = [entry.event for entry in stage.broker.store.audit() if entry.event["action"] == "refuse"]
    assert refused[-1]["code"] == "manifest-rollback"


def test_what_is_committed_once_the_run_has_begun_does_not_end_it(stage: Stage) -> None:
    job = granted(stage)
    with node(stage, job, Role.DRIVER) as (_, keys):
        first = keys.output("summary", [*open_inputs(job).values()])
        append(stage)
        assert keys.output("summary").dataset == first.dataset


def test_only_inputs_are_asked_about(stage: Stage) -> None:
    """Whoever asked about others would learn how many snapshots there are."""
    job = granted(stage)
    people, cities = (DatasetId(job.inputs[name].dataset) for name in ("people", "cities"))
    with node(stage, job, Role.DRIVER) as (_, keys), pytest.raises(ManifestError, match="of no input"):
        keys._broker.output("summary", inputs=[people], recipients=[], newest=[Reading(cities, 1, "0" * 96)])


@pytest.mark.parametrize("said", [None, {}, {"dataset": "d", "snapshot": True, "digest": ""}, {**Reading("d", 1, "").to_json(), "x": 1}])
def test_anything_else_is_no_reading(said: object) -> None:
    assert Reading.from_json(Reading("d", 1, "").to_json()) == Reading("d", 1, "")
    with pytest.raises(ParseError):
        Reading.from_json(said)
