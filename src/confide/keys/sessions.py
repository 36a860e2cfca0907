"""Sessions of nodes with the broker: nonce, then evidence bound to this TLS connection.  In memory: a session dies with its connection.

Establishes that evidence is genuine and is this session's; whether it is good enough for a key is decided at each release
(``keys.grants``).  KBS protocol 0.4.0 gives the messages their shape; the binding is ``confide.attest.binding``.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from confide.attest.binding import NONCE_BYTES, NonceBook, SessionBinding
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.policy import AttestationResult, Policy, appraise
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.canonical import Json, from_b64url
from confide.errors import BindingError, NonceError, ParseError
from confide.ids import Nonce, Role, Tee
from confide.keys.token_issuers import OwnerIssuer

_MAX_SESSIONS: Final = 20_000
"""Cap on sessions in memory; beyond it new ones are refused until old ones end."""
SESSION_TTL: Final = timedelta(minutes=15)
"""How long evidence serves without being made anew."""


@dataclass(frozen=True, slots=True)
class TokenSubject:
    """What one of the broker's issuers says of somebody, in a verified token; ``bound`` to this very client's certificate or not."""

    issuer: OwnerIssuer
    subject: str
    groups: frozenset[str]
    bound: bool


@dataclass(frozen=True, slots=True)
class Peer:
    """What the TLS channel itself shows of the other side: the session's exporter; the client's key and certificate (DER) if it showed any.

    ``address`` (without the port) is where it comes from on the network, or through which proxy: it tells clients apart, and nobody's
    rights depend on it.  ``token``: what a token says with which this request came (``keys.tokens``).
    """

    exporter: bytes
    spki: bytes | None
    address: str = ""
    certificate: bytes | None = None
    token: TokenSubject | None = None


@dataclass(frozen=True, slots=True)
class Attested:
    """Evidence that was genuine and bound to its session when it was handed in."""

    evidence: Evidence
    binding: SessionBinding

    @property
    def context(self) -> NodeContext:
        """The attested context: job, run, node and seal key."""
        return self.binding.context

    @property
    def role(self) -> Role:
        """The attested role."""
        return self.binding.role

    def verified(self, verifier: Verifier, now: datetime) -> VerifiedEvidence:
        """The evidence verified again as of ``now``: collateral may have changed since it was handed in."""
        found = verifier.verify(self.evidence, now)
        check_binding(found, self.binding)
        return found

    def appraise(self, verified: VerifiedEvidence, policy: Policy, now: datetime) -> AttestationResult:
        """``verified`` under one policy."""
        return appraise(verified, policy, self.binding, now=now)


@dataclass(frozen=True, slots=True)
class _Session:
    name: str
    tee: Tee
    nonce: Nonce
    expires: datetime
    attested: Attested | None = None


class Sessions:
    """All sessions of one broker, at most one for each connection.  Safe to use from several threads.

    They are found by the connection's exporter, so that a session's id is of no use on another connection.
    """

    def __init__(self, verifier: Verifier, *, nonce_ttl: timedelta, session_ttl: timedelta = SESSION_TTL) -> None:
        self._verifier = verifier
        self._nonces = NonceBook(nonce_ttl)
        self._ttl = session_ttl
        self._lock = threading.Lock()
        self._sessions: dict[bytes, _Session] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._sessions)

    def begin(self, peer: Peer, tee: Tee, now: datetime) -> tuple[str, Nonce]:
        """A new session on this connection, in place of the one before: its id and the nonce that evidence must hold.

        Raises:
            NonceError: too many sessions are open.
        """
        session = _Session(secrets.token_urlsafe(32), tee, self._nonces.issue(now), now + self._ttl)
        with self._lock:
            if len(self._sessions) >= _MAX_SESSIONS and peer.exporter not in self._sessions:
                raise NonceError("too many sessions are open", hint="try again later")
            self._sessions[peer.exporter] = session
        return session.name, session.nonce

    def attest(
        self, peer: Peer, name: str, *, nonce: Nonce, role: Role, context: NodeContext, evidence: Evidence, now: datetime
    ) -> tuple[VerifiedEvidence, datetime]:
        """Take in evidence.  Afterwards the session is :meth:`attested` until the time that is returned.

        Raises:
            BindingError: there is no such session on this connection, or the evidence is not bound to it.
            NonceError: the nonce is not this session's, was used before, or has expired.
            EvidenceInvalidError, CollateralError: the evidence is not genuine.
        """
        session = self._session(peer, name, now)
        if not hmac.compare_digest(session.nonce, nonce):
            raise NonceError("the nonce is not the one of this session")
        self._nonces.redeem(nonce, now)
        if evidence.tee is not session.tee:
            expected, got = session.tee.value, evidence.tee.value
            raise BindingError("the evidence is of another kind of TEE than was announced", expected=expected, got=got)
        if peer.spki is None:
            raise BindingError("a node must show a key in the TLS handshake: evidence is bound to it")
        binding = SessionBinding(role=role, exporter=peer.exporter, nonce=nonce, spki=peer.spki, context=context)
        verified = self._verifier.verify(evidence, now)
        check_binding(verified, binding)
        expires = now + self._ttl
        with self._lock:
            self._sessions[peer.exporter] = replace(session, attested=Attested(verified.evidence, binding), expires=expires)
        return verified, expires

    def attested(self, peer: Peer, name: str, now: datetime) -> Attested:
        """The attested node of this session.

        Raises:
            BindingError: there is no such session on this connection, it has expired, or no evidence was accepted.
        """
        found = self._session(peer, name, now).attested
        if found is None:
            raise BindingError("this session has not been attested")
        return found

    def end(self, peer: Peer) -> None:
        """Forget the session of a connection that has ended."""
        with self._lock:
            self._sessions.pop(peer.exporter, None)

    def _session(self, peer: Peer, name: str, now: datetime) -> _Session:
        with self._lock:
            found = self._sessions.get(peer.exporter)
        if found is None or not hmac.compare_digest(found.name.encode(), name.encode()):
            raise BindingError("there is no such session on this connection", hint="attest on the connection that asks for keys")
        if now >= found.expires:
            raise BindingError("the session has expired", hint="attest again")
        return found


def check_binding(verified: VerifiedEvidence, binding: SessionBinding) -> None:
    """Check that evidence holds this session's report data, without judging what it is worth.

    Raises:
        BindingError: it was made for another session, key, role or context.
    """
    if not hmac.compare_digest(binding.report_data, verified.claims.report_data):
        raise BindingError("the evidence is not bound to this session", hint="it was replayed, relayed or made for another role or job")


def read_attest(request: Json) -> tuple[Nonce, Role, NodeContext, Evidence]:
    """What a node's ``attest`` request says: nonce, role, context and evidence, taken apart and not believed.

    Raises:
        ParseError: it is none.
        BindingError: the key to seal to is another one than the context's.
    """
    match request:
        case {
            "runtime-data": {"nonce": str(text), "tee-pubkey": dict(jwk), "confide-context": dict(context), "role": str(role)},
            "tee-evidence": {"primary_evidence": dict(evidence), "additional_evidence": ""},
        } if role in set(Role):
            nonce, found = from_b64url(text), NodeContext.from_json(context)
            if len(nonce) != NONCE_BYTES:
                raise ParseError("a nonce is 32 bytes", got=len(nonce))
            if jwk != found.seal:
                raise BindingError("the key to seal to is not the one in the attested context")
            return Nonce(nonce), Role(role), found, Evidence.from_json(evidence)
    raise ParseError("not an attest request of KBS protocol 0.4.0 with Confide's runtime data")
