"""Structured Streaming over encrypted inputs into encrypted outputs, with nothing of its checkpoints in plaintext."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.spark_world import SparkWorld

from confide.crypto.container import MAGIC

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]

CANARY = "CANARY-77aa10"
PRELUDE = """
import os
from pyspark.sql import functions as F
notes = ctx.read_stream("notes", format="csv", schema="n int, text string", header=True, maxFilesPerTrigger=2)

def run(writer):
    query = writer.trigger(availableNow=True).start()
    assert query.awaitTermination(500)
    return [one["numInputRows"] for one in query.recentProgress]

def begin(writer):  # and stop in the middle
    query = writer.trigger(processingTime="0 seconds").start()
    while not query.recentProgress and not query.exception():
        query.awaitTermination(0.1)
    query.stop()
    return [one["numInputRows"] for one in query.recentProgress]

def heads(place):
    top = place.removeprefix("enc://")
    names = [os.path.join(base, name) for base, _, names in os.walk(top) for name in names]
    found = {name.removeprefix(top): open(name, "rb").read(8).hex() for name in names}
    return {name: head for name, head in found.items() if head}  # a file whose writer was stopped before its first byte
"""


@pytest.fixture(scope="module")
def world(spark_group_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkWorld]:
    root = tmp_path_factory.mktemp("streams")
    plain = root / "plain"
    plain.mkdir()
    for part in range(4):
        rows = "".join(f"{part * 100 + n},{CANARY}-{n % 7}\n" for n in range(100))
        (plain / f"part-{part}.csv").write_text("n,text\n" + rows)
    made = SparkWorld(spark_group_class(root, {}), root)
    made.add_input("notes", plain)
    made.add_input("flights", pa.table({"n": list(range(50)), "who": [f"{CANARY}-{n}" for n in range(50)]}))
    for path in plain.iterdir():
        path.unlink()
    try:
        made.start(
            "copied",
            "counted",
            "rocks",
            "each",
            "formats",
            "hidden",
            "busy",
            "cut-offsets",
            "cut-commits",
            "cut-sources",
            "cut-rows",
            executors=1,
        )
        yield made
    finally:
        made.group.close()


def numbers(world: SparkWorld, output: str) -> list[int]:
    lines = [line for text in world.opened(output).values() for line in text.decode().splitlines()]
    return sorted(int(line.split(",")[0]) for line in lines)


def test_a_query_that_is_stopped_and_started_again_writes_each_row_once(world: SparkWorld) -> None:
    """Files of a lost task, and files that no manifest lists, are not in the output either."""
    (world.root / "notes" / "stray.csv").write_bytes(b"not of the manifest")
    first, second, third, found = world.result(f"""{PRELUDE}
with ctx.writing("copied") as place:
    target = notes.writeStream.format("csv").option("checkpointLocation", place + "/_checkpoints/copy").option("path", place + "/rows")
    seen = [begin(target), run(target), run(target)]
    seen.append(heads(place))
    lost = ctx.spark.sparkContext._jvm.org.apache.hadoop.fs.Path(place + "/rows/part-00000-lost.csv")
    files = lost.getFileSystem(ctx.spark.sparkContext._jsc.hadoopConfiguration())
    files.create(lost).close()
    with open(place.removeprefix("enc://") + "/rows/part-00001-lost.csv", "wb") as half:
        half.write(b"CONFIDE")
result(seen)
""")
    (world.root / "notes" / "stray.csv").unlink()
    assert numbers(world, "copied") == list(range(400))
    assert sum(first) > 0
    assert sum(third) == 0
    assert all(path.startswith("rows/part-") for path in world.opened("copied"))
    kinds = {Path(name).parent.name for name in found}
    assert kinds == {"rows", "_spark_metadata", "offsets", "commits", "0", "copy"}
    assert set(found.values()) == {MAGIC.hex()}
    assert sum(second) <= 400


@pytest.mark.parametrize("output", ["counted", "rocks"])
def test_state_lies_encrypted_in_the_checkpoint_and_is_found_again(world: SparkWorld, output: str) -> None:
    provider = {"counted": "HDFSBackedStateStoreProvider", "rocks": "RocksDBStateStoreProvider"}[output]
    counts, found = world.result(f"""{PRELUDE}
ctx.spark.conf.set("spark.sql.streaming.stateStore.providerClass", "org.apache.spark.sql.execution.streaming.state.{provider}")
with ctx.writing("{output}") as place:
    counted = notes.groupBy("text").count().writeStream.format("memory").outputMode("complete").queryName("counts_{output}")
    begin(counted)
    run(counted)
    sums = ctx.spark.table("counts_{output}")
    counts = [row["count"] for row in sums.orderBy("text").collect()]
    seen = heads(place)
    sums.write.mode("append").csv(place + "/sums")
ctx.spark.conf.unset("spark.sql.streaming.stateStore.providerClass")
result([counts, seen])
""")
    assert counts == [60, 60, 56, 56, 56, 56, 56]
    assert any(name.endswith(".delta" if output == "counted" else ".zip") for name in found)
    assert set(found.values()) == {MAGIC.hex()}
    assert all(path.startswith("sums/") for path in world.opened(output))
    places = [path for path in world.root.rglob("*") if path.suffix in {".sst", ".log"} and path.parent != world.root]
    assert all("executor-" in str(path) for path in places)  # work folders: the node's memory


def test_batches_and_listeners_in_python_are_called_over_the_unix_socket(world: SparkWorld) -> None:
    assert world.result(f"""{PRELUDE}
from pyspark.sql.streaming import StreamingQueryListener
seen = []
class Heard(StreamingQueryListener):
    def onQueryStarted(self, event): seen.append("started")
    def onQueryProgress(self, event): pass
    def onQueryIdle(self, event): pass
    def onQueryTerminated(self, event): seen.append("ended")
ctx.spark.streams.addListener(Heard())
with ctx.writing("each") as place:
    def save(batch, number):
        batch.write.mode("overwrite").csv(f"{{place}}/batch-{{number}}")
    run(notes.writeStream.foreachBatch(save))
import time
for _ in range(100):
    if "ended" not in seen: time.sleep(0.1)
result(seen)
""") == ["started", "ended"]
    assert numbers(world, "each") == list(range(400))


def test_every_file_format_is_a_source_and_a_sink(world: SparkWorld) -> None:
    assert world.result(f"""{PRELUDE}
with ctx.writing("formats") as place:
    run(ctx.read_stream("flights").writeStream.format("parquet").option("path", place + "/parquet"))
    run(ctx.read_stream("notes", format="text").writeStream.format("text").option("path", place + "/text"))
    run(notes.writeStream.format("json").option("path", place + "/json"))
    again = ctx.spark.readStream.schema("n int, text string").json(place + "/json")
    run(again.writeStream.format("csv").option("path", place + "/csv"))
    read = ctx.spark.read
    found = [read.parquet(place + "/parquet").count(), read.text(place + "/text").count(), read.csv(place + "/csv").count()]
result(found)
""") == [50, 404, 400]
    assert {path.split("/")[0] for path in world.opened("formats")} == {"parquet", "text", "json", "csv"}


def test_a_file_that_storage_hides_from_a_stream_is_missed(world: SparkWorld) -> None:
    """Spark itself goes on without it, and without all files of its folder (HadoopFSUtils.listLeafFiles)."""
    (file,) = world.inputs["flights"].manifest.files
    place = world.root / "flights" / file.path
    place.rename(world.root / "hidden.parquet")
    try:
        status, output = world.run(f"""{PRELUDE}
print("ROWS", run(ctx.read_stream("flights").writeStream.format("noop")))
""")
    finally:
        (world.root / "hidden.parquet").rename(place)
    assert status != 0, output
    assert f"[data-integrity] a file of the dataset is missing: {file.path}" in output


def test_a_log_that_storage_does_not_show_whole_is_missed(world: SparkWorld) -> None:
    status, output = world.run(f"""{PRELUDE}
with ctx.writing("hidden") as place:
    run(notes.writeStream.format("csv").option("path", place + "/rows"))
    os.unlink(place.removeprefix("enc://") + "/rows/_spark_metadata/1")
""")
    assert status != 0
    assert "[data-integrity] storage does not show a file of a query's log: _spark_metadata/1" in output


@pytest.mark.parametrize("log", ["offsets", "commits", "sources/0", "rows/_spark_metadata"])
def test_a_query_is_not_started_again_from_a_log_that_storage_cut(world: SparkWorld, log: str) -> None:
    """Else a batch would be planned anew with other files under its old number, and the sink would leave it out."""
    name = f"cut-{log.split('/', maxsplit=1)[0]}"
    status, output = world.run(f"""{PRELUDE}
with ctx.writing("{name}") as place:
    target = notes.writeStream.format("csv").option("checkpointLocation", place + "/points").option("path", place + "/rows")
    begin(target)
    top = place.removeprefix("enc://") + ("/{log}" if "{log}".startswith("rows") else "/points/{log}")
    os.unlink(os.path.join(top, max(os.listdir(top), key=lambda name: int(name) if name.isdecimal() else -1)))
    run(target)
""")
    assert status != 0
    assert "[data-integrity] storage does not show a file of a query's log" in output


def test_an_output_is_not_committed_under_a_running_query(world: SparkWorld) -> None:
    status, output = world.run(f"""{PRELUDE}
try:
    with ctx.writing("busy") as place:
        query = notes.writeStream.format("csv").option("path", place + "/rows").queryName("still").start()
finally:
    query.stop()
""")
    assert status != 0
    assert "a streaming query still runs: still" in output


def test_a_checkpoint_on_a_plain_path_is_refused(world: SparkWorld) -> None:
    status, output = world.run(f"""{PRELUDE}
run(notes.writeStream.format("noop").option("checkpointLocation", "file://{world.root}/points"))
""")
    assert status != 0
    assert "[plaintext-found]" in output


def test_nothing_of_all_this_is_in_plaintext(world: SparkWorld) -> None:
    found = world.holding(CANARY.encode())
    assert [
        path for path in found if not path.is_relative_to(world.root / "executor-1") and not path.is_relative_to(world.root / "executor-2")
    ] == []
