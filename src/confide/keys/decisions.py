"""Who asks, what of, and who says yes: the parts of a decision that releases and outputs' keys have in common.

No sockets; the store's transactions are the callers'.  A refusal is written to the audit log around each part that can refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

from confide.attest.verify import Verifier
from confide.canonical import Json
from confide.errors import Fact, GrantError, ManifestError
from confide.ids import Purpose
from confide.keys.asker import Asker
from confide.keys.audit import new_event
from confide.keys.grants import Decision, Grant, Request, decide
from confide.keys.job_signatures import verify_all
from confide.keys.limits import RateLimits
from confide.keys.manifest_claims import ManifestClaims, ShownManifest
from confide.keys.quotas import Quotas
from confide.keys.records import Dataset
from confide.keys.refusals import refusals_audited
from confide.keys.sessions import Peer, Sessions
from confide.keys.standing import Standings
from confide.keys.store import Store
from confide.keys.withdrawals import check_not_cut_off


class Decisions:
    """Decides for attested nodes, by what the store holds.  Safe to use from several threads."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], datetime],
        *,
        verifier: Verifier,
        sessions: Sessions,
        standings: Standings,
        limits: RateLimits,
    ) -> None:
        self._store = store
        self._clock = clock
        self._verifier = verifier
        self._sessions = sessions
        self._standings = standings
        self._limits = limits
        self._quotas = Quotas(store, clock)

    def count_given(self, tenants: Sequence[str], asker: Asker) -> None:
        """Count a key that is about to be given out; refuses what is more than the tenants may."""
        self._quotas.release(tenants)
        self._limits.hold(tenants, asker.attested.binding.exporter)

    def asker(self, peer: Peer, session: str, signatures: Sequence[object] = ()) -> Asker:
        """The attested node of a session, with its evidence verified as of now and its job's signatures.

        Raises:
            AttestationError: the session or its evidence does not hold (any more).
            GrantError: a signature is not of the node's job.
        """
        now = self._clock()
        with self.audited("session", [], {}):
            attested = self._sessions.attested(peer, session, now)
        with self.audited("evidence", [], {"node": attested.context.node, "run": attested.context.run}):
            verified = attested.verified(self._verifier, now)
        asker = Asker(attested, verified, now)
        if not signatures:
            return asker
        with self.audited("job-signature", [], asker.facts()):
            return replace(asker, signatures=verify_all(signatures, attested.context.job))

    def dataset_of(self, manifest: Json, owners: list[str], facts: dict[str, Fact]) -> tuple[Dataset, ManifestClaims]:
        """The dataset that a manifest is of, and its claims, verified.  Adds to ``owners`` and ``facts`` whose and which it is."""
        found, shown = self.known(manifest, owners, facts)
        return found.signed(shown)

    def known(self, manifest: Json, owners: list[str], facts: dict[str, Fact]) -> tuple[Dataset, ShownManifest]:
        """As :meth:`dataset_of`, with the manifest as it was shown: nothing of it is verified.

        Raises:
            ManifestError: it is not known here.
        """
        shown = ShownManifest(manifest)
        found = self._store.get(Dataset, shown.unverified_dataset())
        if found is None:
            raise ManifestError("the manifest is of a dataset that this broker does not know")
        owners += found.owners
        facts["dataset"] = found.dataset
        return found, shown

    def decide(self, roots: Sequence[str], purpose: Purpose, asker: Asker) -> list[Decision]:
        """As :meth:`judge`; the run is counted under grants that count runs.  Inside the transaction that gives the key."""
        decisions = self.judge(roots, purpose, asker)
        self._standings.note_used(decisions, asker.attested, asker.signatures)
        return decisions

    def judge(self, roots: Sequence[str], purpose: Purpose, asker: Asker) -> list[Decision]:
        """One yes from the owner of every root key.  None at all is a no, and so is a node that its driver has cut off."""
        if not roots:
            hint = "outputs inherit their policy from inputs: name at least one"
            raise GrantError("there is no input whose owner could grant this", hint=hint)
        attested, now, context = asker.attested, asker.now, asker.context
        check_not_cut_off(self._store, context)
        decisions = []
        for key in roots:
            request = Request(key, context.job, attested.role, purpose, context.run, asker.signers)
            grants = self._store.find(Grant, key)
            standings = self._standings.of(grants, context.job, context.run)
            decisions.append(decide(grants, request, lambda policy: attested.appraise(asker.verified, policy, now), now, standings))
        return decisions

    def audited(self, action: str, owners: Sequence[str], facts: Mapping[str, Fact]) -> AbstractContextManager[None]:
        """Refusals in the block are recorded as those of ``action`` (``keys.refusals``)."""
        return refusals_audited(self._store, self._clock, action, owners, facts)


def granted(action: str, owners: list[str], facts: Mapping[str, Fact], decisions: Sequence[Decision], now: datetime) -> Json:
    """The event of a key that is given."""
    grants = sorted(d.grant.id for d in decisions)
    policies = sorted({d.result.policy_digest for d in decisions})
    concerned = [*owners, *(name for d in decisions for name in d.approved_by)]
    return new_event(action, concerned, now, **facts, grants=grants, policies=policies)


def key_facts(dataset: Dataset) -> dict[str, Fact]:
    """What the audit log says of a dataset's key."""
    return {"dataset": dataset.dataset, "key": dataset.wrapped.key, "version": dataset.wrapped.version}
