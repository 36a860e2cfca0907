"""The driver's workers: attested, certified, supervised, told to start, and reported.

``admit`` and ``connect`` run on threads of the receptions; everything that changes the roster runs on the mailbox's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from confide.attest.binding import NonceBook
from confide.canonical import Json, from_b64url
from confide.errors import (
    AttestationError,
    BindingError,
    ChannelError,
    ConfideError,
    KeyRevokedError,
    NodeLostError,
    ParseError,
    ProtocolError,
    UnavailableError,
    UsageError,
    error_from_json,
)
from confide.ids import NodeId, Role, SpkiDigest, check_name
from confide.node.control import EventType, Kind, Link, field, read
from confide.node.jobca import CONTROL_LIFETIME
from confide.node.reattest import Pace, Presenter, Watch
from confide.node.roster import ENDED, Phase, Roster
from confide.node.session import MAX_SESSION_FRAME, AttestedPeer, Clock, VerifierSide, attest_mutually
from confide.node.workload import NodeReport

if TYPE_CHECKING:
    from confide.crypto.tls import Channel
    from confide.node.jobca import JobCa
    from confide.node.mailbox import Mailbox
    from confide.node.reception import Reception
    from confide.node.record import EvidenceRecord
    from confide.node.workload import NodeServices

_log = logging.getLogger(__name__)


class Workers:
    """The workers of one run, on the driver.  ``ending`` is set once workers may leave.

    ``on_report`` hears what their workloads tell; ``check_worker`` raises for one that must not join the engine; ``cut_off`` sees to it
    that one that failed to attest itself again gets no key any more.  ``now`` counts seconds and never goes back.
    """

    def __init__(
        self,
        services: NodeServices,
        mail: Mailbox,
        ca: JobCa,
        clock: Clock,
        *,
        on_report: Callable[[NodeId, Json], None],
        check_worker: Callable[[EvidenceRecord], None],
        cut_off: Callable[[NodeId], None],
        now: Callable[[], float],
    ) -> None:
        self._services = services
        self._mail = mail
        self._ca = ca
        self._clock = clock
        nonces = NonceBook(timedelta(seconds=services.spec.timing.nonce_ttl_s))
        self._side = VerifierSide(services.verifier, services.policy, clock=clock, nonces=nonces, init_data=services.init_data)
        self._resources = services.job.resources
        self.roster = Roster.of(NodeId(f"worker-{n}") for n in range(1, self._resources.workers + 1))
        self._peers: dict[NodeId, AttestedPeer] = {}
        self._by_key: dict[SpkiDigest, NodeId] = {}
        self._links: dict[NodeId, Link] = {}
        self._engine: Json | None = None
        self._on_report = on_report
        self._check_worker = check_worker
        self._cut_off = cut_off
        self._now = now
        self._watches: dict[NodeId, Watch] = {}
        self._presenters: dict[NodeId, Presenter] = {}
        self._on_lost: Callable[[NodeId], None] = lambda _: None
        self._control: Reception | None = None
        self.ending = False

    def open(self, control: Reception) -> None:
        """Begin to take accepted workers at the control address."""
        self._control = control
        control.start()

    @property
    def started(self) -> list[NodeId]:
        """Workers whose engine runs."""
        return [node for node, phase in self.roster.phases.items() if phase is Phase.STARTED]

    @property
    def reports(self) -> list[NodeReport]:
        """Every worker that was accepted, and how it ended, for the receipt."""
        words = {Phase.LOST: "lost", Phase.FAILED: "failed"}
        reports = []
        for node, peer in sorted(self._peers.items()):
            ended, watch = words.get(self.roster.phases[node], "ok"), self._watches.get(node)
            report = NodeReport(node, peer.record, ended, collateral=peer.collateral)
            if watch is not None and watch.latest is not None:
                shown = watch.latest
                report = replace(report, again=watch.count, latest=shown.record, latest_collateral=shown.collateral)
            reports.append(report)
        return reports

    def check_started(self) -> None:
        """Return if enough workers have started; raises ``NodeLostError`` otherwise."""
        self.roster.check_started(self._resources)

    # --- at the bootstrap address --------------------------------------------------------------------------------------

    def admit(self, channel: Channel, claimed: str) -> None:
        """Attest a worker and be attested by it; then certify its attested key and tell it where the control address is.

        The job's canonical form, which the worker needs to know the policy, is sent after the worker was accepted.

        Raises:
            ConfideError: the worker was refused, or refused this driver; the client has heard of it.
        """
        services = self._services
        accepted: list[AttestedPeer] = []
        shown: list[EvidenceRecord] = []

        def accept(peer: AttestedPeer) -> None:
            self._mail.ask(lambda: self._accept(peer))
            accepted.append(peer)
            channel.send_frame({"kind": str(Kind.JOB), "form": services.job.canonical_form()})

        try:
            peer = attest_mutually(
                channel,
                initiator=False,
                side=self._side,
                attester=services.attester,
                role=Role.DRIVER,
                context=services.context,
                peer_role=Role.WORKER,
                on_accepted=accept,
                on_refused=shown.append,
            )
            self._certify(channel, peer)
        except ConfideError as error:
            name, reason = (accepted[0].context.node, error) if accepted else (_plain(claimed), error)
            record = shown[0] if shown else None
            self._mail.post(lambda: self._turned_away(NodeId(name), reason, accepted=bool(accepted), record=record))
            with suppress(ConfideError):  # after a verdict of "ok" the code alone would say too little
                channel.send_frame({"kind": str(Kind.ERROR), "error": {"code": error.code, "message": error.message}})
            raise

    def _accept(self, peer: AttestedPeer) -> None:
        node = peer.context.node
        self._check_open()
        if not self.roster.can_enter(node):
            raise BindingError("no worker of that name is expected, or it is here already", node=node[:80])
        self._check_own_keys(peer)
        self.roster = self.roster.advance(node, Phase.ACCEPTED)
        self._peers[node], self._by_key[peer.spki] = peer, node

    def _check_own_keys(self, peer: AttestedPeer) -> None:
        """Refuse a node whose TLS key or seal key is another node's: one of the two is a copy, and reads what is meant for the other."""
        if peer.spki in self._by_key:
            raise BindingError("two workers show the same key", node=peer.context.node)
        contexts = (self._services.context, *(other.context for other in self._peers.values()))
        if any(peer.context.seal == known.seal for known in contexts):
            raise BindingError("two nodes show the same seal key", node=peer.context.node)

    def _certify(self, channel: Channel, peer: AttestedPeer) -> None:
        control, spki = self._control, channel.peer_spki
        if control is None or spki is None:
            raise ProtocolError("the control address is not open")
        node = peer.context.node
        engine_key = from_b64url(field(read(channel.recv_frame(MAX_SESSION_FRAME), Kind.ENGINE_KEY), "spki", str))
        if engine_key == spki:
            raise ProtocolError("a worker's engine has to have a key of its own")
        issue = partial(self._ca.issue, node=node, role=Role.WORKER, host=channel.peer_host, now=self._clock())
        channel.send_frame({
            "kind": str(Kind.CERTIFICATE),
            "certificate": issue(spki, lifetime=CONTROL_LIFETIME).decode("ascii"),
            "engine_certificate": issue(engine_key).decode("ascii"),
            "ca": self._ca.ca_pem.decode("ascii"),
            "control_port": control.port,
        })  # fmt: skip
        claims = peer.result.claims
        facts = {
            "tee": str(claims.tee),
            "measurement": claims.measurement,
            "tcb_status": claims.tcb_status,
            "evidence": claims.evidence_digest,
        }
        self._services.emit(EventType.WORKER_ACCEPTED, node=node, simulated=claims.simulated, **facts)

    def _turned_away(self, node: NodeId, error: ConfideError, *, accepted: bool, record: EvidenceRecord | None) -> None:
        """Whoever came as ``node`` was refused by this driver, or refused it, or left half-way (which is no refusal)."""
        if self.ending:
            return
        left = isinstance(error, ChannelError)
        fields = {"code": error.code, "message": error.message, "facts": error.facts, "by": "worker" if accepted else "driver"}
        self._services.emit(EventType.WORKER_LOST if left else EventType.WORKER_REFUSED, node=node, **fields)
        if accepted:
            self.roster = self.roster.end(node, Phase.LOST if left else Phase.FAILED, error.code)
        elif not left:
            self.roster = self.roster.refuse(node, error.code, record)
        self._check()

    # --- at the control address ----------------------------------------------------------------------------------------

    def connect(self, channel: Channel) -> None:
        """Take an accepted worker's control channel: certified by the job CA, and of the very key that was attested.

        Raises:
            BindingError: no accepted worker has that key, or it is connected already.
        """
        peer = channel.peer_spki
        if peer is None:
            raise BindingError("the peer shows no key")
        self._mail.ask(lambda: self._take(channel, peer))

    def _take(self, channel: Channel, spki: bytes) -> None:
        self._check_open()
        node = next((n for n, peer in self._peers.items() if peer.record.spki == spki), None)
        if node is None or node in self._links or self.roster.phases[node] in ENDED:
            raise BindingError("no accepted worker has that key, or it is connected already")
        services, timing = self._services, self._services.spec.timing
        link = Link(
            channel,
            heartbeat_s=timing.heartbeat_s,
            lost_after_s=timing.lost_after_s,
            on_frame=lambda frame: self._mail.post(lambda: self._on_frame(node, frame)),
            on_lost=lambda error: self._mail.post(lambda: self._lost(node, error)),
        )
        self._links[node] = link
        self._watches[node] = Watch(
            self._peers[node],
            channel,
            side=self._side,
            pace=Pace.of(timing),
            now=self._now,
            send=link.send,
            aside=lambda work: self._mail.background(work, lambda follow: follow(), name="reattest"),
            on_refused=lambda error, shown: self._refused_again(node, error, shown),
        )
        self._presenters[node] = Presenter(
            channel, attester=services.attester, role=Role.DRIVER, context=services.context, send=link.send, clock=self._clock
        )
        link.start()
        self._send(node, Kind.WELCOME, job=self._services.job.to_json())

    def _on_frame(self, node: NodeId, frame: Json) -> None:
        if self.roster.phases.get(node) in ENDED:
            return  # what was still under way when it was left
        try:
            self._handle(node, frame)
        except (ProtocolError, ParseError) as error:
            self._links[node].close()
            self._lost(node, error)
        except AttestationError as error:  # it does not accept this driver any more, or wants another node in its place
            self._failed(node, error)

    def _handle(self, node: NodeId, frame: Json) -> None:
        match frame.get("kind"):
            case Kind.READY:
                self.roster = self.roster.advance(node, Phase.READY)
                self._start_engine(node)
            case Kind.ENGINE_STARTED:
                self.roster = self.roster.advance(node, Phase.STARTED)
                self._services.emit(EventType.WORKER_STARTED, node=node)
            case Kind.EVENT:
                self._services.emit(field(frame, "type", str)[:80], node=node, **_relayed(field(frame, "fields", dict)))
            case Kind.REPORT:
                self._on_report(node, field(frame, "report", dict))
                self._send(node, Kind.HEARD, seq=field(frame, "seq", int))
            case Kind.ENGINE_EXITED:
                self._lost(node, NodeLostError("the engine's process on a worker ended", node=node, status=field(frame, "status", int)))
            case Kind.REATTEST:
                self._presenters[node].challenged(frame)
            case Kind.REATTEST_EVIDENCE:
                self._watches[node].answered(frame)
            case Kind.REATTEST_VERDICT:
                self._presenters[node].verdict(frame)
            case Kind.FAILED:
                self._failed(node, error_from_json(frame.get("error")))
            case kind:
                raise ProtocolError("a worker sent a frame that is not allowed here", node=node, got=str(kind)[:80])

    def engine_ready(self, engine: Json, on_lost: Callable[[NodeId], None]) -> None:
        """Give the engine's address to every worker that waits for it; ``on_lost`` hears of started workers that are gone."""
        self._engine, self._on_lost = engine, on_lost
        for node, phase in list(self.roster.phases.items()):
            if phase is Phase.READY:
                self._start_engine(node)

    def _start_engine(self, node: NodeId) -> None:
        if self._engine is None:
            return
        try:
            self._check_worker(self._peers[node].record)
        except AttestationError as error:
            self._failed(node, error)
            return
        self._send(node, Kind.START_ENGINE, engine=self._engine)

    def heard_of_end(self, node: NodeId) -> None:
        """The backend says that a node's process ended: a hint from outside, believed only of nodes that are not connected."""
        if node not in self._links and self.roster.phases.get(node) in {Phase.EXPECTED, Phase.ACCEPTED}:
            self._lost(node, NodeLostError("the worker's process ended before it had joined", node=node))

    def _lost(self, node: NodeId, error: ConfideError) -> None:
        if self.ending or self.roster.phases.get(node) in {Phase.LOST, Phase.FAILED}:
            return
        started = self.roster.phases.get(node) is Phase.STARTED
        self.roster = self.roster.end(node, Phase.LOST, NodeLostError.code)
        self._services.emit(EventType.WORKER_LOST, node=node, code=NodeLostError.code, message=error.message, facts=error.facts)
        self._leave(node)
        if started:
            self._on_lost(node)
        self._check()

    def _failed(self, node: NodeId, error: ConfideError) -> None:
        if self.ending:
            return
        self.roster = self.roster.end(node, Phase.FAILED, error.code)
        self._services.emit(EventType.WORKER_FAILED, node=node, code=error.code, message=error.message, facts=error.facts)
        self._leave(node)
        if isinstance(error, KeyRevokedError):  # an owner's word is about the run, whichever node hears it first
            raise error
        self._check()

    def tick(self) -> None:
        """Attest again whose time it is.  Raises ``NodeLostError`` if too few workers are left then."""
        for node, watch in self._watches.items():
            if not self.ending and self.roster.phases[node] not in ENDED:
                watch.tick()

    def _refused_again(self, node: NodeId, error: AttestationError, shown: EvidenceRecord | None) -> None:
        """A worker is not what was accepted any more: it loses its channel, its place and its keys; the run may go on without it."""
        if self.ending or self.roster.phases[node] in ENDED:
            return
        started = self.roster.phases[node] is Phase.STARTED
        self.roster = self.roster.refuse(node, error.code, shown).end(node, Phase.FAILED, error.code)
        fields = {"code": error.code, "message": error.message, "facts": error.facts, "reattested": self._watches[node].count}
        self._services.emit(EventType.WORKER_CUT_OFF, node=node, **fields)
        self._leave(node)
        self._mail.background(lambda: self._cut_off(node), lambda _: None, name="cut-off")
        if started:
            self._on_lost(node)
        self._check()

    def _check_open(self) -> None:
        if self.ending:
            raise UnavailableError("the run is ending")

    def _check(self) -> None:
        if not self.ending:
            self.roster.check(self._resources)

    def _send(self, node: NodeId, kind: Kind, **fields: object) -> None:
        with suppress(ConfideError):  # a broken link reports itself
            self._links[node].send(kind, **fields)

    def _leave(self, node: NodeId) -> None:
        link = self._links.get(node)
        if link is not None:
            self._presenters[node].close()
            link.close()

    def close(self) -> None:
        """Take no more workers, tell those that are here to stop, and leave them."""
        self.ending = True
        if self._control is not None:
            self._control.close()
        for node, link in self._links.items():
            self._send(node, Kind.STOP)
            self._presenters[node].close()
            link.close()


def _plain(name: str) -> str:
    """A name that an unattested peer gave itself, if it is one."""
    try:
        return check_name(name, "node")
    except UsageError:
        return "unknown"


def _relayed(fields: Json) -> Json:
    """An attested worker's event fields, without names that the driver sets itself."""
    return {str(name)[:80]: value for name, value in fields.items() if name not in {"node", "kind", "type", "at"}}
