"""A Spark group without broker and attestation: one driver and executors with a job CA, each with its own agent socket.

And small pieces of text.
"""

from __future__ import annotations

import datetime as dt
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from confide.canonical import Json
from confide.data import text_scan
from confide.jobs.engines import spark as engine
from confide.node.local_socket import LocalSocketServer

START_TIMEOUT_S = 60.0


class TestCa:
    """A job CA of the test's own."""

    __test__ = False

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._issue(self.key, "test job CA", ca=True)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """Chain (node, CA) and private key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        chain = self._issue(key, name, ca=False).public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM)
        return chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def _issue(self, key: ec.EllipticCurvePrivateKey, name: str, *, ca: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test job CA")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
            .sign(self.key, hashes.SHA256())
        )


@dataclass
class Driver:
    """Where the driver said it listens."""

    host: str = ""
    port: int = 0
    ready: threading.Event = field(default_factory=threading.Event)


class SparkGroup:
    """Starts JVMs as the agents do and ends them.  ``ops``: the agent's operations, besides the two that start-up needs."""

    def __init__(self, root: Path, ops: dict[str, Callable[[Json], Json]], *, archive: bool = True) -> None:
        self.root = root
        self.ops = ops
        self.runtime = engine.find_runtime(with_archive=archive)
        self.ca = TestCa()
        self.secret = secrets.token_hex(32)
        self.token = secrets.token_hex(32)
        self.driver = Driver()
        self.run = engine.SparkRun("app-test", "test", cores=2)
        self.info: Json = {}
        self.private: dict[str, Path] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._servers: list[LocalSocketServer] = []

    def node(self, name: str, *, secret: str | None = None, ca: TestCa | None = None) -> engine.SparkNode:
        """Make a node's folders, files and agent socket."""
        private = Path(tempfile.mkdtemp(prefix="ct-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.private[name] = private
        work = self.root / name
        work.mkdir(mode=0o700)
        chain, key = (ca or self.ca).issue(name)
        for file, data in {
            engine.CHAIN_FILE: chain,
            engine.KEY_FILE: key,
            engine.SECRET_FILE: (secret or self.secret).encode(),
            engine.TOKEN_FILE: self.token.encode(),
        }.items():
            (private / file).write_bytes(data)
        server = LocalSocketServer(
            private / "agent.sock",
            {
                "driver-ready": self._driver_ready,
                "await-driver": self._await_driver,
                "run-info": self._run_info,
                "input-listing": lambda _: {"names": None},
                "data-counts": lambda _: {},
                "output-listing": lambda _: {"names": []},
                **self.ops,
            },
        )
        server.start()
        self._servers.append(server)
        return engine.SparkNode(private, work, private / "agent.sock", cores=1, memory_mb=1024)

    def _driver_ready(self, request: Json) -> Json:
        self.driver.host, self.driver.port = request["host"], request["port"]
        self.driver.ready.set()
        return {}

    def _await_driver(self, request: Json) -> Json:
        assert self.driver.ready.wait(START_TIMEOUT_S)
        return {"host": self.driver.host, "port": self.driver.port}

    def _run_info(self, request: Json) -> Json:
        socket = str(self.private["driver"] / engine.GATEWAY_SOCKET)
        fixed: Json = {"run": "r", "arguments": [], "code": "", "modules": [], "inputs": {}, "outputs": {}}
        return {**fixed, "gateway_socket": socket, "gateway_token": self.token, **self.info}

    def start(self, name: str, node: engine.SparkNode, launch: engine.Launch) -> subprocess.Popen[bytes]:
        """Start one process with exactly the launch's environment; its output goes to a file."""
        for file, data in launch.files.items():
            (node.private_dir / file).write_bytes(data)
        log = (self.root / f"{name}.log").open("wb")
        process = subprocess.Popen(launch.argv, env=dict(launch.env), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=node.work_dir)
        self.processes[name] = process
        return process

    def start_driver(self) -> None:
        self.driver_node = self.node("driver")
        self.start("driver", self.driver_node, engine.driver_jvm(self.runtime, self.driver_node, self.run))

    def start_executor(self, name: str, **changes: object) -> subprocess.Popen[bytes]:
        node = self.node(name, **changes)  # type: ignore[arg-type]
        return self.start(name, node, engine.executor_command(self.runtime, node, self.run, name.removeprefix("executor-")))

    def run_program(self, source: str, *, timeout: float = 240.0) -> tuple[int, str]:
        """Run a program in the driver's node; returns exit status and output."""
        program = self.root / f"program-{secrets.token_hex(4)}.py"
        program.write_text(source, encoding="utf-8")
        path = tuple(p for p in sys.path if p and Path(p).is_dir())
        launch = engine.program_command(Path(sys.executable), program, (), self.driver_node, python_path=path)
        done = subprocess.run(
            launch.argv, env=dict(launch.env), capture_output=True, text=True, timeout=timeout, check=False, cwd=self.driver_node.work_dir
        )
        return done.returncode, done.stdout + done.stderr

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for server in self._servers:
            server.close()
        for folder in self.private.values():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def spark_group_class() -> type[SparkGroup]:
    """The class, for modules that start one group for all of their tests."""
    return SparkGroup


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text files are read 16 bytes at a time."""
    monkeypatch.setattr(text_scan, "PIECE_BYTES", 16)
