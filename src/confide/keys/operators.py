"""What the broker's operator does: enrols people, makes tenants, removes people.  No command here reads or uses a key.

The same steps serve an enrolled operator over the network (:class:`OperatorCommands`) and whoever runs commands on the broker's machine
(:class:`Operation`), who is nobody at the broker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from confide.canonical import Json
from confide.errors import CredentialError, ParseError, UsageError
from confide.keys.approvals import ApprovalRule, Approvership, Vote
from confide.keys.audit import new_event
from confide.keys.callers import Callers
from confide.keys.grants import Grant
from confide.keys.key_records import Key
from confide.keys.owners import Owners
from confide.keys.records import Owner
from confide.keys.roles import Office
from confide.keys.sessions import Peer
from confide.keys.store import Store
from confide.keys.tenant_records import DEFAULT_TENANT, EVERY_TENANT, Tenant, check_tenant
from confide.keys.tenants import Tenants, describe, settle
from confide.keys.withdrawals import withdrawn

_MACHINE: Final = "the broker's machine"


class Operation:
    """The steps, each one transaction with its entry in the audit log.  Who may take them is the caller's affair."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._tenants = Tenants(store)

    def enrolment(self, owner: str, tenant: str, role: str, *, by: str = _MACHINE) -> Json:
        """A token with which somebody becomes ``owner``, once, and the broker's key.  Raises as ``Owners.create_enrolment``."""
        office = office_of(role)
        tenant = EVERY_TENANT if office is Office.OPERATOR and tenant == DEFAULT_TENANT else tenant
        token = Owners(self._store, self._clock).create_enrolment(owner, tenant=tenant, office=office, by=by)
        return {"token": token, "spki": self._store.signing_key.spki_digest}

    def add_tenant(self, name: str, *, by: str = _MACHINE) -> Json:
        """Make a tenant.

        Raises:
            UsageError: not a name for one, or there is one.
        """
        check_tenant(name)
        settle(self._store, self._clock)
        with self._store.transaction():
            if self._tenants.exists(name):
                raise UsageError(f"there is a tenant {name}", hint="`confide broker tenants ls` shows them")
            now = self._clock()
            self._store.put(Tenant(name, now))
            self._store.append_audit(new_event("tenant", [], now, tenant=name, by=by))
        return {"tenant": name}

    def tenants(self) -> Json:
        """Every tenant with its people.  Of what they own, nothing."""
        settle(self._store, self._clock)
        names = [*(one.name for one in self._tenants.all()), EVERY_TENANT]
        return {"tenants": [{"tenant": name, "people": [*map(describe, self._tenants.members(name))]} for name in names]}

    def withdraw(self, name: str, *, by: str = _MACHINE) -> Json:
        """Let a credential do nothing any more, and nothing go on that rests on it: grants end, approvals go, rules for guests end.

        Keys and datasets stay, and so does the name, which nobody gets again.  Nodes that hold a key by such a grant are told.

        Raises:
            UsageError: there is nobody of that name, or the credential was withdrawn before.
        """
        settle(self._store, self._clock)
        with self._store.transaction():
            found, now = self._store.get(Owner, name), self._clock()
            if found is None or found.withdrawn is not None:
                raise UsageError(f"nobody of the name {name[:64]!r} is enrolled", hint="`confide broker tenants ls` shows who is")
            self._store.put(replace(found, withdrawn=now))
            ended = [grant for key in self._store.find(Key, name) for grant in self._store.find(Grant, key.id) if grant.revoked is None]
            for grant in ended:
                self._store.put(grant.revoke(now))
            for key in {one.key for one in self._store.find(Approvership, name)}:
                self._take_back(name, key)
            withdrawn(self._store)
            self._store.append_audit(new_event("withdraw", [name], now, owner=name, by=by, grants=len(ended)))
        return {"owner": name, "grants": len(ended)}

    def _take_back(self, name: str, key: str) -> None:
        """Take back the votes of somebody who is an approver of that key: what rests on them waits again."""
        rule = self._store.get(ApprovalRule, key)
        if rule is not None and name in rule.names:
            for grant in self._store.find(Grant, key):
                self._store.delete(Vote, f"{grant.id}/{name}")


class OperatorCommands(Callers):
    """The same for enrolled operators.  Each writes the audit log, refusals included."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        super().__init__(store, clock)
        self._operation = Operation(store, clock)

    def enrolment(self, peer: Peer, owner: str, tenant: str, role: str) -> Json:
        """As :meth:`Operation.enrolment`.

        Raises:
            CredentialError: the client is no operator.
        """
        with self._command("enrolment", peer, {"enrolled": owner[:64]}) as who:
            return self._operation.enrolment(owner, tenant, role, by=who.name)

    def add_tenant(self, peer: Peer, name: str) -> Json:
        """As :meth:`Operation.add_tenant`.  Raises as :meth:`enrolment`."""
        with self._command("tenant", peer, {"tenant": name[:64]}) as who:
            return self._operation.add_tenant(name, by=who.name)

    def tenants(self, peer: Peer) -> Json:
        """As :meth:`Operation.tenants`.  Raises as :meth:`enrolment`."""
        with self._command("list-tenants", peer, {}):
            return self._operation.tenants()

    def withdraw(self, peer: Peer, name: str) -> Json:
        """As :meth:`Operation.withdraw`.

        Raises:
            CredentialError: the client is no operator, or means itself: the last operator does not lock the door from the outside.
        """
        with self._command("withdraw", peer, {"withdrawn": name[:64]}) as who:
            if name == who.name:
                raise CredentialError("nobody withdraws the own credential", hint="another operator does, or `confide broker withdraw`")
            return self._operation.withdraw(name, by=who.name)


def office_of(role: str) -> Office:
    """The office of that name.

    Raises:
        ParseError: there is none.
    """
    if role not in set(Office):
        raise ParseError("a role is owner, auditor or operator", got=role[:40])
    return Office(role)
