"""The whole Spark part on one machine: driver and two executors with TLS, authentication, encrypted data and the agents' sockets."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.arrow_writer import write_by_arrow
from support.container_decoder import decode
from support.parquet_parts import rearranged, said_to_have_no_tags
from support.spark_group_world import CANARY, MANY, World

from confide.canonical import Json
from confide.data import files, folder
from confide.errors import UsageError
from confide.jobs.engines import spark as engine
from confide.node.keyring import Keyring

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def world(spark_group_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("group")
    ring = Keyring()
    quiet = {"file-renamed": lambda _: {}, "file-deleted": lambda _: {}, "input-length": lambda _: {"length": -1}}
    group = spark_group_class(root, {**ring.operations(), **quiet})
    made = World(group, root, ring)
    try:
        made.make()
        group.start_driver()
        group.start_executor("executor-1")
        group.start_executor("executor-2")
        yield made
    finally:
        group.close()


PROGRAM = f"""
import gc, json, time
import confide
ctx = confide.session()
from pyspark.sql import functions as F
flights = ctx.read("flights")
counts = [row["count"] for row in flights.groupBy((F.col("x") % 7).alias("k")).count().orderBy("k").collect()]
import shouting
shout = F.udf(shouting.shout)
said = flights.select(shout("s").alias("said")).limit(1).collect()[0].said
notes = ctx.read("notes", format="csv", header=True, inferSchema=True)
ctx.spark.range(1).selectExpr("'{CANARY}' AS shown").show()
joined = flights.join(notes, flights.x == notes.n).select("x", "text", "when")
done = ctx.write(joined, "result")
with ctx.writing("report") as place:
    notes.limit(100).write.mode("append").csv(place + "/csv")
    for codec in ("gzip", "bzip2"):
        notes.limit(5000).write.option("compression", codec).csv(place + "/" + codec)
    packed = [ctx.spark.read.csv(place + "/" + codec).distinct().count() for codec in ("gzip", "bzip2")]
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.regression import LinearRegression, LinearRegressionModel
    rows = VectorAssembler(inputCols=["x"], outputCol="f").transform(flights.selectExpr("x", "2.0 * x AS y"))
    LinearRegression(featuresCol="f", labelCol="y").fit(rows).save(place + "/model")
    slope = LinearRegressionModel.load(place + "/model").coefficients[0]
view = ctx.sql("SELECT count(*) AS c FROM {{t}}", t=notes).collect()[0].c
tracker = ctx.spark.sparkContext.statusTracker()
jobs = len(tracker.getJobIdsForGroup())
many = ctx.read.csv("many", schema="n INT")
many = [len(tracker.getJobIdsForGroup()) - jobs, many.agg(F.sum("n")).collect()[0][0], len(tracker.getJobIdsForGroup()) - jobs]
local = flights.select("x", "s").toPandas()
doubled = ctx.spark.createDataFrame(local).mapInPandas(lambda parts: (part.assign(x=2 * part.x) for part in parts), "x long, s string")
pandas = [len(local), int(local.x.sum()), doubled.agg(F.sum("x")).collect()[0][0]]
gc.disable()
pairs = flights.join(F.broadcast(flights.select("x")), "x")
pairs.collect()
jvm, until = ctx.spark.sparkContext._jvm, time.monotonic() + 30
in_the_jvm = jvm.java.lang.ref.WeakReference(pairs._jdf)
del pairs
while not (freed := in_the_jvm.refersTo(None)) and time.monotonic() < until:
    jvm.java.lang.System.gc()
gc.enable()
wide = ctx.spark.range(4).selectExpr("id", "repeat(cast(id AS string), 6000000) AS s").repartition(201, "id")
sides = wide.sortWithinPartitions("s").join(F.broadcast(wide.selectExpr("id", "s AS t")), "id")
sides = sides.join(F.broadcast(wide.selectExpr("s AS u")), F.col("t") == F.col("u"))
lengths = list(sides.groupBy("u").count().selectExpr("sum(length(u))", "sum(count)").collect()[0])
secret = ctx.spark.conf.get("spark.authenticate.secret", "absent")
conf = ctx.spark.sparkContext.getConf().getAll()
print("RESULT", json.dumps({{"rows": counts, "slope": slope, "said": said, "notes": notes.count(), "joined": done.rows,
    "files": done.files, "view": view, "packed": packed, "pandas": pandas, "many": many, "secret": secret, "conf": conf,
    "freed": freed, "lengths": lengths, "repr": repr(ctx)}}))
"""


@pytest.fixture(scope="module")
def result(world: World) -> Json:
    status, output = world.group.run_program(PROGRAM)
    assert status == 0, output + world.group.log("driver") + world.group.log("executor-1")
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return {**json.loads(line.removeprefix("RESULT ")), "output": output}


def test_program_reads_encrypted_tables_and_files(result: Json) -> None:
    assert sum(result["rows"]) == 2000
    assert result["notes"] == result["view"] == 20_000
    assert CANARY in result["output"]  # show() works through the unix gateway


def test_executors_warm_up_without_an_error(world: World, result: Json) -> None:
    """Nobody waits for their thread, so that what it throws is in the log only."""
    assert "confide-warm-up" not in world.group.log("executor-1")


def test_naming_an_input_of_many_files_starts_no_job(result: Json) -> None:
    """The driver has their names and lengths from the manifest."""
    started, whole, counted = result["many"]
    assert started == 0
    assert whole == sum(range(MANY))
    assert counted >= 1  # jobs are seen


def test_modules_of_the_job_reach_the_python_workers(result: Json) -> None:
    assert result["said"] == f"{CANARY}-0!".upper()


def test_pandas_gets_rows_gives_rows_and_works_on_them_in_the_workers(result: Json) -> None:
    whole = sum(range(2000))
    assert result["pandas"] == [2000, whole, 2 * whole]


def test_a_frame_that_nobody_has_any_more_holds_no_broadcast_tables(result: Json) -> None:
    """The JVM frees what Python dropped, without Python looking for cycles."""
    assert result["freed"]


def test_rows_longer_than_a_page_pass_through_a_shuffle_a_sort_joins_and_an_aggregation(result: Json) -> None:
    """Pages are of 4 MiB (``spark.buffer.pageSize``)."""
    assert result["lengths"] == [4 * 6_000_000, 4]


def test_written_table_is_a_verified_encrypted_dataset(world: World, result: Json) -> None:
    assert result["joined"] == 2000
    manifest = world.result.manifest()
    folder.verify_files(world.result.place, manifest)
    table = files.read_table(world.result.place, manifest, world.result.key)
    assert sorted(table.column("x").to_pylist()) == list(range(2000))
    assert manifest.schema is not None
    assert [field["name"] for field in manifest.schema["spark"]["fields"]] == ["x", "text", "when"]


def test_files_that_spark_wrote_as_containers_open_in_python(world: World, result: Json) -> None:
    manifest = world.report.manifest()
    folder.verify_files(world.report.place, manifest)
    texts = [files.open_file(world.report.place, manifest, entry.path, world.report.key).read() for entry in manifest.files]
    written = [(entry.path, (world.report.place / entry.path).read_bytes()) for entry in manifest.files]
    assert texts == [decode(data, world.report.key.reveal(), manifest.dataset, path) for path, data in written]
    assert sum(text.count(CANARY.encode()) for text in texts) == 100
    assert any(entry.path.startswith("model/metadata/") for entry in manifest.files)
    assert result["slope"] == pytest.approx(2.0)  # saved and loaded by MLlib through enc://


def test_text_that_spark_compressed_is_in_containers_and_comes_back(world: World, result: Json) -> None:
    manifest, found = world.report.manifest(), {}
    for entry in manifest.files:
        codec = entry.path.partition("/")[0]
        if codec in {"gzip", "bzip2"}:
            packed = files.open_file(world.report.place, manifest, entry.path, world.report.key).read()
            rows = {"gzip": gzip, "bzip2": bz2}[codec].decompress(packed)
            found[codec] = found.get(codec, 0) + rows.count(CANARY.encode())
            assert entry.size < len(rows) / 2
    assert found == {"gzip": 5000, "bzip2": 5000}
    assert result["packed"] == [5000, 5000]


def test_no_plaintext_lies_in_any_folder_of_the_run(world: World, result: Json) -> None:
    found = [
        path
        for place in (world.root, *world.group.private.values())
        for path in place.rglob("*")
        if path.is_file() and path.parent.name != "plain" and path.suffix != ".py" and CANARY.encode() in path.read_bytes()
    ]
    assert not found


def test_no_secret_is_in_arguments_environment_conf_or_logs(world: World, result: Json) -> None:
    key_pem = (world.group.private["driver"] / engine.KEY_FILE).read_text().splitlines()[1]
    hidden = [world.group.secret, world.group.token, key_pem]
    texts = [json.dumps(result["conf"])]
    pids = descendants({process.pid for process in world.group.processes.values()})
    assert len(pids) > len(world.group.processes)  # Python workers are there too
    texts += [Path(f"/proc/{pid}/{name}").read_text(errors="replace") for pid in pids for name in ("cmdline", "environ")]
    assert not [text for text in texts if "SECRET" in text]
    texts += [world.group.log(name) for name in world.group.processes]
    assert not [secret for secret in hidden for text in texts if secret in text]
    assert result["secret"] == "absent"


def descendants(pids: set[int]) -> set[int]:
    """``pids`` and every process below them (proc(5))."""
    parents = {
        int(path.parent.name): int(path.read_text().rpartition(")")[2].split()[1])
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.exists()
    }
    found, grown = set(pids), True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found


def test_spark_is_configured_as_the_design_says(result: Json) -> None:
    conf = dict(result["conf"])
    expected = {
        "spark.master": "confide",
        "spark.authenticate": "true",
        "spark.ssl.rpc.enabled": "true",
        "spark.ssl.rpc.openSslEnabled": "true",
        "spark.io.encryption.enabled": "true",
        "spark.io.encryption.keySizeBits": "256",
        "spark.ui.enabled": "false",
        "spark.python.unix.domain.socket.enabled": "true",
    }
    assert {name: conf.get(name) for name in expected} == expected


def test_driver_speaks_tls_1_3_only(world: World, result: Json) -> None:
    from OpenSSL import SSL

    def version(method: int, most: int | None = None) -> str:
        context = SSL.Context(method)
        if most is not None:
            context.set_max_proto_version(most)
        raw = socket.create_connection((world.group.driver.host, world.group.driver.port), timeout=10)
        raw.setblocking(True)
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        connection.do_handshake()
        return connection.get_protocol_version_name()

    assert version(SSL.TLS_CLIENT_METHOD) == "TLSv1.3"
    with pytest.raises(SSL.Error):
        version(SSL.TLS_CLIENT_METHOD, SSL.TLS1_2_VERSION)


def refused(world: World, name: str, **changes: Any) -> str:
    process = world.group.start_executor(name, **changes)
    assert process.wait(timeout=90) != 0
    return str(world.group.log(name))


def test_every_tcp_port_of_the_group_speaks_tls(world: World, result: Json) -> None:
    ports = {port for process in world.group.processes.values() for port in listening_ports(process.pid)}
    assert world.group.driver.port in ports
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(64))
            assert plain.recv(1)[:1] in {b"", b"\x15"}  # a TLS alert, or nothing at all


def listening_ports(pid: int) -> set[int]:
    """Ports on which a process listens (proc(5), /proc/net/tcp and the sockets among its descriptors)."""
    sockets = {link for entry in Path(f"/proc/{pid}/fd").iterdir() if (link := readlink(entry)).startswith("socket:")}
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def readlink(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def test_executor_without_the_secret_is_refused(world: World, result: Json) -> None:
    log = refused(world, "executor-8", secret="0" * 64)
    assert "digest response format violation" in log or "SaslException" in log or "Authentication" in log


def test_executor_that_trusts_another_ca_does_not_talk_to_this_driver(world: World, result: Json) -> None:
    from_other_job = type(world.group.ca)()
    assert "certificate" in refused(world, "executor-9", ca=from_other_job).lower()


FORBIDDEN = {
    'ctx.spark.range(5).write.parquet("file://" + root + "/nowhere")': "[manifest-invalid]",
    'ctx.spark.range(5).write.csv("file://" + root + "/plain-text")': "[plaintext-found]",
    'ctx.spark.sparkContext.setCheckpointDir("file://" + root + "/points") or (r := ctx.spark.range(5).rdd).checkpoint() or r.count()':
        "[plaintext-found]",
    'ctx.spark.range(5).write.csv("enc://" + root + "/elsewhere")': "[manifest-invalid]",
    'ctx.spark.read.schema("x long").parquet("file://" + flights + "/stray.parquet").count()': "[manifest-invalid]",
    'ctx.spark.range(5).write.mode("append").parquet("file://" + flights)': "[manifest-invalid]",
    'ctx.spark.read.text("enc://" + flights + "/stray.parquet").count()': "[data-integrity]",
    'ctx.spark.read.text(ctx.files("notes")[0].replace("v-", "w-", 1)).count()': "PATH_NOT_FOUND",
    'ctx.read("other")': "the job has no input",
    'ctx.read("notes")': "holds files",
    'ctx.read("flights", format="csv")': "holds parquet",
    'ctx.files("flights")': "is a table",
    'ctx.write(ctx.spark.range(1), "other")': "the job has no output",
    "ctx.spark.range(3).foreach(lambda row: 1 / 0)": "ZeroDivisionError",
}  # fmt: skip


def test_what_a_program_may_not_do_fails_clearly(world: World, result: Json) -> None:
    source = f"""
import confide, json
ctx = confide.session()
assert confide.session() is ctx
root, flights = {str(world.root)!r}, ctx._info["inputs"]["flights"]["path"]
found = {{}}
for line in json.loads({json.dumps(json.dumps(list(FORBIDDEN)))}):
    try:
        eval(line)
    except Exception as error:
        found[line] = str(error)
print("FOUND", json.dumps(found))
"""
    status, output = world.group.run_program(source)
    assert status == 0, output
    found = json.loads(next(line for line in output.splitlines() if line.startswith("FOUND ")).removeprefix("FOUND "))
    for line, expected in FORBIDDEN.items():
        assert expected in found.get(line, "nothing was raised"), line
    for name in ("nowhere", "elsewhere"):
        assert not list((world.root / name).rglob("part-*"))


def test_program_outside_a_run_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from confide.data import spark

    monkeypatch.delenv(spark.AGENT_SOCKET, raising=False)
    with pytest.raises(UsageError, match="not inside"):
        spark.session()


def test_changed_file_is_refused_by_the_executors(world: World, result: Json) -> None:
    path = world.table.place / world.table.manifest().files[0].path
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    path.write_bytes(changed)
    try:
        source = "import confide\nctx = confide.session()\nctx.read('flights').distinct().collect()\n"
        status, output = world.group.run_program(source)
    finally:
        path.write_bytes(whole)
    assert status != 0
    assert "GCM tag check failed" in output, output


def test_what_was_moved_inside_a_file_or_from_another_is_refused_by_the_executors(world: World) -> None:
    """Pages, columns and row groups of one file, a whole file of another path, and one without tags, in the place of this one's."""
    path, chosen = world.table.manifest().files[0].path, random.Random(1)
    rows = pa.table({name: [chosen.randrange(1 << 61, 1 << 62) for _ in range(64)] for name in ("x", "s")})
    tried = world.root / "tried"
    tried.mkdir()
    for name, sealed_as in (("whole", path), ("another's", "other.parquet")):
        write_by_arrow(tried / name, rows, world.table.key, world.table.dataset, sealed_as, group=16)
    for name, data in rearranged((tried / "whole").read_bytes(), 8).items():
        (tried / name).write_bytes(data)
    (tried / "says so").write_bytes(said_to_have_no_tags((tried / "whole").read_bytes()))
    place, whole = world.table.place / path, (world.table.place / path).read_bytes()
    source = f"""
import confide, json, os, shutil
ctx, found = confide.session(), {{}}
for name in sorted(os.listdir({str(tried)!r})):
    shutil.copy({str(tried)!r} + "/" + name, {str(place)!r})
    try:
        rows = ctx.spark.read.schema("x long, s long").parquet("file://" + {str(place)!r})
        rows.agg({{"x": "max", "s": "max"}}).collect()
        found[name] = "read"
    except Exception as error:
        text = str(error)
        found[name] = "tag" if "tag check failed" in text else "no tags" if "its pages have no tags" in text else text
print("FOUND " + json.dumps(found))
"""
    try:
        status, output = world.group.run_program(source)
    finally:
        place.write_bytes(whole)
    assert status == 0, output
    found = json.loads(output.rpartition("FOUND ")[2].splitlines()[0])
    assert len(found) >= 10
    assert found == {**dict.fromkeys(found, "tag"), "whole": "read", "says so": "no tags"}


def test_lost_executor_does_not_end_the_run(world: World, result: Json) -> None:
    begun = world.root / "begun"
    source = f"""
import confide, pathlib, time
ctx = confide.session()
slow = ctx.spark.sparkContext.parallelize(range(8), 8).map(lambda i: (time.sleep(1), i)[1])
pathlib.Path({str(begun)!r}).touch()
print("SUM", slow.sum())
"""
    victim = world.group.processes["executor-1"]

    def kill() -> None:
        while not begun.exists():
            time.sleep(0.05)
        time.sleep(1.5)
        victim.kill()

    threading.Thread(target=kill, daemon=True).start()
    status, output = world.group.run_program(source)
    assert status == 0, output
    assert "SUM 28" in output
    assert victim.wait(10) == -9
    assert world.group.processes["driver"].poll() is None
