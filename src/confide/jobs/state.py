"""One run as a state machine, seen from the client.  No IO: the caller performs the commands and reports back as events.

Whether a run may go on without a refused or lost worker is decided by the driver, which alone knows what its engine needs
(:mod:`confide.node.roster`); the client only insists that the driver lives, is attested and ends with a receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from confide.canonical import Json
from confide.errors import ConfideError, InterruptedRunError, NodeLostError, ProtocolError
from confide.ids import NodeId, Role


class Phase(StrEnum):
    """Where a run is.  ``DONE`` and ``FAILED`` are final."""

    STARTING = "starting"
    ATTESTING = "attesting"
    RUNNING = "running"
    CHECKING = "checking"
    DONE = "done"
    FAILED = "failed"


NodeStanding = Literal["starting", "accepted", "refused", "cut-off", "lost", "ended"]
FINAL = frozenset({Phase.DONE, Phase.FAILED})


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the client knows of one node."""

    role: Role
    standing: NodeStanding = "starting"
    code: str | None = None


@dataclass(frozen=True, slots=True)
class RunState:
    """One run.  ``workers`` are the plan's: an attested driver may ask for these and no others."""

    driver: NodeId
    workers: frozenset[NodeId]
    phase: Phase = Phase.STARTING
    nodes: Mapping[NodeId, NodeView] = field(default_factory=dict)
    workers_started: bool = False
    error: ConfideError | None = None


# --- events: what happened ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """The backend started a node."""

    node: NodeId
    role: Role


@dataclass(frozen=True, slots=True)
class DriverListening:
    """The driver announced where it listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class DriverAttested:
    """The client verified and appraised the driver's evidence."""


@dataclass(frozen=True, slots=True)
class WorkersWanted:
    """The driver asks for workers that shall come to ``host:port``."""

    nodes: frozenset[NodeId]
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class WorkerAccepted:
    """The driver gave a worker its certificate."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class WorkerRefused:
    """The driver refused a worker, or the worker refused the driver."""

    node: NodeId
    code: str


@dataclass(frozen=True, slots=True)
class WorkerCutOff:
    """The driver accepted a worker, and does not any more."""

    node: NodeId
    code: str


@dataclass(frozen=True, slots=True)
class NodeExited:
    """A node's process ended; ``reason`` in the backend's words, if it has any."""

    node: NodeId
    status: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The driver published the outputs and sent its receipt."""

    receipt: Json


@dataclass(frozen=True, slots=True)
class FoundFinished:
    """A run that went on without this client has left its receipt."""

    receipt: Json


@dataclass(frozen=True, slots=True)
class ReceiptVerified:
    """The client re-checked the receipt."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Something failed, here or on the driver."""

    error: ConfideError


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user asked for the end."""


Event = (
    NodeStarted
    | DriverListening
    | DriverAttested
    | WorkersWanted
    | WorkerAccepted
    | WorkerRefused
    | WorkerCutOff
    | NodeExited
    | Finished
    | FoundFinished
    | ReceiptVerified
    | Failed
    | Interrupted
)


# --- commands: what the caller shall do ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttestDriver:
    """Open the channel to the driver, attest it and send it the job."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Ask the backend for these workers of the plan."""

    nodes: frozenset[NodeId]
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class VerifyReceipt:
    """Store the receipt and check it like a stranger would."""

    receipt: Json


@dataclass(frozen=True, slots=True)
class StopAll:
    """End every node of the run and remove what it staged.  Given exactly once, when the run becomes final."""


Command = AttestDriver | StartWorkers | VerifyReceipt | StopAll


def begin(driver: NodeId, workers: Iterable[NodeId]) -> RunState:
    """A run of which nothing has started yet."""
    return RunState(driver, frozenset(workers))


def step(state: RunState, event: Event) -> tuple[RunState, list[Command]]:
    """Advance one run.  Events that come after the end change nothing."""
    if state.phase in FINAL:
        return state, []
    match event:
        case Interrupted():
            return _fail(state, InterruptedRunError("the run was interrupted"))
        case Failed(error):
            return _fail(state, error)
        case NodeStarted(node, role):
            return _see(state, node, NodeView(role)), []
        case NodeExited():
            return _exited(state, event)
        case WorkerAccepted(node):
            return _worker(state, node, NodeView(Role.WORKER, "accepted"))
        case WorkerRefused(node, code) | WorkerCutOff(node, code):
            return _worker(state, node, NodeView(Role.WORKER, "cut-off" if isinstance(event, WorkerCutOff) else "refused", code))
        case _:
            return _advance(state, event)


def _advance(state: RunState, event: Event) -> tuple[RunState, list[Command]]:
    """The one way forward: listening, attested, workers, finished, verified; anything out of order ends the run."""
    match state.phase, event:
        case Phase.STARTING, DriverListening(host, port):
            return replace(state, phase=Phase.ATTESTING), [AttestDriver(host, port)]
        case Phase.ATTESTING, DriverAttested():
            return _see(replace(state, phase=Phase.RUNNING), state.driver, NodeView(Role.DRIVER, "accepted")), []
        case Phase.RUNNING, WorkersWanted(nodes, host, port) if not state.workers_started and nodes and nodes <= state.workers:
            return replace(state, workers_started=True), [StartWorkers(nodes, host, port)]
        case (Phase.RUNNING, Finished(receipt)) | (Phase.STARTING, FoundFinished(receipt)):
            return replace(state, phase=Phase.CHECKING), [VerifyReceipt(receipt)]
        case Phase.CHECKING, ReceiptVerified():
            return replace(state, phase=Phase.DONE), [StopAll()]
        case _:
            name = type(event).__name__
            return _fail(state, ProtocolError(f"{name} is not allowed while {state.phase}", event=name, phase=str(state.phase)))


def _worker(state: RunState, node: NodeId, view: NodeView) -> tuple[RunState, list[Command]]:
    if state.phase is not Phase.RUNNING:
        return _fail(state, ProtocolError("news of a worker came out of order", node=str(node)))
    return _see(state, node, view), []


def _exited(state: RunState, event: NodeExited) -> tuple[RunState, list[Command]]:
    node, status = event.node, event.status
    if node != state.driver:
        view = state.nodes.get(node, NodeView(Role.WORKER))
        ended: NodeStanding = "ended" if status == 0 else "lost"
        standing = view.standing if view.standing in {"refused", "cut-off"} else ended
        return _see(state, node, replace(view, standing=standing)), []
    if state.phase is Phase.CHECKING:  # it has said all it had to say: the receipt stands or falls by itself
        return _see(state, node, NodeView(Role.DRIVER, "ended")), []
    message = "the driver ended before the run did" + (f": {event.reason}" if event.reason else "")
    error = NodeLostError(message, hint="see `confide runs logs`", node=str(node), status=status)
    return _fail(_see(state, node, NodeView(Role.DRIVER, "lost", error.code)), error)


def _see(state: RunState, node: NodeId, view: NodeView) -> RunState:
    return replace(state, nodes={**state.nodes, node: view})


def _fail(state: RunState, error: ConfideError) -> tuple[RunState, list[Command]]:
    return replace(state, phase=Phase.FAILED, error=error), [StopAll()]
