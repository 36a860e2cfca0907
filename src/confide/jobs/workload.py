"""The Spark workload of the agents: keys from the broker, JVMs beside the agent, outputs committed and published, the receipt.

The driver's keyring holds output keys only (to count rows); keys of inputs are with the workers, whose executors read them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from confide.canonical import Json
from confide.crypto.secret import SecretBytes
from confide.data.failure import failure_in
from confide.errors import JobError, JobFailedError, NodeLostError, ProtocolError, UnavailableError
from confide.jobs.broker_keys import BrokerKeys
from confide.jobs.engines.spark import GATEWAY_SOCKET, SECRET_FILE, TOKEN_FILE, driver_jvm, executor_command, program_command
from confide.jobs.evidence import receipt_bundle
from confide.jobs.inputs import InputLengths, VerifiedInput, as_on_driver, digests, open_inputs, verify_whole
from confide.jobs.outputs import Outputs
from confide.jobs.owners_policies import require_owners_accept
from confide.jobs.reports import FilesDeleted, FilesWritten, read_report
from confide.jobs.spark_node import SparkEngine, interpreter, python_path
from confide.jobs.statement import ReleaseEntry
from confide.jobs.task_files import TaskFiles
from confide.node.control import field

if TYPE_CHECKING:
    from confide.attest.policy import Policy
    from confide.ids import NodeId
    from confide.node.child import Child
    from confide.node.local_socket import Operation
    from confide.node.record import EvidenceRecord
    from confide.node.workload import NodeReport, NodeServices, Refusal

_POLL_S = 0.1
_SECRET_BYTES = 32


class SparkDriver:
    """The driver's side (``confide.node.workload.DriverWorkload``)."""

    def __init__(self) -> None:
        self._services: NodeServices | None = None
        self._engine: SparkEngine | None = None
        self._keys: BrokerKeys | None = None
        self._outputs: Outputs | None = None
        self._inputs: dict[str, VerifiedInput] = {}
        self._owners_policies: dict[str, Policy] = {}
        self._lengths = InputLengths()
        self._releases: list[ReleaseEntry] = []
        self._jvm: Child | None = None
        self._token = ""
        self._code: Path | None = None
        self._began = datetime.now(UTC)
        self._address: tuple[str, int] | None = None
        self._listening = threading.Event()

    def prepare(self, node: NodeServices) -> Json:
        """Start Spark's driver, and meanwhile check inputs and make the outputs' keys; return what executors need to join.

        Raises:
            ConfideError: an input, the broker or Spark is not as it must be.
        """
        if node.job.inputs and not node.job.outputs:
            raise JobError("a job that reads names at least one output", hint="with its key come the owners' policies for the workers")
        if node.job.inputs and all(spec.key is not None for spec in node.job.inputs.values()):
            hint = "name one whose key is at the job's broker, if need be an empty one of your own"
            raise JobError("an output has its key by the grants of an input's owner, and no input is at the broker", hint=hint)
        self._services, self._began = node, datetime.now(UTC)
        engine = self._engine = SparkEngine(node)
        places = {name: Path(spec.path) for name, spec in node.job.outputs.items()}
        outputs = self._outputs = Outputs(places, node.spec.run_id, node.identity.key)
        self._keys = BrokerKeys(node)
        secret, token = (SecretBytes(secrets.token_hex(_SECRET_BYTES).encode()) for _ in range(2))
        engine.secret(SECRET_FILE, secret)
        engine.secret(TOKEN_FILE, token)
        self._token = token.reveal().decode()
        self._code = self._write_code(node)
        engine.serve({
            "driver-ready": self._driver_ready,
            "run-info": self._run_info,
            "input-length": self._lengths.operation,
            "stage": lambda request: outputs.stage(field(request, "name", str)),
            "commit": lambda request: outputs.commit(field(request, "name", str), field(request, "kind", str), request.get("schema")),
            "file-renamed": _noting(lambda request: outputs.renamed(field(request, "from", str), field(request, "to", str))),
            "file-deleted": _noting(lambda request: outputs.deleted(field(request, "path", str))),
        })  # fmt: skip
        self._jvm = engine.start("spark", driver_jvm(engine.runtime, engine.node, engine.run))
        self._inputs = open_inputs(node.job)
        self._lengths.know(self._inputs.values())
        self._keys.know(self._inputs.values())
        for found in self._inputs.values():
            if node.job.inputs[found.name].key is not None:
                self._keys.prove_admitted(found)
        newest = [found for name, found in self._inputs.items() if node.job.inputs[name].snapshot is None]
        for name in node.job.outputs:
            key = self._keys.output(name, newest)  # soon: what is committed from now on is not for this run
            self._owners_policies |= {policy.digest: policy for policy in key.policies}
            outputs.hold(name, key, partial(self._keys.output, name))
            newest = []
        if node.job.resources.verify_inputs == "whole":
            verify_whole(self._inputs.values())
        self._await_jvm()
        host, port = self._address or ("", 0)
        return {"host": host, "port": port, "secret": secret.reveal().decode(), "inputs": digests(self._inputs)}

    def run(self) -> Json:
        """Run the user's program; every output that the job names must be committed when it ends.

        Raises:
            JobFailedError: the program ended with an error, or without an output.
            DataError: it failed, and an input is not what its manifest says; or an output was not what tasks had written.
            NodeLostError: Spark's driver ended under it.
        """
        node, engine, jvm, outputs = self._ready()
        if self._code is None:
            raise UnavailableError("the job's code is not there")
        program = self._code / node.job.program
        launch = program_command(interpreter(), program, node.job.arguments, engine.node, python_path=(str(self._code), *python_path()))
        child = engine.start("program", launch)
        while (status := child.wait(_POLL_S)) is None:
            if node.stopping.is_set():
                raise UnavailableError("the run is ending")
            if jvm.poll() is not None:
                raise NodeLostError("Spark's driver ended while the program ran", status=jvm.poll(), hint="see `confide runs logs`")
        outputs.require_unharmed()
        if status != 0:
            verify_whole(self._inputs.values())
            hint = f"see `confide runs logs {node.spec.run_id} --node driver`"
            reason = failure_in(engine.output_of("program"))
            why = "" if reason is None else f": {reason.message}"
            raise JobFailedError(f"the program ended with status {status}{why}", hint=hint, status=status)
        outputs.require_all()
        return outputs.summary()

    def check_worker(self, record: EvidenceRecord) -> None:
        """Appraise a worker under the policy of every owner whose data the job reads: what workers read is shuffled to all of them.

        Raises:
            AppraisalError: one does not accept it.
        """
        node, *_ = self._ready()
        require_owners_accept(record, self._owners_policies.values(), node.verifier)

    def worker_lost(self, node: NodeId) -> None:
        """Nothing to do: Spark notices lost executors by their connections and runs their tasks again."""

    def cut_off(self, node: NodeId) -> None:
        """Tell the broker, so that no key is given to that node of this run any more.

        Raises:
            ConfideError: the broker does not take note.
        """
        if self._keys is not None:
            self._keys.cut_off(node)

    def heard(self, node: NodeId, report: Json) -> None:
        """Take note of a key that a node was given, or of files that its tasks wrote or deleted.

        Raises:
            ProtocolError: it is no report, or of files outside the outputs.
        """
        match read_report(node, report):
            case ReleaseEntry() as release:
                self._releases.append(release)
            case FilesWritten(paths) if self._outputs is not None:
                self._outputs.written(paths)
            case FilesDeleted(path) if self._outputs is not None:
                self._outputs.deleted(path)

    def receipt(self, nodes: Sequence[NodeReport], refused: Sequence[Refusal]) -> Json:
        """Sign the receipt, then publish the outputs: they count only with it.

        Raises:
            KeyRevokedError: a key that the run was given was withdrawn at the last moment.
            ConfideError: the broker does not answer, or an output's place was taken meanwhile; nothing is visible then.
        """
        node, _, _, outputs = self._ready()
        keys = self._keys
        if keys is None:
            raise UnavailableError("the broker was not asked for keys")
        for output in outputs.committed():
            keys.register(output.envelope)
        head, broker_key = keys.audit_head()
        keys.check_not_revoked()
        bundle = receipt_bundle(
            node,
            nodes=nodes,
            refused=refused,
            inputs=list(self._inputs.values()),
            outputs=outputs.committed(),
            releases=self._releases,
            times=(self._began, datetime.now(UTC)),
            audit_head=head,
            broker_key=broker_key,
        )
        outputs.publish()
        return bundle.to_json()

    def stop(self) -> None:
        """End every process, wipe every key, remove what is staged."""
        if self._engine is not None:
            self._engine.stop()
        if self._outputs is not None:
            self._outputs.close()
        if self._keys is not None:
            self._keys.close()

    # --- inside --------------------------------------------------------------------------------------------------------

    def _ready(self) -> tuple[NodeServices, SparkEngine, Child, Outputs]:
        if self._services is None or self._engine is None or self._jvm is None or self._outputs is None:
            raise UnavailableError("the engine was not prepared")
        return self._services, self._engine, self._jvm, self._outputs

    def _write_code(self, node: NodeServices) -> Path:
        """The job's files, in the node's private folder: as private as the channel that they came over."""
        folder = node.private_dir.folder("code")
        for name, data in node.job.files.items():
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def _await_jvm(self) -> None:
        node, _, jvm, _ = self._ready()
        until = time.monotonic() + max(node.spec.timing.start_timeout_s, 60.0)
        while not self._listening.wait(_POLL_S):
            if node.stopping.is_set():
                raise UnavailableError("the run is ending")
            if jvm.poll() is not None:
                raise NodeLostError("Spark's driver ended while starting", status=jvm.poll(), hint="see `confide runs logs`")
            if time.monotonic() > until:
                raise NodeLostError("Spark's driver did not start in time", hint="see `confide runs logs`")

    def _driver_ready(self, request: Json) -> Json:
        self._address = (field(request, "host", str), field(request, "port", int))
        self._listening.set()
        return {}

    def _run_info(self, _request: Json) -> Json:
        node, engine, _, _ = self._ready()
        job = node.job
        return {
            "run": node.spec.run_id,
            "arguments": list(job.arguments),
            "inputs": {name: found.info() for name, found in self._inputs.items()},
            "outputs": {name: {} for name in job.outputs},
            "gateway_socket": str(engine.node.private_dir / GATEWAY_SOCKET),
            "gateway_token": self._token,
            "code": str(self._code),
            "modules": sorted(name for name in job.files if name.endswith(".py") and name != job.program),
        }


def _noting(note: Callable[[Json], None]) -> Operation:
    """An operation of the agent's socket that only takes note."""

    def operation(request: Json) -> Json:
        note(request)
        return {}

    return operation


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
        """
        self._services = node
        engine = self._engine = SparkEngine(node)
        keys = self._keys = BrokerKeys(node)
        files = TaskFiles(keys.operations()["write-key"], node.tell)
        own = {"await-driver": self._await_driver, "input-length": self._lengths.operation}
        engine.serve({**keys.operations(), **files.operations(), **own})
        self._jvm = engine.start("executor", executor_command(engine.runtime, engine.node, engine.run, str(node.spec.index)))
        self._inputs = open_inputs(node.job)
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
        """End the executor, wipe every key."""
        self._joining.set()
        if self._engine is not None:
            self._engine.stop()
        if self._keys is not None:
            self._keys.close()

    def _await_driver(self, _request: Json) -> Json:
        self._joining.wait()
        if self._driver is None:
            raise ProtocolError("the node is ending")
        host, port = self._driver
        return {"host": host, "port": port}
