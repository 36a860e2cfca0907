"""A worker's agent: attests to the driver, attests the driver by the job's own policy, gets its certificate, runs its engine, wipes.

The worker trusts no address and no message before that: the job digest in its spec is what its evidence says, and the job that it
learns from the driver must have that digest.  All decisions are taken on the thread that calls :meth:`WorkerAgent.run`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from confide.attest.binding import NonceBook
from confide.attest.evidence import NodeContext
from confide.attest.policy import Policy
from confide.canonical import Json, b64url, digest_of
from confide.crypto.identity import AnyKeyUntilAttested, Identity, IssuedBy
from confide.crypto.seal import SealKey
from confide.crypto.tls import Channel, connect
from confide.errors import (
    AttestationError,
    BindingError,
    ChannelError,
    ConfideError,
    ConfigError,
    InterruptedRunError,
    NodeLostError,
    ProtocolError,
    UnavailableError,
)
from confide.ids import Role
from confide.job import Job
from confide.node.control import PROTOCOL, Kind, Link, field, read
from confide.node.mailbox import Mailbox
from confide.node.private_dir import PrivateDir
from confide.node.reattest import Pace, Presenter, Watch
from confide.node.reports import Reports
from confide.node.session import MAX_SESSION_FRAME, AttestedPeer, Clock, VerifierSide, attest_mutually, utc_now
from confide.node.workload import JobCertificate, NodeServices

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.attest.verify import Verifier
    from confide.node.record import EvidenceRecord
    from confide.node.session import AttestedPeer
    from confide.node.spec import NodeSpec
    from confide.node.workload import WorkerWorkload

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Joined:
    """A worker that the driver accepted: its control channel, its certificates, and the driver that it accepted itself."""

    channel: Channel
    identity: Identity
    engine_certificate: bytes
    driver: AttestedPeer
    side: VerifierSide


class WorkerAgent:
    """One worker node.  ``run`` returns when the driver says stop, or raises what ended the node; either way all is wiped."""

    def __init__(
        self,
        spec: NodeSpec,
        workload: WorkerWorkload,
        *,
        attester: Attester,
        verifier: Verifier,
        clock: Clock = utc_now,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` tells the date, ``now`` counts seconds and never goes back."""
        if spec.role is not Role.WORKER or spec.driver_host is None or spec.driver_port is None:
            raise ConfigError("not a worker's spec", role=str(spec.role))
        self._driver = (spec.driver_host, spec.driver_port)
        self._spec = spec
        self._workload = workload
        self._attester = attester
        self._verifier = verifier
        self._clock = clock
        self._now = now
        self._mail = Mailbox()
        self._identity = Identity.generate(spec.node_id)
        self._engine_identity = Identity.generate(spec.node_id)
        self._seal = SealKey.generate()
        self._context = NodeContext(spec.job_digest, spec.run_id, spec.node_id, self._seal.public_jwk())
        self._link: Link | None = None
        self._watch: Watch | None = None
        self._presenter: Presenter | None = None
        self._reports = Reports(self._send_report)
        self._services: NodeServices | None = None
        self._stopped = False
        self._engine_runs = False

    def stop(self, reason: str = "the worker was asked to stop") -> None:
        """End the node.  Safe from other threads and from signal handlers."""
        self._mail.post_error(InterruptedRunError(reason))

    def run(self) -> None:
        """Live the node's whole life.

        Raises:
            AttestationError: the driver refused this node, or this node refused the driver.
            NodeLostError: the driver is gone, or the engine ended by itself.
            ConfideError: what else ended the node; the driver was told, if it still listened.
        """
        with PrivateDir(self._spec.run_id, self._spec.node_id) as private:
            try:
                joined = self._join()
                self._work(joined, private)
            except ConfideError as error:
                self._report(error)
                raise
            except Exception as error:  # outermost edge of the node: a bug here must still be told to the driver, and wipe
                _log.exception("the worker failed")
                fault = UnavailableError(f"the worker failed inside: {type(error).__name__}", hint="see the worker's log")
                self._report(fault)
                raise fault from error
            finally:
                self._end()

    # --- joining -------------------------------------------------------------------------------------------------------

    def _join(self) -> _Joined:
        """Attest both ways on a fresh channel, then come back with the job CA's certificate."""
        host, port = self._driver
        timeout = self._spec.timing.start_timeout_s
        begun = self._now()
        sides: list[VerifierSide] = []
        nonces = NonceBook(timedelta(seconds=self._spec.timing.nonce_ttl_s))
        with connect(host, port, self._identity, trust=AnyKeyUntilAttested(), timeout=timeout) as channel:
            channel.settimeout(timeout)
            channel.send_frame({"kind": str(Kind.HELLO), "protocol": PROTOCOL, "role": "worker", "node": self._spec.node_id})
            driver = attest_mutually(
                channel,
                initiator=True,
                side=lambda: self._side_from(channel, nonces, sides),
                nonces=nonces,
                clock=self._clock,
                attester=self._attester,
                role=Role.WORKER,
                context=self._context,
                peer_role=Role.DRIVER,
            )
            channel.send_frame({"kind": str(Kind.ENGINE_KEY), "spki": b64url(self._engine_identity.spki_der)})
            frame = read(channel.recv_frame(MAX_SESSION_FRAME), Kind.CERTIFICATE)
        certificate, authority = field(frame, "certificate", str), field(frame, "ca", str)
        identity = self._identity.with_certificate(certificate, authority)
        trust = IssuedBy(authority, name=driver.context.node)
        control = connect(host, field(frame, "control_port", int), identity, trust=trust, timeout=timeout)
        _check_same_node(control, driver)
        control.settimeout(timeout)
        _log.info("this node and the driver have attested each other, and it is certified: %.3f s", self._now() - begun)
        return _Joined(control, identity, field(frame, "engine_certificate", str).encode(), driver, sides[0])

    def _side_from(self, channel: Channel, nonces: NonceBook, kept: list[VerifierSide]) -> VerifierSide:
        """Learn the policy from the driver, which is not attested yet: only the policy of the job that this node was started for counts."""
        form = field(read(channel.recv_frame(), Kind.JOB), "form", dict)
        self._check_digest(digest_of(form))
        kept.append(VerifierSide(self._verifier, Policy.from_json(form.get("policy")), clock=self._clock, nonces=nonces))
        return kept[0]

    def _check_digest(self, got: str) -> None:
        if got != self._spec.job_digest:
            raise BindingError("the driver has another job than this worker was started for", expected=self._spec.job_digest, got=got)

    # --- working -------------------------------------------------------------------------------------------------------

    def _work(self, joined: _Joined, private: PrivateDir) -> None:
        job = Job.from_json(field(_welcome(joined.channel), "job", dict))
        self._check_digest(job.digest)
        services = self._services = self._build_services(job, joined, private)
        timing = self._spec.timing
        link = self._link = Link(
            joined.channel,
            heartbeat_s=timing.heartbeat_s,
            lost_after_s=timing.lost_after_s,
            on_frame=lambda frame: self._mail.post(lambda: self._on_frame(frame)),
            on_lost=self._on_lost,
        )
        self._presenter = Presenter(
            joined.channel, attester=self._attester, role=Role.WORKER, context=self._context, send=link.send, clock=self._clock
        )
        self._watch = Watch(
            joined.driver,
            joined.channel,
            side=joined.side,
            pace=Pace.of(timing),
            now=self._now,
            send=link.send,
            aside=lambda work: self._mail.background(work, lambda follow: follow(), name="reattest"),
            on_refused=_end_with,
        )
        link.start()
        self._mail.background(lambda: self._workload.open(services), lambda _: self._send(Kind.READY), name="open")
        self._mail.pump(lambda: self._stopped, tick=self._tick)

    def _on_frame(self, frame: Json) -> None:
        match frame.get("kind"):
            case Kind.STOP:
                self._stopped = True
            case Kind.HEARD:
                self._reports.heard(field(frame, "seq", int))
            case Kind.REATTEST if self._presenter is not None:
                self._presenter.challenged(frame)
            case Kind.REATTEST_VERDICT if self._presenter is not None:
                self._presenter.verdict(frame)
            case Kind.REATTEST_EVIDENCE if self._watch is not None:
                self._watch.answered(frame)
            case Kind.START_ENGINE if not self._engine_runs:
                engine = field(frame, "engine", dict)
                self._mail.background(lambda: self._workload.start(engine), lambda _: self._on_started(), name="engine")
            case kind:
                raise ProtocolError("the driver sent a frame that is not allowed here", got=str(kind)[:80])

    def _on_lost(self, error: ConfideError) -> None:
        self._reports.close()
        self._mail.post_error(NodeLostError("the driver is gone", reason=error.message))

    def _on_started(self) -> None:
        self._engine_runs = True
        self._send(Kind.ENGINE_STARTED)

    def _tick(self) -> None:
        if self._watch is not None:
            self._watch.tick()
        self._watch_engine()

    def _watch_engine(self) -> None:
        status = self._workload.poll() if self._engine_runs else None
        if status is not None and not self._stopped:
            self._engine_runs = False
            self._send(Kind.ENGINE_EXITED, status=status)
            raise NodeLostError("the engine's process ended by itself", status=status)

    def _build_services(self, job: Job, joined: _Joined, private: PrivateDir) -> NodeServices:
        authority = joined.identity.ca_pem
        if authority is None:
            raise ProtocolError("the certificate came without its authority")
        return NodeServices(
            spec=self._spec,
            job=job,
            policy=Policy.from_json(job.policy),
            identity=self._identity,
            seal_key=self._seal,
            context=self._context,
            attester=self._attester,
            verifier=self._verifier,
            certificate=JobCertificate(joined.engine_certificate, authority, self._engine_identity.key.private_pem()),
            private_dir=private,
            emit=self._emit,
            tell=self._reports.tell,
            fail=self._mail.post_error,
            driver=joined.driver.record,
        )

    # --- speaking to the driver, and ending ----------------------------------------------------------------------------

    def _emit(self, kind: str, /, **fields: object) -> None:
        self._send(Kind.EVENT, type=str(kind), fields=fields)

    def _send_report(self, seq: int, report: Json) -> None:
        if self._link is None:
            raise ChannelError("the driver cannot be told yet")
        self._link.send(Kind.REPORT, seq=seq, report=report)

    def _send(self, kind: Kind, **fields: object) -> None:
        if self._link is not None:
            with suppress(ConfideError):  # a broken link reports itself
                self._link.send(kind, **fields)

    def _report(self, error: ConfideError) -> None:
        if not isinstance(error, NodeLostError | InterruptedRunError):  # the driver knows of its own end, and hears of the engine's
            self._send(Kind.FAILED, error=error.to_json())

    def _end(self) -> None:
        if self._services is not None:
            self._services.stopping.set()
        self._reports.close()
        if self._presenter is not None:
            self._presenter.close()
        try:
            self._workload.stop()
        except Exception:  # noqa: BLE001  whatever fails there, the rest is wiped
            _log.exception("the workload did not stop cleanly")
        if self._services is not None:
            self._services.certificate.private_key_pem.wipe()
        if self._link is not None:
            self._link.close()


def _end_with(error: AttestationError, _shown: EvidenceRecord | None) -> NoReturn:
    """The driver is not accepted any more: this node gives it nothing from now on, and wipes."""
    raise error


def _welcome(channel: Channel) -> Json:
    """The driver's first frame; heartbeats may come before it."""
    while True:
        frame = read(channel.recv_frame(), Kind.WELCOME, Kind.HEARTBEAT)
        if frame["kind"] == Kind.WELCOME:
            return frame


def _check_same_node(control: Channel, driver: AttestedPeer) -> None:
    # The CA says "a node of this run under the driver's name"; only the key says that it is the node that was attested.
    if control.peer_spki != driver.record.spki:
        control.close()
        raise BindingError("the control address is not served by the attested driver")
