"""After a run, and while it goes on, no row and no key is anywhere in plaintext: files, logs, environments, command lines, loopback."""

from __future__ import annotations

import re
import secrets
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.stage import PASSPHRASE, Stage

from benchmarks.tpch.tables import generate
from confide.crypto.derive import file_key
from confide.data.snapshots import load_manifest
from confide.errors import JobFailedError
from confide.ids import KeyRef
from confide.jobs.engines.spark import SECRET_FILE
from confide.jobs.result import RunEvent, RunResult
from confide.keys.key_records import Key

pytestmark = [pytest.mark.run, pytest.mark.timeout(300)]

# What Spark does with rows, each forced: shuffles, a window and a Python merge that spill, blocks on disk, a table and a value that are
# broadcast, an attempt that fails, frames of pandas that come and go.  It knows ``spark``, ``orders`` and ``customer``; the control runs it
# as well.
WORK = """
from pyspark import StorageLevel, TaskContext, shuffle
from pyspark.shuffle import Aggregator, ExternalMerger
from pyspark.sql import Window, functions as f
from pyspark.sql.types import StringType

context = spark.sparkContext._jsc.sc()
key = orders.o_custkey == customer.c_custkey
joined = orders.join(customer.hint("shuffle_hash"), key).repartition(4, "o_comment").persist(StorageLevel.DISK_ONLY)
rows = joined.orderBy("o_comment").collect()
assert len(rows) == orders.count()
assert sum(info.diskSize() for info in context.getRDDStorageInfo()) > 100_000

def spilled():
    found = 0
    for stage in range(50):
        try:
            found += context.statusStore().lastStageAttempt(stage).diskBytesSpilled()
        except Exception:
            break
    return found

for name in ("in.memory", "spill"):
    spark.conf.set(f"spark.sql.windowExec.buffer.{name}.threshold", 300)
ranked = orders.withColumn("rank", f.row_number().over(Window.partitionBy("o_shippriority").orderBy("o_comment")))
waits = "rank <> 2000 or reflect('java.lang.Thread', 'sleep', 700L) = '' or rank > 0"  # while it waits, what is spilled can be seen
assert ranked.filter(waits).count() == len(rows)
assert spilled() > 0

def merged(part):
    merger = ExternalMerger(Aggregator(lambda x: [x], lambda x, y: x + [y], lambda x, y: x + y), memory_limit=1, batch=100)
    merger.mergeValues(part)
    yield sum(1 for _ in merger.items()), shuffle.DiskBytesSpilled

counts = joined.rdd.map(lambda row: (row.o_orderkey, (row.o_comment, row.o_totalprice))).mapPartitions(merged).collect()
assert sum(count for count, _ in counts) == len(rows)
assert sum(size for _, size in counts) > 0
assert orders.join(f.broadcast(customer), key).select("o_orderkey", "c_name").distinct().count() == len(rows)

sent = spark.sparkContext.broadcast({row.o_orderkey: row.o_comment for row in rows})

@f.udf(StringType())
def shout(number, text):
    if TaskContext.get().attemptNumber() == 0 and TaskContext.get().partitionId() == 0:
        raise ValueError("a first attempt fails at " + text)
    assert sent.value[number] == text
    return text.upper()

shouted = joined.select(shout("o_orderkey", "o_comment").alias("text"))
assert all(row.text.startswith("ROW-") for row in shouted.collect())
assert joined.filter(joined.o_comment == rows[0]["o_comment"]).count() > 0
text = joined._jdf.showString(5, 0, False)
assert "row-" in text

local = joined.select("o_orderkey", "o_comment").toPandas()
louder = lambda parts: (part.assign(o_comment=part.o_comment.str.upper()) for part in parts)
again = spark.createDataFrame(local).mapInPandas(louder, "o_orderkey long, o_comment string")
assert again.where("o_comment LIKE 'ROW-%'").count() == len(rows)
"""

PROGRAM = f"""
import confide

ctx = confide.session()
spark, orders, customer = ctx.spark, ctx.read("orders"), ctx.read("customer")
{WORK}
assert spark.sparkContext.uiWebUrl is None  # no page, so no thread dumps
ctx.write(joined.select("o_comment", "o_totalprice", "c_name"), "names")
ctx.write(joined.groupBy("c_mktsegment").count(), "summary")
ctx.stop()
""".encode()

BARE = f"""
import os, sys, time
from pyspark.sql import SparkSession

root, os.environ["PYSPARK_PYTHON"] = sys.argv[1], sys.executable
settings = {{
    "spark.local.dir": f"{{root}}/local", "spark.eventLog.enabled": "true", "spark.eventLog.dir": f"file://{{root}}/events",
    "spark.eventLog.compress": "false", "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1", "spark.sql.shuffle.partitions": "4",
    "spark.python.unix.domain.socket.enabled": "false", "spark.sql.adaptive.enabled": "false",
}}
builder = SparkSession.builder.master("local[2,4]")
for name, value in settings.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
orders, customer = (spark.read.parquet(f"{{root}}/in/{{name}}.parquet") for name in ("orders", "customer"))
{WORK}
time.sleep(2)  # for who looks
spark.stop()
"""


FAILING = b"""
import confide
from pyspark.sql import functions as f

ctx = confide.session()
orders = ctx.read("orders")

def bad(text):
    raise ValueError("cannot use " + text)

def failing():
    yield orders.select(f.udf(bad)("o_comment"))
    yield orders.selectExpr("cast(o_comment as int)")
    yield orders.selectExpr("raise_error(o_comment)")

for broken in failing():
    try:
        broken.collect()
        raise SystemExit("it did not fail")
    except Exception as error:
        assert "row-" in str(error)  # the program can see it
next(failing()).collect()
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """TPC-H's orders and customers: each text of a comment and of a name begins with a mark, and prices are binary floating point."""
    plain = generate(Decimal("0.002"), tmp_path_factory.mktemp("tpch") / "plain")
    found = {name: pq.read_table(plain[name]) for name in ("orders", "customer")}
    for name, column, mark in (("orders", "o_comment", "row"), ("customer", "c_name", "land")):
        texts, marked = found[name].column(column).to_pylist(), f"{mark}-{secrets.token_hex(12)}"
        found[name] = found[name].set_column(
            found[name].column_names.index(column), column, pa.array([f"{marked}-{text}" for text in texts])
        )
    number = found["orders"].column_names.index("o_totalprice")
    prices = found["orders"].column(number).cast(pa.float64())
    return {**found, "orders": found["orders"].set_column(number, "o_totalprice", prices)}


@pytest.fixture(scope="module")
def canaries(tables: dict[str, pa.Table]) -> dict[str, bytes]:
    """Marks of texts, and prices of some rows as the JVM and Arrow (little-endian) and pickle and Java streams (big-endian) have them."""
    texts = {name: tables[name].column(column)[0].as_py() for name, column in (("orders", "o_comment"), ("customer", "c_name"))}
    found = {f"{name} row": "-".join(text.split("-")[:2]).encode() for name, text in texts.items()}
    prices = [
        price for price in tables["orders"].column("o_totalprice").to_pylist() if not float(price * 4).is_integer()
    ]  # eight odd bytes
    for order in "<>":
        found |= {f"price {number} {order}": struct.pack(f"{order}d", prices[number]) for number in (0, len(prices) // 2, -1)}
    return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tables: dict[str, pa.Table]) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("leaks"))
    made.owners = {"orders": "airline", "customer": "weather"}
    made.enrol()
    try:
        for name, owner in made.owners.items():
            made.encrypt(owner, name, tables[name])
        yield made
    finally:
        made.close()


def key_canaries(stage: Stage) -> dict[str, bytes]:
    """Every key of the hierarchy that the owners' data hangs on, from the broker's passphrase down to the key of each file."""
    found = {"passphrase": PASSPHRASE}
    for dataset, key in stage.dataset_keys.items():
        manifest = load_manifest(stage.root / dataset).unverified
        found[f"dataset key {dataset}"] = key.reveal()
        for file in manifest.files:
            found[f"file key {file.path}"] = file_key(key, kind="parquet", dataset=manifest.dataset, path=file.path).reveal()
    hierarchy = stage.broker._keys
    for dataset, owner in stage.owners.items():
        name = f"{owner}/{dataset}"
        key = stage.broker.store.get(Key, KeyRef.parse(name).id)
        assert key is not None
        found[f"key-encryption key {name}"] = hierarchy._open(key, 1).reveal()
    return found


def began_before(moment: float) -> Callable[[Path], bool]:
    """Skips what lay in the temporary folder before the run."""

    def skip(path: Path) -> bool:
        return path.stat().st_mtime < moment

    return skip


def watch_new_keys(stage: Stage, watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the keys of outputs as well, from the moment that the broker makes them."""
    hierarchy = stage.broker._keys
    mint = hierarchy.mint

    def minted(key: Any) -> Any:
        wrapped, secret = mint(key)
        watch.add(f"dataset key of an output, {wrapped.dataset}", secret.reveal())
        return wrapped, secret

    monkeypatch.setattr(hierarchy, "mint", minted)


def watch_spark_secret(watch: Any) -> Callable[[RunEvent], None]:
    """Look for Spark's secret as well: it lies in the driver's private folder, which is memory, once workers have been accepted."""
    known: set[bytes] = set()

    def on_event(_event: RunEvent) -> None:
        for file in Path("/dev/shm").glob(f"confide-main-job-*/{SECRET_FILE}"):
            with suppress(OSError):
                secret = file.read_bytes().strip()
                if secret and secret not in known:
                    known.add(secret)
                    watch.add("Spark's secret", secret)

    return on_event


@dataclass(frozen=True)
class Watched:
    """One run, and what was looked for while it went on: rows and keys everywhere, private keys where the host can look."""

    result: RunResult
    secrets: Any
    private_keys: Any


@pytest.fixture(scope="module")
def watched(stage: Stage, canaries: dict[str, bytes], leak_watch: Any) -> Watched:
    job = stage.job(PROGRAM)
    stage.grant(job)
    secrets_to_find = {**canaries, **key_canaries(stage)}
    pkcs8_p256 = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420")
    marks = {"PEM private key": b"PRIVATE KEY-----", "PKCS 8 P-256 key": pkcs8_p256}
    before, began = set(Path(tempfile.gettempdir()).iterdir()), began_before(time.time())
    watch = leak_watch(secrets_to_find, [stage.root, stage.settings.runs_dir], skip=began)
    with watch, leak_watch(marks, [stage.settings.runs_dir], skip=began) as keys, pytest.MonkeyPatch.context() as patch:
        watch_new_keys(stage, watch, patch)
        result, _ = stage.run(job, listener=watch_spark_secret(watch))
        watch.also(path for path in Path(tempfile.gettempdir()).iterdir() if path not in before)
    return Watched(result, watch, keys)


def test_no_row_and_no_key_is_anywhere_in_plaintext(watched: Watched) -> None:
    watch = watched.secrets
    assert watch.findings == set()
    assert watched.result.verification.require().simulated
    # The watch did watch: the executors' traffic and the run's logs went past it, and it knew what to look for.
    assert len([name for name in watch.names if name.startswith("dataset key of an output")]) == 2
    assert "Spark's secret" in watch.names
    assert watch.too_large == set()
    assert watch.bytes_captured > 100_000
    assert watch.files_scanned > 10


def test_values_of_rows_in_errors_of_tasks_are_in_no_log(stage: Stage, canaries: dict[str, bytes], leak_watch: Any) -> None:
    """Of a user's function, of a cast and of SQL; the last one is not caught by the program, which ends by it."""
    job = stage.job(FAILING, resources={"workers": 1, "memory_mb": 700, "driver_memory_mb": 700})
    stage.grant(job)
    watch = leak_watch(canaries, [stage.root, stage.settings.runs_dir], skip=began_before(time.time()))
    with watch, pytest.raises(JobFailedError):
        stage.run(job)
    assert watch.findings == set()
    logs = [path.read_text(errors="replace") for path in stage.settings.runs_dir.rglob("*.log")]
    assert any("PythonException" in text and "is left out" in text for text in logs)  # the program's
    assert any(re.search(r"PythonException\s+at org\.apache\.spark", text) for text in logs)  # the executor's


def test_no_private_key_leaves_memory(watched: Watched) -> None:
    watch = watched.private_keys
    assert watch.findings == set()
    assert watch.bytes_captured > 100_000
    assert watch.files_scanned > 10


def test_without_protection_the_same_work_is_found_out(
    tables: dict[str, pa.Table], canaries: dict[str, bytes], leak_watch: Any, tmp_path: Path
) -> None:
    """The control: Spark alone, with its defaults and an event log, leaves rows and numbers in each kind of place that is looked at."""
    for name in ("in", "events", "local", "log"):
        (tmp_path / name).mkdir()
    for name, table in tables.items():
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    (tmp_path / "bare.py").write_text(BARE)
    places = [tmp_path / name for name in ("events", "local", "log")]
    log = tmp_path / "log" / "spark.log"
    with leak_watch(canaries, places) as watch, log.open("wb") as output:
        argv = [sys.executable, tmp_path / "bare.py", tmp_path]
        done = subprocess.run(argv, cwd=tmp_path, stdout=output, stderr=output, check=False, timeout=250)
    assert done.returncode == 0, log.read_text()[-4000:]
    found = {(name.split()[0], _kind(place)) for name, place in watch.findings}
    assert {
        ("orders", kind) for kind in ("shuffle", "spill", "cached block", "broadcast", "event log", "text of an error", "loopback")
    } <= found
    assert {("price", kind) for kind in ("shuffle", "loopback")} <= found


def _kind(place: str) -> str:
    kinds = {
        "/shuffle_": "shuffle",
        "/rdd_": "cached block",
        "/temp_local_": "spill",
        "/pyspark-": "broadcast",
        "/events/": "event log",
        "/log/": "text of an error",
    }
    return next((kind for part, kind in kinds.items() if part in place), place.split(maxsplit=1)[0])
