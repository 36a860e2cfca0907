"""A simulated node in a pod: its TEE comes packed, and how it was started is part of what it says it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from confide.attest.measure import Measurement
from confide.canonical import canonical, parse_object
from confide.errors import ConfigError
from confide.ids import ReportData
from confide.jobs.kubernetes.spark_start import SPARK_ARGUMENTS
from confide.jobs.local.pod import ENTRY, unexpected
from confide.jobs.local.simulation import SimulatedTee

ARGV = ["/usr/bin/python3", *ENTRY]
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOSTNAME": "demo-driver-x7",
    "HOME": "/",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
}


def test_pod_that_is_started_as_its_image_says_adds_nothing() -> None:
    assert unexpected(ARGV, ENVIRONMENT) == []


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "JAVA_TOOL_OPTIONS", "SPARK_CONF_DIR", "KUBERNETES_EVIL"])
def test_injected_variable_is_noticed(name: str) -> None:
    assert unexpected(ARGV, {**ENVIRONMENT, name: "/evil"}) == [f"variable {name}=/evil"]


@pytest.mark.parametrize("argv", [[*ARGV, "--debug"], [ARGV[0], "-m", "confide.jobs.local.pod"], [ARGV[0], "/evil.py"]])
def test_other_arguments_are_noticed(argv: list[str]) -> None:
    assert unexpected(argv, ENVIRONMENT) == [f"argument {text}" for text in argv[1:]]


BY_SPARK = [*ARGV, *SPARK_ARGUMENTS]
SPARKS = {
    "SPARK_USER": "ann",
    "SPARK_APPLICATION_ID": "spark-" + "0" * 32,
    "SPARK_DRIVER_BIND_ADDRESS": "10.244.0.7",
    "SPARK_LOCAL_DIRS": "/var/data/spark-3f1a9c1e-0000-4000-8000-0123456789ab",
    "SPARK_CONF_DIR": "/opt/spark/conf",
}


def test_driver_that_spark_submit_starts_adds_nothing() -> None:
    assert unexpected(BY_SPARK, {**ENVIRONMENT, **SPARKS}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "/evil") for name in ("LD_PRELOAD", "PYTHONPATH", "JAVA_TOOL_OPTIONS", "SPARK_JAVA_OPT_0", "SPARK_CLASSPATH")),
        *((name, "/evil") for name in ("SPARK_CONF_DIR", "SPARK_LOCAL_DIRS", "PYSPARK_PYTHON", "HADOOP_CONF_DIR")),
        ("SPARK_USER", "$(evil)"),
    ],
)
def test_anything_besides_is_noticed(name: str, value: str) -> None:
    assert unexpected(BY_SPARK, {**ENVIRONMENT, **SPARKS, name: value}) == [f"variable {name}={value}"]


@pytest.mark.parametrize("argv", [[*BY_SPARK, "--verbose"], BY_SPARK[:-1], [*BY_SPARK[:-1], "local:///evil.py"], [*ARGV, "executor"]])
def test_other_arguments_than_sparks_make_its_variables_unexpected_too(argv: list[str]) -> None:
    found = unexpected(argv, {**ENVIRONMENT, **SPARKS})
    assert len(found) == len(argv) - 1 + len(SPARKS)


def test_what_was_noticed_changes_the_measurement_and_nothing_leaves_it() -> None:
    plain = Measurement("ab" * 48, 7)
    assert plain.after([]) == plain
    changed = {plain.after(events).digest for events in (["a"], ["b"], ["a", "b"], ["ab"], ["a", "", "b"])}
    assert len(changed) == 5
    assert plain.digest not in changed


def test_packed_installation_makes_evidence_that_the_first_accepts(tmp_path: Path) -> None:
    here = SimulatedTee.at(tmp_path / "here")
    there = SimulatedTee.unpacked(parse_object(canonical(here.packed())), tmp_path / "there")
    assert there.roots == here.roots
    assert not (tmp_path / "there" / "measured.json").exists()
    from confide.attest.insecure import InsecureAttester
    from confide.ids import Tee
    from confide.node.session import utc_now

    evidence = InsecureAttester(there.installation, Tee.SGX, "ab" * 32).quote(ReportData(b"r" * 64))
    assert here.verifier().verify(evidence, utc_now()).claims.simulated


@pytest.mark.parametrize("name", ["../root.pem", "/etc/passwd", "collateral/../../x.json", "a/b.json", "root.exe", ""])
def test_packed_file_with_a_name_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    packed = SimulatedTee.at(tmp_path / "here").packed()
    with pytest.raises(ConfigError, match="none of it"):
        SimulatedTee.unpacked({**packed, "files": {name: "x"}}, tmp_path / "there")


@pytest.mark.parametrize("packed", [{}, {"format": "other", "files": {}}, {"format": "confide-simulated-tee-v1", "files": []}])
def test_what_is_no_packed_installation_is_refused(tmp_path: Path, packed: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SimulatedTee.unpacked(packed, tmp_path / "there")


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param("confide.jobs.local.pod, confide.jobs.spark_worker", id="worker"),
        pytest.param("confide.jobs.local.node, confide.jobs.workload", id="driver"),
        pytest.param("confide.cli.run, confide.jobs.submit", id="client"),
    ],
)
def test_a_run_begins_without_what_its_results_and_brokers_are_made_with(modules: str) -> None:
    """Each would make the program begin later; there are many workers, and of the memory of one Arrow and NumPy would take half."""
    code = f"import sys, {modules}; print(sorted({{'alembic', 'numpy', 'polars', 'pyarrow', 'sqlalchemy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("module", ["confide.jobs.local.pod", "confide.jobs.kubernetes.node"])
def test_a_pods_process_ends_at_once_when_it_is_told_to_while_it_starts(module: str) -> None:
    """As a container's first process it would not hear it: those have no signals but the ones that they ask for (pid_namespaces(7))."""
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # it would handle signals first
    mine = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # coverage's handler would be seen in the new process until that is Python
    try:
        process = subprocess.Popen([sys.executable, "-I", "-B", "-m", module], stderr=subprocess.DEVNULL, env=unmeasured)
    finally:
        signal.signal(signal.SIGTERM, mine)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None and not hears(status.read_text(), signal.SIGTERM):
        time.sleep(0.001)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM


def hears(status: str, number: signal.Signals) -> bool:
    """Whether a process has a handler of a signal (proc(5))."""
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)
