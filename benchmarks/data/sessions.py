"""Two Sparks to hold against each other: a Confide group (driver, executors, agents; all protections on), and plain Spark.

The group is started as agents start it, from the same parts (``confide.jobs.engines.spark``), without attestation and broker, which the
other benchmarks measure.  One process answers as the agent of all of its nodes: this one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from benchmarks.data import program
from benchmarks.data.owned import KEK, KEY, SIGNER, lease
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import commit_staged
from confide.data.snapshots import write_manifest
from confide.ids import NodeId, Role, RunId, new_dataset_id
from confide.jobs.engines import spark
from confide.jobs.inputs import InputLengths
from confide.jobs.staging import staging_path
from confide.node.child import Children, ChildSpec
from confide.node.jobca import JobCa
from confide.node.keyring import Keyring
from confide.node.local_socket import LocalSocketServer
from confide.node.private_dir import MEMORY_BASE, PrivateDir

if TYPE_CHECKING:
    from benchmarks.data.owned import Owned
    from confide.canonical import Json
    from confide.node.local_socket import Operation

ROOT: Final = Path(__file__).parents[2]
_TICK: Final = os.sysconf("SC_CLK_TCK")
_START_S: Final = 600.0
_SEPARATE: Final = ("spark.hadoop.parquet.crypto.factory.class", "spark.hadoop.fs.file.impl", "spark.hadoop.fs.enc.impl")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a session answered, its wall time, and the CPU seconds that all of its processes and this one used meanwhile."""

    value: Any
    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a Spark is: both kinds get the same memory and cores in all."""

    executors: int = 1
    cores: int = 2
    memory_mb: int = 3072
    driver_mb: int = 1024

    @property
    def all_cores(self) -> int:
        """Of all executors."""
        return self.executors * self.cores


@dataclass(frozen=True, slots=True)
class Protections:
    """Which of a group's protections are on.  Turned off here only, by changing what the engine would have started."""

    rpc: bool = True
    disks: bool = True
    data: bool = True

    def applied(self, properties: Mapping[str, str]) -> dict[str, str]:
        """A JVM's properties without those of the protections that are off."""
        changed = dict(properties)
        if not self.rpc and "spark.ssl.rpc.enabled" in changed:
            changed["spark.ssl.rpc.enabled"] = "false"
        if not self.disks and "spark.io.encryption.enabled" in changed:
            changed["spark.io.encryption.enabled"] = "false"
        return changed if self.data else {name: value for name, value in changed.items() if name not in _SEPARATE}


class Session:
    """A running program (:mod:`benchmarks.data.program`) and the processes whose CPU time counts."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], folder: Path, others: Sequence[int] = ()) -> None:
        self._log = (folder / "program.log").open("w+b")
        self._process = subprocess.Popen(
            argv, env=dict(env), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._questions, self._answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self._roots = (self._process.pid, *others)
        self.commits: list[Answer] = []
        """What the agent took for each commit."""
        self._answer()

    def ask(self, do: str, **arguments: Any) -> Answer:
        """Have one thing done."""
        before = self.cpu()
        self._questions.write(json.dumps({"do": do, **arguments}) + "\n")
        self._questions.flush()
        answer = self._answer()
        return Answer(answer["value"], answer["wall"], self.cpu() - before)

    def cpu(self) -> float:
        """CPU seconds of all processes of this session and of this one (the agent), in user and system, so far."""
        mine = os.times()
        return _of_trees(self._roots) + mine.user + mine.system

    def _answer(self) -> Any:
        for line in self._answers:
            if line.startswith(program.MARK):
                return json.loads(line.removeprefix(program.MARK))
        self._process.wait()
        self._log.seek(0)
        sys.exit(f"the program ended:\n{self._log.read().decode(errors='replace')[-3000:]}")

    def close(self) -> None:
        """End the program."""
        self._questions.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._log.close()


def plain(inputs: Mapping[str, Json], folder: Path, shape: Shape, stack: ExitStack) -> Session:
    """Ordinary PySpark as it is installed, on as many cores, with the settings that decide how queries are split."""
    folder.mkdir()
    scratch = Path(tempfile.mkdtemp(prefix="confide-plain-", dir=MEMORY_BASE))
    stack.callback(shutil.rmtree, scratch, ignore_errors=True)
    properties = {
        "spark.driver.memory": f"{shape.memory_mb + shape.driver_mb}m",
        "spark.default.parallelism": str(shape.all_cores),
        "spark.sql.shuffle.partitions": str(max(2, 2 * shape.all_cores)),
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    given = {"properties": properties, "inputs": inputs, "outputs": str(folder)}
    argv = [sys.executable, str(Path(program.__file__)), json.dumps(given)]
    session = Session(argv, {**os.environ, "PYTHONPATH": str(ROOT)}, folder)
    stack.callback(session.close)
    return session


class Group:
    """The agents' side of one run.  Made and ended by :func:`confidential`."""

    def __init__(self, owned: Mapping[str, Owned], folder: Path, shape: Shape, protections: Protections, stack: ExitStack) -> None:
        self._folder, self._shape, self._protections, self._stack = folder, shape, protections, stack
        self._run = RunId(f"bench-{secrets.token_hex(4)}")
        executor_mb = shape.memory_mb // shape.executors
        self._engine = spark.SparkRun(str(self._run), "benchmark", cores=shape.all_cores, executor_mb=executor_mb)
        self._runtime = spark.find_runtime()
        self._ca = JobCa(self._run, now=datetime.now(UTC))
        self._secret, self._token = (SecretBytes(secrets.token_hex(32).encode()) for _ in range(2))
        self._owned, self._rings, self._lengths = owned, list[Keyring](), InputLengths()
        self._lengths.know([one.input for one in owned.values()])
        self._outputs: dict[str, tuple[Any, SecretBytes]] = {}
        self._address: Json = {}
        self._listening = threading.Event()
        self.info: Json = {}
        self.commits: list[Answer] = []

    def _operations(self) -> dict[str, Operation]:
        """One node's: each holds keys of its own."""
        ring = Keyring()
        for one in self._owned.values():
            one.open_in(ring)
        self._rings.append(ring)
        return {
            **ring.operations(),
            "input-length": self._lengths.operation,
            "input-listing": self._lengths.listing,
            "output-listing": lambda _: {"names": []},
            "data-counts": lambda _: {},
            "abandon": lambda _: {},
            "file-renamed": lambda _: {},
            "file-deleted": lambda _: {},
            "driver-ready": self._ready,
            "await-driver": self._await,
            "run-info": lambda _: self.info,
            "stage": self._stage,
            "commit": self._commit,
        }

    def start(self) -> tuple[spark.SparkNode, list[int]]:
        """Start the JVMs: the driver's node, and their process ids."""
        children = Children()
        names = ["driver", *(f"executor-{number}" for number in range(1, self._shape.executors + 1))]
        nodes = {name: self._node(name) for name in names}  # children stop before sockets and folders go
        self._stack.callback(children.stop, grace_s=10.0)
        pids = []
        for name, node in nodes.items():
            if name == "driver":
                launch = spark.driver_jvm(self._runtime, node, self._engine)
            else:
                launch = spark.executor_command(self._runtime, node, self._engine, name.rpartition("-")[2])
            for file, data in launch.files.items():
                (node.private_dir / file).write_bytes(self._changed(data) if file.endswith(".json") else data)
            log = self._folder / f"{name}.log"
            pids.append(children.start(ChildSpec(name, launch.argv, log, node.work_dir, launch.env)).pid)
        self._stack.callback(self._listening.set)
        return nodes["driver"], pids

    def _changed(self, settings: bytes) -> bytes:
        config = json.loads(settings)
        return json.dumps({**config, "properties": self._protections.applied(config["properties"])}).encode()

    def _node(self, name: str) -> spark.SparkNode:
        role = Role.DRIVER if name == "driver" else Role.WORKER
        private = self._stack.enter_context(PrivateDir(self._run, NodeId(name)))
        key = SigningKey.generate()
        certificate = self._ca.issue(key.spki_der, node=NodeId(name), role=role, host="127.0.0.1", now=datetime.now(UTC))
        private.write(spark.CHAIN_FILE, certificate + self._ca.ca_pem)
        private.write(spark.KEY_FILE, key.private_pem())
        private.write(spark.SECRET_FILE, self._secret)
        private.write(spark.TOKEN_FILE, self._token)
        socket = LocalSocketServer(private.path / "agent.sock", self._operations())
        socket.start()
        self._stack.callback(socket.close)
        memory = self._shape.driver_mb if name == "driver" else self._shape.memory_mb // self._shape.executors
        cores = 1 if name == "driver" else self._shape.cores
        node = spark.SparkNode(private.path, private.folder("work"), socket.path, cores=cores, memory_mb=memory)
        if name == "driver":
            self.info |= {"gateway_socket": str(private.path / spark.GATEWAY_SOCKET), "gateway_token": self._token.reveal().decode()}
        return node

    def _ready(self, request: Json) -> Json:
        self._address = {"host": request["host"], "port": request["port"]}
        self._listening.set()
        return {}

    def _await(self, _request: Json) -> Json:
        self._listening.wait(_START_S)
        return self._address

    def _stage(self, request: Json) -> Json:
        key, dataset = SecretBytes.random(), new_dataset_id()
        place = staging_path(self._folder / request["name"], self._run)
        place.mkdir(mode=0o700)
        self._outputs[request["name"]] = dataset, key
        for ring in self._rings:
            ring.open_output(str(place), dataset, lease(key), run=self._run, refresh=lambda: lease(key))
        return {"path": str(place)}

    def _commit(self, request: Json) -> Json:
        wall, cpu = time.perf_counter(), time.thread_time()
        dataset, key = self._outputs[request["name"]]
        signed = commit_staged(
            staging_path(self._folder / request["name"], self._run),
            kind=request["kind"],
            spark_schema=request["schema"],
            name=request["name"],
            run=self._run,
            dataset=dataset,
            dataset_key=key,
            wrapped=wrap(KEK, key, key=KEY, version=1, dataset=dataset),
            signer=SIGNER,
            now=datetime.now(UTC),
            check_paths=lambda _: None,
        )
        write_manifest(signed.local, signed.envelope)
        found = signed.unverified
        self.commits.append(Answer(None, time.perf_counter() - wall, time.thread_time() - cpu))
        return {"files": len(found.files), "rows": found.rows, "manifest": signed.digest}


def confidential(
    owned: Mapping[str, Owned],
    folder: Path,
    shape: Shape,
    stack: ExitStack,
    *,
    protections: Protections | None = None,
    unprotected: Mapping[str, Json] | None = None,
    outputs: Sequence[str] = (),
) -> Session:
    """A Confide session over encrypted inputs; with ``protections.data`` off, over the plain ones of ``unprotected``."""
    folder.mkdir()
    group = Group(owned, folder, shape, protections or Protections(), stack)
    inputs = unprotected or {name: one.input.info() for name, one in owned.items()}
    named: Json = {name: {} for name in outputs}
    group.info = {"run": "benchmark", "arguments": [], "code": "", "modules": [], "inputs": inputs, "outputs": named}
    node, pids = group.start()
    path = (str(ROOT), str(ROOT / "src"))
    launch = spark.program_command(Path(sys.executable), Path(program.__file__), (), node, python_path=path)
    session = Session(launch.argv, launch.env, folder, pids)
    session.commits = group.commits
    stack.callback(session.close)
    return session


def _of_trees(roots: Sequence[int]) -> float:
    """CPU seconds of these processes, of those that they started, and of those that these waited for (proc(5), ``stat``)."""
    ticks: dict[int, int] = {}
    parents: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                fields = (place / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            parents[int(place.name)], ticks[int(place.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    mine = set(roots) & set(parents)
    grown = -1
    while grown != len(mine):
        grown = len(mine)
        mine |= {pid for pid, parent in parents.items() if parent in mine}
    return sum(ticks[pid] for pid in mine) / _TICK
