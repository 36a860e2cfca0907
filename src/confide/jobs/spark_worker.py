"""A worker's side of a Spark run: the inputs' and outputs' keys from the broker, and one executor beside the agent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from confide.canonical import Json
from confide.crypto.secret import SecretBytes
from confide.errors import ProtocolError, UnavailableError
from confide.jobs.broker_keys import BrokerKeys
from confide.jobs.data_counts import counts_operation
from confide.jobs.engines.spark import SECRET_FILE, executor_command
from confide.jobs.input_ranges import input_range
from confide.jobs.inputs import InputLengths, VerifiedInput, as_on_driver, open_inputs
from confide.jobs.spark_node import SparkEngine
from confide.jobs.task_files import TaskFiles
from confide.node.control import field

if TYPE_CHECKING:
    from confide.node.child import Child
    from confide.node.workload import NodeServices


class SparkWorker:
    """A worker's side (``confide.node.workload.WorkerWorkload``)."""

    def __init__(self) -> None:
        self._services: NodeServices | None = None
        self._engine: SparkEngine | None = None
        self._keys: BrokerKeys | None = None
        self._inputs: dict[str, VerifiedInput] = {}
        self._lengths = InputLengths()
        self._jvm: Child | None = None
        self._driver: tuple[str, int] | None = None
        self._joining = threading.Event()

    def open(self, node: NodeServices) -> None:
        """Start the executor's JVM, which warms up, and meanwhile get the inputs' keys.

        Raises:
            ConfideError: the broker refuses, or an input is not as it must be.
            UnavailableError: the run is ending.
        """
        with node.making(self.stop):
            self._open(node)

    def _open(self, node: NodeServices) -> None:
        self._services = node
        engine = self._engine = SparkEngine(node)
        keys = self._keys = BrokerKeys(node)
        files = TaskFiles(keys.operations()["write-key"], node.tell)
        lengths = {"input-length": self._lengths.operation, "input-listing": self._lengths.listing}
        ranges = {"input-range": lambda request: input_range(self._inputs, request)}
        own = {"await-driver": self._await_driver, "data-counts": counts_operation(node, keys), **lengths}
        engine.serve({**keys.operations(), **files.operations(), **ranges, **own})
        self._jvm = engine.start("executor", executor_command(engine.runtime, engine.node, engine.run, str(node.spec.index)))
        node.check_going_on()
        self._inputs = open_inputs(node.job, node.attester)
        self._lengths.know(self._inputs.values())
        keys.open_inputs([*self._inputs.values()])

    def start(self, engine: Json) -> None:
        """Get the outputs' keys, which the driver has made by now, and let the executor join the driver.

        Raises:
            ManifestError: the driver reads another manifest than there is here.
            ConfideError: the broker refuses, or the driver's word is not one.
        """
        if self._services is None or self._engine is None or self._keys is None:
            raise UnavailableError("the engine was not opened")
        agreed = as_on_driver(self._inputs, field(engine, "inputs", dict))
        older = [found for name, found in agreed.items() if found.digest != self._inputs[name].digest]
        if older:
            self._lengths.know(older)
            self._keys.open_inputs(older)
        self._inputs = agreed
        for name in self._services.job.outputs:
            self._keys.open_output(name)
        self._engine.secret(SECRET_FILE, SecretBytes(field(engine, "secret", str).encode()))
        self._driver = (field(engine, "host", str), field(engine, "port", int))
        self._joining.set()

    def poll(self) -> int | None:
        """The executor's exit status if it ended by itself, or ``None`` while it runs or after the program stopped its session."""
        status = self._jvm.poll() if self._jvm is not None else None
        return status or None  # Spark's executors exit with 0 when they are told to stop, with 1 when they lose their driver

    def stop(self) -> None:
        """End the executor, wipe every key.  Idempotent."""
        self._joining.set()
        try:
            if self._engine is not None:
                self._engine.stop()
        finally:
            if self._keys is not None:
                self._keys.close()

    def _await_driver(self, _request: Json) -> Json:
        self._joining.wait()
        if self._driver is None:
            raise ProtocolError("the node is ending")
        host, port = self._driver
        return {"host": host, "port": port}
