"""Sessions of guests: nonce, then evidence bound to a key and the nonce.  In memory, bounded, and **not bound to a TLS channel**.

A cookie may move from one connection to another, as the protocol has it; what it buys is a resource encrypted to the attested key.  What is
attested here is a :class:`Guest`, which no grant takes: those want a :class:`~confide.attest.binding.SessionBinding`.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import threading
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Self

from confide.attest.binding import NonceBook
from confide.attest.evidence import Evidence
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.canonical import Json
from confide.errors import BindingError, NonceError
from confide.ids import Nonce
from confide.keys.kbs.messages import AttestRequest, GuestTee
from confide.keys.kbs.tee_evidence import SampleEvidence, evidence_of_json

MAX_SESSIONS: Final = 10_000
"""Cap on sessions in memory, those that wait for evidence and those that have shown it, each; beyond it new ones are refused."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest whose evidence was genuine and bound to its key and nonce when it was handed in."""

    request: AttestRequest
    evidence: Evidence | SampleEvidence = field(repr=False)

    @classmethod
    def of(cls, request: AttestRequest, tee: GuestTee) -> Self:
        """The guest that a request speaks of.  Keeps what is looked at again, and not its logs and documents, which may be megabytes.

        Raises:
            ParseError, EvidenceInvalidError: the evidence is not of that kind's form, or of a kind that is not verified here.
        """
        init_data = None if request.init_data is None else replace(request.init_data, body="", data={})
        return cls(replace(request, primary={}, init_data=init_data), evidence_of_json(tee, request.primary))

    @property
    def init_data_digest(self) -> str | None:
        """Digest of the init-data, in hex.  Bound to the evidence, or the guest would not be one; never of a sample."""
        found = self.request.init_data
        return None if found is None or isinstance(self.evidence, SampleEvidence) else found.digest.hex()

    def runtime_claims(self) -> Json:
        """What the guest has attested of itself, for its token."""
        claims: Json = {"nonce": self.request.nonce, "tee-pubkey": dict(self.request.key.jwk)}
        return claims if self.init_data_digest is None else {**claims, "init_data": self.init_data_digest}

    def verified(self, verifier: Verifier, now: datetime) -> VerifiedEvidence | None:
        """The evidence verified as of ``now``, and its binding; ``None`` for a sample, of which only the binding is checked.

        Raises:
            EvidenceInvalidError, CollateralError: it is not genuine (any more).
            BindingError: it is of another nonce, key or init-data.
        """
        if isinstance(self.evidence, SampleEvidence):
            self.evidence.check_bound(self.request.report_data)
            return None
        found = verifier.verify(self.evidence, now)
        if not hmac.compare_digest(self.request.report_data, found.claims.report_data):
            raise BindingError("the evidence is not bound to this nonce and key", hint="it was replayed, or made for another guest's key")
        if self.request.init_data is not None:
            self.request.init_data.check_bound(found)
        return found


@dataclass(frozen=True, slots=True)
class _Session:
    tee: GuestTee
    nonce: Nonce
    expires: datetime
    guest: Guest | None = None
    token: str | None = None


class GuestSessions:
    """All guests' sessions of one broker, found by the cookie's value or by the id of the token that was issued.  Thread-safe."""

    def __init__(self, verifier: Verifier, *, nonce_ttl: timedelta, session_ttl: timedelta) -> None:
        self._verifier = verifier
        self._nonces = NonceBook(nonce_ttl)
        self._nonce_ttl, self.ttl = nonce_ttl, session_ttl
        self._lock = threading.Lock()
        # Each in the order of expiry, because each has one time to live: only the front has to be looked at.
        self._waiting: dict[str, _Session] = {}
        self._attested: dict[str, _Session] = {}
        self._by_token: dict[str, str] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting) + len(self._attested)

    def begin(self, tee: GuestTee, now: datetime) -> tuple[str, str]:
        """A new session: its name for the cookie, and the nonce in standard base64.

        Raises:
            NonceError: too many sessions are open.
        """
        name = secrets.token_urlsafe(32)
        with self._lock:
            self._forget_expired(now)
            if len(self._waiting) >= MAX_SESSIONS:
                raise NonceError("too many guests are waiting to be attested", hint="try again later")
            session = _Session(tee, self._nonces.issue(now), now + self._nonce_ttl)
            self._waiting[name] = session
        return name, base64.b64encode(session.nonce).decode()

    def attest(self, name: str, request: AttestRequest, now: datetime) -> tuple[Guest, VerifiedEvidence | None]:
        """Take in evidence; :meth:`admit` makes the session count.  A session has one try: its nonce is used up, whatever comes of it.

        Raises:
            BindingError: there is no such session, or the evidence is of another kind, nonce, key or init-data.
            NonceError: the nonce is not this session's, was used before, or has expired.
            ParseError, EvidenceInvalidError, CollateralError: the evidence is not genuine.
        """
        with self._lock:
            session = self._waiting.get(name)
        if session is None:
            raise _unknown()
        if not hmac.compare_digest(base64.b64encode(session.nonce), request.nonce.encode()):
            raise NonceError("the nonce is not the one of this session")
        self._nonces.redeem(session.nonce, now)
        guest = Guest.of(request, session.tee)
        return guest, guest.verified(self._verifier, now)

    def admit(self, name: str, guest: Guest, token: str, now: datetime) -> None:
        """From now on the session is ``guest``'s; ``token`` is the id of the token that says so.

        Raises:
            NonceError: too many sessions are open.
            BindingError: the session has gone meanwhile.
        """
        with self._lock:
            self._forget_expired(now)
            if len(self._attested) >= MAX_SESSIONS:
                raise NonceError("too many sessions are open", hint="try again later")
            session = self._waiting.pop(name, None)
            if session is None:
                raise _unknown()
            self._attested[name] = replace(session, guest=guest, token=token, expires=now + self.ttl)
            self._by_token[token] = name

    def of_cookie(self, name: str, now: datetime) -> Guest:
        """The guest of a session.

        Raises:
            BindingError: there is no such session, it has expired, or no evidence was accepted.
        """
        with self._lock:
            found = self._attested.get(name)
        if found is None or found.guest is None or now >= found.expires:
            raise _unknown()
        return found.guest

    def of_token(self, token: str, now: datetime) -> Guest:
        """The guest that a token was issued for.  Raises as :meth:`of_cookie`."""
        with self._lock:
            name = self._by_token.get(token, "")
        return self.of_cookie(name, now)

    def _forget_expired(self, now: datetime) -> None:
        for sessions in (self._waiting, self._attested):
            while sessions:
                name = next(iter(sessions))
                if sessions[name].expires > now:
                    break
                token = sessions.pop(name).token
                if token is not None:
                    self._by_token.pop(token, None)


def _unknown() -> BindingError:
    return BindingError("there is no such session, it has ended, or it was not attested", hint="begin with /kbs/v0/auth and attest")
