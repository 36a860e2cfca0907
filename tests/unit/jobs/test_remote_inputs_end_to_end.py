"""Whole runs whose input lies on S3: each node gets the storage's credential from a key broker service, by its evidence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.kbs_world import Kbs
from support.several_brokers import BrokerProcess
from support.stage import Stage, outputs_of

from confide.canonical import canonical
from confide.data.commit import add_snapshot
from confide.data.files import read_table
from confide.data.manifest import verify_manifest
from confide.data.places import remote_folder
from confide.data.snapshots import load_manifest
from confide.errors import CredentialError, IntegrityError, ResourceDeniedError
from confide.job import Job
from confide.jobs.result import RunEvent
from confide.jobs.statement import Statement
from confide.keys.credentials import Credential

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]
NAME, SECRET = "airline/storage/bucket", "CANARY-storage-secret-77ab"
PROGRAM = b"""
import os
from confide.data.polars import session

assert not any("AWS" in name for name in os.environ)
ctx = session()
ctx.write(ctx.read("people").join(ctx.read("cities"), on="city").group_by("country").len("count"), "summary")
"""


@pytest.fixture
def remote(stage: Stage, world: Kbs, service: BrokerProcess, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Makes jobs whose input ``people`` is a copy on S3; the credential for it is at the service."""
    for path in (stage.root / "people").rglob("*"):
        if path.is_file():
            s3.put_object(Bucket="bkt", Key=f"people/{path.relative_to(stage.root / 'people').as_posix()}", Body=path.read_bytes())
    access = {"access_key_id": "id", "secret_access_key": SECRET, "endpoint": s3.meta.endpoint_url, "region": "eu-central-1"}
    assert world.post("airline", f"resource/{NAME}", canonical(access)).status == 200
    assert world.set_policy("airline", "nodes", stage.policy).status == 200
    world.set_rules("airline", [{"resource": "airline/storage/*", "policy": "nodes"}])
    source = {"resource": f"kbs://{service.url.removeprefix('https://')}/{NAME}", "spki": service.spki}

    def made(*arguments: str, **changes: Any) -> Job:
        people = {"path": "s3://bkt/people", "credentials": source}
        inputs = {"people": people, "cities": {"path": str(stage.root / "cities")}}
        if changes.pop("then", False):
            inputs["then"] = {**people, "snapshot": 1}
        given = {"program": PROGRAM, "engine": "polars", "resources": {}, "outputs": ("summary",), **changes}
        job = stage.job(inputs=inputs, arguments=arguments, **given)
        stage.grant(job)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # the client had them to pin the input; nodes have none
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        return job

    return made


def require_right_and_no_secret(stage: Stage, job: Job) -> Statement:
    """Run a job whose result is known; what its receipt says."""
    result, _ = stage.run(job)
    signed = load_manifest(Path(job.outputs["summary"].path))
    secret = stage.clients["analyst"].open(signed.envelope).secret
    table = read_table(signed.folder, verify_manifest(signed.envelope, signed.signer), secret).sort_by("country").to_pylist()
    assert table == [{"country": "a", "count": 40}, {"country": "b", "count": 60}]
    for path in stage.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    return result.verification.require()


def test_a_job_runs_on_s3_and_the_credential_is_nowhere(stage: Stage, remote: Any) -> None:
    job = remote()
    require_right_and_no_secret(stage, job)


SPARK_PROGRAM = b"""
import confide

ctx = confide.session()
assert "CANARY" not in str(ctx.spark.sparkContext.getConf().getAll())
ctx.write(ctx.read("people").join(ctx.read("cities"), "city").groupBy("country").count(), "summary")
ctx.stop()
"""


@pytest.mark.spark
def test_workers_of_spark_get_the_credential_each_by_its_own_evidence(stage: Stage, remote: Any, world: Kbs) -> None:
    job = remote("spark", program=SPARK_PROGRAM, engine="spark", resources={"workers": 2, "memory_mb": 700, "driver_memory_mb": 700})
    counts = require_right_and_no_secret(stage, job).data
    asked = [entry.event["action"] for entry in world.world.broker.store.audit() if entry.event and NAME in str(entry.event)]
    assert asked[-3:] == ["kbs-resource"] * 3  # the driver, and each worker
    assert sum(entry.rows_read for entry in counts) >= 105
    assert all(entry.bytes_read for entry in counts if entry.rows_read)


def test_a_node_that_the_credentials_owner_does_not_accept_gets_none(stage: Stage, remote: Any, world: Kbs) -> None:
    job = remote("refused")
    world.set_rules("airline", [])
    with pytest.raises(ResourceDeniedError):
        stage.run(job)
    assert outputs_of(job) == []


def test_a_resource_that_is_no_credential_is_told_and_not_shown(stage: Stage, remote: Any, world: Kbs) -> None:
    job = remote("wrong")
    assert world.post("airline", f"resource/{NAME}", canonical({"secret": SECRET})).status == 200
    with pytest.raises(CredentialError) as caught:
        stage.run(job)
    assert SECRET not in str(caught.value.to_json())
    for path in stage.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_changed_byte_on_s3_ends_the_run(stage: Stage, remote: Any, s3: Any) -> None:
    job = remote("changed")
    key = next(one["Key"] for one in s3.list_objects_v2(Bucket="bkt")["Contents"] if one["Key"].endswith(".parquet"))
    data = bytearray(s3.get_object(Bucket="bkt", Key=key)["Body"].read())
    data[200] ^= 1
    s3.put_object(Bucket="bkt", Key=key, Body=bytes(data))
    with pytest.raises(IntegrityError, match="other bytes"):
        stage.run(job)
    assert outputs_of(job) == []


COMPARE = b"""
from confide.data.polars import session

ctx = session()
now, then = (ctx.read(name).group_by("city").len(name) for name in ("people", "then"))
ctx.write(now.join(then, on="city"), "summary")
"""


def test_a_job_compares_two_snapshots_at_a_url_while_a_third_is_committed(stage: Stage, remote: Any, s3: Any) -> None:
    """The driver reads the second one to its end.  (The last test here: the broker takes no older copy of that dataset afterwards.)"""
    storage = remote_folder("s3://bkt/people")

    def append() -> None:
        airline, newest = stage.clients["airline"], load_manifest(storage)
        secret = airline.open(newest.envelope).secret
        signer = Credential.load(stage.settings.credentials_dir, "airline").key
        add_snapshot(
            read_table(storage, newest.unverified, secret), newest, "append", dataset_key=secret, signer=signer, now=datetime.now(UTC),
            register=airline.register_manifest,
        )  # fmt: skip

    append()
    job = remote(program=COMPARE, then=True)
    committed: list[str] = []

    def commit_once_the_program_runs(event: RunEvent) -> None:
        if event.type == "program-started" and not committed:
            committed.append(event.type)
            append()

    result, events = stage.run(job, listener=commit_once_the_program_runs)
    assert committed, [event.type for event in events]
    statement = result.verification.require()
    assert {entry.name: entry.snapshot for entry in statement.inputs} == {"people": 2, "then": 1, "cities": 1}
    made = load_manifest(Path(job.outputs["summary"].path))
    rows = read_table(made.folder, made.unverified, stage.clients["analyst"].open(made.envelope).secret).to_pylist()
    assert rows
    assert all(row["people"] == 2 * row["then"] for row in rows)
    assert load_manifest(storage).unverified.snapshot == 3
