"""Spark over inputs on S3: executors read ciphertext by ranges from their agent, and have nothing that opens the storage."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.s3_gate import S3Gate
from support.spark_world import SparkWorld

from confide.canonical import Json
from confide.crypto.secret import SecretBytes
from confide.data import table_files
from confide.data.failure import failure_in
from confide.data.places import RemoteFolder, remote_folder
from confide.data.s3 import S3Access, s3_client
from confide.errors import ConfideError, DataError, IntegrityError, UnavailableError
from confide.jobs.input_ranges import input_range

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(300)]

SECRET = "CANARY-storage-secret-19d4"
ROWS, LINES = 60_000, 150_000
MOST = 4 << 20
WIDE = [random.Random(n).randbytes(100).hex() for n in range(ROWS)]


@pytest.fixture(scope="module")
def gate(moto: str) -> Iterator[S3Gate]:
    found = S3Gate(moto)
    yield found
    found.close()


class Storage:
    """The bucket ``spark``, as its operator has it (``client``), and as a node that was given ``access`` has it."""

    def __init__(self, gate: S3Gate) -> None:
        self.access = S3Access("id", SecretBytes(SECRET.encode()), endpoint=gate.url, region="eu-central-1")
        self.client = s3_client(self.access)

    def place(self, name: str) -> RemoteFolder:
        return remote_folder(f"s3://spark/{name}", self.access)

    @contextmanager
    def looked_at_anew(self, world: SparkWorld, name: str) -> Iterator[None]:
        """The input as a node that has not looked at its files yet has it."""
        before = world.inputs[name]
        world.inputs[name] = dataclasses.replace(before, folder=self.place(name))
        try:
            yield
        finally:
            world.inputs[name] = before


@pytest.fixture(scope="module")
def storage(gate: S3Gate) -> Iterator[Storage]:
    found = Storage(gate)
    client = found.client
    client.create_bucket(Bucket="spark", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield found
    for one in client.list_objects_v2(Bucket="spark").get("Contents", []):
        client.delete_object(Bucket="spark", Key=one["Key"])
    client.delete_bucket(Bucket="spark")


@pytest.fixture(scope="module")
def world(spark_group_class: Any, tmp_path_factory: pytest.TempPathFactory, storage: Storage) -> Iterator[SparkWorld]:
    root = tmp_path_factory.mktemp("remote")
    made = SparkWorld(spark_group_class(root, {}), root)
    plain = root / "plain"
    plain.mkdir()
    for number in range(2):  # of one length, so that they can be told apart by nothing but what they are
        lines = (f"{n:07d},text number {n:07d}\n" for n in range(number, LINES, 2))
        (plain / f"notes-{number}.csv").write_text("n,text\n" + "".join(lines), encoding="utf-8")
    table = pa.table({"x": range(ROWS), "wide": WIDE, "when": pa.array([0] * ROWS, pa.timestamp("us"))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "ROWS_PER_FILE", ROWS // 3)
        for name, source in (("flights", table), ("notes", plain), ("shared", table)):
            made.add_input(name, source, place=storage.place(name))
    try:
        made.start("result", executors=1)
        yield made
    finally:
        made.group.close()


def asked(world: SparkWorld, name: str) -> list[Json]:
    return [request for request in world.ranges if request["path"].startswith(world.inputs[name].root + "/")]


def test_a_table_is_read_by_ranges_of_its_footer_and_columns(world: SparkWorld) -> None:
    world.ranges.clear()
    found = world.result("result([ctx.read('flights').selectExpr('sum(x)', 'count(distinct when)').collect()[0][n] for n in (0, 1)])")
    assert found == [sum(range(ROWS)), 1]
    narrow = sum(request["length"] for request in asked(world, "flights"))
    assert 0 < narrow < sum(world.inputs["flights"].sizes.values()) // 2
    assert world.counts["rows_read"] >= ROWS
    assert world.result("result(ctx.read('flights').where('length(wide) = 200').count())") == ROWS


def test_files_in_containers_are_split_and_read_ahead(world: SparkWorld) -> None:
    world.ranges.clear()
    source = """
ctx.spark.conf.set("spark.sql.files.maxPartitionBytes", 1 << 20)
frame = ctx.read.csv("notes", "n long, text string", header=True)
result([frame.rdd.getNumPartitions(), frame.count(), frame.selectExpr("sum(n)").collect()[0][0], len(ctx.files("notes"))])
"""
    tasks, rows, total, count = world.result(source)
    assert (rows, total, count) == (LINES, sum(range(LINES)), 2)
    assert tasks > 2
    lengths = [request["length"] for request in asked(world, "notes")]
    assert max(lengths) <= MOST
    size = sum(world.inputs["notes"].sizes.values())
    assert len(lengths) < 2 * math.ceil(size / 65536)  # not a question for each chunk of both passes
    assert world.counts["bytes_read"] >= size // 2


def test_a_stream_lists_what_the_manifest_has(world: SparkWorld) -> None:
    source = """
rows = ctx.read_stream("notes", "csv", "n long, text string", header=True)
with ctx.writing("result") as place:
    rows.writeStream.format("csv").trigger(availableNow=True).start(place + "/copy").awaitTermination()
    result(ctx.spark.read.schema("n long, text string").csv(place + "/copy").count())
"""
    assert world.result(source) == LINES


def test_no_credential_is_where_the_jvms_could_show_it(world: SparkWorld) -> None:
    conf = world.result("result([ctx.spark.sparkContext.getConf().getAll(), str(ctx._info)])")
    texts = [json.dumps(conf)]
    for process in world.group.processes.values():
        texts += [Path(f"/proc/{process.pid}/{name}").read_text(errors="replace") for name in ("cmdline", "environ")]
    texts += [world.group.log(name) for name in world.group.processes]
    places = [world.root, *world.group.private.values()]
    texts += [path.read_text(errors="replace") for place in places for path in place.rglob("*") if path.is_file()]
    assert not [text for text in texts if SECRET in text]
    assert "spark/flights" not in texts[0]  # nor where it is


def failed(world: SparkWorld, source: str) -> ConfideError:
    """What a program that fails is told to have failed of."""
    status, output = world.run(source)
    assert status != 0, output
    found = failure_in(output)
    assert found is not None, output
    assert SECRET not in output
    return found


COUNT_NOTES = "ctx.read.csv('notes', 'n long, text string').count()"
SUM_SHARED = "ctx.read('shared').selectExpr('sum(x)', 'max(wide)').collect()"


CHANGED = pytest.mark.parametrize(
    ("program", "change", "said"),
    [
        (SUM_SHARED, "flip", "does not open"),
        (SUM_SHARED, "cut", "another length"),
        (SUM_SHARED, "gone", "missing"),
        (COUNT_NOTES, "flip", "does not open"),
        (COUNT_NOTES, "swap", "another key, dataset or path"),
        (COUNT_NOTES, "gone", "missing"),
    ],
)


@CHANGED
def test_what_a_storage_changes_is_refused_by_name(storage: Storage, world: SparkWorld, program: str, change: str, said: str) -> None:
    bucket, name = storage.client, "notes" if program == COUNT_NOTES else "shared"
    keys = [f"{name}/{path}" for path in world.inputs[name].sizes]
    whole = bucket.get_object(Bucket="spark", Key=keys[0])["Body"].read()
    data = bytearray(whole)
    if change == "flip":
        data[len(data) // 3] ^= 1
    elif change == "swap":  # a file of the same dataset, as long
        data = bytearray(bucket.get_object(Bucket="spark", Key=keys[1])["Body"].read())
        assert len(data) == len(whole)
    elif change == "cut":
        del data[100]
    try:
        if change == "gone":
            bucket.delete_object(Bucket="spark", Key=keys[0])
        else:
            bucket.put_object(Bucket="spark", Key=keys[0], Body=bytes(data))
        with storage.looked_at_anew(world, name):
            found = failed(world, program)
        assert type(found) is IntegrityError
        assert said in found.message
    finally:
        bucket.put_object(Bucket="spark", Key=keys[0], Body=whole)


def test_a_file_that_is_replaced_while_the_job_runs_is_refused(storage: Storage, world: SparkWorld) -> None:
    bucket = storage.client
    key = f"shared/{next(iter(world.inputs['shared'].sizes))}"
    whole = bucket.get_object(Bucket="spark", Key=key)["Body"].read()
    with storage.looked_at_anew(world, "shared"):
        assert world.result("result(ctx.read('shared').selectExpr('count(wide)', 'max(wide)').collect()[0][0])") == ROWS
        bucket.put_object(Bucket="spark", Key=key, Body=whole[::-1])
        try:
            found = failed(world, SUM_SHARED)
        finally:
            bucket.put_object(Bucket="spark", Key=key, Body=whole)
    assert isinstance(found, DataError)
    assert "changed while it was read" in found.message
    assert found.hint == "do it again"


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"], ids=["shorter", "longer"])
def test_an_answer_that_is_not_the_range_that_was_asked_for_is_refused(
    world: SparkWorld, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    def answer(inputs: Any, request: Json) -> Json:
        return {"data": base64.b64encode(change(base64.b64decode(input_range(inputs, request)["data"]))).decode()}

    monkeypatch.setattr("support.spark_world.input_range", answer)
    source = """
try:
    result(ctx.read("flights").selectExpr("min(wide)").collect()[0][0])
except Exception as error:
    result("the agent's answer is no range of" in str(error))
"""
    assert world.result(source) is True


def test_throttling_is_waited_for_and_a_refusal_is_told_with_its_hint(
    world: SparkWorld, gate: S3Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    gate.refusals = [(503, "SlowDown")] * 5
    assert world.result("result(ctx.read('flights').selectExpr('max(wide)').collect()[0][0])") == max(WIDE)
    assert not gate.refusals
    for refusal, hint in (((503, "SlowDown"), "fewer requests"), ((403, "AccessDenied"), "credentials")):
        gate.always = refusal
        try:
            found = failed(world, "ctx.read('flights').selectExpr('min(wide)').collect()")
        finally:
            gate.always = None
        assert isinstance(found, UnavailableError)
        assert refusal[1] in found.message
        assert hint in str(found.hint)


def test_names_below_the_folder_of_remote_inputs_are_no_files_of_the_node(world: SparkWorld) -> None:
    root = world.inputs["flights"].root
    tried = [f"file://{root}/other.parquet", f"file://{root}/../x.parquet", "file:///confide-remote/x.parquet"]
    source = f"""
found = []
for path in {tried!r}:
    try:
        ctx.spark.read.schema("x long").parquet(path).count()
        found.append("read")
    except Exception as error:
        found.append(str(error))
result(found)
"""
    assert all("PATH_NOT_FOUND" in said for said in world.result(source))
