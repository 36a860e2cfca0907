"""The broker's decisions over grants: owners make and end them, approvers approve, reject and end them, and rules say who approves.

Who asks is known as ``keys.callers`` says.  A grant is seen by the key's owner and by the key's approvers, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from confide.attest.policy import Policy
from confide.canonical import Json
from confide.errors import CredentialError, Fact, ParseError, UsageError
from confide.ids import JobDigest, KeyRef, Purpose, Role, SpkiDigest
from confide.keys.approvals import (
    VERDICTS,
    ApprovalRule,
    Approver,
    Approvership,
    RuleChange,
    Vote,
    read_approvers,
    verify_vote,
)
from confide.keys.callers import Callers
from confide.keys.departures import Departure
from confide.keys.grants import Grant
from confide.keys.key_records import Key
from confide.keys.limits import RateLimits
from confide.keys.records import Owner
from confide.keys.runs import CLEARED
from confide.keys.sessions import Peer
from confide.keys.standing import Standings
from confide.keys.store import Store
from confide.keys.withdrawals import withdrawn

_OPTIONAL: Final = frozenset({"signer", "not_before", "max_runs"})
_GRANT_FIELDS: Final = frozenset({"key", "job", "policy", "roles", "purposes", "recipients", "not_after"})


class GrantCommands(Callers):
    """Commands about grants and their approval over one store.  Each writes the audit log, refusals included."""

    def __init__(self, store: Store, clock: Callable[[], datetime], limits: RateLimits | None = None) -> None:
        super().__init__(store, clock, limits)
        self._standings = Standings(store)

    # --- owners ------------------------------------------------------------------------------------------------------

    def grant(self, peer: Peer, request: Json) -> Json:
        """Grant an own key to a job, or to every job of a signer.  It waits for approvals if the key's rule asks for some.

        Raises:
            CredentialError: the key is not the client's.
            UsageError, ParseError, PolicyError: the grant is not one, asks nothing, or names somebody who is not enrolled.
        """
        with self._command("grant", peer, {"key": str(request.get("key"))[:130]}) as owner, self._store.transaction():
            made = self._read_grant(owner, request)
            self._store.sweep(self._clock(), limit=CLEARED)
            self._quotas.charge(owner.tenant, "grants")
            self._store.put(made)
            concerned = self._standings.rule(made.key).names
            facts = {"grant": made.id, "key": made.key, "job": made.job, "signer": made.signer, "policy": made.policy.digest}
            self._note("grant", owner, concerned=concerned, terms=made.digest, **facts)
            return self._told(made)

    def _read_grant(self, owner: Owner, request: Json) -> Grant:
        if not set(request) >= _GRANT_FIELDS or not set(request) <= _GRANT_FIELDS | _OPTIONAL:
            raise ParseError("not a grant: a field is missing or unknown")
        if not all(isinstance(request[name], list) for name in ("roles", "purposes", "recipients")):
            raise ParseError("a grant's roles, purposes and recipients are lists")
        job, signer, runs = request["job"], request.get("signer"), request.get("max_runs")
        if not isinstance(runs, int | None) or isinstance(runs, bool):
            raise ParseError("a grant's number of runs is not one")
        try:
            return Grant.new(
                self._own_key(owner, str(request["key"])).id,
                job=None if job is None else JobDigest(str(job)),
                signer=None if signer is None else SpkiDigest(str(signer)),
                policy=Policy.from_json(request["policy"]),
                roles=[Role(role) for role in request["roles"]],
                purposes=[Purpose(purpose) for purpose in request["purposes"]],
                recipients=[self._tenants.find(owner, name, "recipient").name for name in request["recipients"]],
                not_before=_time(request.get("not_before")),
                not_after=_time(request["not_after"]),
                max_runs=runs,
                now=self._clock(),
            )
        except (ValueError, TypeError) as cause:
            raise ParseError("a grant has a wrong role, purpose, recipient or time") from cause

    def grants(self, peer: Peer) -> Json:
        """The grants of the client's own keys, and of those that it is an approver of, revoked ones included; with how they stand.

        An auditor is shown those of everybody whom the auditor sees.

        ``changes`` are new rules that wait for approval, ``departures`` keys that wait to leave.
        """
        with self._command("list-grants", peer, {}) as who:
            keys = self._shown_to(who)
            grants = [grant for key in keys for grant in self._store.find(Grant, key)]
            changes = [change for key in keys for change in self._store.find(RuleChange, key)]
            departures = [one for key in keys for one in self._store.find(Departure, key) if self._clock() < one.expires]
            rules = [rule.to_json() for rule in map(self._standings.rule, keys) if rule.threshold]
            return {
                "grants": [grant.to_json() for grant in grants],
                "standings": {grant.id: self._standings.shown(grant) for grant in grants},
                "rules": rules,
                "changes": [{**change.to_json(), "standing": self._standings.shown(change)} for change in changes],
                "departures": [{**one.to_json(), "standing": self._standings.shown(one)} for one in departures],
            }

    def revoke(self, peer: Peer, grant: str) -> Json:
        """End a grant now: no further release, and outputs that derive from it cannot be opened any more.

        Nodes that hold a key by it are told within seconds.  The key's owner may, and each of its approvers alone: to stop something takes
        one, to start it takes as many as the rule says.

        Raises:
            CredentialError: the client has no such grant.
        """
        with self._command("revoke", peer, {"grant": grant[:64]}) as who, self._store.transaction():
            found = self._store.get(Grant, grant)
            if found is None or found.key not in self._seen_by(who):
                raise CredentialError("this credential has no such grant")
            revoked = found.revoke(self._clock())
            self._standings.end(revoked)
            withdrawn(self._store)
            facts = {"grant": revoked.id, "key": revoked.key, "job": revoked.job, "signer": revoked.signer}
            self._note("revoke", who, concerned=self._concerned(found.key), **facts)
            return self._told(revoked)

    # --- rules -------------------------------------------------------------------------------------------------------

    def set_approvers(self, peer: Peer, name: str, threshold: int, approvers: Sequence[object]) -> Json:
        """Say who approves grants of an own key.  In force at once if the key has no rule; else when the rule in force has approved it.

        Grants that there are need the approvals as well from then on.

        Raises:
            CredentialError: the key is not the client's.
            UsageError, ParseError: it is no rule, or names somebody who is not enrolled.
        """
        with self._command("approvers", peer, {"key": name[:130]}) as owner, self._store.transaction():
            key = self._own_key(owner, name).id
            now = self._standings.rule(key)
            people = [self._tenants.find(owner, name, "approver") for name in read_approvers(approvers)]
            rule = ApprovalRule(key, threshold, tuple(Approver(one.name, one.spki) for one in people), before=now.digest)
            if now.threshold == 0:
                self._put_in_force(owner, rule)
                return {"rule": rule.to_json(), "changes": []}
            change = RuleChange.new(rule, self._clock())
            for older in self._store.find(RuleChange, key):
                self._drop(older)
            self._store.put(change)
            concerned = [*now.names, *rule.names]
            self._note("approvers-proposed", owner, concerned=concerned, change=change.id, key=key, terms=change.digest)
            return {"rule": now.to_json(), "changes": [{**change.to_json(), "standing": self._standings.shown(change)}]}

    def _put_in_force(self, who: Owner, rule: ApprovalRule) -> None:
        before = self._standings.rule(rule.key)
        for name in before.names:
            self._store.delete(Approvership, Approvership(name, rule.key).id)
        for name in rule.names:
            self._store.put(Approvership(name, rule.key))
        self._store.put(rule)
        withdrawn(self._store)
        concerned = [*self._concerned(rule.key), *before.names]
        facts: dict[str, Fact] = {"key": rule.key, "approvers": ", ".join(rule.names), "rule": rule.digest, "threshold": rule.threshold}
        self._note("approvers", who, concerned=concerned, **facts)

    def _drop(self, change: RuleChange) -> None:
        for vote in self._store.find(Vote, change.id):
            self._store.delete(Vote, vote.id)
        self._store.delete(RuleChange, change.id)

    # --- approvers ---------------------------------------------------------------------------------------------------

    def vote(self, peer: Peer, subject: str, verdict: str, envelope: Json) -> Json:
        """Take an approver's signed word on a grant, a new rule, or a key that is to leave.  The last one of each approver counts.

        Raises:
            CredentialError: the client is no approver of that key, there is no such grant, or the word is not signed by it and over exactly
                what there is now.
            ParseError: it is neither approval nor rejection.
        """
        if verdict not in VERDICTS:
            raise ParseError("a vote approves or rejects")
        with self._command(verdict, peer, {"subject": subject[:64]}) as who, self._store.transaction():
            found, rule = self._votable(who, subject)
            approver = rule.approver(who.spki)
            said = verify_vote(envelope, approver, found, self._store.signing_key.spki_digest)
            if said != verdict:
                raise CredentialError("what was signed is not what was asked for", expected=verdict, got=said)
            if isinstance(found, Grant) and found.revoked is not None:
                raise UsageError("the grant was revoked: there is nothing to approve any more")
            self._standings.vote(found, approver.name, envelope, self._clock())
            if verdict == "reject":  # it takes an approval's place
                withdrawn(self._store)
            facts = {"subject": found.id, "kind": found.kind, "key": found.key, "terms": found.digest}
            self._note(verdict, who, concerned=self._concerned(found.key), **facts)
            return self._after_vote(who, found, rule)

    def _after_vote(self, who: Owner, found: Grant | RuleChange | Departure, rule: ApprovalRule) -> Json:
        told = self._told(found)
        if not isinstance(found, RuleChange) or found.rule.before != rule.digest:
            return told
        if len(self._standings.approved_by(rule, found)) >= rule.threshold:
            self._check_nobody_withdrawn(found.rule)
            self._drop(found)
            self._put_in_force(who, found.rule)
        return told

    def _told(self, found: Grant | RuleChange | Departure) -> Json:
        """What was voted on, and how it stands now: under its kind's name, a new rule as a ``change``."""
        name = "change" if isinstance(found, RuleChange) else found.kind
        return {name: found.to_json(), "standing": self._standings.shown(found)}

    def _check_nobody_withdrawn(self, rule: ApprovalRule) -> None:
        """Return if all of a new rule's approvers are there: approvals that one gave under an earlier rule would count again.

        Raises:
            UsageError: one was withdrawn after the rule was proposed.
        """
        for name in rule.names:
            found = self._store.get(Owner, name)
            if found is None or found.withdrawn is not None:
                hint = "the key's owner proposes a rule without this approver"
                raise UsageError(f"the approver {name} was withdrawn at this broker: the rule cannot come into force", hint=hint)

    def take_back(self, peer: Peer, subject: str) -> Json:
        """Take back the client's own word on a grant, rule or leaving: it waits again, if too few are left.

        Raises:
            CredentialError: the client has said nothing of it.
        """
        with self._command("take-back", peer, {"subject": subject[:64]}) as who, self._store.transaction():
            found, rule = self._votable(who, subject)
            name = rule.approver(who.spki).name
            if not self._store.delete(Vote, f"{found.id}/{name}"):
                raise CredentialError("this credential has neither approved nor rejected it")
            withdrawn(self._store)
            self._note("take-back", who, concerned=self._concerned(found.key), subject=found.id, kind=found.kind, key=found.key)
            return self._told(found)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _votable(self, who: Owner, subject: str) -> tuple[Grant | RuleChange | Departure, ApprovalRule]:
        """What is voted on, for an approver of its key; the answer about another's is the same whether there is such a thing or not."""
        found = self._store.get(Grant, subject) or self._store.get(RuleChange, subject) or self._store.get(Departure, subject)
        rule = self._standings.rule(found.key) if found is not None else None
        if found is None or rule is None or all(approver.spki != who.spki for approver in rule.approvers):
            raise CredentialError("this credential has no such grant to approve", hint="`confide keys grants` shows them")
        return found, rule

    def _seen_by(self, who: Owner) -> list[str]:
        """The keys that the client owns or is an approver of."""
        own = [key.id for key in self._store.find(Key, who.name)]
        led_to = [a.key for a in self._store.find(Approvership, who.name)]
        return own + [key for key in led_to if key not in own and any(a.spki == who.spki for a in self._standings.rule(key).approvers)]

    def _shown_to(self, who: Owner) -> list[str]:
        """The keys whose grants the client may read of: for an auditor, also what it has no part in."""
        others = [key.id for name in self._tenants.sees(who) if name != who.name for key in self._store.find(Key, name)]
        return self._seen_by(who) + others

    def _concerned(self, key: str) -> list[str]:
        return [KeyRef.parse(key).owner, *self._standings.rule(key).names]


def _time(value: object) -> datetime | None:
    return None if value is None else datetime.fromisoformat(str(value))
