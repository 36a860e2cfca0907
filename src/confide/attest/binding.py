"""How evidence is bound to one session: report data over exporter, nonce, key, role and context.

A quote that is bound to a key alone can be relayed into another TLS session (CVE-2026-33697); one that holds the session's exporter
cannot.  Format: ``docs/formats/session-protocol.md``; vectors: ``tests/vectors/binding.json``.  Knows nothing of sockets or quotes.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from confide.attest.evidence import NodeContext
from confide.canonical import sha256_hex
from confide.errors import BindingError, NonceError
from confide.ids import Nonce, ReportData, Role, SpkiDigest

LABEL = b"confide-session-v1\0"
EXPORTER_BYTES = 32
"""Length of the TLS exporter value that RFC 9266 (section 4.2) takes, in bytes."""
NONCE_BYTES = 32
CONTEXT_BYTES = 48
"""Length of a context digest (SHA-384), in bytes."""
_MAX_OUTSTANDING = 100_000
"""Cap on nonces waiting to be redeemed: about 20 MB; a flood is refused instead of filling memory."""


def report_data(*, role: Role, exporter: bytes, nonce: Nonce, spki: bytes, context: bytes) -> ReportData:
    """SHA-512 over the label, the role's byte, exporter, nonce, SHA-256 of the DER SubjectPublicKeyInfo, and context digest.

    Every field has a fixed length, so that no two sets of fields give the same input.

    Raises:
        BindingError: a field has the wrong length; nothing is padded or cut.
    """
    for what, value, length in (("exporter", exporter, EXPORTER_BYTES), ("nonce", nonce, NONCE_BYTES), ("context", context, CONTEXT_BYTES)):
        if len(value) != length:
            raise BindingError(f"the {what} must be {length} bytes", got=len(value))
    if not spki:
        raise BindingError("evidence is bound to a public key, and there is none")
    return ReportData(hashlib.sha512(LABEL + role.byte + exporter + nonce + hashlib.sha256(spki).digest() + context).digest())


@dataclass(frozen=True, slots=True)
class SessionBinding:
    """What a verifier knows of the session by itself, and evidence must therefore be bound to.

    ``exporter``, ``nonce`` and ``spki`` (DER, of the *peer*) are the verifier's own observations; ``role`` and ``context`` are what the
    peer claims and the attested report data confirms.
    """

    role: Role
    exporter: bytes = field(repr=False)
    nonce: Nonce = field(repr=False)
    spki: bytes = field(repr=False)
    context: NodeContext

    @property
    def report_data(self) -> ReportData:
        """The 64 bytes that the peer's evidence has to hold.  Raises ``BindingError`` for a field of the wrong length."""
        return report_data(role=self.role, exporter=self.exporter, nonce=self.nonce, spki=self.spki, context=self.context.digest)

    @property
    def spki_digest(self) -> SpkiDigest:
        """SHA-256 of the peer's public key."""
        return SpkiDigest(sha256_hex(self.spki))


class NonceBook:
    """Nonces of one verifier: each is taken once, and only within its time.  Safe to use from several threads."""

    def __init__(self, ttl: timedelta) -> None:
        self._ttl = ttl
        self._lock = threading.Lock()
        self._expiry: dict[Nonce, datetime] = {}

    def issue(self, now: datetime) -> Nonce:
        """A new random nonce, valid from now for the book's time to live.

        Raises:
            NonceError: too many nonces are waiting.
        """
        nonce = Nonce(secrets.token_bytes(NONCE_BYTES))
        with self._lock:
            self._forget_expired(now)
            if len(self._expiry) >= _MAX_OUTSTANDING:
                raise NonceError("too many sessions are waiting to be attested", hint="try again later")
            self._expiry[nonce] = now + self._ttl
        return nonce

    def redeem(self, nonce: Nonce, now: datetime) -> None:
        """Use up ``nonce``.

        Raises:
            NonceError: it was never issued here, was used before, or has expired.  Either way it is gone.
        """
        with self._lock:
            expiry = self._expiry.pop(nonce, None)
        if expiry is None:
            raise NonceError("the nonce is unknown or was used before")
        if now >= expiry:
            raise NonceError("the nonce has expired", expired=expiry.isoformat())

    def _forget_expired(self, now: datetime) -> None:
        # Insertion order is expiry order (one time to live), so only the front needs to be looked at.
        while self._expiry:
            oldest = next(iter(self._expiry))
            if self._expiry[oldest] > now:
                return
            del self._expiry[oldest]
