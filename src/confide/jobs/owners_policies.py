"""Holds a node against the policies of the data's owners, which may ask for more than the job's own policy.

The broker gives a key to nodes that its owner accepts; but what one node reads, it shuffles to others and sends to the driver.  So every
worker appraises the driver, and the driver every worker, under the policies that came with the keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from confide.errors import AppraisalError, AttestationError

if TYPE_CHECKING:
    from confide.attest.policy import Policy
    from confide.attest.verify import Verifier
    from confide.node.record import EvidenceRecord


def require_owners_accept(record: EvidenceRecord, policies: Iterable[Policy], verifier: Verifier) -> None:
    """Verify and appraise a peer's evidence again, as of now, under each owner's policy.

    Raises:
        AppraisalError: one does not accept it.
    """
    for policy in policies:
        try:
            record.recheck(verifier, policy, datetime.now(UTC))
        except AttestationError as error:
            message = f"the {record.role} is not what an owner's policy asks for: {error.message}"
            raise AppraisalError(message, hint=None, **error.facts) from error
