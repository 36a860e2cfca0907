"""Is verified evidence what was asked for, and of this session?  Appraisal raises, or leaves a result behind that keys can be granted to.

Knows nothing of how evidence was verified or obtained.
"""

from __future__ import annotations

import hmac
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any

from confide.attest.tokens.verified import VerifiedToken
from confide.attest.verify import VerifiedEvidence
from confide.errors import AppraisalError, BindingError

if TYPE_CHECKING:
    from datetime import datetime

    from confide.attest.binding import SessionBinding
    from confide.attest.claims import Claims
    from confide.attest.evidence import NodeContext
    from confide.attest.policy_tree import Policy
    from confide.canonical import Json
    from confide.ids import Role, SpkiDigest

_TOKEN = object()


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """Verified evidence that a policy accepts and that is bound to one session.  Only :func:`appraise` can make one.

    Everything in ``context`` (job, run, node, seal key), ``role`` and ``spki_digest`` is attested: it was in the report data.
    """

    claims: Claims
    policy_digest: str
    role: Role
    context: NodeContext
    spki_digest: SpkiDigest
    appraised_at: datetime
    token: InitVar[object] = None

    def __post_init__(self, token: object) -> None:
        if token is not _TOKEN:
            raise TypeError("AttestationResult is made by appraise only")

    def __reduce__(self) -> Any:
        raise TypeError("AttestationResult does not travel: send the evidence and appraise it there")

    def to_json(self) -> Json:
        """The result as JSON, for display and audit: a statement about the past, which cannot be read back as a result."""
        return {
            "claims": self.claims.to_json(),
            "policy_digest": self.policy_digest,
            "role": self.role.value,
            "context": self.context.to_json(),
            "spki_digest": self.spki_digest,
            "appraised_at": self.appraised_at.isoformat(),
        }


def appraise(verified: VerifiedEvidence | VerifiedToken, policy: Policy, binding: SessionBinding, *, now: datetime) -> AttestationResult:
    """Accept ``verified`` under ``policy`` as evidence of the session ``binding``, or raise.

    Does not check that the nonce is fresh (``NonceBook.redeem`` does, before), nor that the context's job is the wanted one (the caller
    does).

    Raises:
        TypeError: ``verified`` is something else that has claims, such as a certificate's :class:`~confide.attest.ratls.UnboundResult`.
        BindingError: the report data is not this session's: another nonce, channel, key, role or context.
        AppraisalError: a check of the policy fails; ``facts`` hold check, expected and got of the first.
    """
    if type(verified) is not VerifiedEvidence and type(verified) is not VerifiedToken:
        raise TypeError("only what verify or verify_token made is appraised")
    if not hmac.compare_digest(binding.report_data, verified.claims.report_data):
        raise BindingError("the evidence is not bound to this session", hint="it was replayed, relayed or made for another role or job")
    for check in policy.explain(verified, role=binding.role, job=binding.context.job, now=now):
        if not check.ok:
            raise AppraisalError(
                f"{check.name}: expected {check.expected}, got {check.got}",
                check=check.name,
                expected=check.expected,
                got=check.got,
                policy=policy.name,
            )
    return AttestationResult(verified.claims, policy.digest, binding.role, binding.context, binding.spki_digest, now, token=_TOKEN)
