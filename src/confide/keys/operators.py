"""What the broker's operator does: enrols people, makes tenants, removes people.  No command here reads or uses a key.

The same steps serve an enrolled operator over the network (:class:`OperatorCommands`) and whoever runs commands on the broker's machine
(:class:`Operation`), who is nobody at the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from confide.canonical import Json, canonical
from confide.errors import CredentialError, ParseError, UsageError
from confide.keys.approvals import ApprovalRule, Approver, Approvership, RuleChange, Vote
from confide.keys.audit import new_event
from confide.keys.callers import Callers
from confide.keys.departures import Departure
from confide.keys.grants import Grant
from confide.keys.key_records import Key
from confide.keys.limits import Limits, RateLimits
from confide.keys.owners import Owners
from confide.keys.quotas import Quotas
from confide.keys.records import Owner
from confide.keys.roles import Office
from confide.keys.sessions import Peer
from confide.keys.standing import Standings
from confide.keys.store import Store
from confide.keys.tenant_records import DEFAULT_TENANT, EVERY_TENANT, Tenant, check_tenant
from confide.keys.tenants import Tenants, describe, settle
from confide.keys.token_records import TokenLink
from confide.keys.withdrawals import withdrawn

_MACHINE: Final = "the broker's machine"


class Operation:
    """The steps, each one transaction with its entry in the audit log.  Who may take them is the caller's affair."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._tenants = Tenants(store)
        self._quotas = Quotas(store, clock)
        self._standings = Standings(store)

    def enrolment(self, owner: str, tenant: str, role: str, *, by: str = _MACHINE) -> Json:
        """A token with which somebody becomes ``owner``, once, and the broker's key.  Raises as ``Owners.create_enrolment``."""
        office = office_of(role)
        tenant = EVERY_TENANT if office is Office.OPERATOR and tenant == DEFAULT_TENANT else tenant
        token = Owners(self._store, self._clock).create_enrolment(owner, tenant=tenant, office=office, by=by)
        return {"token": token, "spki": self._store.signing_key.spki_digest}

    def cancel_enrolment(self, owner: str, *, by: str = _MACHINE) -> Json:
        """Let nobody become ``owner`` by a token that was made and not redeemed.  Raises as ``Owners.cancel_enrolments``."""
        return {"owner": owner, "cancelled": Owners(self._store, self._clock).cancel_enrolments(owner, by=by)}

    def add_tenant(self, name: str, *, by: str = _MACHINE) -> Json:
        """Make a tenant.

        Raises:
            UsageError: not a name for one, there is one, or somebody of no such tenant has a repository within its names.
        """
        check_tenant(name)
        settle(self._store, self._clock)
        with self._store.transaction():
            if self._tenants.exists(name):
                raise UsageError(f"there is a tenant {name}", hint="`confide broker tenants ls` shows them")
            if self._tenants.has_repository(name):
                hint = "choose another name: guests of the tenant would be given what is another's"
                raise UsageError(f"there are repositories within the names of a tenant {name} already", hint=hint)
            now = self._clock()
            self._store.put(Tenant(name, now))
            self._store.append_audit(new_event("tenant", [], now, tenant=name, by=by))
        return {"tenant": name}

    def tenants(self) -> Json:
        """Every tenant with its people and limits, and how much of what is limited it has.  Of what they own, nothing more."""
        settle(self._store, self._clock)
        names = [*(one.name for one in self._tenants.all()), EVERY_TENANT]
        return {"tenants": [self._described(name) for name in names]}

    def _described(self, name: str) -> Json:
        limits = self._store.get(Limits, name) or Limits(name)
        people = [*map(describe, self._tenants.members(name))]
        return {"tenant": name, "people": people, "limits": limits.to_json(), "used": self._quotas.usage(name)}

    def set_limits(self, name: str, said: Json, *, by: str = _MACHINE) -> Json:
        """Set all limits of a tenant, or for ``"*"`` the rate of each client; what is not named is not limited any more.

        What the tenant has already stays, also if it is more.  Brokers that serve notice rates within a second, and quotas at once.

        Raises:
            UsageError: there is no such tenant, or these are no limits.
        """
        made = Limits.read(name, said)
        settle(self._store, self._clock)
        with self._store.transaction():
            if name != EVERY_TENANT and not self._tenants.exists(name):
                raise UsageError(f"there is no tenant {name[:64]!r}", hint="`confide broker tenants ls` shows them")
            self._store.put(made)
            if made.quotas:
                self._quotas.recount(name)
            now = self._clock()
            facts = {one: str(value) for one, value in said.items()}
            self._store.append_audit(new_event("limits", [], now, tenant=name, by=by, limits=canonical(facts).decode()))
        return made.to_json()

    def withdraw(self, name: str, *, by: str = _MACHINE, strand_rules: bool = False) -> Json:
        """Let a credential do nothing any more, and nothing go on that rests on it: grants end, approvals go, rules for guests end.

        Keys and datasets stay, and so does the name, which nobody gets again.  Nodes that hold a key by such a grant are told.  What tokens
        called this person is nobody any more.  ``strand_rules``: although too few approvers of a key would be left to meet its rule.

        Raises:
            UsageError: there is nobody of that name, the credential was withdrawn before, or a rule could be met by nobody any more.
        """
        settle(self._store, self._clock)
        with self._store.transaction():
            found, now = self._store.get(Owner, name), self._clock()
            if found is None or found.withdrawn is not None:
                raise UsageError(f"nobody of the name {name[:64]!r} is enrolled", hint="`confide broker tenants ls` shows who is")
            stranded = self._stranded(name)
            if stranded and not strand_rules:
                raise _too_few_left(stranded)
            self._store.put(replace(found, withdrawn=now))
            links = self._store.find(TokenLink, name)
            for link in links:
                self._store.delete(TokenLink, link.id)
            ended = [grant for key in self._store.find(Key, name) for grant in self._store.find(Grant, key.id) if grant.revoked is None]
            for grant in ended:
                self._standings.end(grant.revoke(now))
            for key in {one.key for one in self._store.find(Approvership, name)}:
                self._take_back(name, key)
            withdrawn(self._store)
            told = sorted({name, *(one for rule in stranded for one in (rule.ref, *rule.names))})
            counts = {"grants": len(ended), "tokens": len(links), "stranded": len(stranded)}
            self._store.append_audit(new_event("withdraw", told, now, owner=name, by=by, **counts))
        return {"owner": name, "grants": len(ended)}

    def _stranded(self, name: str) -> list[ApprovalRule]:
        """The rules that could be met, and could not any more without this approver; of keys whose owner is there and stays."""
        found = []
        for key in sorted({one.key for one in self._store.find(Approvership, name)}):
            rule = self._standings.rule(key)
            owner = self._store.get(Owner, rule.ref)
            if rule.ref == name or owner is None or owner.withdrawn is not None:
                continue
            there = [one.name for one in rule.approvers if self._is_there(one)]
            if name in there and len(there) - 1 < rule.threshold <= len(there):
                found.append(rule)
        return found

    def _is_there(self, approver: Approver) -> bool:
        owner = self._store.get(Owner, approver.name)
        return owner is not None and owner.withdrawn is None and owner.spki == approver.spki

    def _take_back(self, name: str, key: str) -> None:
        """Take back the votes of somebody who is an approver of that key: what rests on them waits again."""
        rule = self._store.get(ApprovalRule, key)
        if rule is not None and name in rule.names:
            subjects: list[Grant | RuleChange | Departure] = [*self._store.find(Grant, key), *self._store.find(RuleChange, key)]
            subjects += self._store.find(Departure, key)
            for subject in subjects:
                self._store.delete(Vote, f"{subject.id}/{name}")


class OperatorCommands(Callers):
    """The same for enrolled operators.  Each writes the audit log, refusals included."""

    def __init__(self, store: Store, clock: Callable[[], datetime], limits: RateLimits | None = None) -> None:
        super().__init__(store, clock, limits)
        self._operation = Operation(store, clock)

    def enrolment(self, peer: Peer, owner: str, tenant: str, role: str) -> Json:
        """As :meth:`Operation.enrolment`.

        Raises:
            CredentialError: the client is no operator.
        """
        with self._command("enrolment", peer, {"enrolled": owner[:64]}) as who:
            return self._operation.enrolment(owner, tenant, role, by=who.name)

    def cancel_enrolment(self, peer: Peer, owner: str) -> Json:
        """As :meth:`Operation.cancel_enrolment`.  Raises as :meth:`enrolment`."""
        with self._command("cancel-enrolment", peer, {"enrolled": owner[:64]}) as who:
            return self._operation.cancel_enrolment(owner, by=who.name)

    def add_tenant(self, peer: Peer, name: str) -> Json:
        """As :meth:`Operation.add_tenant`.  Raises as :meth:`enrolment`."""
        with self._command("tenant", peer, {"tenant": name[:64]}) as who:
            return self._operation.add_tenant(name, by=who.name)

    def set_limits(self, peer: Peer, name: str, said: Json) -> Json:
        """As :meth:`Operation.set_limits`.  Raises as :meth:`enrolment`."""
        with self._command("limits", peer, {"tenant": name[:64]}) as who:
            return self._operation.set_limits(name, said, by=who.name)

    def tenants(self, peer: Peer) -> Json:
        """As :meth:`Operation.tenants`.  Raises as :meth:`enrolment`."""
        with self._command("list-tenants", peer, {}):
            return self._operation.tenants()

    def withdraw(self, peer: Peer, name: str, *, strand_rules: bool = False) -> Json:
        """As :meth:`Operation.withdraw`.

        Raises:
            CredentialError: the client is no operator, or means itself: the last operator does not lock the door from the outside.
        """
        with self._command("withdraw", peer, {"withdrawn": name[:64]}) as who:
            if name == who.name:
                raise CredentialError("nobody withdraws the own credential", hint="another operator does, or `confide broker withdraw`")
            return self._operation.withdraw(name, by=who.name, strand_rules=strand_rules)


def _too_few_left(rules: Sequence[ApprovalRule]) -> UsageError:
    """Names owners, whom the operator knows, and not their keys, which are none of the operator's business."""
    owners = ", ".join(sorted({rule.ref for rule in rules}))
    hint = "let the keys' owners name other approvers first (`confide keys approvers`); or strand these rules, with --strand-rules"
    return UsageError("too few approvers would be left for keys that need them", hint=hint, owners=owners, rules=len(rules))


def office_of(role: str) -> Office:
    """The office of that name.

    Raises:
        ParseError: there is none.
    """
    if role not in set(Office):
        raise ParseError("a role is owner, auditor or operator", got=role[:40])
    return Office(role)
