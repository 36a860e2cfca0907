"""Attestation after the TLS handshake: who is at the other end of this channel, settled by evidence.

Implements ``docs/formats/session-protocol.md``, section 3.  :func:`judge` is the whole decision, without IO; ``attest_peer`` and
``present`` carry its inputs over a channel.  Knows nothing of what attested peers do next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from confide.attest.binding import NONCE_BYTES, NonceBook, SessionBinding, report_data
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.init_data import require_init_data
from confide.attest.policy import appraise
from confide.canonical import Json, b64url, from_b64url
from confide.errors import AttestationError, BindingError, ConfideError, ProtocolError, leaf_of
from confide.ids import JobDigest, NodeId, Nonce, Role, RunId, SpkiDigest, Tee
from confide.node.control import PROTOCOL, Kind, field
from confide.node.record import EvidenceRecord

if TYPE_CHECKING:
    from confide.attest.collateral_sources import AnyCollateral
    from confide.attest.collect import Attester
    from confide.attest.policy import AttestationResult, Policy
    from confide.attest.verify import Verifier
    from confide.crypto.tls import Channel

Clock = Callable[[], datetime]
MAX_SESSION_FRAME = 128 * 1024
"""Cap on a frame from a peer that is not attested yet, in bytes: a quote and its chain in base64url fit twice."""
_MAX_TPM_FRAME = 512 * 1024
"""The same for evidence where the policy accepts TPMs, whose event logs are long."""


def evidence_cap(policy: Policy) -> int:
    """Cap on a frame with evidence, in bytes: nobody may send more than the longest that the policy could accept."""
    return _MAX_TPM_FRAME if Tee.TPM in policy.tees else MAX_SESSION_FRAME


NONCE_TTL: Final = timedelta(seconds=60)


def utc_now() -> datetime:
    """The present, with its time zone."""
    return datetime.now(UTC)


class VerifierSide:
    """What one verifier needs for all its sessions: how to verify, what to accept, the time, and its nonces.

    ``init_data``: what evidence has to hold of the init-data that its guest was started with, in hex; ``None`` asks nothing of it beyond
    the policy.
    """

    def __init__(
        self,
        verifier: Verifier,
        policy: Policy,
        *,
        clock: Clock = utc_now,
        nonces: NonceBook | None = None,
        init_data: str | None = None,
    ) -> None:
        self.init_data = init_data
        self.verifier = verifier
        self.policy = policy
        self.clock = clock
        self.nonces = NonceBook(NONCE_TTL) if nonces is None else nonces


@dataclass(frozen=True, slots=True)
class Expected:
    """Whom the verifier wants to talk to.  ``nodes`` are the ids that are allowed; ``None`` leaves the id to the caller."""

    role: Role
    job: JobDigest
    run: RunId
    nodes: frozenset[NodeId] | None = None


@dataclass(frozen=True, slots=True)
class Presented:
    """The peer's ``evidence`` frame, parsed: claims, until :func:`judge` has confirmed them."""

    role: Role
    context: NodeContext
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class AttestedPeer:
    """A peer whose evidence was verified, appraised and found bound to this session.  Only :func:`judge` makes one."""

    result: AttestationResult
    context: NodeContext
    spki: SpkiDigest
    record: EvidenceRecord
    collateral: AnyCollateral


def challenge_frame(nonce: Nonce, role: Role) -> Json:
    """The verifier's first frame: its nonce, and the role that it wants to see."""
    return {"kind": str(Kind.CHALLENGE), "protocol": PROTOCOL, "nonce": b64url(nonce), "role": str(role)}


def parse_challenge(frame: Json, *, role: Role) -> Nonce:
    """The nonce of a challenge to a node of ``role``.

    Raises:
        ProtocolError: another kind, version, or a nonce that is not 32 bytes.
        BindingError: the verifier expects another role.
    """
    _closed(frame, Kind.CHALLENGE, {"protocol", "nonce", "role"})
    if frame["protocol"] != PROTOCOL:
        raise ProtocolError("the peer speaks another protocol", expected=PROTOCOL, got=str(frame["protocol"])[:80])
    nonce = from_b64url(field(frame, "nonce", str))
    if len(nonce) != NONCE_BYTES:
        raise ProtocolError("a nonce of the wrong length", expected=NONCE_BYTES, got=len(nonce))
    if frame["role"] != role:
        raise BindingError("the peer expects a node of another role", expected=str(frame["role"])[:80], got=str(role))
    return Nonce(nonce)


def parse_evidence(frame: Json) -> Presented:
    """Read an ``evidence`` frame, totally.

    Raises:
        ProtocolError: another kind, or other fields than the documented ones.
        ParseError: context or evidence are not of their documented form.
    """
    _closed(frame, Kind.EVIDENCE, {"role", "context", "evidence"})
    try:
        role = Role(field(frame, "role", str))
    except ValueError as cause:
        raise ProtocolError("an unknown role", got=str(frame["role"])[:80]) from cause
    return Presented(role, NodeContext.from_json(frame["context"]), Evidence.from_json(frame["evidence"]))


def judge(
    presented: Presented, *, side: VerifierSide, nonce: Nonce, exporter: bytes, peer_spki: bytes, own_spki: bytes | None, expected: Expected
) -> AttestedPeer:
    """Decide whether evidence makes the peer of this session the node that was expected.  No IO.

    1. The nonce is ours, unused and fresh; it is used up whatever follows.
    2. The peer's key is not our own (reflection).
    3. Role, job, run and node are the expected ones.
    4. The evidence is genuine (``Verifier.verify``).
    5. It is what the policy asks for, and its report data holds this session's exporter, nonce, key, role and context (``appraise``).
    6. Its guest was started with the init-data that this side asks for.

    ``exporter`` and ``peer_spki`` must be this verifier's own observations of the channel.

    Raises:
        AttestationError: the leaf says which step refused.
    """
    now = side.clock()
    side.nonces.redeem(nonce, now)
    if own_spki is not None and peer_spki == own_spki:
        raise BindingError("the peer shows this node's own key: the session is reflected")
    context = presented.context
    _check(presented.role == expected.role, "role", str(expected.role), str(presented.role))
    _check(context.job == expected.job, "job digest", expected.job, context.job)
    _check(context.run == expected.run, "run", expected.run, context.run)
    if expected.nodes is not None:
        _check(context.node in expected.nodes, "node", ", ".join(sorted(expected.nodes)), context.node)
    binding = SessionBinding(role=presented.role, exporter=exporter, nonce=nonce, spki=peer_spki, context=context)
    verified = side.verifier.verify(presented.evidence, now)
    result = appraise(verified, side.policy, binding, now=now)
    if side.init_data is not None:
        require_init_data(result.claims, side.init_data)
    record = EvidenceRecord(presented.role, context, verified.evidence, exporter, nonce, peer_spki, now)
    return AttestedPeer(result, context, binding.spki_digest, record, verified.collateral)


def _record(presented: Presented, nonce: Nonce, exporter: bytes, spki: bytes, at: datetime) -> EvidenceRecord:
    return EvidenceRecord(presented.role, presented.context, presented.evidence, exporter, nonce, spki, at)


def attest_peer(
    channel: Channel,
    *,
    side: VerifierSide,
    role: Role,
    job: JobDigest,
    run: RunId,
    nodes: Collection[NodeId] | None = None,
    on_refused: Callable[[EvidenceRecord], None] | None = None,
    nonce: Nonce | None = None,
) -> AttestedPeer:
    """Attest the peer of ``channel``: challenge it, judge its evidence, tell it the verdict (the code only).

    Does not prove to the peer who we are: see :func:`attest_mutually`.  ``on_refused`` gets the evidence that was judged and refused.
    ``nonce``: that of the side's own book with which the peer was challenged already on this channel.

    Raises:
        AttestationError: the peer was refused.
        ProtocolError: it sent something else than evidence.
        ChannelError: the channel broke.
    """
    expected = Expected(role, job, run, None if nodes is None else frozenset(nodes))
    if nonce is None:
        nonce = side.nonces.issue(side.clock())
        channel.send_frame(challenge_frame(nonce, role))
    try:
        presented = parse_evidence(channel.recv_frame(evidence_cap(side.policy)))
        if channel.peer_spki is None:
            raise BindingError("the peer shows no key")
        exporter, spki = channel.exporter(), channel.peer_spki
        try:
            peer = judge(presented, side=side, nonce=nonce, exporter=exporter, peer_spki=spki, own_spki=channel.own_spki, expected=expected)
        except AttestationError:
            if on_refused is not None:
                on_refused(_record(presented, nonce, exporter, spki, side.clock()))
            raise
    except ConfideError as error:
        with suppress(ConfideError):
            channel.send_frame({"kind": str(Kind.VERDICT), "ok": False, "code": error.code})
        raise
    channel.send_frame({"kind": str(Kind.VERDICT), "ok": True})
    return peer


def present(
    channel: Channel, *, attester: Attester, role: Role, context: NodeContext, clock: Clock = utc_now, behind: Sequence[Json] = ()
) -> EvidenceRecord:
    """Answer the peer's challenge with evidence that is bound to this session, and wait for its verdict.

    ``behind``: frames that the peer may have before its verdict.
    The record is what was shown; that the peer accepted it is all that is known of its worth here.

    Raises:
        BindingError: the peer shows our own key, or asks for another role.
        AttestationError: the peer refused the evidence; the leaf is the one it named.
        ProtocolError, ChannelError: the peer broke the protocol or the channel.
    """
    nonce = parse_challenge(channel.recv_frame(MAX_SESSION_FRAME), role=role)
    spki, exporter = channel.own_spki, channel.exporter()
    if spki is None:
        raise BindingError("evidence is bound to a public key, and this side shows none")
    if channel.peer_spki == spki:
        raise BindingError("the peer shows this node's own key: the session is reflected")
    evidence = attester.quote(report_data(role=role, exporter=exporter, nonce=nonce, spki=spki, context=context.digest))
    shown = {"kind": str(Kind.EVIDENCE), "role": str(role), "context": context.to_json(), "evidence": evidence.to_json()}
    channel.send_frame(shown, *behind)
    read_verdict(channel.recv_frame(MAX_SESSION_FRAME))
    return EvidenceRecord(role, context, evidence, exporter, nonce, spki, clock())


def attest_mutually(
    channel: Channel,
    *,
    initiator: bool,
    side: VerifierSide | Callable[[], VerifierSide],
    attester: Attester,
    role: Role,
    context: NodeContext,
    peer_role: Role,
    nodes: Collection[NodeId] | None = None,
    on_accepted: Callable[[AttestedPeer], None] | None = None,
    on_refused: Callable[[EvidenceRecord], None] | None = None,
    nonces: NonceBook | None = None,
    clock: Clock = utc_now,
) -> AttestedPeer:
    """Both sides attest each other on one channel, for the same job and run: the initiator presents first, then the responder.

    ``side`` may be a function: it is called when it is this side's turn to verify, so that an initiator can learn the policy
    over the channel from a responder that has accepted it already (whether to believe that policy is the function's business).
    ``nonces`` and ``clock`` are then those of the side that it will return.  An initiator sends its challenge right behind its evidence,
    which saves a round trip: a nonce tells the responder nothing, whatever becomes of the evidence.
    ``on_accepted`` is called between a responder's verdict and its own presentation; what it raises ends the session.
    ``on_refused`` is called with the peer's evidence if this side refuses it.

    Raises:
        AttestationError, ProtocolError, ChannelError: as ``attest_peer`` and ``present`` do.
    """

    def attest(nonce: Nonce | None = None) -> AttestedPeer:
        chosen = side if isinstance(side, VerifierSide) else side()
        return attest_peer(
            channel, side=chosen, role=peer_role, job=context.job, run=context.run, nodes=nodes, on_refused=on_refused, nonce=nonce
        )

    if initiator:
        book, time = (side.nonces, side.clock) if isinstance(side, VerifierSide) else (nonces, clock)
        if book is None:
            raise TypeError("a side that is a function needs its book of nonces")
        nonce = book.issue(time())
        present(channel, attester=attester, role=role, context=context, behind=[challenge_frame(nonce, peer_role)])
        return attest(nonce)
    peer = attest()
    if on_accepted is not None:
        on_accepted(peer)
    present(channel, attester=attester, role=role, context=context)
    return peer


def read_verdict(frame: Json) -> None:
    """Return if the peer's verdict is yes.

    Raises:
        AttestationError: it is no; the leaf is the one that the peer named.
        ProtocolError: it is not a verdict.
    """
    if frame.get("kind") != Kind.VERDICT or not isinstance(frame.get("ok"), bool):
        raise ProtocolError("a peer sent something else than its verdict", got=str(frame.get("kind"))[:80])
    if frame["ok"]:
        return
    code = str(frame.get("code"))[:80]
    leaf = leaf_of(code)
    if leaf is None or not issubclass(leaf, AttestationError):
        raise AttestationError("the peer refused this node's evidence", code=code)
    raise leaf("the peer refused this node's evidence", code=code)


def _closed(frame: Json, kind: Kind, fields: set[str]) -> None:
    if frame.get("kind") != kind:
        raise ProtocolError("a peer sent a frame that is not allowed here", expected=str(kind), got=str(frame.get("kind"))[:80])
    if set(frame) != fields | {"kind"}:
        raise ProtocolError("a frame has other fields than the documented ones", kind=str(kind))


def _check(agrees: bool, what: str, expected: str, got: str) -> None:  # noqa: FBT001  read as a sentence at its four uses
    if not agrees:
        raise BindingError(f"the peer's evidence is for another {what}", check=what, expected=expected, got=got[:120])
