"""Every format through Spark's own readers and writers: what comes back is what a plain Spark reads back, whatever tasks fail meanwhile."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from support.formats_world import RUN, SparkWorld
from support.scanned_table import access_under
from support.spark_types import FRAMES

from confide.canonical import Json
from confide.data import files
from confide.data.manifest import MANIFEST_NAME
from confide.data.opened_table import OpenedMemory
from confide.data.parquet_scan import TableScan
from confide.data.pinned_parquet import TableFile
from confide.jobs.staging import staging_path

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]

CANARY = "CANARY-90b1d7"
TYPED = ("parquet", "orc", "json", "csv", "avro")
SHAPES = ("lines", "empty", "empty-csv", "by-day", "by-day-csv", "sorted-orc", "parts", "raced", "clean", "wide-out", "wide-noise")
OUTPUTS = (*(f"typed-{form}" for form in TYPED), *SHAPES)
SPECULATION = {
    "spark_speculation": "true",
    # Spark's scheduler takes these three when it is made, and what a program sets later is not heard ...
    "spark_speculation_interval": "200ms",
    "spark_speculation_minTaskRuntime": "2s",
    "spark_speculation_efficiency_enabled": "false",  # the time of a task alone decides
    # ... but this one for each stage: no copies, until a program asks for them.
    "spark_speculation_quantile": "1.0",
    "spark_speculation_multiplier": "2",
}


@pytest.fixture(scope="module")
def world(spark_group_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkWorld]:
    root = tmp_path_factory.mktemp("formats")
    made = SparkWorld(spark_group_class(root, {}), root, OUTPUTS)
    try:
        made.own("flights", "airline", pa.table({"n": list(range(100)), "city": [f"city-{i % 5}" for i in range(100)]}))
        made.own("notes", "hotel", plain_files(root / "plain"))
        made.own("pictures", "hotel", picture(root / "plain" / "red.png"))
        made.own("wide", "airline", pa.table({f"column_{i}": [i, None] for i in range(10_000)}))
        made.start(**SPECULATION)
        yield made
    finally:
        made.close()


def plain_files(source: Path) -> Path:
    """Folders of a column, an odd name that is a pattern to Hadoop, an empty file, and files that Spark passes over."""
    for year in (2023, 2024):
        folder = source / f"year={year}"
        folder.mkdir(parents=True)
        (folder / "odd [1]{x}*.csv").write_text("".join(f"{n},{CANARY}-{n}\n" for n in range(20_000)))
    (source / "year=2024" / "odd 1x.csv").write_text("-1,other\n")
    (source / "year=2024" / "none.csv").write_bytes(b"")
    (source / "year=2024" / "_SUCCESS").write_bytes(b"")
    return source


def picture(place: Path) -> Path:
    """A red PNG image, 3 x 2 (W3C PNG specification, section 5)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xff\0\0" * 3) * 2
    head = struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0)
    place.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return place


SAVE = FRAMES + """
from pyspark.sql import functions as F
spark.conf.set("spark.sql.session.timeZone", "America/Los_Angeles")
for form, (nested, options) in FORMATS.items():
    done = ctx.write(frame(spark, nested), f"typed-{form}", form, **options)
    found[form] = done.files
ctx.write.text(spark.range(3).selectExpr("concat('line ', id, ' ü') AS value").repartition(2), "lines")
nobody = spark.sql("SELECT 1 AS x, 'a' AS city, date'2024-01-01' AS day WHERE false")
found["empty"] = ctx.write(nobody, "empty", partitionBy="city").rows
ctx.write.csv(nobody, "empty-csv", header=True)
days = spark.range(12).selectExpr("id AS x", "date_add(date'2024-01-01', cast(id % 3 AS int)) AS Day",
    "IF(id % 4 = 0, NULL, concat('a/b:', id % 4, '%é')) AS s")
found["by-day"] = ctx.write(days, "by-day", partitionBy=["day", "S"]).rows
ctx.write.csv(days, "by-day-csv", partitionBy="Day", header=True)
ctx.write(days.limit(2), "by-day", mode="append", partitionBy=["Day", "s"])
big = spark.range(0, 60_000, 1, 1).selectExpr("id", "sha2(cast(id AS string), 512) AS noise")
ctx.write(big, "wide-noise", **{"parquet.page.size.row.check.min": 100, "parquet.page.size": 65536})
ctx.write.orc(big, "sorted-orc", **{"orc.stripe.size": 65536, "orc.row.index.stride": 1000, "orc.compress": "NONE"})
"""
LOAD = FRAMES + """
from pyspark.sql import functions as F
spark.conf.set("spark.sql.session.timeZone", "America/Los_Angeles")
for form, (nested, options) in FORMATS.items():
    schema = frame(spark, nested).schema if form in ("json", "csv") else None
    df = ctx.read.parquet("typed-parquet") if form == "parquet" else ctx.read(f"typed-{form}", form, schema, **options)
    found[form] = dump(df)
found["lines"] = sorted(row.value for row in ctx.read.text("lines").collect())
found["empty"] = [ctx.read("empty").schema.simpleString(), ctx.read("empty").count()]
found["empty-csv"] = [ctx.read.csv("empty-csv", header=True).columns, ctx.read.csv("empty-csv", header=True).count()]
days = ctx.read("by-day")
rows = days.select("x", F.col("Day").cast("string"), "s").collect()
found["by-day"] = [days.schema.simpleString(), sorted(map(list, rows), key=str)]
one = days.where("Day = date'2024-01-02'")
found["pruned"] = ["PartitionFilters: [isnotnull(Day" in one._jdf.queryExecution().toString(), one.count()]
found["by-day-csv"] = sorted(map(str, ctx.read.csv("by-day-csv", header=True, inferSchema=True).groupBy("Day").count().collect()))
"""
PLAIN = """
import json, sys
from pyspark.sql import SparkSession, functions as F
root, found = sys.argv[1], {}
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.conf.set("spark.sql.session.timeZone", "America/Los_Angeles")
for form, (nested, options) in FORMATS.items():
    made = frame(spark, nested)
    if form == "avro":  # the wheel has no Avro source to compare with: the frame itself
        found[form] = dump(made.withColumns({name: F.col(name).cast("int") for name in ("b", "sh")}))  # Avro has no shorter integers
        continue
    made.write.format(form).options(**options).save(f"{root}/{form}")
    reader = spark.read.format(form).options(**options)
    found[form] = dump((reader if form in ("orc", "parquet") else reader.schema(made.schema)).load(f"{root}/{form}"))
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """What Spark alone makes of the same frames."""
    root = tmp_path_factory.mktemp("plain-spark")
    (root / "plain.py").write_text(FRAMES + PLAIN)
    done = subprocess.run([sys.executable, root / "plain.py", root], capture_output=True, text=True, timeout=600, check=False, cwd=root)
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    return dict(json.loads(line.removeprefix("FOUND ")))


@pytest.fixture(scope="module")
def saved(world: SparkWorld) -> Json:
    return world.program(SAVE)


@pytest.fixture(scope="module")
def loaded(world: SparkWorld, saved: Json, raced: Json) -> Json:
    """What a later run reads: the outputs are published, and inputs now."""
    assert not [name for name in OUTPUTS if (world.root / name).exists()]
    assert not [path for name in OUTPUTS for path in staging_path(world.root / name, RUN).rglob(MANIFEST_NAME)]
    world.publish()
    return world.program(LOAD)


RACED = """
import os, time
from pyspark import TaskContext
from pyspark.sql import functions as F

def hang():  # until the attempt is killed; bounded, so that a copy that is never made is an error and no hanging test
    time.sleep(300)
    os.makedirs(values["lost"] + "-outlasted", exist_ok=True)
    raise TimeoutError("nobody killed this attempt")

@F.udf("long")
def late(x):
    # The first attempt of one task hangs within its file; of another it fails, and of a third it is lost with its executor.
    first = TaskContext.get().attemptNumber() == 0
    if first and x == 150:
        hang()
    if not first and x == 150:
        os.makedirs(values["lost"] + "-copied", exist_ok=True)
    if first and x == 450:
        raise ValueError("a first attempt")
    if first and x == 750 and not os.path.exists(values["lost"]):
        os.mkdir(values["lost"])
        os.mkdir(os.path.join(values["lost"], os.environ["SPARK_LOCAL_HOSTNAME"]))
        hang()
    return x

context = spark.sparkContext._jsc.sc()
until = time.monotonic() + 120
while context.getExecutorMemoryStatus().size() < 3:  # the driver and two: the task that hangs must not have the only one
    assert time.monotonic() < until
    time.sleep(0.1)
context.conf().set("spark.speculation.quantile", "0.3")
rows = spark.range(0, 1000, 1, 10).select(late("id").alias("id"), F.repeat(F.lit("x"), 200).alias("text"))
found["raced"] = ctx.write.csv(rows, "raced").files
found["copied"], found["outlasted"] = (os.path.exists(values["lost"] + end) for end in ("-copied", "-outlasted"))
try:
    ctx.write.json(rows.withColumn("id", F.expr("IF(id = 999, raise_error('no'), id)")), "clean")
except Exception as error:
    found["failed"] = str(error)[:200]
found["clean"] = ctx.write.json(spark.range(7), "clean").files
ctx.write.json(spark.range(7, 9), "clean", mode="append")
context.conf().set("spark.speculation.quantile", "1.0")
"""


@pytest.fixture(scope="module")
def raced(world: SparkWorld, saved: Json) -> Json:
    """A speculative copy, a failing attempt and a killed executor within one save; then a save that fails and is tried again."""
    lost, ended = world.root / "lost", threading.Event()

    def kill() -> str:
        """Kill the executor whose task waits for it, and start another."""
        while not (hosts := list(lost.glob("*"))):
            assert not ended.wait(0.05), "the task that is to be lost never began"
        name = f"executor-{int(hosts[0].name.rpartition('.')[2]) - 1}"
        world.group.processes[name].kill()
        world.executor(3)
        return name

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        try:
            found = world.program(RACED, values={"lost": str(lost)})
        finally:
            ended.set()
        return {**found, "killed": killed.result()}


@pytest.mark.parametrize("form", TYPED)
def test_each_type_comes_back_as_plain_spark_has_it(loaded: Json, plain: Json, form: str) -> None:
    assert len(plain[form][1]) == 6
    assert loaded[form] == plain[form]


def test_lines_and_tables_without_rows_come_back(loaded: Json, saved: Json) -> None:
    assert loaded["lines"] == ["line 0 ü", "line 1 ü", "line 2 ü"]
    assert saved["empty"] == 0
    assert loaded["empty"] == ["struct<x:int,day:date,city:string>", 0]
    assert loaded["empty-csv"] == [["x", "city", "day"], 0]


def test_columns_in_folders_are_read_pruned_and_typed(world: SparkWorld, loaded: Json, saved: Json) -> None:
    schema, rows = loaded["by-day"]
    assert schema == "struct<x:bigint,Day:date,s:string>"
    assert len(rows) == 14
    assert [1, "2024-01-02", "a/b:1%é"] in rows
    assert [4, "2024-01-02", None] in rows
    assert loaded["pruned"] == [True, 5]
    assert loaded["by-day-csv"] == [f"Row(Day=datetime.date(2024, 1, {day}), count=4)" for day in (1, 2, 3)]
    owned = world.owned["by-day"]
    table = files.read_table(owned.place, owned.manifest(), owned.key)
    assert sorted(([x, str(day), s] for x, day, s in zip(*table.to_pydict().values(), strict=True)), key=str) == rows


@pytest.mark.parametrize("memory", [None, OpenedMemory()], ids=["streamed", "kept"])
@pytest.mark.parametrize("name", ["typed-parquet", "by-day", "wide-noise"])
def test_polars_reads_what_spark_wrote(world: SparkWorld, loaded: Json, name: str, memory: OpenedMemory | None) -> None:
    """Parquet's Java encrypts more with a page's header than the header."""
    owned = world.owned[name]
    manifest = owned.manifest()
    assert manifest.schema is not None

    entries = [TableFile(entry.path, entry.size, entry.rows or 0) for entry in manifest.files]
    frame = TableScan(owned.place, entries, access_under(owned.key, manifest.dataset), manifest.schema, memory=memory).frame(name)
    expected = pl.DataFrame(files.read_table(owned.place, manifest, owned.key))
    assert expected.height == sum(entry.rows for entry in entries) > 0
    assert frame.collect().equals(expected)
    for column in expected.columns:
        assert frame.select(column).collect().equals(expected.select(column))


def test_partition_by_warns_once_and_names_the_columns(saved: Json) -> None:
    warnings = [line for line in saved["output"].splitlines() if line.startswith("partitionBy: the values of")]
    assert [line.split(" become ")[0].rpartition("of ")[2] for line in warnings] == ["city", "Day, s"]


def test_lost_and_second_attempts_leave_neither_rows_nor_files(world: SparkWorld, raced: Json, loaded: Json) -> None:
    assert world.group.processes[raced["killed"]].poll() == -9
    assert (raced["copied"], raced["outlasted"]) == (True, False)  # a copy was made while the first attempt hung
    owned = world.owned["raced"]
    manifest = owned.manifest()
    lines = [
        line.split(b",")[0]
        for entry in manifest.files
        for line in files.open_file(owned.place, manifest, entry.path, owned.key).read().splitlines()
    ]
    assert sorted(map(int, lines)) == list(range(1000))
    assert len(manifest.files) == raced["raced"] == 10


def test_a_save_that_failed_can_be_made_again(world: SparkWorld, raced: Json, loaded: Json) -> None:
    assert "no" in raced["failed"]
    owned = world.owned["clean"]
    manifest = owned.manifest()
    rows = [files.open_file(owned.place, manifest, entry.path, owned.key).read().split() for entry in manifest.files]
    assert sorted(json.loads(row)["id"] for part in rows for row in part) == list(range(9))


READ = """
spark.conf.set("spark.sql.files.maxPartitionBytes", 100_000)
spark.conf.set("spark.sql.files.openCostInBytes", 0)
notes = ctx.read.csv("notes", schema="n long, text string")
found["partitions"] = notes.rdd.getNumPartitions()
notes.createOrReplaceTempView("notes")
found["counts"] = [list(row) for row in ctx.sql("SELECT year, count(*), sum(n) FROM notes GROUP BY year ORDER BY year").collect()]
found["names"] = sorted(set(row.path.rsplit("/", 1)[1] for row in ctx.read.binaryFile("notes").select("path", "length").collect()))
found["image"] = [list(row) for row in ctx.read.image("pictures").select("image.width", "image.height", "image.nChannels").collect()]
joined = "SELECT count(*) AS c FROM Flights f JOIN notes n ON f.n = n.n AND n.year = :year"
found["joined"] = ctx.sql(joined, {"year": 2023}).collect()[0].c
nested = "WITH c AS (SELECT city FROM flights WHERE n IN (SELECT n FROM `flights` WHERE n < 3)) SELECT count(*) AS c FROM c"
found["cte"] = ctx.sql(nested).collect()[0].c
for query in ("SELECT * FROM nobody", "SELECT * FROM `typed-csv`"):
    try:
        ctx.sql(query)
    except Exception as error:
        found[query] = str(error)
def read_bytes():
    return sum(int(open(f"/proc/{pid}/io").readline().split()[1]) for pid in values["pids"])
def cost(frame):
    before = read_bytes()
    found.setdefault("rows", []).append(len(frame.select("id", "noise").collect()))
    return read_bytes() - before
orc = ctx.read.orc("sorted-orc")
cost(orc.where("id < 40"))  # what is read of jars, the first time, is not of the data
found["filtered"], found["whole"] = cost(orc.where("id < 50")), cost(orc)
found["size"] = sum(row.length for row in ctx.read.binaryFile("sorted-orc").select("length").collect())
"""


@pytest.fixture(scope="module")
def read(world: SparkWorld, loaded: Json) -> Json:
    executors = [process for name, process in world.group.processes.items() if name.startswith("executor")]
    return world.program(READ, values={"pids": [process.pid for process in executors if process.poll() is None]})


def test_one_large_file_is_read_by_many_tasks(read: Json) -> None:
    assert read["partitions"] >= 8
    total = sum(range(20_000))
    assert read["counts"] == [[2023, 20_000, total], [2024, 20_001, total - 1]]


def test_names_that_are_patterns_are_names(read: Json) -> None:
    assert read["names"] == ["odd 1x.csv", "odd [1]{x}*.csv"]  # Spark has no row for a file of no bytes


def test_images_are_images(read: Json) -> None:
    assert read["image"] == [[3, 2, 3]]


def test_ten_thousand_columns_pass_through(world: SparkWorld) -> None:
    found = world.program('found["rows"] = ctx.write(ctx.read("wide").repartition(1), "wide-out").rows')
    assert found["rows"] == 2


def test_two_owners_and_two_formats_meet_in_one_query(world: SparkWorld, read: Json) -> None:
    assert world.owned["flights"].wrapped.key != world.owned["notes"].wrapped.key
    assert read["joined"] == 100


def test_tables_are_there_by_name_in_sql(read: Json) -> None:
    assert read["cte"] == 3
    assert "TABLE_OR_VIEW_NOT_FOUND" in read["SELECT * FROM nobody"]
    assert "cannot tell their format" in read["SELECT * FROM `typed-csv`"]


def test_a_filter_on_orc_reads_fewer_bytes(read: Json) -> None:
    assert read["rows"] == [40, 50, 60_000]
    assert read["whole"] - read["filtered"] > read["size"] / 2


MISTAKES = {
    **{f'frame.write.{form}("file://" + root + "/mistake-{form}")': "[plaintext-found]" for form in ("csv", "json", "orc")},
    'frame.selectExpr("cast(id AS string)").write.text(root + "/mistake-text")': "[plaintext-found]",
    'frame.write.format("xml").option("rowTag", "r").save("file://" + root + "/mistake-xml")': "[plaintext-found]",
    '(hadoop.unset(FACTORY), frame.write.mode("append").parquet("file://" + stage))': "[plaintext-found]",
    'frame.rdd.map(str).saveAsTextFile("file://" + root + "/mistake-rdd")': "[plaintext-found]",
    'spark.sql("INSERT OVERWRITE DIRECTORY \'file://" + root + "/mistake-sql\' USING csv SELECT 1")': "[plaintext-found]",
    'ctx.write.csv(frame, "parts", **{"parquet.crypto.factory.class": ""})': "not one of a data format",
    'ctx.write(frame, "parts", path="/tmp/x")': "not one of a data format",
    'ctx.write(frame, "parts", "avro", partitionBy="id")': "Avro takes no",
    'ctx.read("notes", "avro", positionalFieldMatching=True)': "Avro takes no",
    'ctx.read.csv("notes", **{"fs.enc.impl": "x"})': "not one of a data format",
    'ctx.write(frame, "parts", partitionBy="nobody")': "no column",
    'ctx.write(spark.sql("SELECT now() AS t, 1 AS x"), "parts", partitionBy="t")': "cannot be partitioned",
    'ctx.write(frame, "parts", mode="upsert")': "no such save mode",
    'ctx.write(frame, "typed-orc", format="orc")': "written before",
    'ctx.read("flights", schema="n int")': "is a table and has its schema",
}


def test_mistakes_make_no_plaintext(world: SparkWorld, read: Json) -> None:
    source = """
frame, root, FACTORY = spark.range(3), values["root"], "parquet.crypto.factory.class"
hadoop = spark.sparkContext._jsc.hadoopConfiguration()
factory = hadoop.get(FACTORY)
stage = ctx._agent.call("stage", name="parts", kind="parquet")["path"]
for line in values["lines"]:
    try:
        eval(line)
    except Exception as error:
        found[line] = str(error)
    hadoop.set(FACTORY, factory)
frame.write.option("uniform.keys", "nonsense").option("parquet.encryption.uniform.key", "x").mode("append").parquet("file://" + stage)
"""
    found = world.program(source, values={"root": str(world.root), "lines": list(MISTAKES)})
    for line, expected in MISTAKES.items():
        assert expected in found.get(line, "nothing was raised"), line
    assert not [path for path in world.root.rglob("mistake-*/**/part-*") if path.stat().st_size]
    written = [path for path in staging_path(world.root / "parts", RUN).rglob("part-*.parquet") if path.stat().st_size]
    assert written
    assert all(path.read_bytes().startswith(b"PARE") for path in written)


def test_no_plaintext_is_in_any_folder(world: SparkWorld, read: Json) -> None:
    found = [
        path
        for place in (world.root, *world.group.private.values())
        for path in place.rglob("*")
        if path.is_file() and "plain" not in path.parts and path.suffix != ".py" and CANARY.encode() in path.read_bytes()
    ]
    assert not found
