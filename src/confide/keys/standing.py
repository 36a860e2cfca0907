"""How grants stand in the store: approvals counted anew, runs that used them, signatures of jobs.  Callers hold the store's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from confide.canonical import Json
from confide.errors import GrantError
from confide.ids import JobDigest, Role, RunId, SpkiDigest
from confide.keys.approvals import ApprovalRule, GrantRun, Subject, Verdict, Vote, approved_by, verdicts
from confide.keys.departures import Departure
from confide.keys.grants import Decision, Grant, Standing, recipients
from confide.keys.job_signatures import JobSignature
from confide.keys.sessions import Attested
from confide.keys.store import Store

ENDED_KEPT: Final = timedelta(days=30)
"""How long approvals and counted runs of a grant outlive it: owners look back, and a clock may go wrong without more runs being granted."""
_MAX_COUNTED: Final = 1024
"""Grants whose approvals are remembered."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """What was counted, and from which records.  The store makes another record when its row is another one, and none is ever changed."""

    rule: ApprovalRule
    subject: Subject
    votes: Sequence[Vote]
    approved_by: tuple[str, ...]

    def is_of(self, rule: ApprovalRule, subject: Subject, votes: Sequence[Vote]) -> bool:
        """Whether counting these records anew would verify the same signatures over the same words."""
        same = rule is self.rule and subject is self.subject and len(votes) == len(self.votes)
        return same and all(vote is known for vote, known in zip(votes, self.votes, strict=True))


class Standings:
    """Reads and keeps what decides over grants besides their words."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counted: dict[str, _Counted] = {}

    def rule(self, key: str) -> ApprovalRule:
        """The rule of a key; one that asks for nobody if none was set."""
        return self._store.get(ApprovalRule, key) or ApprovalRule(key, 0, ())

    def of(self, grants: Iterable[Grant], job: JobDigest, run: RunId | None = None) -> Mapping[str, Standing]:
        """The standing of each grant, by its id, as one run of a job asks (or nobody, where runs do not matter)."""
        return {grant.id: self._of(grant, job, run) for grant in grants}

    def approved_by(self, rule: ApprovalRule, subject: Subject) -> tuple[str, ...]:
        """Who of the rule's approvers has approved exactly this subject."""
        votes = self._store.find(Vote, subject.id)
        known = self._counted.get(subject.id)
        if known is not None and known.is_of(rule, subject, votes):
            return known.approved_by
        found = approved_by(rule, subject, votes, self._store.signing_key.spki_digest)
        if found and len(found) >= rule.threshold:  # what was missing is looked for again
            if len(self._counted) >= _MAX_COUNTED:
                self._counted.clear()
            self._counted[subject.id] = _Counted(rule, subject, votes, found)
        return found

    def verdicts(self, rule: ApprovalRule, subject: Subject) -> dict[str, Verdict]:
        """What each of the rule's approvers has said of exactly this subject."""
        return verdicts(rule, subject, self._store.find(Vote, subject.id), self._store.signing_key.spki_digest)

    def shown(self, subject: Subject) -> Json:
        """How what is voted on stands: public to those who see it."""
        rule = self.rule(subject.key)
        said = self.verdicts(rule, subject)
        approved = sorted(name for name, verdict in said.items() if verdict == "approve")
        return {
            "digest": subject.digest,
            "needed": rule.threshold,
            "approved": approved,
            "rejected": sorted(set(said) - set(approved)),
            "approvers": rule.names,
            "runs": self.runs(subject) if isinstance(subject, Grant) else 0,
        }

    def runs(self, grant: Grant) -> int:
        """How many runs were given a key under a grant, if it counts them.  As much work for a million as for one."""
        return self._store.count(GrantRun, grant.id) if grant.max_runs is not None else 0

    def signers(self, job: JobDigest) -> frozenset[SpkiDigest]:
        """Whose signatures of that job have been seen; each is verified when it is read."""
        return frozenset(signature.signer_digest for signature in self._store.find(JobSignature, job))

    def recipients(self, key: str, job: JobDigest, now: datetime) -> set[str]:
        """Who may open outputs that ``job`` derived from data under ``key``."""
        grants = self._store.find(Grant, key)
        return recipients(grants, key, job, now, standings=self.of(grants, job), signers=self.signers(job))

    def note_used(self, decisions: Sequence[Decision], node: Attested, signatures: Iterable[JobSignature]) -> None:
        """Take note that ``node`` is given a key under these decisions, in the step that gives it.

        Its run is counted under the grants that count runs, and ``signatures`` that grants of these keys name are kept: who may open the
        outputs of the job depends on them.

        Raises:
            GrantError: another driver has asked for this run: a run's name used twice does not make two runs one.
        """
        for decision in decisions:
            if decision.grant.max_runs is not None:
                self._count(decision.grant, node)
        shown = list(signatures)
        if not shown:
            return
        named = {grant.signer for decision in decisions for grant in self._store.find(Grant, decision.grant.key)}
        for signature in shown:
            if signature.signer_digest in named and self._store.get(JobSignature, signature.id) is None:
                self._store.put(signature)

    def _count(self, grant: Grant, node: Attested) -> None:
        new = GrantRun(grant.id, node.context.job, node.context.run)
        found = self._store.get(GrantRun, new.id) or new
        if node.role is Role.DRIVER:
            driver = node.binding.spki_digest
            if found.driver not in {None, driver}:
                raise GrantError("another driver has used this grant under the same run", hint="start a new run", run=found.run)
            found = found.with_driver(driver)
        self._store.put(found, expires=_kept_until(grant))

    def vote(self, subject: Subject, approver: str, envelope: Json, now: datetime) -> None:
        """Keep the word of an approver, which was verified.  The last one of each counts."""
        self._store.put(Vote(subject.id, approver, envelope, now), expires=_kept_until(subject))

    def end(self, grant: Grant) -> None:
        """Keep a grant that has just ended; its approvals and counted runs not much longer than it."""
        self._store.put(grant)
        hanging: list[Vote | GrantRun] = [*self._store.find(Vote, grant.id), *self._store.find(GrantRun, grant.id)]
        for record in hanging:
            self._store.put(record, expires=_kept_until(grant))

    def _of(self, grant: Grant, job: JobDigest, run: RunId | None) -> Standing:
        rule = self.rule(grant.key)
        approvers = self.approved_by(rule, grant) if rule.threshold else ()
        asked = None if run is None or grant.max_runs is None else GrantRun(grant.id, job, run).id
        counted = asked is not None and self._store.get(GrantRun, asked) is not None
        return Standing(rule.threshold, approvers, self.runs(grant), counted)


def _kept_until(subject: Subject) -> datetime | None:
    """When what hangs on a grant may go; never, while it has no end (or is a new rule, which is dropped with its votes)."""
    if isinstance(subject, Departure):
        return subject.expires
    ends = [end for end in (subject.not_after, subject.revoked) if end is not None] if isinstance(subject, Grant) else []
    return min(ends) + ENDED_KEPT if ends else None
