"""Tenants: who belongs to whom, and how far somebody sees.  Every owner is of one tenant, for good.

Names of owners are one name space at a broker (decision 17), so that ``owner/name`` goes on to name a key in manifests and job files; the
tenant is what the *owner's record* says.  Whatever lists, shows or names somebody else's things asks here; what nobody asked about is not
seen.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime

from confide.canonical import Json
from confide.errors import CredentialError, UsageError
from confide.keys.audit import AuditEntry, new_event, view
from confide.keys.records import Owner
from confide.keys.roles import OPERATION, Office
from confide.keys.store import Store
from confide.keys.tenant_records import ALL_TENANTS, DEFAULT_TENANT, EVERY_TENANT, Membership, Repository, Tenant


class Tenants:
    """What one store knows of tenants.  Its methods are called inside the caller's transaction, where there is one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[Tenant]:
        """Every tenant."""
        return self._store.find(Tenant, ALL_TENANTS)

    def exists(self, name: str) -> bool:
        """Whether there is a tenant of that name."""
        return name == DEFAULT_TENANT or self._store.get(Tenant, name) is not None

    def members(self, tenant: str) -> list[Owner]:
        """Everybody of a tenant, those who were withdrawn too."""
        found = [self._store.get(Owner, member.name) for member in self._store.find(Membership, tenant)]
        return [owner for owner in found if owner is not None and owner.tenant == tenant]

    # --- how far somebody sees ---------------------------------------------------------------------------------------

    def sees(self, who: Owner) -> list[str]:
        """The names whose keys and grants ``who`` may be told of: the own one, or for an auditor those of the tenant, or of all."""
        match who.office:
            case Office.OWNER:
                return [who.name]
            case Office.AUDITOR:
                tenants = [one.name for one in self.all()] if who.tenant == EVERY_TENANT else [who.tenant]
                return sorted(owner.name for tenant in tenants for owner in self.members(tenant))
            case Office.OPERATOR:
                return []

    def view(self, entries: Sequence[AuditEntry], who: Owner) -> tuple[AuditEntry, ...]:
        """The audit log as ``who`` may see it: events that are its business, leaves of all others."""
        match who.office:
            case Office.AUDITOR if who.tenant == EVERY_TENANT:
                return view(entries, lambda _event: True)
            case Office.OPERATOR:
                return view(entries, lambda event: event["action"] in OPERATION or event.get("refused") in OPERATION)
        names = frozenset(self.sees(who)) | {who.name}
        return view(entries, lambda event: not names.isdisjoint(event.get("owners", ())))

    # --- naming others -----------------------------------------------------------------------------------------------

    def find(self, who: Owner, text: object, what: str) -> Owner:
        """The enrolled owner whom ``who`` names, as ``NAME`` within the own tenant, or anywhere as ``NAME@SHA256`` of the public key.

        Somebody who does not know the key learns nothing of another tenant's people: the answer is the same whether there is one or not.

        Raises:
            UsageError: there is no such owner.
        """
        name, at, digest = str(text).partition("@")
        found = self._store.get(Owner, name)
        if found is not None and found.office is Office.OWNER and found.withdrawn is None:
            own = found.tenant == who.tenant
            if hmac.compare_digest(digest.encode(), found.ref.encode()) if at else own:
                return found
        hint = f"{what}s enrol first, so that a name is one key; one of another tenant is named with it: NAME@SHA256"
        raise UsageError(f"the {what} {name[:64]} is not enrolled at this broker", hint=hint)

    def check_may_claim(self, owner: Owner, repository: str) -> None:
        """Return if ``owner`` may begin a repository of that name: ``TENANT`` or ``TENANT.NAME``; for the default tenant, one of no tenant.

        Raises:
            CredentialError: it is within another tenant's names, or outside of the own one's.
        """
        prefix = repository.partition(".")[0]
        mine = prefix == owner.tenant if owner.tenant != DEFAULT_TENANT else not self.exists(prefix) or prefix == DEFAULT_TENANT
        if not mine:
            raise CredentialError("this credential does not own that repository", repository=repository)

    def has_repository(self, tenant: str) -> bool:
        """Whether there is a repository that only ``tenant`` might begin.  Looks at the whole store."""
        return any(one.name.partition(".")[0] == tenant for _, part in self._store.walk(Repository) for one in part)


def settle(store: Store, clock: Callable[[], datetime]) -> None:
    """Write down the default tenant, and who is of it: once for each store, also one of an earlier version, whose owners name no tenant."""
    if store.get(Tenant, DEFAULT_TENANT) is not None:
        return
    with store.transaction():
        if store.get(Tenant, DEFAULT_TENANT) is not None:
            return
        now = clock()
        names = [owner.name for _, part in store.walk(Owner) for owner in part if owner.tenant == DEFAULT_TENANT]
        for name in names:
            store.put(Membership(DEFAULT_TENANT, name))
        store.put(Tenant(DEFAULT_TENANT, now))
        store.append_audit(new_event("tenants-settled", names, now, tenant=DEFAULT_TENANT))


def describe(owner: Owner) -> Json:
    """A person as operators see one."""
    withdrawn = None if owner.withdrawn is None else owner.withdrawn.isoformat()
    return {
        "name": owner.name,
        "role": owner.office.value,
        "tenant": owner.tenant,
        "spki": owner.ref,
        "enrolled": owner.enrolled.isoformat(),
        "withdrawn": withdrawn,
    }
