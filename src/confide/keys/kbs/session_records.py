"""What brokers that share a store know of guests' sessions, as frozen values: challenges, spent nonces, attested guests.  Pure.

A *challenge* is in nobody's memory: the cookie carries it, under a tag that only brokers of this store can make.  So asking for one costs
no write and fills nothing.  What the store keeps begins with a try to attest: a :class:`SpentNonce` or a :class:`GuestSession`, one of
them, once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, Self

from confide.attest.binding import NONCE_BYTES
from confide.attest.evidence import Evidence
from confide.attest.init_data import InitData
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.canonical import Json, b64url, from_b64url
from confide.errors import BindingError, ParseError
from confide.ids import Nonce
from confide.keys.kbs.messages import AttestRequest, GuestTee, from_base64
from confide.keys.kbs.tee_evidence import SampleEvidence, evidence_of_json
from confide.keys.kbs.tee_key import TeePublicKey
from confide.keys.limits import site_of

SKEW: Final = timedelta(seconds=60)
"""How far the clocks of brokers that share a store may be apart."""
SLOTS: Final = 8
"""Clients are spread over so many slots, each with its own cap: nobody takes all the room from one address."""
_TAG_BYTES: Final = 32
_TIME_BYTES: Final = 8
_KINDS: Final = tuple(GuestTee)
_CHALLENGE_BYTES: Final = 1 + _TIME_BYTES + NONCE_BYTES + _TAG_BYTES

Tag = Callable[[bytes], bytes]
"""What only brokers of one store can make of some bytes."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a guest was asked, and when."""

    tee: GuestTee
    nonce: Nonce
    issued: datetime

    @property
    def id(self) -> str:
        """The name in the store of what comes of it.  The cookie cannot be made of it."""
        return session_id(self.nonce)

    @property
    def text(self) -> str:
        """The nonce as the protocol has it."""
        return base64.b64encode(self.nonce).decode()

    def cookie(self, tag: Tag) -> str:
        """The cookie's value."""
        return b64url(self._bytes + tag(self._bytes))

    @classmethod
    def of_cookie(cls, text: str, tag: Tag) -> Self:
        """Read a cookie's value.

        Raises:
            BindingError: no broker of this store made it.
        """
        try:
            raw = from_b64url(text) if len(text) < 2 * _CHALLENGE_BYTES else b""
        except ParseError:
            raw = b""
        head, made = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if len(raw) != _CHALLENGE_BYTES or not hmac.compare_digest(tag(head), made):
            raise unknown_session()
        issued = datetime.fromtimestamp(int.from_bytes(head[1 : 1 + _TIME_BYTES]) / 1000, UTC)
        return cls(_KINDS[head[0]], Nonce(head[1 + _TIME_BYTES :]), issued)

    @property
    def _bytes(self) -> bytes:
        milliseconds = int(self.issued.timestamp() * 1000)
        return bytes([_KINDS.index(self.tee)]) + milliseconds.to_bytes(_TIME_BYTES) + self.nonce


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

    def to_json(self) -> Json:
        """What is kept."""
        request, evidence, init_data = self.request, self.evidence, self.request.init_data
        return {
            "nonce": request.nonce,
            "key": dict(request.key.jwk),
            "additional": request.additional,
            "init_data": None if init_data is None else {"format": init_data.format, "digest": init_data.digest.hex()},
            "sample": {"svn": evidence.svn, "report_data": b64url(evidence.report_data)} if isinstance(evidence, SampleEvidence) else None,
            "evidence": None if isinstance(evidence, SampleEvidence) else evidence.to_json(),
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`."""
        kept, sample = data["init_data"], data["sample"]
        init_data = None if kept is None else InitData(kept["format"], "", bytes.fromhex(kept["digest"]), {})
        request = AttestRequest(data["nonce"], TeePublicKey.from_json(data["key"]), {}, data["additional"], init_data)
        if sample is not None:
            return cls(request, SampleEvidence(sample["svn"], from_b64url(sample["report_data"])))
        return cls(request, Evidence.from_json(data["evidence"]))


@dataclass(frozen=True, slots=True)
class GuestSession:
    """An attested guest, until ``expires``; ``token`` is the id of the token that says so, ``slot`` is its client's."""

    kind: ClassVar[str] = "kbs-session"
    id: str
    slot: str
    guest: Guest
    token: str
    expires: datetime

    @property
    def ref(self) -> str:
        """The slot."""
        return self.slot

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {
            "id": self.id,
            "slot": self.slot,
            "guest": self.guest.to_json(),
            "token": self.token,
            "expires": self.expires.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        expires = datetime.fromisoformat(data["expires"])
        return cls(data["id"], data["slot"], Guest.from_json(data["guest"]), data["token"], expires)


@dataclass(frozen=True, slots=True)
class SpentNonce:
    """A nonce with which a guest tried to attest, and failed."""

    kind: ClassVar[str] = "kbs-spent"
    id: str
    slot: str

    @property
    def ref(self) -> str:
        """The slot."""
        return self.slot

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"id": self.id, "slot": self.slot}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["id"], data["slot"])


def session_id(nonce: bytes) -> str:
    """What a session is called in the store."""
    return hashlib.sha256(b"confide kbs session\0" + nonce).hexdigest()


def id_of_text(nonce: object) -> str:
    """The same for a nonce in the protocol's form; a name of nothing for what is none."""
    try:
        return session_id(from_base64(nonce, NONCE_BYTES)) if isinstance(nonce, str) else ""
    except ParseError:
        return ""


def slot_of(client: str, tag: Tag) -> str:
    """The slot of a client's network address.  Keyed, so that nobody can choose addresses that crowd another's."""
    return str(tag(site_of(client).encode())[0] % SLOTS)


def slots() -> tuple[str, ...]:
    """All of them."""
    return tuple(str(number) for number in range(SLOTS))


def unknown_session() -> BindingError:
    """The refusal of a session that nobody here knows."""
    return BindingError("there is no such session, it has ended, or it was not attested", hint="begin with /kbs/v0/auth and attest")
