"""What the agents ask of the jobs layer: the engine's driver side and worker side behind two protocols.

The agents own sessions, certificates, supervision and wiping; a workload owns keys' use, engine processes and the receipt.
All methods are called by the agent of one node, in the order given; ``stop`` may come at any time, from another thread, and more
than once.  Values returned as JSON travel between attested nodes over the control channel only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from confide.canonical import Json
from confide.errors import UnavailableError
from confide.ids import NodeId

if TYPE_CHECKING:
    from confide.attest.collateral_sources import AnyCollateral
    from confide.attest.collect import Attester
    from confide.attest.evidence import NodeContext
    from confide.attest.policy import Policy
    from confide.attest.verify import Verifier
    from confide.crypto.seal import SealKey
    from confide.crypto.secret import SecretBytes
    from confide.crypto.tls import Identity
    from confide.errors import ConfideError
    from confide.job import Job
    from confide.node.private_dir import PrivateDir
    from confide.node.record import EvidenceRecord
    from confide.node.spec import NodeSpec

Emit = Callable[..., None]
"""``emit(type, **fields)``: report an event of this node to the client (through the driver).  Public values only."""
Tell = Callable[[Json], None]
"""``tell(report)``: report to the driver's workload, and return when it has taken note.  Safe to use from several threads.

Raises:
    ChannelError: the driver cannot be told any more.
"""


@dataclass(frozen=True, slots=True)
class JobCertificate:
    """This node's certificate from the job CA, for TLS between engine processes, with a key of its own (PKCS#8 PEM).

    Not the node's attested key: engine processes, and the user's program beside them, can read this one.
    """

    certificate_pem: bytes
    ca_pem: bytes
    private_key_pem: SecretBytes


@dataclass(frozen=True, slots=True)
class NodeServices:
    """What an agent hands its workload once the node holds the job: everything that the engine may need, nothing global.

    ``stopping`` is set before ``stop`` is called.  ``peer_host`` is the address under which other nodes reach this one.
    """

    spec: NodeSpec
    job: Job
    policy: Policy
    identity: Identity
    seal_key: SealKey
    context: NodeContext
    attester: Attester
    verifier: Verifier
    certificate: JobCertificate
    private_dir: PrivateDir
    emit: Emit
    tell: Tell
    fail: Callable[[ConfideError], None]
    """End this node, and on the driver the run, with that error.  Safe to call from any thread."""
    driver: EvidenceRecord | None = None
    """The driver's evidence as this worker accepted it; ``None`` on the driver itself."""
    init_data: str | None = None
    """On the driver: what the evidence of its workers has to hold of the init-data that they were started with, if the client asks it."""
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def peer_host(self) -> str:
        """The address under which other nodes reach this one (also in the certificate's names)."""
        return self.spec.reached_at

    def check_going_on(self) -> None:
        """Return unless this node is ending.

        Raises:
            UnavailableError: it is.
        """
        if self.stopping.is_set():
            raise UnavailableError("the run is ending")

    @contextmanager
    def making(self, stop: Callable[[], None]) -> Iterator[None]:
        """What the block makes: if the node ends meanwhile, however the block does, ``stop`` is called again, for what it did not see."""
        try:
            yield
        finally:
            if self.stopping.is_set():
                stop()


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What the receipt says of one accepted node: its evidence, and how its part ended (``ok``, ``lost``, ``failed``).

    ``again`` says how many times it was attested again and accepted, ``latest`` is what it showed the last time.  Where this node
    itself verified evidence, the collateral that it did it with is beside it: a later set may not judge a time before it.
    """

    node: NodeId
    record: EvidenceRecord
    ended: str
    again: int = 0
    latest: EvidenceRecord | None = None
    collateral: AnyCollateral | None = None
    latest_collateral: AnyCollateral | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A worker that was refused, for the receipt: which one says it was, the code of the error, and its evidence if it showed any.

    Also one that was accepted and then refused when it was attested again.
    """

    node: NodeId
    code: str
    record: EvidenceRecord | None = None


class DriverWorkload(Protocol):
    """The driver's side of an engine."""

    def prepare(self, node: NodeServices) -> Json:
        """Open keys, start the engine's driver, and return what a worker's engine needs to join it (secrets included).

        Runs while workers are still being attested.  The result goes to accepted workers only, as ``start-engine``.
        """
        ...

    def run(self) -> Json:
        """Run the user's program to its end and commit its outputs; return a public summary.

        Called once, when the workers that could start have started.  Must end soon after :meth:`stop`.

        Raises:
            JobFailedError: the program ended with an error.
        """
        ...

    def check_worker(self, record: EvidenceRecord) -> None:
        """Let an accepted worker join the engine, or raise: the job's policy accepted it, and the data's owners may ask for more.

        Called after :meth:`prepare`, before the worker is given anything of the engine's.  Must be quick.

        Raises:
            AttestationError: the worker is not what an owner's policy asks for.
        """
        ...

    def worker_lost(self, node: NodeId) -> None:
        """Hear that a started worker is gone; the run goes on.  Most engines notice by themselves."""
        ...

    def cut_off(self, node: NodeId) -> None:
        """See to it that a worker that is not accepted any more gets no key and no task.  The run goes on.  May take its time.

        Raises:
            ConfideError: it cannot be seen to, so the run must not go on.
        """
        ...

    def heard(self, node: NodeId, report: Json) -> None:
        """Take note of what an accepted worker's workload tells.  The worker waits for this: it must be quick.

        Raises:
            ProtocolError: it is not a report; the worker is cut off.
        """
        ...

    def receipt(self, nodes: Sequence[NodeReport], refused: Sequence[Refusal]) -> Json:
        """The signed receipt (DSSE envelope).  ``nodes[0]`` is the driver, with its evidence as presented to the client.

        Called once, after :meth:`run` returned.  The outputs count only with it.
        """
        ...

    def stop(self) -> None:
        """End every child, wipe every key.  Idempotent."""
        ...


class WorkerWorkload(Protocol):
    """A worker's side of an engine."""

    def open(self, node: NodeServices) -> None:
        """Get keys from the broker and serve them to this node's children."""
        ...

    def start(self, engine: Json) -> None:
        """Start the engine process with what the driver's :meth:`DriverWorkload.prepare` returned."""
        ...

    def poll(self) -> int | None:
        """The engine's exit status, or ``None`` while it runs."""
        ...

    def stop(self) -> None:
        """End every child, wipe every key.  Idempotent."""
        ...


Workload = DriverWorkload | WorkerWorkload
