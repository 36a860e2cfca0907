"""The pure part of the Spark engine: what a JVM is given, and what it is not given."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from confide.errors import ExtraMissingError, JobError
from confide.jobs.engines import spark
from confide.jobs.engines.java import java_version, module_options, release_of
from confide.jobs.engines.launch import Launch

NODE = spark.SparkNode(
    private_dir=Path("/dev/shm/node"), work_dir=Path("/work dir"), agent_socket=Path("/dev/shm/node/agent.sock"), cores=2, memory_mb=2048
)
RUN = spark.SparkRun("delays-1", "delays", cores=4)
RUNTIME = spark.JavaRuntime(Path("/usr/bin/java"), 17, (Path("/jars/a b.jar"), Path('/jars/"c".jar')), Path("/jars/x.jsa"))


def config_of(launch: Launch, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(launch.files[name])
    return found


def test_arguments_name_files_and_nothing_else() -> None:
    driver = spark.driver_jvm(RUNTIME, NODE, RUN)
    assert driver.argv == (
        *("/usr/bin/java", "@/dev/shm/node/driver-jvm.args", "org.confide.spark.DriverMain"),
        "/dev/shm/node/driver.json",
    )
    executor = spark.executor_command(RUNTIME, NODE, RUN, "2")
    assert executor.argv[2:] == ("org.confide.spark.ExecutorMain", "/dev/shm/node/executor.json")


def test_argument_file_quotes_paths() -> None:
    lines = spark.driver_jvm(RUNTIME, NODE, RUN).files["driver-jvm.args"].decode().splitlines()
    assert '"/jars/a b.jar:/jars/\\"c\\".jar"' in lines
    assert '"-XX:SharedArchiveFile=/jars/x.jsa"' in lines
    assert '"-Xms2048m"' in lines
    assert '"-Xmx2048m"' in lines


def test_environment_of_a_child_is_given_whole_and_holds_paths_only() -> None:
    for launch in (spark.driver_jvm(RUNTIME, NODE, RUN), spark.executor_command(RUNTIME, NODE, RUN, "1")):
        names = {"PATH", "LANG", "HOME", "TMPDIR", "SPARK_LOCAL_DIRS", "SPARK_LOCAL_HOSTNAME", "SPARK_USER"}
        assert set(launch.env) == names | {"PYTHONSAFEPATH", "PYTHONNOUSERSITE"}
        assert launch.env["PYTHONSAFEPATH"] == launch.env["PYTHONNOUSERSITE"] == "1"
        assert launch.env["SPARK_LOCAL_DIRS"] == "/work dir"


def test_properties_protect_every_wire_and_disk() -> None:
    properties = config_of(spark.driver_jvm(RUNTIME, NODE, RUN), "driver.json")["properties"]
    assert isinstance(properties, dict)
    expected = {
        "spark.authenticate": "true",
        "spark.ssl.rpc.enabled": "true",
        "spark.ssl.rpc.openSslEnabled": "true",
        "spark.ssl.rpc.protocol": "TLSv1.3",
        "spark.io.encryption.enabled": "true",
        "spark.io.encryption.keySizeBits": "256",
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.ui.enabled": "false",
        "spark.eventLog.enabled": "false",
        "spark.hadoop.parquet.crypto.factory.class": "org.confide.spark.ConfideCryptoFactory",
        "spark.hadoop.fs.file.impl": "org.confide.spark.EncryptedOnlyFileSystem",
        "spark.hadoop.fs.enc.impl": "org.confide.spark.ConfideFileSystem",
        "spark.hadoop.fs.AbstractFileSystem.file.impl": "org.confide.spark.EncryptedOnlyAbstractFileSystem",
        "spark.hadoop.fs.AbstractFileSystem.enc.impl": "org.confide.spark.ConfideAbstractFileSystem",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": str(NODE.work_dir / "warehouse"),
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    }
    assert {name: properties.get(name) for name in expected} == expected
    assert not [name for name in properties if "secret" in name or "password" in name.lower()]


@pytest.mark.parametrize("release", [17, 25])
def test_jvms_get_what_their_java_must_be_told(release: int) -> None:
    runtime = dataclasses.replace(RUNTIME, release=release)
    for launch in (spark.driver_jvm(runtime, NODE, RUN), spark.executor_command(runtime, NODE, RUN, "1")):
        lines = next(data for name, data in launch.files.items() if name.endswith(".args")).decode().splitlines()
        assert lines[: len(module_options(release))] == [f'"{option}"' for option in module_options(release)]
    assert spark.archive_options(runtime)[: len(module_options(release))] == module_options(release)


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_jvms_keep_their_heap_and_their_temporary_files_off_the_disk(role: str) -> None:
    launch = spark.driver_jvm(RUNTIME, NODE, RUN) if role == "driver" else spark.executor_command(RUNTIME, NODE, RUN, "1")
    options = launch.files[f"{role}-jvm.args"].decode()
    for option in (
        "-XX:+DisableAttachMechanism",
        "-XX:-UsePerfData",
        "-XX:-HeapDumpOnOutOfMemoryError",
        "-XX:-CreateCoredumpOnCrash",
        "-XX:ErrorFile=/dev/null",
        f"-Djava.io.tmpdir={NODE.private_dir}",
        "-Dlog4j2.configurationFile=confide-log4j2.properties",
    ):
        assert f'"{option}"\n' in options
    assert launch.env["SPARK_LOCAL_DIRS"] == str(NODE.work_dir)
    assert launch.env["TMPDIR"] == str(NODE.private_dir)


def test_executor_knows_its_own_protection_before_it_talks() -> None:
    config = config_of(spark.executor_command(RUNTIME, NODE, RUN, "3"), "executor.json")
    assert config["executor_id"] == "3"
    assert config["app_id"] == "delays-1"
    assert config["secret_file"] == "/dev/shm/node/spark-secret"
    properties = config["properties"]
    assert isinstance(properties, dict)
    assert properties["spark.ssl.rpc.certChain"] == "/dev/shm/node/node-chain.pem"
    assert properties["spark.authenticate"] == "true"


def test_program_gets_the_agents_socket_and_no_token() -> None:
    launch = spark.program_command(Path("/py"), Path("/code/job.py"), ("a",), NODE, python_path=("/src",))
    assert launch.argv == ("/py", "/code/job.py", "a")
    assert launch.env["CONFIDE_AGENT_SOCKET"] == "/dev/shm/node/agent.sock"
    assert launch.env["PYTHONPATH"] == "/code:/src"
    assert not [name for name in launch.env if "SECRET" in name or "TOKEN" in name]


def test_small_memory_is_raised_to_what_spark_starts_with() -> None:
    small = dataclasses.replace(NODE, memory_mb=256, cores=1)
    lines = spark.executor_command(dataclasses.replace(RUNTIME, archive=None), small, RUN, "1").files["executor-jvm.args"].decode()
    assert f"-Xmx{spark.MIN_HEAP_MB}m" in lines
    assert "UseSerialGC" in lines
    assert "SharedArchiveFile" not in lines


@pytest.mark.parametrize(
    ("cores", "memory_mb", "collector"), [(1, 65536, "Serial"), (2, 1024, "Parallel"), (8, 32768, "Parallel"), (8, 32769, None)]
)
def test_the_collector_is_the_one_that_takes_the_least_computing_time(cores: int, memory_mb: int, collector: str | None) -> None:
    node = dataclasses.replace(NODE, cores=cores, memory_mb=memory_mb)
    lines = spark.executor_command(RUNTIME, node, RUN, "1").files["executor-jvm.args"].decode().splitlines()
    assert [line for line in lines if "GC" in line] == ([f'"-XX:+Use{collector}GC"'] if collector else [])
    assert ('"-XX:-UseAdaptiveSizePolicy"' in lines) == (collector == "Parallel")


def test_private_folder_with_too_long_a_path_is_refused() -> None:
    with pytest.raises(JobError, match="too long"):
        dataclasses.replace(NODE, private_dir=Path("/dev/shm") / ("x" * 80))


def test_foreign_jars_are_left_out(tmp_path: Path) -> None:
    foreign = ("kubernetes-client.jar", "hive-exec.jar", "netty-x-osx-x86_64.jar", "readme.txt")
    for name in (*foreign, "spark-core_2.13.jar", "hive-storage-api.jar", "a.jar"):
        (tmp_path / name).touch()
    assert [path.name for path in spark.spark_jars(tmp_path)] == ["a.jar", "hive-storage-api.jar", "spark-core_2.13.jar"]


def test_missing_parts_of_the_installation_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark, "jar_path", lambda: tmp_path / "no.jar")
    with pytest.raises(ExtraMissingError, match="jar is not built"):
        spark.find_runtime()
    with monkeypatch.context() as newer:
        newer.setattr("confide.jobs.engines.java.OLDEST", 99)
        with pytest.raises(ExtraMissingError, match="too old"):
            spark.find_runtime()
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ExtraMissingError, match="no Java"):
        spark.find_runtime()
    monkeypatch.setattr(spark, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissingError, match="PySpark"):
        spark.find_runtime()


def test_installation_is_found_with_and_without_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = tmp_path / "confide-spark.jar"
    jar.touch()
    monkeypatch.setattr(spark, "jar_path", lambda: jar)
    assert spark.find_runtime().archive is None
    jar.with_suffix(".jsa").touch()
    assert spark.find_runtime().archive == jar.with_suffix(".jsa")
    assert spark.find_runtime(with_archive=False).archive is None
    found = spark.find_runtime()
    assert found.classpath[0] == jar
    assert found.release == release_of(java_version(found.java))


@pytest.mark.parametrize(("executor_mb", "page"), [(1024, "4m"), (32767, "4m"), (32768, "8m"), (65535, "8m"), (262144, "64m")])
def test_pages_are_small_and_enough_of_them_for_the_largest_heap(executor_mb: int, page: str) -> None:
    run = dataclasses.replace(RUN, executor_mb=executor_mb)
    properties = config_of(spark.driver_jvm(RUNTIME, NODE, run), "driver.json")["properties"]
    assert isinstance(properties, dict)
    assert properties["spark.buffer.pageSize"] == page
    assert int(page.removesuffix("m")) * 8192 > executor_mb


def test_pages_are_enough_for_a_driver_that_is_larger_than_its_executors() -> None:
    driver = dataclasses.replace(NODE, memory_mb=65536)
    properties = config_of(spark.driver_jvm(RUNTIME, driver, RUN), "driver.json")["properties"]
    assert isinstance(properties, dict)
    assert properties["spark.buffer.pageSize"] == "16m"
