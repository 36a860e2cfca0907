"""Column groups of a job's input: asked for in the job, granted by each key's owner, held only if both agree, kept in the receipt."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.node_services import node
from support.stage import PROGRAM, Stage, outputs_of

from confide.canonical import Json
from confide.crypto.sign import unverified_payload
from confide.data.manifest import read_payload
from confide.errors import ConfideError, GrantError, JobError, ReceiptError, UsageError
from confide.ids import Role
from confide.job import Job
from confide.job_form import form_columns
from confide.jobs.inputs import open_inputs
from confide.jobs.receipt import load_bundle
from confide.jobs.release_checks import check_releases
from confide.jobs.statement import Statement

VISITS = pa.table({"patient": ["ann", "bob"], "age": [40, 50], "diagnosis": ["flu", "cold"]})
GROUPS = {"diagnoses": ("diagnosis",), "patients": ("patient",)}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("columns"))
    made.open()
    made.encrypt("airline", "visits", VISITS, groups=GROUPS)
    yield made
    made.close()


def job(stage: Stage, *columns: str, arguments: tuple[str, ...] = (), program: bytes = PROGRAM, **changes: Any) -> Job:
    visits = {"path": str(stage.root / "visits"), "columns": list(columns)}
    inputs = {"visits": visits, "cities": {"path": str(stage.root / "cities")}, **changes.pop("inputs", {})}
    return stage.job(program, inputs=inputs, arguments=arguments, **changes)


def grant(stage: Stage, to: Job, *keys: str) -> None:
    for key in keys:
        owner = "weather" if key == "cities" else "airline"
        stage.clients[owner].grant(key, job=to.digest, policy=stage.parsed, recipients=["analyst"])


def asked(stage: Stage, to: Job) -> tuple[Json, list[Json]]:
    """What a worker's agent answers for a file of the table, and what the worker told its driver."""
    with node(stage, to) as (there, keys):
        inputs = open_inputs(to)
        keys.open_inputs([*inputs.values()])
        file = inputs["visits"].folder / inputs["visits"].manifest.files[0].path
        return keys.operations()["read-key"]({"path": str(file), "kind": "parquet"}), there.told


def test_a_node_holds_the_groups_that_its_job_names_and_no_others(stage: Stage) -> None:
    """Also if the owner has granted more: a program that asks the agent itself gets what the job's digest says."""
    one = job(stage, "diagnoses", arguments=("held",))
    grant(stage, one, "visits", "diagnoses", "patients", "cities")
    answer, told = asked(stage, one)
    assert set(answer["groups"]) == {"diagnoses"}
    assert [report["name"] for report in told if report["key"].startswith("airline/")] == ["visits", "visits/diagnoses"]
    none = job(stage, arguments=("none",))
    grant(stage, none, "visits", "diagnoses", "patients", "cities")
    assert asked(stage, none)[0]["groups"] == {}


def test_a_group_that_the_job_names_and_nobody_granted_is_refused(stage: Stage) -> None:
    one = job(stage, "diagnoses", "patients", arguments=("refused",))
    grant(stage, one, "visits", "diagnoses", "cities")
    with pytest.raises(GrantError) as refusal:
        asked(stage, one)
    assert refusal.value.facts["key"] == "airline/patients"


@pytest.mark.parametrize(("granted", "missing"), [("visits", "weather/cities"), ("cities", "airline/visits")])
def test_of_two_owners_the_one_that_refuses_is_named(stage: Stage, granted: str, missing: str) -> None:
    one = job(stage, arguments=("two", granted))
    grant(stage, one, granted)
    with pytest.raises(GrantError) as refusal:
        asked(stage, one)
    assert refusal.value.facts["key"] == missing
    with node(stage, one) as (_, keys):  # the other's refusal is of the other's input
        keys.open_inputs([open_inputs(one)[granted]])


def test_outputs_inherit_the_groups_that_the_job_reads(stage: Stage) -> None:
    one = job(stage, "diagnoses", arguments=("inherit",))
    grant(stage, one, "visits", "cities")
    with node(stage, one, Role.DRIVER) as (_, keys):
        keys.know(open_inputs(one).values())
        with pytest.raises(GrantError) as refusal:
            keys.output("summary")
        assert refusal.value.facts["key"] == "airline/diagnoses"
        grant(stage, one, "diagnoses")
        assert keys.output("summary").inherits == ("airline/diagnoses", "airline/visits", "weather/cities")


def test_the_digest_says_which_groups_and_is_as_before_without(stage: Stage) -> None:
    without, one, both = job(stage), job(stage, "diagnoses"), job(stage, "patients", "diagnoses")
    assert len({without.digest, one.digest, both.digest}) == 3
    assert both.digest == job(stage, "diagnoses", "patients").digest
    assert "columns" not in without.canonical_form()["inputs"]["visits"]
    assert form_columns(both.canonical_form(), "visits") == ("diagnoses", "patients")
    assert form_columns(without.canonical_form(), "visits") == form_columns({}, "visits") == ()
    assert Job.from_json(both.to_json()) == both


@pytest.mark.parametrize("columns", [["a", "a"], ["No Name"], ["a/b"], "a", [f"g{i}" for i in range(51)]])
def test_groups_in_a_job_are_plain_names_each_once(stage: Stage, columns: Any) -> None:
    with pytest.raises(JobError):
        job(stage, inputs={"visits": {"path": str(stage.root / "visits"), "columns": columns}})


def test_groups_have_no_keys_at_a_key_broker_service(stage: Stage) -> None:
    source = {"resource": "kbs://h:1/a/b/c", "spki": "0" * 64}
    with pytest.raises(JobError, match="job's broker"):
        job(stage, inputs={"visits": {"path": str(stage.root / "visits"), "columns": ["diagnoses"], "key": source}})


def test_a_group_that_the_table_does_not_have_is_said_before_any_key_is_asked_for(stage: Stage) -> None:
    with pytest.raises(UsageError, match="input 'visits' has no column group 'address'"):
        open_inputs(job(stage, "address"))
    with pytest.raises(UsageError, match="no column group"):
        open_inputs(job(stage, inputs={"cities": {"path": str(stage.root / "cities"), "columns": ["diagnoses"]}}))


def test_two_inputs_of_one_table_read_the_same_groups(stage: Stage) -> None:
    again = {"again": {"path": str(stage.root / "visits"), "columns": ["patients"], "snapshot": 1}}
    with pytest.raises(JobError, match="asks for others"):
        open_inputs(job(stage, "diagnoses", inputs=again))


READS = b"""
import confide
ctx = confide.session()
visits = ctx.read("visits")
ctx.write(visits.groupBy("diagnosis").count(), "summary")
try:
    visits.select("patient").collect()
except Exception as refusal:
    assert "[key-refused]" in str(refusal), refusal
else:
    raise SystemExit("a column was read whose key the job does not have")
ctx.write(visits.select("age"), "names")
ctx.stop()
"""


@pytest.mark.spark
@pytest.mark.run
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("nothing_left_behind")
def test_a_job_reads_the_group_it_was_granted_and_its_receipt_names_it(stage: Stage) -> None:
    one = job(stage, "diagnoses", program=READS, resources={"workers": 1, "memory_mb": 700, "driver_memory_mb": 700})
    grant(stage, one, "visits", "diagnoses", "cities")
    result, _ = stage.run(one)
    assert outputs_of(one) == ["summary", "names"]
    _receipt_is_refused_with_other_groups(result.folder)


def _receipt_is_refused_with_other_groups(folder: Path) -> None:
    bundle = load_bundle(folder)
    statement = Statement.from_bytes(unverified_payload(bundle.receipt))
    tables = {entry.name: read_payload(unverified_payload(bundle.manifests[entry.name])) for entry in statement.inputs}
    row = next(row for row in statement.releases if row.name == "visits/diagnoses")
    assert (row.key, row.purpose, set(row.grants)) == ("airline/diagnoses", "read", {"airline/diagnoses"})
    assert not [row for row in statement.releases if row.name == "visits/patients"]
    check_releases(statement, tables)
    table = next(row for row in statement.releases if row.name == "visits")
    wrong = [
        dataclasses.replace(row, name="visits/patients", key="airline/patients"),
        dataclasses.replace(row, key="airline/patients"),
        dataclasses.replace(row, grants=table.grants),
        dataclasses.replace(row, grants={}),
        dataclasses.replace(row, version=0),
        dataclasses.replace(row, name="cities/diagnoses"),
    ]
    for one in wrong:
        with pytest.raises(ReceiptError):
            check_releases(dataclasses.replace(statement, releases=(*statement.releases, one)), tables)
    with pytest.raises(ConfideError):
        check_releases(statement, {})
