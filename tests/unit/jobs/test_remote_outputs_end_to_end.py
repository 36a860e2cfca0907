"""Whole runs whose output goes to S3: only the driver gets the credential, and nothing counts before the manifest is there."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.kbs_world import Kbs
from support.remote_runs import NAME, PLACE, SECRET, SPARK, named, past_the_gate, require_right_and_no_secret
from support.s3_gate import S3Gate
from support.stage import Stage

from confide.data.manifest import MANIFEST_NAME
from confide.data.remote_cleaning import clean_remote
from confide.errors import (
    IntegrityError,
    KeyRevokedError,
    NodeLostError,
    OutputExistsError,
    ResourceDeniedError,
    RollbackError,
    UnavailableError,
)
from confide.jobs.result import RunEvent

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]


def require_nothing_visible(s3: Any, *, left: bool = False) -> None:
    """No dataset is there; ``left``: but files are."""
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket="bkt").get("Contents", [])]
    assert not any(key.endswith(MANIFEST_NAME) for key in keys)
    assert bool(keys) == left


def test_a_job_writes_to_s3_and_the_credential_is_nowhere(stage: Stage, s3_output: Any, s3: Any, tmp_path: Path) -> None:
    require_right_and_no_secret(stage, s3_output(), s3, tmp_path / "staging")


def test_runs_go_on_at_s3_unless_it_shows_an_older_state(
    stage: Stage, s3_output: Any, s3: Any, tmp_path: Path, data_command: Callable[..., str]
) -> None:
    staging, beginning = tmp_path / "staging", f"results/summary/{MANIFEST_NAME}"
    require_right_and_no_secret(stage, s3_output("first", goes_on={"mode": "append"}), s3, staging)  # nothing is there yet
    older = s3.get_object(Bucket="bkt", Key=beginning)["Body"].read()
    require_right_and_no_secret(stage, s3_output("second", goes_on=named(s3)), s3, staging, runs=2)
    assert [one["snapshot"] for one in json.loads(data_command("log", PLACE, "--json"))["snapshots"]] == [2, 1]
    data_command("verify", PLACE)
    data_command("decrypt", PLACE, str(tmp_path / "all.csv"), "--as", "analyst")
    assert sorted((tmp_path / "all.csv").read_text().replace('"', "").split()) == ["a,40", "a,40", "b,60", "b,60", "country,count"]

    again = s3_output("third", goes_on=named(s3), program=b"raise SystemExit(9)")
    s3.put_object(Bucket="bkt", Key=beginning, Body=older)
    s3.delete_object(Bucket="bkt", Key="results/summary/_snapshots/2.json")
    there = sorted(past_the_gate(s3).files())
    with pytest.raises(RollbackError, match="older than one that the broker has seen") as caught:  # though another run has signed it
        stage.run(again)
    assert (caught.value.facts["newest"], caught.value.facts["got"]) == (2, 1)
    assert sorted(past_the_gate(s3).files()) == there


@pytest.mark.spark
def test_with_spark_the_driver_alone_gets_the_credential(stage: Stage, s3_output: Any, s3: Any, world: Kbs, tmp_path: Path) -> None:
    """And a run of Spark goes on with what one of Polars has made."""
    require_right_and_no_secret(stage, s3_output("polars"), s3, tmp_path / "staging")
    asked, size = len(storage_requests(world)), {"workers": 2, "memory_mb": 700, "driver_memory_mb": 700}
    job = s3_output("spark", program=SPARK, engine="spark", resources=size, goes_on=named(s3))
    require_right_and_no_secret(stage, job, s3, tmp_path / "staging", runs=2)
    assert len(storage_requests(world)) == asked + 1


def storage_requests(world: Kbs) -> list[str]:
    events = [str(entry.event) for entry in world.world.broker.store.audit()]
    return [event for event in events if NAME in event and "'kbs-resource'" in event]


def test_a_driver_that_the_credentials_owner_does_not_accept_ends_the_run(stage: Stage, s3_output: Any, s3: Any, world: Kbs) -> None:
    job = s3_output("refused")
    world.set_rules("airline", [])
    with pytest.raises(ResourceDeniedError):
        stage.run(job)
    require_nothing_visible(s3)


def test_a_place_that_is_taken_is_refused_before_the_program_runs(stage: Stage, s3_output: Any, s3: Any) -> None:
    job = s3_output("taken", program=b"raise SystemExit(9)")
    s3.put_object(Bucket="bkt", Key="results/summary/mine", Body=b"x")
    with pytest.raises(OutputExistsError):
        stage.run(job)
    assert s3.get_object(Bucket="bkt", Key="results/summary/mine")["Body"].read() == b"x"


def test_a_storage_that_is_gone_in_the_middle_fails_the_run(
    stage: Stage, s3_output: Any, s3: Any, run_gate: S3Gate, tmp_path: Path
) -> None:
    def gone(method: str, _path: str) -> None:
        if method == "PUT":
            run_gate.always = (500, "InternalError")

    run_gate.after = gone
    with pytest.raises(UnavailableError, match="S3 refuses") as caught:
        stage.run(s3_output("gone"))
    assert SECRET not in str(caught.value.to_json())
    require_nothing_visible(s3, left=True)
    assert list((tmp_path / "staging").iterdir()) == []
    for path in stage.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_byte_that_the_storage_changes_fails_the_run(stage: Stage, s3_output: Any, s3: Any, run_gate: S3Gate) -> None:
    def change(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(".parquet"):
            key = path.removeprefix("/bkt/")
            data = bytearray(s3.get_object(Bucket="bkt", Key=key)["Body"].read())
            data[100] ^= 1
            s3.put_object(Bucket="bkt", Key=key, Body=bytes(data))

    run_gate.after = change
    with pytest.raises(IntegrityError, match="other bytes"):
        stage.run(s3_output("changed"))
    require_nothing_visible(s3)


def test_a_driver_that_is_killed_while_it_sends_leaves_no_dataset_and_the_rest_can_be_cleaned(
    stage: Stage, s3_output: Any, s3: Any, run_gate: S3Gate, tmp_path: Path
) -> None:
    nodes: dict[str, int] = {}

    def kill(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(".parquet"):
            os.kill(nodes["driver"], signal.SIGKILL)

    run_gate.after = kill
    def note(event: RunEvent) -> None:
        if event.type == "node-started":
            nodes[str(event.node)] = int(event.fields["process"])

    job = s3_output("killed")
    with pytest.raises(NodeLostError):
        stage.run(job, listener=note)
    require_nothing_visible(s3, left=True)
    assert list((tmp_path / "staging").iterdir()) == []
    run_gate.after = lambda *_: None
    with pytest.raises(OutputExistsError, match="exists") as caught:
        stage.run(job)
    assert "data clean" in str(caught.value.hint)
    clean_remote(past_the_gate(s3), keep=None, before=datetime.now(UTC) + timedelta(hours=1), remove=True)
    require_right_and_no_secret(stage, job, s3, tmp_path / "staging")


def test_a_key_that_is_withdrawn_while_the_output_is_sent_ends_the_run(stage: Stage, s3_output: Any, s3: Any, run_gate: S3Gate) -> None:
    job = s3_output("withdrawn")
    grants = [grant for grant in stage.clients["airline"].grants() if grant.job == job.digest]

    def withdraw(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(".parquet"):
            while grants:
                stage.clients["airline"].revoke(grants.pop().id)
                time.sleep(3)  # a file that takes long: the driver hears of it meanwhile

    run_gate.after = withdraw
    with pytest.raises(KeyRevokedError):
        stage.run(job)
    assert grants == []
    require_nothing_visible(s3)
