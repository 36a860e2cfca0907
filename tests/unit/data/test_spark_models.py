"""MLlib's pipelines and old RDD programs over ``enc://``: what one program saves, the next one loads from an encrypted input."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from support.spark_world import SparkWorld

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]

CANARY = "CANARY-b3109e"
ROWS = 200


@pytest.fixture(scope="module")
def world(spark_group_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkWorld]:
    root = tmp_path_factory.mktemp("models")
    plain = root / "plain"
    plain.mkdir()
    for part in range(3):
        (plain / f"notes-{part}.txt").write_text("".join(f"{CANARY}-{part}-{n}\n" for n in range(100)))
    made = SparkWorld(spark_group_class(root, {}), root)
    made.add_input("flights", pa.table({"n": list(range(ROWS)), "who": [f"{CANARY}-{n % 5}" for n in range(ROWS)]}))
    made.add_input("notes", plain)
    shutil.rmtree(plain)
    try:
        made.start("model", "texts", "counted", executors=1)
        yield made
    finally:
        made.group.close()


@pytest.fixture(scope="module")
def trained(world: SparkWorld) -> list[float]:
    """Trains and saves a pipeline; the next program has it as an input."""
    predicted = world.result("""
from pyspark.ml import Pipeline
from pyspark.ml.classification import DecisionTreeClassifier
from pyspark.ml.feature import StringIndexer, VectorAssembler
rows = ctx.read("flights").selectExpr("n", "who", "cast(n > 100 as int) as late")
stages = [
    StringIndexer(inputCol="who", outputCol="w"),
    VectorAssembler(inputCols=["n", "w"], outputCol="features"),
    DecisionTreeClassifier(labelCol="late", maxDepth=2),
]
fitted = Pipeline(stages=stages).fit(rows)
with ctx.writing("model") as place:
    fitted.write().overwrite().save(place + "/late")
result([row.prediction for row in fitted.transform(rows).orderBy("n").collect()])
""")
    place = world.root / "model"
    world.move("model", place)
    world.hold_input("late-model", place, *world.keys["model"])
    world.group.info["inputs"]["late-model"] = world.inputs["late-model"].info()
    return [float(value) for value in predicted]


def test_a_pipeline_that_one_program_saved_is_loaded_by_the_next(world: SparkWorld, trained: list[float]) -> None:
    again = world.result("""
from pyspark.ml import PipelineModel
loaded = PipelineModel.load(ctx.folder("late-model") + "/late")
result([row.prediction for row in loaded.transform(ctx.read("flights")).orderBy("n").collect()])
""")
    assert again == trained
    assert sum(trained) == pytest.approx(ROWS / 2, abs=8)  # a tree's thresholds are those of bins


def test_a_model_that_was_changed_is_not_loaded(world: SparkWorld, trained: list[float]) -> None:
    place = next((world.root / "model" / "late").rglob("stages/2_*/data/part-*"))
    whole = place.read_bytes()
    place.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    try:
        status, output = world.run("""
from pyspark.ml import PipelineModel
PipelineModel.load(ctx.folder("late-model") + "/late")
""")
    finally:
        place.write_bytes(whole)
    assert status != 0
    assert "[data-integrity]" in output


def test_rdds_of_old_programs_are_read_and_saved(world: SparkWorld) -> None:
    found = world.result("""
sc = ctx.spark.sparkContext
every = ",".join(ctx.files("notes"))
seen = {
    "lines": sc.textFile(every).count(),
    "split": sc.textFile(ctx.files("notes")[0], 4).count(),
    "folder": sc.textFile(ctx.folder("notes") + "/*").count(),
    "whole": sorted(len(text) for _, text in sc.wholeTextFiles(every).collect()),
    "binary": sorted(sc.binaryFiles(every).mapValues(len).values().collect()),
}
with ctx.writing("texts") as place:
    sc.textFile(every).map(str.lower).saveAsTextFile(place + "/lower")
    sc.textFile(every).saveAsTextFile(place + "/packed", "org.apache.hadoop.io.compress.GzipCodec")
    sc.parallelize([(n, f"v{n}") for n in range(10)], 2).saveAsSequenceFile(place + "/pairs")
    sc.parallelize(range(20), 2).saveAsPickleFile(place + "/pickled")
    seen["lower"] = sc.textFile(place + "/lower").count()
    seen["packed"] = sc.textFile(place + "/packed").count()
    seen["pairs"] = sorted(sc.sequenceFile(place + "/pairs").collect())
    seen["pickled"] = sum(sc.pickleFile(place + "/pickled").collect())
result(seen)
""")
    sizes = [sum(len(f"{CANARY}-{part}-{n}\n") for n in range(100)) for part in range(3)]
    assert found == {
        "lines": 300,
        "split": 100,
        "folder": 300,
        "whole": sizes,
        "binary": sizes,
        "lower": 300,
        "packed": 300,
        "pairs": [[n, f"v{n}"] for n in range(10)],
        "pickled": 190,
    }
    lower = b"".join(text for path, text in world.opened("texts").items() if path.startswith("lower/"))
    assert lower.count(CANARY.lower().encode()) == 300


def test_tasks_are_counted_with_rows_bytes_and_time_in_the_cipher(world: SparkWorld) -> None:
    before = dict(world.counts)
    world.result("""
with ctx.writing("counted") as place:
    ctx.spark.read.text(ctx.files("notes")).coalesce(1).write.mode("append").text(place + "/again")
""")
    did = {name: count - before.get(name, 0) for name, count in world.counts.items()}
    size = sum(map(len, world.opened("counted").values()))
    assert (did["tasks"], did["rows_read"], did["rows_written"], did["bytes_written"]) == (1, 300, 300, size)
    assert size <= did["bytes_read"] <= 2 * size  # a file's last chunk is opened when the file is, and again when its turn comes
    assert did["open_us"] > 0
    assert did["seal_us"] > 0


def test_rows_and_bytes_of_tables_are_counted_as_spark_counts_them(world: SparkWorld) -> None:
    before = dict(world.counts)
    world.result('result(ctx.read("flights").agg({"n": "sum", "who": "max"}).collect()[0][0])')
    did = {name: count - before.get(name, 0) for name, count in world.counts.items()}
    stored = sum(file.size for file in world.inputs["flights"].manifest.files)
    assert (did["rows_read"], did["bytes_written"], did["open_us"]) == (ROWS, 0, 0)
    assert 0 < did["bytes_read"] <= 2 * stored


def test_nothing_of_all_this_is_in_plaintext(world: SparkWorld, trained: list[float]) -> None:
    found = world.holding(CANARY.encode())
    assert [path for path in found if "executor-" not in str(path)] == []
