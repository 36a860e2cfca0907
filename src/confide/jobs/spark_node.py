"""One node's share of a Spark run: its JVM and, on the driver, what the program needs to reach it.

Secrets go into files of the node's private folder and over the agent's socket, never into arguments, environment or Spark properties.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from confide.canonical import Json
from confide.crypto.secret import SecretBytes
from confide.errors import NodeLostError
from confide.jobs.engines.spark import (
    CHAIN_FILE,
    GATEWAY_SOCKET,
    KEY_FILE,
    SECRET_FILE,
    TOKEN_FILE,
    SparkNode,
    SparkRun,
    driver_jvm,
    find_runtime,
    program_command,
)
from confide.jobs.node_processes import NodeProcesses, interpreter, python_path
from confide.node.control import field

if TYPE_CHECKING:
    from confide.jobs.engines.launch import Launch
    from confide.node.child import Child
    from confide.node.local_socket import Operation
    from confide.node.workload import NodeServices

_POLL_S = 0.1
_SECRET_BYTES = 32


class SparkEngine(NodeProcesses):
    """What :mod:`confide.jobs.workload` keeps of one node's engine."""

    def __init__(self, services: NodeServices) -> None:
        self.runtime = find_runtime()
        super().__init__(services)
        spec, resources = services.spec, services.job.resources
        self.node = SparkNode(
            private_dir=services.private_dir.path,
            work_dir=self.work_dir,
            agent_socket=self.agent_socket,
            host=services.peer_host,
            cores=spec.cores,
            memory_mb=spec.memory_mb,
        )
        cores = resources.workers * resources.cores
        self.run = SparkRun(str(spec.run_id), services.job.name, cores=cores, executor_mb=resources.memory_mb)
        certificate = services.certificate
        services.private_dir.write(CHAIN_FILE, certificate.certificate_pem + certificate.ca_pem)
        services.private_dir.write(KEY_FILE, certificate.private_key_pem)


class SparkDriverEngine(SparkEngine):
    """The driver's: a JVM with the Spark context, and the program that is connected to it (``confide.jobs.workload.DriverEngine``)."""

    reads_data = False

    def __init__(self, services: NodeServices) -> None:
        super().__init__(services)
        self._secret, self._token = (SecretBytes(secrets.token_hex(_SECRET_BYTES).encode()) for _ in range(2))
        self.secret(SECRET_FILE, self._secret)
        self.secret(TOKEN_FILE, self._token)
        self._jvm: Child | None = None
        self._address: tuple[str, int] | None = None
        self._listening = threading.Event()

    def operations(self) -> Mapping[str, Operation]:
        """``driver-ready``: the JVM says where it listens."""
        return {"driver-ready": self._driver_ready}

    def begin(self) -> None:
        """Start the JVM."""
        self._jvm = self.start("spark", driver_jvm(self.runtime, self.node, self.run))

    def joining(self) -> Json:
        """Wait for the JVM; what executors need to join it.

        Raises:
            NodeLostError: it ended, or does not start in time.
        """
        services = self._services
        until = time.monotonic() + max(services.spec.timing.start_timeout_s, 60.0)
        while not self._listening.wait(_POLL_S):
            services.check_going_on()
            self._require("starting")
            if time.monotonic() > until:
                raise NodeLostError("Spark's driver did not start in time", hint="see `confide runs logs`")
        host, port = self._address or ("", 0)
        return {"host": host, "port": port, "secret": self._secret.reveal().decode()}

    def program(self, program: Path, code: Path) -> Launch:
        """The user's program: ``program`` among the job's files in ``code``."""
        arguments = self._services.job.arguments
        return program_command(interpreter(), program, arguments, self.node, python_path=(str(code), *python_path()))

    def check(self) -> None:
        """Return while the JVM runs.

        Raises:
            NodeLostError: it ended.
        """
        self._require("the program ran")

    def info(self, code: Path) -> Json:
        """What the program needs beside its data (``confide.data.spark``)."""
        job = self._services.job
        return {
            "gateway_socket": str(self.node.private_dir / GATEWAY_SOCKET),
            "gateway_token": self._token.reveal().decode(),
            "code": str(code),
            "modules": sorted(name for name in job.files if name.endswith(".py") and name != job.program),
        }

    def _require(self, doing: str) -> None:
        if self._jvm is None or self._jvm.poll() is not None:
            status = None if self._jvm is None else self._jvm.poll()
            raise NodeLostError(f"Spark's driver ended while {doing}", status=status, hint="see `confide runs logs`")

    def _driver_ready(self, request: Json) -> Json:
        self._address = (field(request, "host", str), field(request, "port", int))
        self._listening.set()
        return {}
