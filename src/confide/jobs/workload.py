"""The workload of a driver's agent: keys from the broker, the engine beside the agent, outputs committed and published, the receipt.

With Spark the driver's agent holds output keys only (for the logs of streams): those of inputs are with the workers, whose executors read
them.  An engine that reads in the driver's node has them there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from confide.canonical import Json
from confide.data.failure import failure_in
from confide.errors import ConfideError, JobError, JobFailedError, ProtocolError, UnavailableError
from confide.jobs.broker_keys import BrokerKeys
from confide.jobs.data_counts import counts_operation
from confide.jobs.driver_files import DriverFiles
from confide.jobs.evidence import receipt_bundle
from confide.jobs.input_ranges import input_range
from confide.jobs.inputs import InputLengths, VerifiedInput, digests, open_inputs, verify_whole
from confide.jobs.outputs import Outputs
from confide.jobs.owners_policies import require_owners_accept
from confide.jobs.parents import open_parents
from confide.jobs.polars_node import PolarsDriverEngine
from confide.jobs.reports import FilesDeleted, FilesWritten, read_report
from confide.jobs.saves import Save
from confide.jobs.sending import open_sending
from confide.jobs.spark_node import SparkDriverEngine
from confide.jobs.staging import check_free
from confide.jobs.statement import DataEntry, ReleaseEntry
from confide.jobs.task_files import TaskFiles
from confide.node.control import field

if TYPE_CHECKING:
    from confide.attest.policy import Policy
    from confide.ids import NodeId
    from confide.job import Engine
    from confide.jobs.engines.launch import Launch
    from confide.node.child import Child
    from confide.node.local_socket import Operation
    from confide.node.record import EvidenceRecord
    from confide.node.workload import NodeReport, NodeServices, Refusal

_log = logging.getLogger(__name__)
_POLL_S = 0.1


class DriverEngine(Protocol):
    """What of the driver's side differs from engine to engine.  ``reads_data``: the program reads and writes data in the driver's node."""

    reads_data: bool

    def operations(self) -> Mapping[str, Operation]:
        """Operations of the agent's socket."""
        ...

    def serve(self, operations: Mapping[str, Operation]) -> None:
        """Open the agent's socket."""
        ...

    def begin(self) -> None:
        """Start what runs beside the program."""
        ...

    def joining(self) -> Json:
        """Wait until that is ready; what workers need to join it, secrets included.

        Raises:
            NodeLostError: it is not.
        """
        ...

    def program(self, program: Path, code: Path) -> Launch:
        """The user's program."""
        ...

    def start(self, name: str, launch: Launch) -> Child:
        """Start a process."""
        ...

    def check(self) -> None:
        """Return while what runs beside the program runs; raises ``NodeLostError`` otherwise."""
        ...

    def info(self, code: Path) -> Json:
        """What the program needs beside its data."""
        ...

    def output_of(self, name: str) -> str:
        """The last of what a process printed."""
        ...

    def stop(self) -> None:
        """End every process.  Idempotent."""
        ...


_ENGINES: Mapping[Engine, Callable[[NodeServices], DriverEngine]] = {"spark": SparkDriverEngine, "polars": PolarsDriverEngine}


class JobDriver:
    """The driver's side (``confide.node.workload.DriverWorkload``)."""

    def __init__(self) -> None:
        self._services: NodeServices | None = None
        self._engine: DriverEngine | None = None
        self._keys: BrokerKeys | None = None
        self._outputs: Outputs | None = None
        self._inputs: dict[str, VerifiedInput] = {}
        self._owners_policies: dict[str, Policy] = {}
        self._lengths = InputLengths()
        self._releases: list[ReleaseEntry] = []
        self._data: dict[NodeId, DataEntry] = {}
        self._code: Path | None = None
        self._began = datetime.now(UTC)

    def prepare(self, node: NodeServices) -> Json:
        """Start the engine, and meanwhile check inputs and make the outputs' keys; return what workers need to join.

        Raises:
            ConfideError: an input, the broker or the engine is not as it must be.
            UnavailableError: the run is ending.
        """
        with node.making(self.stop):
            return self._prepare(node)

    def _prepare(self, node: NodeServices) -> Json:
        if node.job.inputs and not node.job.outputs:
            raise JobError("a job that reads names at least one output", hint="with its key come the owners' policies for the workers")
        if node.job.inputs and all(spec.key is not None for spec in node.job.inputs.values()):
            hint = "name one whose key is at the job's broker, if need be an empty one of your own"
            raise JobError("an output has its key by the grants of an input's owner, and no input is at the broker", hint=hint)
        self._services, self._began = node, datetime.now(UTC)
        engine = self._engine = _ENGINES[node.job.engine](node)
        places = {name: spec.folder(name) for name, spec in node.job.outputs.items()}
        sending = open_sending(node.job, node.attester)
        parents = open_parents(node.job, sending.folders)
        check_free({name: place for name, place in places.items() if name not in sending}, going_on=parents)
        outputs = self._outputs = Outputs(places, node.spec.run_id, node.identity.key, parents, sending)
        keys = self._keys = BrokerKeys(node)
        self._code = self._write_code(node)
        engine.serve(self._operations(engine, outputs, keys, node))
        engine.begin()
        node.check_going_on()
        self._inputs = open_inputs(node.job, node.attester)
        self._lengths.know(self._inputs.values())
        keys.know(self._inputs.values())
        if engine.reads_data:
            keys.open_inputs([*self._inputs.values()])
        for found in self._inputs.values():
            if not engine.reads_data and node.job.inputs[found.name].key is not None:
                keys.prove_admitted(found)
        newest = [found for name, found in self._inputs.items() if node.job.inputs[name].snapshot is None]
        for name in node.job.outputs:
            parent = parents[name].manifest.envelope if name in parents else None
            key = keys.output(name, newest, parent)  # soon: what is committed from now on is not for this run
            self._owners_policies |= {policy.digest: policy for policy in key.policies}
            outputs.hold(name, key, partial(keys.output, name))
            if engine.reads_data:
                keys.open_output(name)
            newest = []
        if node.job.resources.verify_inputs == "whole":
            verify_whole(self._inputs.values())
        return {**engine.joining(), "inputs": digests(self._inputs)}

    def run(self) -> Json:
        """Run the user's program; every output that the job names must be committed when it ends.

        Raises:
            JobFailedError: the program ended with an error, or without an output.
            DataError: it failed, and an input is not what its manifest says; or an output was not what tasks had written, or sent.
            UnavailableError: a storage that an output goes to refuses, or does not answer.
            NodeLostError: the engine ended under it.
        """
        node, engine, outputs, code = self._ready()
        child = engine.start("program", engine.program(code / node.job.program, code))
        while (status := child.wait(_POLL_S)) is None:
            node.check_going_on()
            engine.check()
        outputs.require_unharmed()
        if status != 0:
            verify_whole(self._inputs.values())
            reason = failure_in(engine.output_of("program"))
            hint = f"see `confide runs logs {node.spec.run_id} --node driver`" + (f"; {reason.hint}" if reason and reason.hint else "")
            why = "" if reason is None else f": {reason.message}"
            raise JobFailedError(f"the program ended with status {status}{why}", hint=hint, status=status)
        outputs.require_all()
        outputs.send()  # here, where nodes are attested again meanwhile and the client is heard: it may take long
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
            case DataEntry() as entry:
                self._data[node] = entry

    def receipt(self, nodes: Sequence[NodeReport], refused: Sequence[Refusal]) -> Json:
        """Sign the receipt, then publish the outputs: they count only with it.

        Raises:
            KeyRevokedError: a key that the run was given was withdrawn at the last moment.
            SnapshotConflictError: another writer committed the next snapshot of a dataset that the run goes on with first.
            ConfideError: the broker does not answer, or an output's place was taken meanwhile; nothing is visible then.
        """
        node, _, outputs, _ = self._ready()
        keys = self._keys
        if keys is None:
            raise UnavailableError("the broker was not asked for keys")
        further = outputs.further()
        for output in outputs.committed():
            keys.register(output.envelope, announce=output in further)
        head, broker_key = keys.audit_head()
        keys.check_not_revoked()
        bundle = receipt_bundle(
            node,
            nodes=nodes,
            refused=refused,
            inputs=list(self._inputs.values()),
            outputs=outputs.committed(),
            releases=self._releases,
            data=[self._data[report.node] for report in nodes if report.node in self._data],
            times=(self._began, datetime.now(UTC)),
            audit_head=head,
            broker_key=broker_key,
        )
        outputs.publish()
        for output in further:
            try:
                keys.register(output.envelope)
            except ConfideError as error:  # it is committed and announced: the broker hears of it when it is next used
                _log.warning("the broker was not told of a committed snapshot: %s", error.code)
        return bundle.to_json()

    def stop(self) -> None:
        """End every process, wipe every key, remove what is staged.  Idempotent."""
        with ExitStack() as last_first:  # each of them, whatever fails before it
            if self._outputs is not None:
                last_first.callback(self._outputs.close)  # a storage may keep it waiting: no key waits for that
            if self._keys is not None:
                last_first.callback(self._keys.close)
            if self._engine is not None:
                last_first.callback(self._engine.stop)

    # --- inside --------------------------------------------------------------------------------------------------------

    def _ready(self) -> tuple[NodeServices, DriverEngine, Outputs, Path]:
        if self._services is None or self._engine is None or self._outputs is None or self._code is None:
            raise UnavailableError("the engine was not prepared")
        return self._services, self._engine, self._outputs, self._code

    def _operations(self, engine: DriverEngine, outputs: Outputs, keys: BrokerKeys, node: NodeServices) -> Mapping[str, Operation]:
        """The agent's socket, for the engine and the program."""
        operations: dict[str, Operation] = {
            **engine.operations(),
            "run-info": self._run_info,
            "input-files": self._input_files,
            "input-length": self._lengths.operation,
            "input-listing": self._lengths.listing,
            "stage": lambda request: outputs.stage(field(request, "name", str), Save.from_json(request)),
            "commit": lambda request: outputs.commit(field(request, "name", str), field(request, "kind", str), request.get("schema")),
            **DriverFiles(keys, outputs, sorted(node.job.outputs)).operations(),
        }
        if engine.reads_data:
            files = TaskFiles(keys.operations()["write-key"], node.tell)
            operations["input-range"] = lambda request: input_range(self._inputs, request)
            counts = counts_operation(node, keys)
            operations |= {"read-key": keys.operations()["read-key"], "write-key": files.operations()["write-key"], "data-counts": counts}
        return operations

    def _write_code(self, node: NodeServices) -> Path:
        """The job's files, in the node's private folder: as private as the channel that they came over."""
        folder = node.private_dir.folder("code")
        for name, data in node.job.files.items():
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def _run_info(self, _request: Json) -> Json:
        node, engine, _, code = self._ready()
        return {
            "run": node.spec.run_id,
            "arguments": list(node.job.arguments),
            "inputs": {name: found.info(files=not engine.reads_data) for name, found in self._inputs.items()},
            "outputs": {name: {} for name in node.job.outputs},
            **engine.info(code),
        }

    def _input_files(self, request: Json) -> Json:
        """``input-files``: a page of the files of the input ``name`` from number ``start`` on; an empty one is the last."""
        found = self._inputs.get(field(request, "name", str))
        if found is None:
            raise ProtocolError("the job has no such input")
        return {"files": found.page(field(request, "start", int))}
