"""Everything that is needed to judge a node's evidence again later, from files alone.  Knows nothing of channels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from confide.attest.binding import SessionBinding
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.policy import appraise
from confide.canonical import Json, b64url, digest_of, from_b64url
from confide.errors import ParseError
from confide.ids import Nonce, Role

if TYPE_CHECKING:
    from confide.attest.policy import AttestationResult, Policy
    from confide.attest.verify import Verifier

RECORD_FORMAT = "confide-evidence-v1"
_FIELDS = {"format", "role", "context", "evidence", "exporter", "nonce", "spki", "at"}


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """One node's evidence and what it is bound to.  ``at`` is when it was judged, or shown if the node itself made the record.

    A record proves nothing by itself: :meth:`recheck` does.  Nonce and exporter are the verifier's word: who reads a record years
    later learns that the node's key was in such a TEE for that job and run, and takes the freshness from whoever kept the record.
    """

    role: Role
    context: NodeContext
    evidence: Evidence
    exporter: bytes = field(repr=False)
    nonce: Nonce = field(repr=False)
    spki: bytes = field(repr=False)
    at: datetime

    @property
    def binding(self) -> SessionBinding:
        """What the evidence has to hold in its report data."""
        return SessionBinding(role=self.role, exporter=self.exporter, nonce=self.nonce, spki=self.spki, context=self.context)

    @property
    def digest(self) -> str:
        """SHA-384 of the record's canonical form: how receipts name it."""
        return digest_of(self.to_json())

    def recheck(self, verifier: Verifier, policy: Policy, now: datetime) -> AttestationResult:
        """Verify and appraise the evidence again, as of ``now`` (usually ``self.at``, with the collateral kept from then).

        Raises:
            AttestationError: it would be refused.
        """
        return appraise(verifier.verify(self.evidence, now), policy, self.binding, now=now)

    def completed(self, verifier: Verifier) -> EvidenceRecord:
        """The record with what its evidence lacks and ``verifier`` had to fetch, so that it can be judged from files alone.

        Raises:
            CollateralError: that is not to be had any more.
        """
        return replace(self, evidence=verifier.complete(self.evidence))

    def to_json(self) -> Json:
        """The record as JSON; bytes in base64url, time in ISO 8601 with its zone."""
        return {
            "format": RECORD_FORMAT,
            "role": str(self.role),
            "context": self.context.to_json(),
            "evidence": self.evidence.to_json(),
            "exporter": b64url(self.exporter),
            "nonce": b64url(self.nonce),
            "spki": b64url(self.spki),
            "at": self.at.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Json) -> EvidenceRecord:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: the object is not a record.
        """
        if set(data) != _FIELDS or data["format"] != RECORD_FORMAT:
            raise ParseError("not an evidence record", expected=RECORD_FORMAT)
        texts = [data[name] for name in ("role", "exporter", "nonce", "spki", "at")]
        if not all(isinstance(text, str) for text in texts):
            raise ParseError("an evidence record's field is not a text")
        try:
            role, at = Role(data["role"]), datetime.fromisoformat(data["at"])
        except ValueError as cause:
            raise ParseError("an evidence record's role or time is not one") from cause
        if at.tzinfo is None:
            raise ParseError("an evidence record's time has no zone")
        context, evidence = NodeContext.from_json(data["context"]), Evidence.from_json(data["evidence"])
        return cls(role, context, evidence, from_b64url(data["exporter"]), Nonce(from_b64url(data["nonce"])), from_b64url(data["spki"]), at)
