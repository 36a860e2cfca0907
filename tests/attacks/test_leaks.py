"""After a run, and while it goes on, no row and no key is anywhere in plaintext: files, logs, environments, command lines, loopback."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.stage import PASSPHRASE, Stage

from confide.crypto.derive import file_key
from confide.data.snapshots import load_manifest
from confide.errors import JobFailedError
from confide.ids import KeyRef
from confide.jobs.engines.spark import SECRET_FILE
from confide.jobs.result import RunEvent, RunResult
from confide.keys.key_records import Key

pytestmark = [pytest.mark.run, pytest.mark.timeout(300)]

PROGRAM = b"""
import confide
from pyspark import StorageLevel
from pyspark.sql import Window, functions as f
from pyspark.sql.types import StringType

ctx = confide.session()
people, cities = ctx.read("people"), ctx.read("cities")
joined = people.join(cities.hint("shuffle_hash"), "city").repartition(4, "name").persist(StorageLevel.DISK_ONLY)
rows = joined.orderBy("name").collect()
assert len(rows) == 2000

def spilled():
    store, found = ctx.spark.sparkContext._jsc.sc().statusStore(), 0
    for stage in range(50):
        try:
            found += store.lastStageAttempt(stage).diskBytesSpilled()
        except Exception:
            break
    return found

for name in ("in.memory", "spill"):
    ctx.spark.conf.set(f"spark.sql.windowExec.buffer.{name}.threshold", 300)
ranked = people.withColumn("rank", f.row_number().over(Window.partitionBy("city").orderBy("name")))
assert ranked.filter("rank > 0").count() == 2000
assert spilled() > 0
assert people.join(f.broadcast(cities), "city").select("name", "country").distinct().count() == 2000
shout = f.udf(lambda text: text.upper(), StringType())
assert joined.filter(joined.name == rows[0]["name"]).select(shout("name")).first()[0].startswith("ROW-")
text = joined._jdf.showString(5, 0, False)
assert "row-" in text
ctx.write(joined.select("name", "country"), "names")
ctx.write(joined.groupBy("country").count(), "summary")
ctx.stop()
"""


FAILING = b"""
import confide
from pyspark.sql import functions as f

ctx = confide.session()
people = ctx.read("people")

def bad(text):
    raise ValueError("cannot use " + text)

def failing():
    yield people.select(f.udf(bad)("name"))
    yield people.selectExpr("cast(name as int)")
    yield people.selectExpr("raise_error(name)")

for broken in failing():
    try:
        broken.collect()
        raise SystemExit("it did not fail")
    except Exception as error:
        assert "row-" in str(error)  # the program can see it
next(failing()).collect()
"""


@pytest.fixture(scope="module")
def canaries() -> dict[str, bytes]:
    return {"people row": f"row-{secrets.token_hex(12)}".encode(), "cities row": f"land-{secrets.token_hex(12)}".encode()}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, canaries: dict[str, bytes]) -> Iterator[Stage]:
    people = pa.table({"name": [f"{canaries['people row'].decode()}-{n}" for n in range(2000)], "city": [n % 2 for n in range(2000)]})
    cities = pa.table({"city": [0, 1], "country": [canaries["cities row"].decode(), "elsewhere"]})
    made = Stage(tmp_path_factory.mktemp("leaks"))
    made.open(people=people, cities=cities)
    try:
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
    for name in ("airline/people", "weather/cities"):
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
