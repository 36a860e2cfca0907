"""Makes the class-data archive that lets Spark's JVMs start in a third of the time: ``python -m confide.jobs.engines.archive``.

A small training run (driver, one executor, encrypted data, all protections on) lists the classes that real runs load; the JVM then
writes them to one file beside the jar in the form in which it maps them (JDK, "Class Data Sharing").  The file is code: it belongs to what
a node's measurement covers, so it is made at set-up, not during runs.  It holds for one Java and one set of jars; with others the JVM
ignores it.  Takes about a minute.
"""

from __future__ import annotations

import logging
import math
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from confide.canonical import Json
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import create_dataset
from confide.errors import ConfideError, UnavailableError
from confide.ids import NodeId, Role, RunId, new_dataset_id
from confide.jobs.engines import spark
from confide.jobs.engines.launch import Launch
from confide.node.child import Child, Children, ChildSpec
from confide.node.jobca import JobCa
from confide.node.keyring import Keyring, Lease
from confide.node.local_socket import LocalSocketServer
from confide.node.private_dir import PrivateDir

_log = logging.getLogger(__name__)
_TIMEOUT_S = 300.0
_RUN = RunId("training")
_ROWS = 5000

# What a first job is likely to use.  The words of the program do not matter, the classes that it makes the JVMs load do.
_PROGRAM = """
import confide
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.feature import StringIndexer, VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import functions as F
ctx = confide.session()
table = ctx.read("table")
table.createOrReplaceTempView("t")
small = ctx.sql("SELECT k, s, avg(v) AS mean, count(*) AS n FROM t WHERE v > 1 GROUP BY k, s ORDER BY k, s")
joined = table.join(small, ["k", "s"]).withColumn("bucket", F.when(F.col("v") > 9, "high").otherwise("low"))
joined.show(3)
indexed = StringIndexer(inputCol="s", outputCol="i").fit(joined).transform(joined)
features = VectorAssembler(inputCols=["k", "mean", "i"], outputCol="f").transform(indexed)
train, test = features.randomSplit([0.8, 0.2], seed=1)
model = LinearRegression(featuresCol="f", labelCol="v", maxIter=3, regParam=0.1).fit(train)
RegressionEvaluator(labelCol="v").evaluate(model.transform(test))
joined.select(F.udf(lambda k: k + 1, "long")("k").alias("k1"), "s", F.to_timestamp(F.lit("2013-01-01")).alias("at")).limit(9).collect()
joined.repartition(2).write.mode("append").parquet("file://" + ctx.arguments[0])
ctx.spark.read.schema(joined.schema).parquet("file://" + ctx.arguments[0]).count()
joined.limit(20).write.mode("append").option("header", True).csv("enc://" + ctx.arguments[0] + "/csv")
ctx.stop()
"""


def make_archive() -> Path:
    """Make the archive beside the jar, in one step, and return its path.

    Raises:
        ExtraMissingError: Java, PySpark or the jar is missing.
        UnavailableError: the training run or the dump failed, or the package's folder cannot be written.
    """
    runtime = spark.find_runtime(with_archive=False)
    target = spark.archive_path()
    with tempfile.TemporaryDirectory(prefix="confide-training-") as scratch:
        folder = Path(scratch)
        lists = _Training(folder, runtime).run()
        merged = folder / "classes"
        merged.write_text("".join(_merged(lists)), encoding="utf-8")
        unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            _dump(runtime, merged, unfinished)
            unfinished.replace(target)
        except OSError as cause:
            raise UnavailableError(f"cannot write {target}: {cause.strerror}", path=str(target)) from cause
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def check_archive() -> Path:
    """Start a JVM that must use the archive, and return the archive's path.

    Raises:
        ExtraMissingError: Java, PySpark or the jar is missing.
        UnavailableError: there is no archive, or it is of another Java or of other jars.
    """
    runtime = spark.find_runtime()
    hint = f"`{Path(sys.executable).name} -m confide.jobs.engines.archive` makes it: JVMs then start in a third of the time"
    if runtime.archive is None:
        raise UnavailableError("there is none", hint=hint, path=str(spark.archive_path()))
    command = [str(runtime.java), "-Xshare:on", f"-XX:SharedArchiveFile={runtime.archive}", *spark.archive_options(runtime)]
    command += ["-cp", ":".join(map(str, runtime.classpath)), "-version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode != 0:
        _log.debug("java -Xshare:on: %s", (done.stdout + done.stderr)[-2000:])
        raise UnavailableError("it is of another Java or of other jars, so that JVMs leave it out", hint=hint, path=str(runtime.archive))
    return runtime.archive


def _merged(lists: Iterable[Path]) -> list[str]:
    """The lines of all class lists, each once, in order.

    Each list numbers its classes (``Name id: 7``), and newer JVMs refuse two numbers for one: they are left out.  Only classes of loaders
    other than the JVM's need them (``super: 3 source: x.jar``).  Those are of code that Spark wrote for one query, and are left out, too.
    """
    lines = (line for path in lists for line in path.read_text(encoding="utf-8").splitlines() if " source: " not in line)
    return list(dict.fromkeys(f"{line if line.startswith('@') else line.partition(' id: ')[0]}\n" for line in lines))


def _dump(runtime: spark.JavaRuntime, classes: Path, target: Path) -> None:
    command = [str(runtime.java), "-Xshare:dump", f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={target}"]
    command += [*spark.archive_options(runtime), "-cp", ":".join(map(str, runtime.classpath))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode != 0 or not target.is_file():
        _log.debug("java -Xshare:dump: %s", (done.stdout + done.stderr)[-2000:])
        raise UnavailableError("Java could not write the class-data archive", status=done.returncode)


class _Training:
    """One run without broker and attestation, over made-up data."""

    def __init__(self, folder: Path, runtime: spark.JavaRuntime) -> None:
        self._folder = folder
        self._runtime = runtime
        self._run = spark.SparkRun("training", "training", cores=1)
        self._ca = JobCa(_RUN, now=datetime.now(UTC))
        self._secret, self._token = (SecretBytes(secrets.token_hex(32).encode()) for _ in range(2))
        self._keyring = Keyring()
        self._address: Json = {}
        self._listening = threading.Event()

    def run(self) -> list[Path]:
        """Run it; the class lists of driver and executor."""
        info = self._make_data()
        children = Children()
        servers: list[LocalSocketServer] = []
        with PrivateDir(_name(), NodeId("d")) as driver_dir, PrivateDir(_name(), NodeId("e")) as executor_dir:
            try:
                driver, executor = self._node(driver_dir, "driver"), self._node(executor_dir, "executor")
                socket = str(driver_dir.path / spark.GATEWAY_SOCKET)
                info |= {"gateway_socket": socket, "gateway_token": self._token.reveal().decode()}
                operations = {"driver-ready": self._ready, "await-driver": self._await, "run-info": lambda _: info}
                operations |= {
                    "input-length": lambda _: {"length": -1},
                    "input-listing": lambda _: {"names": None},
                    "data-counts": lambda _: {},
                }
                for node in (driver, executor):
                    servers.append(LocalSocketServer(node.agent_socket, {**self._keyring.operations(), **operations}))
                    servers[-1].start()
                self._start(children, driver, driver_dir, spark.driver_jvm(self._runtime, driver, self._run), "driver")
                command = spark.executor_command(self._runtime, executor, self._run, "1")
                engine = self._start(children, executor, executor_dir, command, "executor")
                self._program(children, driver)
                # Java writes its class list when it ends by itself: the executor after the driver's stop, the driver on SIGTERM.
                if engine.wait(30.0) is None:
                    raise UnavailableError("the training run's executor did not end")
            finally:
                self._listening.set()
                children.stop(grace_s=10.0)
                for server in servers:
                    server.close()
        return [self._folder / "driver.classes", self._folder / "executor.classes"]

    def _make_data(self) -> Json:
        key, dataset, place, output = SecretBytes.random(), new_dataset_id(), self._folder / "table", self._folder / "output"
        table = pa.table({
            "k": pa.array([i % 7 for i in range(_ROWS)]),
            "v": pa.array([float(i % 13) for i in range(_ROWS)]),
            "s": pa.array([f"s{i % 3}" for i in range(_ROWS)]),
            "at": pa.array(range(_ROWS), pa.timestamp("us", tz="UTC")),
        })  # fmt: skip
        wrapped = wrap(SecretBytes.random(), key, key="training/table", version=1, dataset=dataset)
        made = create_dataset(
            table,
            place,
            name="table",
            owner="training",
            dataset=dataset,
            dataset_key=key,
            wrapped=wrapped,
            signer=SigningKey.generate(),
            now=datetime.now(UTC),
        ).unverified
        files = [file.path for file in made.files]
        self._keyring.open_input(str(place), dataset, Lease(key, math.inf), files=frozenset(files), refresh=lambda: Lease(key, math.inf))
        self._keyring.open_output(str(output), new_dataset_id(), Lease(key, math.inf), run=_RUN, refresh=lambda: Lease(key, math.inf))
        table_info = {"kind": made.kind, "schema": made.schema, "path": str(place), "files": files}
        fixed: Json = {"run": _RUN, "arguments": [str(output)], "outputs": {}, "code": "", "modules": []}
        return {**fixed, "inputs": {"table": table_info}}

    def _node(self, private: PrivateDir, name: str) -> spark.SparkNode:
        key = SigningKey.generate()
        role = Role.DRIVER if name == "driver" else Role.WORKER
        certificate = self._ca.issue(key.spki_der, node=NodeId(name), role=role, host="127.0.0.1", now=datetime.now(UTC))
        private.write(spark.CHAIN_FILE, certificate + self._ca.ca_pem)
        private.write(spark.KEY_FILE, key.private_pem())
        private.write(spark.SECRET_FILE, self._secret)
        private.write(spark.TOKEN_FILE, self._token)
        work = self._folder / name
        work.mkdir()
        return spark.SparkNode(private.path, work, private.path / "agent.sock", memory_mb=768)

    def _start(self, children: Children, node: spark.SparkNode, private: PrivateDir, launch: Launch, name: str) -> Child:
        for file, data in launch.files.items():
            listed = f'"-XX:DumpLoadedClassList={self._folder / name}.classes"\n'.encode() if file.endswith(".args") else b""
            private.write(file, listed + data)
        return children.start(ChildSpec(name, launch.argv, self._folder / f"{name}.log", node.work_dir, launch.env))

    def _program(self, children: Children, node: spark.SparkNode) -> None:
        program = self._folder / "program.py"
        program.write_text(_PROGRAM, encoding="utf-8")
        here = str(Path(__file__).parents[3])
        launch = spark.program_command(Path(sys.executable), program, (), node, python_path=(here,))
        log = self._folder / "program.log"
        status = children.start(ChildSpec("program", launch.argv, log, node.work_dir, launch.env)).wait(_TIMEOUT_S)
        if status != 0:
            _log.debug("training program: %s", log.read_text(errors="replace")[-4000:])
            raise UnavailableError("the training run failed", status=status)

    def _ready(self, request: Json) -> Json:
        self._address = {"host": request["host"], "port": request["port"]}
        self._listening.set()
        return {}

    def _await(self, _request: Json) -> Json:
        self._listening.wait(_TIMEOUT_S)
        return self._address


def _name() -> RunId:
    return RunId(f"cds-{secrets.token_hex(4)}")


def main() -> int:
    """Make the archive; for set-up scripts."""
    try:
        path = make_archive()
    except ConfideError as error:
        sys.stderr.write(f"class-data archive: {error.message}{f' ({error.hint})' if error.hint else ''}\n")
        return error.exit_status
    sys.stdout.write(f"{path}: {path.stat().st_size >> 20} MiB\n")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    sys.exit(main())
