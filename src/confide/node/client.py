"""The client's end of a run: attest the driver, hand it the job, follow it to the result.

The job leaves this process only after the driver's evidence was verified, appraised by the job's policy and found bound to this
very channel.  Starting nodes is the caller's business (``confide.jobs``).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, Self

from confide.attest.binding import NonceBook
from confide.attest.policy import Policy
from confide.crypto.identity import AnyKeyUntilAttested, Identity
from confide.crypto.tls import connect
from confide.errors import AttestationError, ConfideError, NodeLostError
from confide.ids import NodeId, Role
from confide.node.control import PROTOCOL, Kind, Link, field, read
from confide.node.reattest import Pace, Watch
from confide.node.session import AttestedPeer, Clock, VerifierSide, attest_peer, utc_now
from confide.node.spec import Timing

if TYPE_CHECKING:
    from types import TracebackType

    from confide.attest.verify import Verifier
    from confide.canonical import Json
    from confide.crypto.tls import Channel
    from confide.ids import RunId
    from confide.job import Job
    from confide.node.record import EvidenceRecord

_TICK_S = 0.5
"""How often it is looked whether the driver is to attest itself again while nothing is heard of it."""


class DriverClient:
    """A channel to an attested driver.  Make it with :meth:`attest`; then :meth:`submit` once, and read :meth:`frames`."""

    def __init__(
        self,
        channel: Channel,
        peer: AttestedPeer,
        job: Job,
        timing: Timing,
        *,
        side: VerifierSide,
        now: Callable[[], float],
        on_refused: Callable[[EvidenceRecord], None] | None = None,
    ) -> None:
        self.peer = peer
        self._channel = channel
        self._job = job
        self._timing = timing
        self._side = side
        self._now = now
        self._on_refused = on_refused
        self._watch: Watch | None = None
        self._frames: queue.SimpleQueue[Json | ConfideError] = queue.SimpleQueue()
        self._link: Link | None = None

    @classmethod
    def attest(
        cls,
        host: str,
        port: int,
        *,
        job: Job,
        run: RunId,
        node: NodeId,
        verifier: Verifier,
        policy: Policy | None = None,
        identity: Identity | None = None,
        clock: Clock = utc_now,
        now: Callable[[], float] = time.monotonic,
        timing: Timing | None = None,
        on_refused: Callable[[EvidenceRecord], None] | None = None,
        init_data: str | None = None,
    ) -> Self:
        """Connect to whoever listens at ``host:port`` and attest it as driver ``node`` of ``run`` for ``job``.

        ``policy`` defaults to the job's own.  Nothing of the job is sent.  ``on_refused`` gets the evidence of a driver that is refused,
        now or when it attests itself again.  ``identity``: a key of the client's to be known by when it comes back to a run that goes on
        without it; a new one by default.  ``init_data``: what the evidence of the run's nodes, workers too, has to hold of the init-data
        that they were started with, in hex.

        Raises:
            AttestationError: it is not that driver.
            UnavailableError: nobody listens there, or the peer does not keep to the protocol.
        """
        timing = Timing() if timing is None else timing
        nonces = NonceBook(timedelta(seconds=timing.nonce_ttl_s))
        asked = Policy.from_json(job.policy) if policy is None else policy
        side = VerifierSide(verifier, asked, clock=clock, nonces=nonces, init_data=init_data)
        known_by = Identity.generate("client") if identity is None else identity
        channel = connect(host, port, known_by, trust=AnyKeyUntilAttested(), timeout=timing.start_timeout_s)
        try:
            channel.settimeout(timing.start_timeout_s)
            channel.send_frame({"kind": str(Kind.HELLO), "protocol": PROTOCOL, "role": "client", "node": "client"})
            peer = attest_peer(channel, side=side, role=Role.DRIVER, job=job.digest, run=run, nodes=[node], on_refused=on_refused)
        except ConfideError:
            channel.close()
            raise
        return cls(channel, peer, job, timing, side=side, now=now, on_refused=on_refused)

    def submit(self) -> None:
        """Send the job, code included, to the attested driver, and begin to hear its frames.

        Raises:
            ConfideError: the leaf with which the driver refused the job.
        """
        asked = {} if self._side.init_data is None else {"init_data": self._side.init_data}
        self._channel.send_frame({"kind": str(Kind.BUNDLE), "job": self._job.to_json(), **asked})
        read(self._channel.recv_frame(), Kind.ACCEPTED)
        link = self._link = Link(
            self._channel,
            heartbeat_s=self._timing.heartbeat_s,
            lost_after_s=self._timing.lost_after_s,
            on_frame=self._frames.put,
            on_lost=self._frames.put,
        )
        self._watch = Watch(
            self.peer,
            self._channel,
            side=self._side,
            pace=Pace.of(self._timing),
            now=self._now,
            send=link.send,
            aside=lambda work: work()(),
            on_refused=self._refuse,
        )
        link.start()

    def next_frame(self, timeout_s: float | None = None) -> Json | None:
        """The driver's next frame (``event``, ``start-workers`` or ``result``), or ``None`` if none came in time.

        The driver is attested again, at its interval, by whoever calls this: call it often.

        Raises:
            AttestationError: the driver is not accepted any more.
            NodeLostError: the driver is gone.
        """
        if self._watch is not None:
            self._watch.tick()
        try:
            frame = self._frames.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(frame, ConfideError):
            raise NodeLostError("the driver is gone", hint="see `confide runs logs`", node=self.peer.context.node, reason=frame.message)
        if field(frame, "kind", str) == Kind.REATTEST_EVIDENCE and self._watch is not None:
            self._watch.answered(frame)
            return None
        return frame

    def frames(self) -> Iterator[Json]:
        """Every frame of the driver up to and with its ``result``.

        Raises:
            NodeLostError: the driver is gone before that.
        """
        while True:
            frame = self.next_frame(_TICK_S)
            if frame is not None:
                yield frame
                if frame["kind"] == Kind.RESULT:
                    return

    def worker_ended(self, node: NodeId) -> None:
        """Tell the driver that the backend saw a worker's process end, so that it need not wait for it."""
        self._send(Kind.WORKER_ENDED, node=node)

    def stop(self) -> None:
        """Ask the driver to end the run.  Closing does the same, without the driver's answer."""
        self._send(Kind.STOP)

    def close(self) -> None:
        """Leave.  A driver that has not sent its result ends the run then."""
        if self._link is not None:
            self._link.close()
        self._channel.close()

    def _refuse(self, error: AttestationError, shown: EvidenceRecord | None) -> NoReturn:
        if shown is not None and self._on_refused is not None:
            self._on_refused(shown)
        raise error

    def _send(self, kind: Kind, **fields: object) -> None:
        if self._link is not None:
            self._link.send(kind, **fields)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
