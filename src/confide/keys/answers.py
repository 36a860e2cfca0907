"""What a node is given once a release is decided: the key, sealed to it, until when it may use it, and on whose word.

Decides nothing, and keeps nothing but the JSON form of policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from confide.attest.policy import Policy
from confide.canonical import Json
from confide.crypto.seal import seal
from confide.crypto.secret import SecretBytes
from confide.ids import Purpose
from confide.keys.asker import Asker
from confide.keys.grants import Decision
from confide.keys.records import Dataset
from confide.keys.seal_contexts import joint_seal_context, seal_context

_KNOWN_POLICIES: Final = 256
"""Policies whose JSON form is remembered."""


@dataclass(frozen=True, slots=True)
class Given:
    """A dataset's key that a node may have by these decisions, in the clear."""

    dataset: Dataset
    secret: SecretBytes
    decisions: Sequence[Decision]


class Answers:
    """The answers of one broker to nodes that may have a key.  ``lease``: how long one may be used before its node must ask again."""

    def __init__(self, lease: timedelta) -> None:
        self.lease = lease
        self._policies: dict[str, Json] = {}

    def sealed(self, given: Given, asker: Asker, purpose: Purpose) -> Json:
        """A key that ``asker`` alone can open, for the purpose that its decisions allow."""
        context = seal_context(given.dataset.dataset, asker.context, purpose)
        jwe = seal(given.secret, asker.context.seal, context=context)
        return {"jwe": jwe, **self._told(given, asker), "policies": self._policies_of(given)}

    def sealed_together(self, given: Sequence[Given], asker: Asker, purpose: Purpose) -> Json:
        """As :meth:`sealed`, for several keys: one JWE holds them all, in the order in which the answer tells of them."""
        told = [self._told(one, asker) for one in given]
        policies: Json = {}
        for one in given:
            policies |= self._policies_of(one)
        joined = SecretBytes(b"".join(one.secret.reveal() for one in given))
        try:
            jwe = seal(joined, asker.context.seal, context=joint_seal_context(told, asker.context, purpose))
        finally:
            joined.wipe()
        return {"jwe": jwe, "releases": told, "policies": policies}

    def _told(self, given: Given, asker: Asker) -> Json:
        ends = [asker.now + self.lease, *(d.grant.not_after for d in given.decisions if d.grant.not_after is not None)]
        return {
            "key": given.dataset.wrapped.key,
            "version": given.dataset.wrapped.version,
            "dataset": given.dataset.dataset,
            "expires": min(ends).isoformat(),
            "grants": {d.grant.key: d.ref.to_json() for d in given.decisions},
        }

    def _policies_of(self, given: Given) -> Json:
        return {d.result.policy_digest: self._policy_json(d.grant.policy) for d in given.decisions}

    def _policy_json(self, policy: Policy) -> Json:
        """The policy as JSON, made once: its digest says all that is in it."""
        known = self._policies.get(policy.digest)
        if known is None:
            if len(self._policies) >= _KNOWN_POLICIES:
                self._policies.clear()
            known = self._policies[policy.digest] = policy.to_json()
        return known
