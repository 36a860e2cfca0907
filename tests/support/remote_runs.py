"""Whole runs whose output goes to S3 through a gate, with a credential that only their driver gets; and the analyst who reads there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kbs_world import Kbs
from support.s3_gate import S3Gate
from support.several_brokers import BrokerProcess
from support.stage import Stage

from confide.canonical import Json, canonical, parse_object
from confide.cli.main import main
from confide.cli.owners import BrokerAddress, remember
from confide.data.files import read_table
from confide.data.folder import listed_files, refuse_foreign, verify_files
from confide.data.manifest import verify_manifest
from confide.data.places import RemoteFolder, remote_folder
from confide.data.s3 import S3Access
from confide.data.snapshots import load_manifest, manifest_path, verify_manifests
from confide.job import Job
from confide.jobs.receipt import verify
from confide.jobs.result import RunEvent

NAME, SECRET, PLACE = "airline/storage/results", "CANARY-storage-secret-90cd", "s3://bkt/results/summary"
POLARS = b"""
import os
import polars
from confide.data.polars import session

assert not any("AWS" in name for name in os.environ)
ctx = session()
ctx.write(ctx.read("people").join(ctx.read("cities"), on="city").group_by("country").agg(count=polars.len().cast(polars.Int64)), "summary")
"""
SPARK = b"""
import confide

ctx = confide.session()
assert "CANARY" not in str(ctx.spark.sparkContext.getConf().getAll())
ctx.write(ctx.read("people").join(ctx.read("cities"), "city").groupBy("country").count().repartition(3), "summary")
ctx.stop()
"""


@pytest.fixture
def run_gate(moto: str, s3: Any) -> Iterator[S3Gate]:
    found = S3Gate(moto)
    yield found
    found.close()


@pytest.fixture
def s3_output(stage: Stage, world: Kbs, service: BrokerProcess, run_gate: S3Gate, tmp_path: Path) -> Callable[..., Job]:
    """Makes jobs whose output goes to S3, through the gate; the credential for it is at the service."""
    access = {"access_key_id": "id", "secret_access_key": SECRET, "endpoint": run_gate.url, "region": "eu-central-1"}
    assert world.post("airline", f"resource/{NAME}", canonical(access)).status == 200
    assert world.set_policy("airline", "nodes", stage.policy).status == 200
    world.set_rules("airline", [{"resource": "airline/storage/*", "policy": "nodes"}])
    source = {"resource": f"kbs://{service.url.removeprefix('https://')}/{NAME}", "spki": service.spki}
    (tmp_path / "staging").mkdir()

    def made(*arguments: str, program: bytes = POLARS, goes_on: Json | None = None, **changes: Any) -> Job:
        output = {"path": PLACE, "credentials": source, "staging": str(tmp_path / "staging"), "recipients": ["analyst"], **(goes_on or {})}
        given = {"engine": "polars", "resources": {}, **changes}
        job = stage.job(program, arguments=arguments, **given)
        job = Job.build({**job.model_dump(), "outputs": {"summary": output}})
        stage.grant(job)
        return job

    return made


def past_the_gate(s3: Any) -> RemoteFolder:
    """Where the output goes, with a credential of the reader's own."""
    access = {"access_key_id": "reader", "secret_access_key": "another", "endpoint": s3.meta.endpoint_url, "region": "eu-central-1"}
    return remote_folder(PLACE, S3Access.parse(canonical(access)))


def require_right_and_no_secret(stage: Stage, job: Job, s3: Any, staging: Path, *, runs: int = 1) -> list[RunEvent]:
    """Run a job whose result is known, and read it where it went: there are the rows of so many ``runs``, each with its snapshot."""
    result, events = stage.run(job)
    (output,) = result.outputs
    assert output.path == PLACE
    assert parse_object((result.folder / "result.json").read_bytes())["outputs"] == {"summary": PLACE}
    there = past_the_gate(s3)
    signed = load_manifest(there)
    assert signed.digest == output.manifest
    verify_manifest(signed.envelope, signed.signer)
    chain = [one.unverified for one in verify_manifests(signed)]
    assert [one.snapshot for one in chain] == [*range(runs, 0, -1)]
    verify_files(there, *chain)
    refuse_foreign(there, {*listed_files(*chain), *map(manifest_path, chain)})
    key = stage.clients["analyst"].open(signed.envelope).secret
    for one in chain:
        table = read_table(there, one, key).sort_by("country").to_pylist()
        assert table == [{"country": "a", "count": 40}] * one.snapshot + [{"country": "b", "count": 60}] * one.snapshot
    verify(result.folder, settings=stage.settings)
    assert list(staging.iterdir()) == []
    for path in stage.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    return events


def named(s3: Any, mode: str = "append") -> Json:
    """What a client without access to the bucket says of the dataset that is there."""
    return {"mode": mode, "dataset": load_manifest(past_the_gate(s3)).unverified.dataset}


@pytest.fixture
def data_command(stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command prints for the analyst, whose own credential for the bucket boto3 finds."""
    monkeypatch.setenv("CONFIDE_HOME", str(stage.settings.home))
    remember(stage.settings, "analyst", BrokerAddress(stage.server.url, stage.server.spki))

    def said(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["data", *arguments])
        assert not ended.value.code
        return capsys.readouterr().out

    return said
