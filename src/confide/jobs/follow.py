"""Follows one run: performs what the run's state machine commands and feeds it what happens.  One thread, one loop.

Nodes are started on the calling thread, because they end with the thread that started them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from confide.canonical import Json
from confide.errors import (
    AttestationError,
    ConfideError,
    InterruptedRunError,
    NodeLostError,
    ProtocolError,
    ReceiptError,
    UnavailableError,
    error_from_json,
)
from confide.ids import NodeId, Role
from confide.jobs import state as run_state
from confide.jobs.backend import Address, LastingBackend, NodeHandle, NodeStatus
from confide.jobs.known_driver import KnownDriver
from confide.jobs.receipt import Verification, examine
from confide.jobs.result import ClientEvent, OnEvent, RunEvent
from confide.jobs.state import Phase
from confide.jobs.statement import ReceiptBundle
from confide.node.control import EventType, Kind, field
from confide.node.remains import Remains

if TYPE_CHECKING:
    from confide.attest.roots import TrustRoots
    from confide.attest.verify import Verifier
    from confide.crypto.identity import Identity
    from confide.job import Job
    from confide.jobs.backend import Backend
    from confide.jobs.plan import Plan
    from confide.jobs.store import RunDir
    from confide.node.client import DriverClient
    from confide.node.record import EvidenceRecord
    from confide.node.spec import NodeSpec

_POLL_S = 0.1
_COME_BACK_S = 60.0
"""How long a driver that goes on alone is looked for after its channel broke: as long as an API server may take to restart."""
_AGAIN_S = 1.0
_EXIT_GRACE_S = 1.0
"""How long the exit status of a driver whose channel broke is waited for, and a channel's last frames after the driver's exit."""


class Follower:
    """One run from its start to its end.  :meth:`follow` once, then :meth:`end`, whatever happened."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        folder: RunDir,
        backend: Backend,
        *,
        verifier: Verifier,
        roots: TrustRoots,
        on_event: OnEvent,
        identity: Identity | None = None,
    ) -> None:
        self._job = job
        self._plan = plan
        self._folder = folder
        self._backend = backend
        self._verifier = verifier
        self._roots = roots
        self._on_event = on_event
        self._state = run_state.begin(plan.driver.node_id, plan.worker_ids)
        self._handles: dict[NodeId, NodeHandle] = {}
        self._ended: set[NodeId] = set()
        self._waits_for: dict[NodeId, str] = {}
        self._heard: set[tuple[str, NodeId, str]] = set()
        self._driver: DriverClient | None = None
        self._refused: list[EvidenceRecord] = []
        self._known = KnownDriver(job, plan, folder, verifier, identity, backend.init_data, self._refused.append)
        self._remains = Remains()
        self._verification: Verification | None = None
        self.summary: Mapping[str, Any] = {}
        self.left = False
        """Whether the run goes on without this client."""

    @property
    def succeeded(self) -> bool:
        """Whether the run came to a verified receipt."""
        return self._state.phase is Phase.DONE

    @property
    def error(self) -> ConfideError | None:
        """What ended the run, if it failed."""
        return self._state.error

    @property
    def verification(self) -> Verification:
        """The receipt's verification.

        Raises:
            ReceiptError: the run has none.
        """
        if self._verification is None:
            raise ReceiptError("the run has no receipt")
        return self._verification

    def follow(self, *, to: Phase | None = None) -> None:
        """Start the run and follow it to its end, or until it has come to the phase ``to``.

        Raises:
            KeyboardInterrupt: the user stopped it.
            ConfideError: a node could not be started.
        """
        self._start(self._plan.driver)
        self._go_on(to)

    def rejoin(self, driver: NodeHandle) -> None:
        """Follow a run that goes on without its client, from what its driver tells of it to its end.

        Raises:
            KeyboardInterrupt: the user stopped it.
        """
        self._handles[driver.node] = driver
        self._happen(run_state.NodeStarted(driver.node, Role.DRIVER))
        self._go_on(None)

    def take_kept(self, kept: str, driver: NodeHandle | None) -> None:
        """Take the result that a run left which ended without its client.  Whoever kept it is not trusted.

        ``driver``: what is still there of the run, and goes with its end.
        """
        if driver is not None:
            self._handles[driver.node] = driver
        try:
            result = self._known.result(kept)
            if result.get("ok") is True:
                self.summary = field(result, "summary", dict)
                self._happen(run_state.FoundFinished(field(result, "receipt", dict)))
            else:
                self._take({**result, "kind": str(Kind.RESULT)})
        except ConfideError as error:
            if isinstance(error, AttestationError):
                self._note_refused(error)
            self._happen(run_state.Failed(error))

    def leave(self) -> None:
        """Leave the run to itself, if it is under way."""
        if self._state.phase is Phase.RUNNING and self._driver is not None:
            self.left = True
            self._driver.close()

    def _go_on(self, to: Phase | None) -> None:
        begun = time.monotonic()
        while self._state.phase not in run_state.FINAL and self._state.phase is not to:
            if self._state.phase is Phase.STARTING:
                self._await_driver(begun)
            else:
                self._hear()
            self._watch_nodes()

    def end(self) -> None:
        """End every node of the run and wait until they are gone.  Idempotent."""
        if self._driver is not None:
            with suppress(ConfideError):
                if not self.succeeded:
                    self._driver.stop()
                self._driver.close()
        self._backend.stop(self._handles.values())

    def remains(self) -> Remains:
        """The evidence of this run's nodes, as far as it has come here: the driver's, and what the driver said of its workers."""
        if self._driver is None:
            return self._remains
        peer = self._driver.peer
        return Remains((peer.record,), (), (peer.collateral,)).and_of(self._remains)

    # --- events --------------------------------------------------------------------------------------------------------

    def _happen(self, event: run_state.Event) -> None:
        """Advance the state and perform what it commands, which may make more happen."""
        self._state, commands = run_state.step(self._state, event)
        for command in commands:
            try:
                self._perform(command)
            except ConfideError as error:
                self._happen(run_state.Failed(error))

    def _perform(self, command: run_state.Command) -> None:
        match command:
            case run_state.AttestDriver(host, port):
                self._attest(host, port)
            case run_state.StartWorkers(nodes, host, port):
                for spec in self._plan.worker_specs(host, port, nodes):
                    self._start(spec)
            case run_state.VerifyReceipt(bundle):
                self._check_receipt(bundle)
            case run_state.StopAll():
                self.end()

    def _await_driver(self, begun: float) -> None:
        address = self._backend.announced(self._handles[self._plan.driver.node_id])
        if address is not None:
            self._happen(run_state.DriverListening(address.host, address.port))
        elif time.monotonic() - begun > self._plan.driver.timing.start_timeout_s:
            waits_for = self._waits_for.get(self._plan.driver.node_id, "")
            message = "the driver did not start in time" + (f": {waits_for}" if waits_for else "")
            error = NodeLostError(message, hint="see `confide runs logs`", node=str(self._plan.driver.node_id))
            self._happen(run_state.Failed(error))
        else:
            time.sleep(_POLL_S / 5)

    def _hear(self) -> None:
        """Take one frame of the driver, or note that it is gone."""
        if self._driver is None:
            return
        try:
            frame = self._driver.next_frame(_POLL_S)
        except AttestationError as error:  # its channel is still there: what is wrong is known
            self._note_refused(error)
            self._happen(run_state.Failed(error))
            return
        except ConfideError as error:
            if not self._came_back():
                self._happen(self._loss(error))
            return
        if frame is None:
            return
        try:
            self._take(frame)
        except ConfideError as error:
            self._happen(run_state.Failed(error))

    def _came_back(self) -> bool:
        """Whether the driver, whose channel broke, was found again, or the result that it left: of runs that go on without their client."""
        backend = self._backend
        if self._known.identity is None or not isinstance(backend, LastingBackend):
            return False
        handle = self._handles[self._plan.driver.node_id]
        until = time.monotonic() + _COME_BACK_S
        while time.monotonic() < until:
            try:
                with suppress(UnavailableError):
                    kept = backend.kept()
                    if kept is not None:
                        self._take({**self._known.result(kept), "kind": str(Kind.RESULT)})
                        return True
                if not backend.poll(handle).running:
                    return False
                self._rejoin(backend.announced(handle))
            except AttestationError as error:
                self._note_refused(error)
                self._happen(run_state.Failed(error))
                return True
            except ConfideError:
                time.sleep(_AGAIN_S)
            else:
                return True
        return False

    def _rejoin(self, address: Address | None) -> None:
        """Attest the driver on a new channel: it has to be the very same one."""
        if address is None:
            raise UnavailableError("the driver is not reached")
        driver = self._known.attest(address.host, address.port)
        driver.submit()
        self._driver = driver

    def _take(self, frame: Json) -> None:
        match frame["kind"]:
            case Kind.EVENT:
                self._take_event(frame)
            case Kind.START_WORKERS:
                nodes = frozenset(NodeId(str(node)) for node in field(frame, "nodes", list))
                self._happen(run_state.WorkersWanted(nodes, field(frame, "host", str), field(frame, "port", int)))
            case Kind.RESULT if frame.get("ok") is True:
                self.summary = field(frame, "summary", dict)
                self._happen(run_state.Finished(field(frame, "receipt", dict)))
            case Kind.RESULT:
                with suppress(ConfideError):  # what ended the run is more than what is left of it
                    self._remains = self._remains.and_of(Remains.from_json(frame.get("evidence")))
                self._happen(run_state.Failed(self._ended_by(error_from_json(frame.get("error")))))
            case kind:
                raise ProtocolError("the driver sent a frame that is not allowed here", got=str(kind)[:80])

    def _ended_by(self, error: ConfideError) -> ConfideError:
        """The driver's error; one that was asked to end, and not by this client, is lost to the run."""
        if not isinstance(error, InterruptedRunError):
            return error
        hint = "whoever runs the node ended it: a machine that is drained or needs the memory, or a person"
        driver = str(self._plan.driver.node_id)
        return NodeLostError("the driver was asked to end by somebody else", hint=hint, node=driver, reason=error.message)

    def _take_event(self, frame: Json) -> None:
        kind, node = field(frame, "type", str), NodeId(field(frame, "node", str))
        fields, at = field(frame, "fields", dict), field(frame, "at", str)
        if (kind, node, at) in self._heard:  # told again to a client that came back
            return
        self._heard.add((kind, node, at))
        self._on_event(RunEvent(kind, node, fields, at))
        if kind == EventType.WORKER_ACCEPTED:
            self._happen(run_state.WorkerAccepted(node))
        elif kind == EventType.WORKER_REFUSED:
            self._happen(run_state.WorkerRefused(node, str(fields.get("code"))))
        elif kind == EventType.WORKER_CUT_OFF:
            self._happen(run_state.WorkerCutOff(node, str(fields.get("code"))))

    def _loss(self, error: ConfideError) -> run_state.Event:
        """The driver's channel broke: its exit status says more, if it has one."""
        handle = self._handles[self._plan.driver.node_id]
        until = time.monotonic() + _EXIT_GRACE_S
        while time.monotonic() < until:
            status = self._backend.poll(handle)
            if not status.running:
                return run_state.NodeExited(handle.node, status.exit_status or 0, status.condition)
            time.sleep(_POLL_S / 5)
        return run_state.Failed(error)

    def _watch_nodes(self) -> None:
        """Notice nodes that ended.  A driver with an open channel is left to :meth:`_hear`: its last frames may still be on their way."""
        for handle in list(self._handles.values()):
            if handle.node in self._ended or (handle.node == self._plan.driver.node_id and self._driver is not None):
                continue
            status = self._backend.poll(handle)
            if not status.running:
                self._note_end(handle.node, status)
            elif status.condition and self._waits_for.get(handle.node) != status.condition:
                self._waits_for[handle.node] = status.condition
                self._on_event(RunEvent(ClientEvent.NODE_WAITING, handle.node, {"message": status.condition}))

    def _note_end(self, node: NodeId, status: NodeStatus) -> None:
        self._ended.add(node)
        if self._state.phase in run_state.FINAL:
            return
        exited = status.exit_status or 0
        self._on_event(RunEvent(ClientEvent.NODE_ENDED, node, {"status": exited, "message": status.condition}))
        if self._driver is not None:
            with suppress(ConfideError):  # its loss is noticed elsewhere
                self._driver.worker_ended(node)
        self._happen(run_state.NodeExited(node, exited, status.condition))

    # --- commands ------------------------------------------------------------------------------------------------------

    def _start(self, spec: NodeSpec) -> None:
        self._handles[spec.node_id] = handle = self._backend.start(spec)
        fields = {"role": str(spec.role), "tee": str(spec.tee), "simulated": spec.simulation is not None, "process": handle.name}
        self._on_event(RunEvent(ClientEvent.NODE_STARTED, spec.node_id, fields))
        self._happen(run_state.NodeStarted(spec.node_id, Role(spec.role)))

    def _attest(self, host: str, port: int) -> None:
        try:
            driver = self._known.attest(host, port)
        except AttestationError as error:
            self._note_refused(error)
            raise
        self._driver = driver
        claims = driver.peer.result.claims
        fields = {
            "tee": str(claims.tee),
            "measurement": claims.measurement,
            "tcb_status": claims.tcb_status,
            "evidence": claims.evidence_digest,
            "simulated": claims.simulated,
        }
        self._on_event(RunEvent(ClientEvent.DRIVER_ATTESTED, self._plan.driver.node_id, fields))
        driver.submit()
        self._happen(run_state.DriverAttested())

    def _note_refused(self, error: AttestationError) -> None:
        """The driver's evidence was refused: keep what it showed, if it showed any."""
        for record in self._refused:
            self._remains = self._remains.and_of(Remains.of_refused(record, error.code, self._verifier))

    def _check_receipt(self, received: Json) -> None:
        """Keep the receipt and everything it names, then check it from these files alone, and that it is of this very run."""
        bundle = ReceiptBundle.from_json(received)
        for kind in ("evidence", "latest", "refused", "collateral", "manifests"):
            for name, value in getattr(bundle, kind).items():
                self._folder.write(f"{kind}/{name}.json", value)
        path = self._folder.write("receipt.json", bundle.receipt)
        self._verification = examine(path, roots=self._roots, job=self._job.digest)
        statement = self._verification.require()
        if statement.run != self._plan.run or statement.driver.spki != self._known.key:
            raise ReceiptError("the receipt is not by the driver that this client attested", got=statement.driver.spki)
        self._on_event(RunEvent(ClientEvent.RECEIPT_VERIFIED, fields={"checks": len(self._verification.checks), "path": str(path)}))
        self._happen(run_state.ReceiptVerified())
