"""An attested node that asks the broker for something, and what is known of it at that moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from confide.attest.evidence import NodeContext
from confide.attest.verify import VerifiedEvidence
from confide.ids import SpkiDigest
from confide.keys.job_signatures import JobSignature
from confide.keys.sessions import Attested


@dataclass(frozen=True, slots=True)
class Asker:
    """An attested node whose evidence has just been verified again."""

    attested: Attested
    verified: VerifiedEvidence
    now: datetime
    signatures: tuple[JobSignature, ...] = ()
    seen: frozenset[SpkiDigest] = frozenset()
    """Signers of the job that were seen before: enough to keep what was given, never to be given anything."""

    @property
    def signers(self) -> frozenset[SpkiDigest]:
        """Whose signatures over its attested job the node has shown."""
        return self.seen | {signature.signer_digest for signature in self.signatures}

    @property
    def context(self) -> NodeContext:
        """What the node has bound its evidence to: job, run, node, the key to seal to."""
        return self.attested.context

    def facts(self) -> dict[str, str]:
        """What the audit log says of the node."""
        context, claims = self.context, self.verified.claims
        return {
            "job": context.job,
            "run": context.run,
            "node": context.node,
            "role": self.attested.role.value,
            "evidence": claims.evidence_digest,
            "tee": claims.tee.value,
            "measurement": claims.measurement,
            "simulated": "yes" if claims.simulated else "no",
            "debug": "yes" if claims.debug else "no",
            "tcb_status": claims.tcb_status,
        }
