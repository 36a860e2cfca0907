"""Where the cluster's benchmark runs: the real Kubernetes of ``tests/cluster``, the demo's tables and grants, and two images.

The images hold an entry point alone; interpreter, packages, Spark and Java are this machine's, mounted, for both sides the same.  Of
Confide the pods have a copy as images have it (``confide image build``): with compiled modules, and without the class-data archive.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.spine import instrumented, plain_tables
from confide.cli.demo import Demo
from confide.cli.output import Story
from confide.config import Settings

ROOT = Path(__file__).parents[2]
IMAGE, SPARK_IMAGE, IDLE_IMAGE = "localhost/confide-node:bench", "localhost/plain-spark:bench", "localhost/confide-node:idle"
CONTEXT, NAMESPACE = "test", "bench"
WORKERS, CORES, MEMORY_MB, INPUTS = 2, 1, 1024, 2
_SLEEPING_JAVA = b"#!/bin/sh\nexec sleep 600\n"


@dataclass
class DemoOfCode(Demo):
    """The demo whose commands are processes of their own, with another copy of the package: it is what they measure."""

    code: Path

    def confide(self, *words: str | Path, quiet: bool = False) -> dict[str, Any]:
        """Run one command and return its answer."""
        del quiet
        command = [sys.executable, "-m", "confide.cli.main", "--home", str(self.folder), *map(str, words), "--json"]
        environment = {**os.environ, "PYTHONPATH": str(self.code)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@dataclass(frozen=True)
class Place:
    """A running cluster with everything in it that runs need.  ``plain``: the same tables as plain Parquet, and room for results."""

    demo: Demo
    plain: Path
    profile: Path
    kubeconfig: Path
    volumes: list[dict[str, Any]]
    group: str

    @property
    def settings(self) -> Settings:
        """Of the demo's home folder."""
        return Settings.load(environ={}, home=self.demo.folder)

    @property
    def pods_cpu(self) -> float:
        """Seconds of CPU that pods have taken until now, those that are gone included (the kernel's cpuacct controller)."""
        usages = Path("/sys/fs/cgroup").glob(f"*/{self.group}/*/kubepods/cpuacct.usage")
        return sum({path.resolve(): int(path.read_text(encoding="utf-8")) for path in usages}.values()) / 1e9

    @property
    def environment(self) -> dict[str, str]:
        """Of commands that speak to the cluster."""
        paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": paths, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": host()}


def of_tests(name: str) -> Any:
    """A module of the tests' cluster, which is no part of the package."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))
    return importlib.import_module(f"cluster.{name}")


def host() -> str:
    """This machine's address in the cluster's network."""
    return str(of_tests("plan").HOST)


@contextmanager
def place() -> Iterator[Place]:
    """Bring the cluster up and fill it; take everything away at the end."""
    scratch = Path(tempfile.mkdtemp(prefix="confide-bench-", dir="/var/tmp"))  # on a disk, and every user may enter
    scratch.chmod(0o711)
    try:
        with of_tests("kubernetes").cluster() as running:
            code = _copy_of_code(scratch / "src")
            demo = DemoOfCode(scratch / "demo", Story(simulated=True), code)
            demo.folder.mkdir(mode=0o711)
            with demo.broker(host()):
                _prepare(demo)
                plain = _open_to_pods(plain_tables(scratch / "plain"))
                made = Place(demo, plain, scratch / "profile.toml", running.kubeconfig, _volumes(scratch, code), running.folder.name)
                _load_images(running, made, scratch)
                made.profile.write_text(_toml(profile_of(made)), encoding="utf-8")
                yield made
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def profile_of(made: Place, **changes: Any) -> dict[str, Any]:
    """The cluster's profile, as a table."""
    return {
        "image": IMAGE, "allow_tag": True, "shape": "simulated", "namespace": NAMESPACE, "insecure_host_path": True,
        "volumes": made.volumes, "cpu_request": 0.1, "shm_mb": 512, "ttl_s": 60, **changes,
    }  # fmt: skip


def _prepare(demo: Demo) -> None:
    """Encrypted tables and grants; the program tells when its first task is done."""
    program = demo.folder / "delays.py"
    program.write_text(instrumented(program.read_text(encoding="utf-8")), encoding="utf-8")
    text = demo.job.read_text(encoding="utf-8").replace("workers = 3", f"workers = {WORKERS}")
    demo.job.write_text(text, encoding="utf-8")
    demo.encrypt_tables()
    demo.grant()
    _open_to_pods(demo.folder / "data")


def _open_to_pods(folder: Path) -> Path:
    """Let the pods' user read a folder, and make a place in it for what they write."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)
    return folder


def _copy_of_code(target: Path) -> Path:
    """The package as an image has it."""
    shutil.copytree(ROOT / "src", target, ignore=shutil.ignore_patterns("*.jsa", "__pycache__", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(target)], check=True)
    return target


def _volumes(scratch: Path, code: Path) -> list[dict[str, Any]]:
    """All that pods have of this machine: code, and what lies over it."""
    over = {"mount": str(ROOT / "src"), "host_path": str(code), "read_only": True}
    return [*of_tests("node_image").code_volumes(), over, {"mount": str(scratch), "host_path": str(scratch)}]


def _load_images(running: Any, made: Place, scratch: Path) -> None:
    image, oci = of_tests("node_image"), of_tests("oci")
    measured = scratch / "measured.json"
    known = (made.settings.simulation_dir / "measured.json").read_text(encoding="utf-8")
    measured.write_text(known.replace(str(scratch / "src"), str(ROOT / "src")), encoding="utf-8")
    image.write_node_image(scratch / "node.tar", measured, name=IMAGE)
    # An engine never starts where Java sleeps: workers idle, once accepted.
    paths = {"PATH": "/opt/idle:/usr/bin:/bin"}
    image.write_node_image(scratch / "idle.tar", measured, name=IDLE_IMAGE, environment=paths, files={"opt/idle/java": _SLEEPING_JAVA})
    entry = Path(__file__).with_name("spark_entrypoint.sh")
    oci.write_image(
        scratch / "spark.tar",
        SPARK_IMAGE,
        files={"opt/entrypoint.sh": entry.read_bytes(), "etc/passwd": b"spark:x:10001:10001::/tmp:\n"},
        links={"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"},
        folders=("proc", "sys", "dev", "run", "etc", "tmp"),
        entrypoint=["/usr/bin/bash", "/opt/entrypoint.sh"],
        environment=_spark_environment(),
    )
    for name in ("node", "idle", "spark"):
        running.load(scratch / f"{name}.tar")


def _spark_environment() -> dict[str, str]:
    java = Path(shutil.which("java") or "/usr/bin/java").resolve().parents[1]
    home = importlib.util.find_spec("pyspark")
    if home is None or home.origin is None:
        sys.exit("PySpark is not installed")
    return {
        "JAVA_HOME": str(java), "SPARK_HOME": str(Path(home.origin).parent), "PYSPARK_PYTHON": sys.executable,
        "PATH": f"{java}/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8",  # noqa: S108  a path within the pod
    }  # fmt: skip


def _toml(table: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_value(value)}\n" for name, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_value(each)}" for name, each in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)
