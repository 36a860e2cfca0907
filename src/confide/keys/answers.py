"""What a node is given once a release is decided: the key, sealed to it, until when it may use it, and on whose word.

Decides nothing, and keeps nothing but the JSON form of policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from confide.attest.evidence import NodeContext
from confide.attest.policy import Policy
from confide.canonical import Json
from confide.crypto.seal import seal
from confide.crypto.secret import SecretBytes
from confide.ids import Purpose
from confide.keys.asker import Asker
from confide.keys.grants import Decision
from confide.keys.records import Dataset

_KNOWN_POLICIES: Final = 256
"""Policies whose JSON form is remembered."""


class Answers:
    """The answers of one broker to nodes that may have a key.  ``lease``: how long one may be used before its node must ask again."""

    def __init__(self, lease: timedelta) -> None:
        self.lease = lease
        self._policies: dict[str, Json] = {}

    def sealed(self, dataset: Dataset, secret: SecretBytes, asker: Asker, purpose: Purpose, decisions: Sequence[Decision]) -> Json:
        """The key of ``dataset``, which ``asker`` alone can open, for the purpose that these decisions allow."""
        context = asker.context
        ends = [asker.now + self.lease, *(d.grant.not_after for d in decisions if d.grant.not_after is not None)]
        return {
            "jwe": seal(secret, context.seal, context=seal_context(dataset.dataset, context, purpose)),
            "key": dataset.wrapped.key,
            "version": dataset.wrapped.version,
            "dataset": dataset.dataset,
            "expires": min(ends).isoformat(),
            "grants": {d.grant.key: d.ref.to_json() for d in decisions},
            "policies": {d.result.policy_digest: self._policy_json(d.grant.policy) for d in decisions},
        }

    def _policy_json(self, policy: Policy) -> Json:
        """The policy as JSON, made once: its digest says all that is in it."""
        known = self._policies.get(policy.digest)
        if known is None:
            if len(self._policies) >= _KNOWN_POLICIES:
                self._policies.clear()
            known = self._policies[policy.digest] = policy.to_json()
        return known


def seal_context(dataset: str, context: NodeContext, purpose: Purpose) -> Json:
    """What a sealed dataset key is bound to: broker and node build it each for themselves."""
    return {"dataset": dataset, "job": context.job, "run": context.run, "purpose": purpose.value}
