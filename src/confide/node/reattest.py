"""Re-attestation: the peer of an established channel proves again and again that it is the node that was accepted, and good as of now.

Implements ``docs/formats/session-protocol.md``, section 9.  :class:`Standing` says when, without IO or clocks; :class:`Watch` is the
verifier's side of one channel and :class:`Presenter` the other.  What follows from a failure is the owner's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from confide.attest.binding import report_data
from confide.canonical import b64url
from confide.errors import AttestationError, AttesterError, BindingError, CollateralError, ConfideError, OverdueError, ProtocolError
from confide.node.control import PROTOCOL, Kind, field
from confide.node.record import EvidenceRecord
from confide.node.session import (
    AttestedPeer,
    Clock,
    Expected,
    Presented,
    VerifierSide,
    judge,
    parse_challenge,
    parse_evidence,
    read_verdict,
)

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.attest.evidence import NodeContext
    from confide.canonical import Json
    from confide.crypto.tls import Channel
    from confide.ids import Nonce, Role
    from confide.node.spec import Timing

Aside = Callable[[Callable[[], Callable[[], None]]], None]
"""``aside(work)``: run ``work`` where it may take its time, then what it returned on the thread that decides."""
OnRefused = Callable[[AttestationError, EvidenceRecord | None], None]
"""Hears, on the thread that decides, why the peer is not accepted any more, and what it showed if it was refused for that."""
Send = Callable[..., None]
"""``send(kind, **fields)``: put one frame on the wire, or raise ``ConfideError``."""
_RETRY_S = 1.0
"""How soon a node whose attester is busy asks it again."""
_SHOWN_AT_MOST = 8
"""Evidence whose verdict is waited for: a verifier that cannot judge just now sends none, and challenges again."""
_TRIES_IN_GRACE = 3
"""How many challenges at least a peer gets before its grace is over."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a peer is attested again, and for how long it may stay without an accepted answer after that, in seconds."""

    every_s: float
    grace_s: float
    answer_s: float

    @classmethod
    def of(cls, timing: Timing) -> Pace:
        """The pace that a node's timing asks for."""
        answer_s = min(timing.nonce_ttl_s, timing.reattest_grace_s / _TRIES_IN_GRACE)
        return cls(timing.reattest_every_s, timing.reattest_grace_s, answer_s)


@dataclass(frozen=True, slots=True)
class Standing:
    """One peer's standing with one verifier.  Pure: times are seconds of a clock that does not go back."""

    pace: Pace
    accepted_at: float
    asked_at: float | None = None
    seq: int = 0
    count: int = 0

    def due(self, now: float) -> bool:
        """Whether to challenge the peer now: its interval is over, or it left a challenge unanswered.

        Raises:
            OverdueError: its grace is over too.
        """
        age = now - self.accepted_at
        if age >= self.pace.every_s + self.pace.grace_s:
            raise OverdueError("a peer has not attested itself again in time", age_s=int(age), challenges=self.seq)
        if self.asked_at is not None:
            return now - self.asked_at >= self.pace.answer_s
        return age >= self.pace.every_s

    def asked(self, now: float) -> Standing:
        """The standing after a challenge; the ones before it are void."""
        return replace(self, asked_at=now, seq=self.seq + 1)

    def accepted(self, now: float) -> Standing:
        """The standing after evidence was accepted."""
        return replace(self, accepted_at=now, asked_at=None, count=self.count + 1)


def require_same_node(before: AttestedPeer, again: AttestedPeer) -> None:
    """Return if ``again`` is the node that was accepted: same context (seal key included), TLS key, kind of TEE and measurement.

    What may change is the TCB's standing and run-time registers: the policy judges these.

    Raises:
        BindingError: it is another node, however good.
    """
    old, new = before.result.claims, again.result.claims
    for what, expected, got in (
        ("context", before.context.digest.hex(), again.context.digest.hex()),
        ("key", before.spki, again.spki),
        ("TEE", str(old.tee), str(new.tee)),
        ("measurement", old.measurement, new.measurement),
    ):
        if expected != got:
            raise BindingError(f"a peer came back with another {what} than it was accepted with", check=what, expected=expected, got=got)


class Watch:
    """The verifier's side: challenges one accepted peer at the pace, and judges what it answers.

    All methods run on the thread that decides; ``side`` judges by policy and collateral of the moment.  Collateral that cannot be had
    is no refusal: the peer is challenged again until its grace is over.
    """

    def __init__(
        self,
        peer: AttestedPeer,
        channel: Channel,
        *,
        side: VerifierSide,
        pace: Pace,
        now: Callable[[], float],
        send: Send,
        aside: Aside,
        on_refused: OnRefused,
    ) -> None:
        self._peer = peer
        self._channel = channel
        self._side = side
        self._now = now
        self._send = send
        self._aside = aside
        self._on_refused = on_refused
        self._standing = Standing(pace, now())
        self._nonce: Nonce | None = None
        self._trouble: CollateralError | None = None
        self._over = False
        self.latest: AttestedPeer | None = None

    @property
    def count(self) -> int:
        """How many times the peer was accepted again."""
        return self._standing.count

    def tick(self) -> None:
        """Challenge the peer if it is time, or give it up."""
        if self._over:
            return
        now = self._now()
        try:
            if not self._standing.due(now):
                return
        except OverdueError as overdue:
            self._refuse(overdue if self._trouble is None else self._trouble, None)
            return
        self._standing = self._standing.asked(now)
        self._nonce = self._side.nonces.issue(self._side.clock())
        challenge = {"protocol": PROTOCOL, "nonce": b64url(self._nonce), "role": str(self._peer.record.role)}
        with suppress(ConfideError):  # a broken link reports itself
            self._send(Kind.REATTEST, seq=self._standing.seq, **challenge)

    def answered(self, frame: Json) -> None:
        """Take the peer's evidence.  An answer to a challenge that was void before it came is not looked at.

        Raises:
            ProtocolError, ParseError: it is no answer to a challenge of ours.
        """
        seq, bare = _numbered(frame, Kind.EVIDENCE)
        presented = parse_evidence(bare)
        if seq > self._standing.seq:
            raise ProtocolError("a peer answered a challenge that it was not given", got=seq)
        nonce, self._nonce = self._nonce, None if seq == self._standing.seq else self._nonce
        if self._over or seq < self._standing.seq:
            return
        if nonce is None:
            raise ProtocolError("a peer answered a challenge twice", got=seq)
        self._aside(lambda: self._judge(presented, seq, nonce))

    def _judge(self, presented: Presented, seq: int, nonce: Nonce) -> Callable[[], None]:
        """What follows from the evidence.  On another thread: verifying may wait for collateral."""
        channel, peer = self._channel, self._peer
        exporter, spki = channel.exporter(), channel.peer_spki or b""
        context = peer.context
        expected = Expected(peer.record.role, context.job, context.run, frozenset({context.node}))
        try:
            again = judge(
                presented, side=self._side, nonce=nonce, exporter=exporter, peer_spki=spki, own_spki=channel.own_spki, expected=expected
            )
            require_same_node(peer, again)
        except CollateralError as trouble:
            held = trouble
            return lambda: self._put_off(held)
        except AttestationError as error:
            refusal = error
            shown = EvidenceRecord(presented.role, presented.context, presented.evidence, exporter, nonce, spki, self._side.clock())
            return lambda: self._refuse(refusal, shown)
        return lambda: self._accept(seq, again)

    def _accept(self, seq: int, again: AttestedPeer) -> None:
        if self._over:
            return
        self.latest, self._trouble = again, None
        self._standing = self._standing.accepted(self._now())
        with suppress(ConfideError):
            self._send(Kind.REATTEST_VERDICT, seq=seq, ok=True)

    def _put_off(self, trouble: CollateralError) -> None:
        self._trouble = trouble

    def _refuse(self, error: AttestationError, shown: EvidenceRecord | None) -> None:
        if self._over:
            return
        self._over = True
        with suppress(ConfideError):
            self._send(Kind.REATTEST_VERDICT, seq=max(1, self._standing.seq), ok=False, code=error.code)
        self._on_refused(error, shown)


class Presenter:
    """The other side: answers challenges with fresh evidence, made on a thread of its own, one at a time.

    An attester that gives none just now (:class:`AttesterError`) is asked again until the verifier sends another challenge or leaves.
    """

    def __init__(
        self, channel: Channel, *, attester: Attester, role: Role, context: NodeContext, send: Send, clock: Clock, retry_s: float = _RETRY_S
    ) -> None:
        self._channel = channel
        self._attester = attester
        self._role = role
        self._context = context
        self._send = send
        self._clock = clock
        self._retry_s = retry_s
        self._lock = threading.Lock()
        self._asked: tuple[int, Nonce] | None = None
        self._busy = False
        self._closed = threading.Event()
        self._shown: dict[int, EvidenceRecord] = {}
        self.latest: EvidenceRecord | None = None
        self.count = 0

    def challenged(self, frame: Json) -> None:
        """Answer a challenge soon; it takes the place of one that is not answered yet.

        Raises:
            ProtocolError, ParseError: it is not a challenge.
            BindingError: the peer wants another role.
        """
        seq, bare = _numbered(frame, Kind.CHALLENGE)
        nonce = parse_challenge(bare, role=self._role)
        with self._lock:
            self._asked = (seq, nonce)
            if self._busy:
                return
            self._busy = True
        threading.Thread(target=self._answer_all, name="confide-reattest", daemon=True).start()

    def verdict(self, frame: Json) -> None:
        """Take the verifier's verdict.

        Raises:
            AttestationError: the peer does not accept this node any more; the leaf is the one it named.
            ProtocolError: nothing was shown that it could be about.
        """
        seq, bare = _numbered(frame, Kind.VERDICT)
        read_verdict(bare)
        with self._lock:
            shown = self._shown.pop(seq, None)
            self._shown = {number: record for number, record in self._shown.items() if number > seq}
        if shown is None:
            raise ProtocolError("a verdict on evidence that was not shown")
        self.latest = shown
        self.count += 1

    def close(self) -> None:
        """Answer no more."""
        self._closed.set()

    def _answer_all(self) -> None:
        while True:
            with self._lock:
                asked = self._asked
                if asked is None or self._closed.is_set():
                    self._busy = False
                    return
            try:
                self._answer(*asked)
            except AttesterError:
                self._closed.wait(self._retry_s)
                continue
            except ConfideError:  # the channel: its link reports it
                self._closed.set()
            with self._lock:
                if self._asked == asked:
                    self._asked = None

    def _answer(self, seq: int, nonce: Nonce) -> None:
        spki, exporter = self._channel.own_spki, self._channel.exporter()
        if spki is None:
            raise BindingError("evidence is bound to a public key, and this side shows none")
        data = report_data(role=self._role, exporter=exporter, nonce=nonce, spki=spki, context=self._context.digest)
        evidence = self._attester.quote(data)
        with self._lock:
            newest = dict(sorted(self._shown.items())[-_SHOWN_AT_MOST:])
            self._shown = {**newest, seq: EvidenceRecord(self._role, self._context, evidence, exporter, nonce, spki, self._clock())}
        shown = {"role": str(self._role), "context": self._context.to_json(), "evidence": evidence.to_json()}
        self._send(Kind.REATTEST_EVIDENCE, seq=seq, **shown)


def _numbered(frame: Json, kind: Kind) -> tuple[int, Json]:
    """The number of a re-attestation's frame, and the frame of section 3 that it is besides."""
    seq = field(frame, "seq", int)
    if seq < 1:
        raise ProtocolError("a challenge's number is not one", got=seq)
    return seq, {**{name: value for name, value in frame.items() if name != "seq"}, "kind": str(kind)}
