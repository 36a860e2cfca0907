"""How Spark's JVMs are started on attested nodes: arguments, environment and configuration files, as values.  Starts nothing itself.

The driver's JVM makes the Spark context (master ``confide``: ``java/src/org/confide/spark/``) and each worker's JVM is one executor;
there are no Spark Master or Worker daemons.  Secrets are in files of the node's private folder and in no argument, environment
variable or Spark property; the caller writes them under the names below, mode 0600, before it starts the JVM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from confide.errors import ExtraMissingError, JobError
from confide.jobs.engines.java import find_java, java_version, module_options, release_of
from confide.jobs.engines.launch import Launch

SECRET_FILE: Final = "spark-secret"  # noqa: S105  a file name
"""Spark's authentication secret: text, at least 32 characters, the same on all nodes of a run."""
CHAIN_FILE: Final = "node-chain.pem"
"""The node's certificate followed by the job CA's: in OpenSSL mode Spark trusts what stands in this file."""
KEY_FILE: Final = "node-key.pem"
"""The certificate's private key, PKCS#8 PEM without password."""
TOKEN_FILE: Final = "gateway-token"  # noqa: S105  a file name
"""What PySpark shows to the driver's gateway; driver only."""
GATEWAY_SOCKET: Final = "gateway.sock"
"""Unix socket of the driver's gateway, made by the driver's JVM when its Spark context is up."""
CALLBACK_SOCKET: Final = "callback.sock"
"""Unix socket of the user's program, for calls from the driver's JVM (``confide.data.gateway``)."""

MIN_HEAP_MB: Final = 640
"""Spark refuses to start with less than 450 MiB of usable heap (``UnifiedMemoryManager``)."""
_PARALLEL_UNTIL_MB: Final = 32 * 1024
"""Heaps up to here are collected in one piece (``_collector``)."""
_MAX_PRIVATE_PATH: Final = 64
"""Spark puts ``/.<uuid>.sock`` behind it, and a unix socket's path has room for 107 bytes (unix(7))."""

_LEAST_PAGE_MB: Final = 4
_TASK_PAGES: Final = 8192

_FOREIGN_JARS: Final = (
    *("kubernetes-", "spark-kubernetes", "volcano-", "vertx-", "spark-hive", "datanucleus-", "derby", "spark-yarn"),
    *("hive-beeline", "hive-cli", "hive-common", "hive-exec", "hive-jdbc", "hive-metastore", "hive-serde", "hive-service", "hive-shims"),
    *("spark-connect", "spark-pipelines", "spark-repl", "curator-", "zookeeper-", "jdo-", "javax.jdo", "super-csv", "opencsv"),
)
"""Jars of Spark for what a Confide node never does (other schedulers, Hive, Connect): less code in the node, a shorter class path.

Of Hive's, ``hive-storage-api`` stays: ORC's readers and writers are made of it.
"""
_FOREIGN_PLATFORMS: Final = ("osx-", "windows-", "riscv64")

_JVM_OPTIONS: Final = (
    *("-Dio.netty.tryReflectionSetAccessible=true", "-Dio.netty.allocator.type=pooled"),
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",  # Spark opens TLS without a host name; the job CA is the check
    "-Dlog4j2.configurationFile=confide-log4j2.properties",
    # AES-GCM is 80 times slower until it is compiled; see docs/benchmarks.md.
    "-XX:CompileCommand=quiet",
    "-XX:CompileCommand=CompileThresholdScaling,com.sun.crypto.provider.*::*,0.01",
    # Nothing of the heap on disk, no other process of the user inside this one.
    *("-XX:+DisableAttachMechanism", "-XX:-UsePerfData", "-XX:-CreateCoredumpOnCrash", "-XX:-HeapDumpOnOutOfMemoryError"),
    *("-XX:+ExitOnOutOfMemoryError", "-XX:ErrorFile=/dev/null", "-Xshare:auto"),
    "-Dfile.encoding=UTF-8",
)
# Much of the CPU time until the first result went into the optimising compiler (docs/decisions/0034-jvms.md).  The driver plans and
# sends tasks: the quick compiler is enough.  Executors' loops over rows still reach the optimising one within milliseconds.
_COMPILER: Final = {
    "driver": ("-XX:TieredStopAtLevel=1",),
    "executor": (
        *("-XX:Tier4InvocationThreshold=50000", "-XX:Tier4MinInvocationThreshold=6000"),
        *("-XX:Tier4CompileThreshold=150000", "-XX:Tier4BackEdgeThreshold=400000"),
    ),
}


@dataclass(frozen=True, slots=True)
class JavaRuntime:
    """What every JVM of an installation is made of.

    ``release``: the Java's feature release.  ``archive``: the class-data archive, if one was made (``.archive``).
    """

    java: Path
    release: int
    classpath: tuple[Path, ...]
    archive: Path | None = None


@dataclass(frozen=True, slots=True)
class SparkNode:
    """The place of one node's JVM.

    ``private_dir``: memory-backed, mode 0700, at most 64 bytes long (unix sockets are made in it).  ``work_dir``: current folder, shuffle
    and spill files (which Spark encrypts without authenticating them, and PySpark does not encrypt), so in the node's memory too: what the
    host can write there, it can have run or counted.  ``agent_socket``: the agent's unix socket.
    """

    private_dir: Path
    work_dir: Path
    agent_socket: Path
    host: str = "127.0.0.1"
    cores: int = 1
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        if len(str(self.private_dir).encode()) > _MAX_PRIVATE_PATH:
            raise JobError("the node's private folder has too long a path for unix sockets", path=str(self.private_dir))


@dataclass(frozen=True, slots=True)
class SparkRun:
    """What all JVMs of one run agree on.  ``cores``: of all executors together; ``executor_mb``: heap of each."""

    app_id: str
    app_name: str
    cores: int = 2
    executor_mb: int = 1024


def find_runtime(*, with_archive: bool = True) -> JavaRuntime:
    """The Java, Spark jars and Confide jar of this installation.

    Raises:
        ExtraMissingError: PySpark, Java or the jar is missing, or the Java is too old.
    """
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise ExtraMissingError("PySpark is not installed", hint="pip install 'confide[spark]'")
    java = find_java()
    release = release_of(java_version(java))
    jar = jar_path()
    if not jar.is_file():
        raise ExtraMissingError("Confide's Spark jar is not built", hint="run `make jar`", path=str(jar))
    archive = archive_path()
    classpath = (jar, *spark_jars(Path(spec.origin).parent / "jars"))
    return JavaRuntime(java, release, classpath, archive if with_archive and archive.is_file() else None)


def jar_path() -> Path:
    """Where the package keeps its jar (built by ``scripts/build_jar.py``)."""
    spec = find_spec("confide")
    assert spec is not None  # noqa: S101 - we are in it
    assert spec.origin is not None  # noqa: S101
    return Path(spec.origin).parent / "data" / "confide-spark.jar"


def archive_path() -> Path:
    """Where the class-data archive is, if it was made (``python -m confide.jobs.engines.archive``)."""
    return jar_path().with_suffix(".jsa")


def archive_options(runtime: JavaRuntime) -> tuple[str, ...]:
    """Options that an archive is made with: those of the JVMs that will use it."""
    return (*module_options(runtime.release), *(option for option in _JVM_OPTIONS if not option.startswith("-Xshare")))


def spark_jars(folder: Path) -> tuple[Path, ...]:
    """The jars of PySpark that a node uses, sorted: an archive holds for one class path in one order."""
    return tuple(
        path
        for path in sorted(folder.glob("*.jar"))
        if not path.name.startswith(_FOREIGN_JARS) and not any(name in path.name for name in _FOREIGN_PLATFORMS)
    )


def driver_jvm(runtime: JavaRuntime, node: SparkNode, run: SparkRun) -> Launch:
    """The driver's JVM: makes the Spark context, tells the agent (op ``driver-ready``), then opens the gateway socket for the program.

    Needs SECRET_FILE, TOKEN_FILE, CHAIN_FILE and KEY_FILE in the private folder.
    """
    config = {
        "properties": {**_node_properties(node), **_driver_properties(node, run)},
        "secret_file": str(node.private_dir / SECRET_FILE),
        "gateway_token_file": str(node.private_dir / TOKEN_FILE),
        "gateway_socket": str(node.private_dir / GATEWAY_SOCKET),
        "callback_socket": str(node.private_dir / CALLBACK_SOCKET),
    }
    return _launch(runtime, node, "driver", "org.confide.spark.DriverMain", config)


def executor_command(runtime: JavaRuntime, node: SparkNode, run: SparkRun, executor_id: str) -> Launch:
    """One worker's JVM: warms up, asks the agent for the driver (op ``await-driver``), then runs tasks until the driver ends it.

    Needs CHAIN_FILE and KEY_FILE in the private folder, and SECRET_FILE by the time the agent answers ``await-driver``.
    """
    config = {
        "properties": _node_properties(node),
        "secret_file": str(node.private_dir / SECRET_FILE),
        "executor_id": executor_id,
        "host": node.host,
        "cores": str(node.cores),
        "app_id": run.app_id,
    }
    return _launch(runtime, node, "executor", "org.confide.spark.ExecutorMain", config)


def program_command(
    python: Path, program: Path, arguments: tuple[str, ...], node: SparkNode, *, python_path: tuple[str, ...] = ()
) -> Launch:
    """The user's program on the driver's node: finds its session through the agent's socket, whose path is all that it is told."""
    env = {
        **_environment(node),
        "CONFIDE_AGENT_SOCKET": str(node.agent_socket),
        "PYTHONPATH": ":".join((str(program.parent), *python_path)),
        "PYSPARK_PYTHON": str(python),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Launch((str(python), str(program), *arguments), env)


def _launch(runtime: JavaRuntime, node: SparkNode, role: Literal["driver", "executor"], main: str, config: Mapping[str, object]) -> Launch:
    heap = max(node.memory_mb, MIN_HEAP_MB)
    options = [
        *module_options(runtime.release),
        *_JVM_OPTIONS,
        *_COMPILER[role],
        *(f"-Xms{heap}m", f"-Xmx{heap}m"),
        *_collector(node.cores, heap),
        *([f"-XX:SharedArchiveFile={runtime.archive}"] if runtime.archive else []),
        f"-Djava.io.tmpdir={node.private_dir}",
        f"-Dconfide.agent.socket={node.agent_socket}",
        "-cp",
        ":".join(map(str, runtime.classpath)),
    ]
    arguments, settings = f"{role}-jvm.args", f"{role}.json"
    files = {
        arguments: "".join(f"{_quoted(option)}\n" for option in options).encode(),
        settings: json.dumps(config, indent=1).encode(),
    }
    argv = (str(runtime.java), f"@{node.private_dir / arguments}", main, str(node.private_dir / settings))
    return Launch(argv, _environment(node), files)


def _collector(cores: int, heap_mb: int) -> list[str]:
    """The garbage collector that takes the least computing time for work in batches.

    The JVM's own choice (G1) pays for short pauses with each reference that is written.  Queries wait for no pause; beyond some tens of
    gigabytes a single one could be taken for a lost executor, so there it stays.  The parallel collector would make room for new objects
    smaller as it goes, and copy what lives more often (docs/decisions/0036-heaps.md).
    """
    if cores == 1:
        return ["-XX:+UseSerialGC"]
    return ["-XX:+UseParallelGC", "-XX:-UseAdaptiveSizePolicy"] if heap_mb <= _PARALLEL_UNTIL_MB else []


def _page_mb(heap_mb: int) -> int:
    """The least that Spark's joins, aggregations and sorts take of a heap at a time, in MiB.

    Spark's own choice grows with the heap, to 64 MiB from some gigabytes on, and the hash table of a broadcast join of 25 rows takes as
    much, in each executor, until it is freed.  A task has 8,192 pages at most (``TaskMemoryManager``), which must be enough for the heap.
    """
    return max(_LEAST_PAGE_MB, 1 << (heap_mb // _TASK_PAGES).bit_length())


def _quoted(option: str) -> str:
    """One line of a Java argument file (java(1), "java Command-Line Argument Files")."""
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _environment(node: SparkNode) -> dict[str, str]:
    """The whole environment of a child: nothing is inherited.  SPARK_LOCAL_DIRS, because executors would take the driver's setting."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(node.work_dir),
        "TMPDIR": str(node.private_dir),
        "SPARK_LOCAL_DIRS": str(node.work_dir),
        "SPARK_LOCAL_HOSTNAME": node.host,
        "SPARK_USER": "confide",
        "PYTHONSAFEPATH": "1",  # no module from the current folder, also not for the Python workers that Spark starts with -m
        "PYTHONNOUSERSITE": "1",
    }


def _node_properties(node: SparkNode) -> dict[str, str]:
    """What a JVM must know before it talks to another: TLS with its own certificate, and that peers must know the secret."""
    return {
        "spark.authenticate": "true",
        "spark.ssl.rpc.enabled": "true",
        "spark.ssl.rpc.openSslEnabled": "true",
        "spark.ssl.rpc.protocol": "TLSv1.3",
        "spark.ssl.rpc.certChain": str(node.private_dir / CHAIN_FILE),
        "spark.ssl.rpc.privateKey": str(node.private_dir / KEY_FILE),
        "spark.port.maxRetries": "0",
    }


def _driver_properties(node: SparkNode, run: SparkRun) -> dict[str, str]:
    """The configuration of the run; the driver sends it to executors.  Nothing in it is secret: programs, plans and logs show it."""
    return {
        "spark.master": "confide",
        "spark.submit.deployMode": "client",
        "spark.app.id": run.app_id,
        "spark.app.name": run.app_name,
        "spark.driver.host": node.host,
        "spark.driver.bindAddress": node.host,
        "spark.driver.memory": f"{max(node.memory_mb, MIN_HEAP_MB)}m",
        "spark.io.encryption.enabled": "true",
        "spark.io.encryption.keySizeBits": "256",
        "spark.io.encryption.keygen.algorithm": "HmacSHA256",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.eventLog.enabled": "false",
        "spark.dynamicAllocation.enabled": "false",
        "spark.scheduler.minRegisteredResourcesRatio": "0",
        "spark.locality.wait": "0s",
        "spark.default.parallelism": str(run.cores),
        "spark.sql.shuffle.partitions": str(max(2, 2 * run.cores)),
        # Lengths come from manifests, so the driver lists all of an input's files itself; Spark would have tasks do it from 33 files on.
        "spark.sql.sources.parallelPartitionDiscovery.threshold": str(2**31 - 1),
        "spark.buffer.pageSize": f"{_page_mb(max(run.executor_mb, node.memory_mb))}m",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": str(node.work_dir / "warehouse"),
        # Spark's own choice, INT96, has no zone and no statistics, and others read years before 1678 or after 2261 wrong.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.artifact.isolation.enabled": "false",  # one session a run: the job's modules are for its SQL functions too
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.hadoop.parquet.crypto.factory.class": "org.confide.spark.ConfideCryptoFactory",
        "spark.hadoop.fs.file.impl": "org.confide.spark.EncryptedOnlyFileSystem",
        "spark.hadoop.fs.enc.impl": "org.confide.spark.ConfideFileSystem",
        "spark.hadoop.fs.AbstractFileSystem.enc.impl": "org.confide.spark.ConfideAbstractFileSystem",
        "spark.hadoop.fs.AbstractFileSystem.file.impl": "org.confide.spark.EncryptedOnlyAbstractFileSystem",
        "spark.plugins": "org.confide.spark.ConfidePlugin",
        "spark.hadoop.fs.permissions.umask-mode": "077",
        # The driver's JVM has keys for a stream's logs only, and gets none for an empty marker: the signed manifest says more.
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    }
