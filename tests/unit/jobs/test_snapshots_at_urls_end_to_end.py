"""What runs wrote to S3, snapshot after snapshot, as its recipient's commands and later jobs read it: the newest, and each before it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.remote_runs import PLACE, named, past_the_gate
from support.stage import Stage

from confide.canonical import Json
from confide.data.files import read_table
from confide.data.manifest import MANIFEST_NAME
from confide.data.snapshots import load_manifest
from confide.job import Job
from confide.jobs.receipt import verify

pytestmark = [pytest.mark.run, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left_behind")]
ALL, FEW = {"a": 40, "b": 60}, {"a": 40}
SNAPSHOTS = {1: ALL, 2: {"a": 80, "b": 120}, 3: {"a": 120, "b": 180}, 4: FEW}
"""How many people of each country there are after a run, two that append, and one that overwrites with less."""
WRITES = b"""
import polars, sys
from confide.data.polars import session
ctx = session()
found = ctx.read("people").join(ctx.read("cities"), on="city").select("name", "country")
ctx.write(found.filter(polars.col("country") == "a") if "few" in sys.argv else found, "summary")
"""
POLARS = b"""
from confide.data.polars import session
ctx = session()
ctx.write(ctx.read("then").group_by("country").len("count"), "result")
"""
SPARK = b"""
import confide
ctx = confide.session()
ctx.write(ctx.read("then").groupBy("country").count(), "result")
ctx.stop()
"""
OF_SPARK = {"engine": "spark", "resources": {"workers": 1, "memory_mb": 700, "driver_memory_mb": 700}}


@pytest.fixture
def written(stage: Stage, s3_output: Callable[..., Job], s3: Any) -> Json:
    """Four runs' snapshots; what a job says of the place."""
    modes = ("append", "append", "append", "overwrite")
    for number, mode in enumerate(modes, 1):
        goes_on = named(s3, mode) if number > 1 else {"mode": mode}
        job = s3_output("few" if mode == "overwrite" else str(number), program=WRITES, goes_on=goes_on)
        result, _ = stage.run(job)
        verify(result.folder, settings=stage.settings)
    output = job.outputs["summary"]
    assert output.credentials is not None
    return {"path": PLACE, "credentials": output.credentials.model_dump(exclude_none=True)}


def test_commands_and_jobs_of_both_engines_read_each_snapshot_that_runs_made_at_a_url(
    stage: Stage, written: Json, s3: Any, data_command: Callable[..., str], tmp_path: Path
) -> None:
    said = json.loads(data_command("log", PLACE, "--json"))["snapshots"]
    assert [one["snapshot"] for one in said] == [4, 3, 2, 1]
    data_command("verify", PLACE)
    for number, counts in SNAPSHOTS.items():
        which = ("--snapshot", str(number))
        inspected = json.loads(data_command("inspect", PLACE, *which, "--json"))
        assert (inspected["snapshot"], inspected["rows"]) == (number, sum(counts.values()))
        text = data_command("head", PLACE, *which, "-n", "1000", "--columns", "country", "--as", "analyst", "--json")
        assert Counter(country for (country,) in json.loads(text)["rows"]) == counts
        target = tmp_path / f"{number}.jsonl"
        data_command("decrypt", PLACE, str(target), *which, "--as", "analyst")
        assert Counter(json.loads(line)["country"] for line in target.read_text().splitlines()) == counts
    newest = json.loads(data_command("inspect", PLACE, "--json"))
    assert newest["snapshot"] == 4
    require_read(stage, written, 2, POLARS, {"engine": "polars", "resources": {}})
    require_read(stage, written, 3, SPARK, OF_SPARK)
    require_read(stage, written, None, POLARS, {"engine": "polars", "resources": {}})
    require_found_from_the_first(s3, data_command)


def require_read(stage: Stage, written: Json, number: int | None, program: bytes, changes: dict[str, Any]) -> None:
    """A job that reads that snapshot (``None``: the newest) has its rows, and its receipt says which one it was."""
    then = written if number is None else {**written, "snapshot": number}
    inputs = {"then": then, "people": {"path": str(stage.root / "people")}, "cities": {"path": str(stage.root / "cities")}}
    job = stage.job(program, inputs=inputs, outputs=("result",), arguments=(str(number),), **changes)
    stage.grant(job)
    result, _ = stage.run(job)
    (entry,) = (one for one in result.verification.require().inputs if one.name == "then")
    assert entry.snapshot == (number or 4)
    signed = load_manifest(Path(job.outputs["result"].path))
    table = read_table(signed.folder, signed.unverified, stage.clients["analyst"].open(signed.envelope).secret)
    assert dict(zip(*table.to_pydict().values(), strict=True)) == SNAPSHOTS[number or 4]


def require_found_from_the_first(s3: Any, data_command: Callable[..., str]) -> None:
    """Where readers begin, the first manifest is left: those of later runs are found from it, whoever signed them."""
    first = s3.get_object(Bucket="bkt", Key="results/summary/_snapshots/1.json")["Body"].read()
    s3.put_object(Bucket="bkt", Key=f"results/summary/{MANIFEST_NAME}", Body=first)
    assert load_manifest(past_the_gate(s3)).unverified.snapshot == 4
    assert [one["snapshot"] for one in json.loads(data_command("log", PLACE, "--json"))["snapshots"]] == [4, 3, 2, 1]
    text = data_command("head", PLACE, "--as", "analyst", "--columns", "country", "-n", "1000", "--json")
    assert Counter(country for (country,) in json.loads(text)["rows"]) == FEW
