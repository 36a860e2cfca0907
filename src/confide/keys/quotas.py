"""Counts what tenants have, in the transaction that makes it, and refuses what is more than they may.  Only for tenants with a quota.

When the operator sets a quota, what there is already is counted once; from then on each step counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar, Final, Self

from confide.canonical import Json
from confide.errors import QuotaError
from confide.ids import KeyRef
from confide.keys.grants import Grant
from confide.keys.key_records import Key
from confide.keys.limits import Limits
from confide.keys.records import Dataset, version_ref
from confide.keys.store import Store
from confide.keys.tenants import Tenants

_RELEASES: Final = "releases-a-day"


@dataclass(frozen=True, slots=True)
class Usage:
    """How much a tenant has of each thing that has a quota, and how many releases there were on one day (UTC)."""

    kind: ClassVar[str] = "usage"
    tenant: str
    counts: Mapping[str, int] = field(default_factory=dict)
    day: str = ""
    releases: int = 0

    @property
    def id(self) -> str:
        """The tenant's name."""
        return self.tenant

    @property
    def ref(self) -> str:
        """The tenant's name."""
        return self.tenant

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"tenant": self.tenant, "counts": dict(self.counts), "day": self.day, "releases": self.releases}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["tenant"], dict(data["counts"]), data["day"], data["releases"])


class Quotas:
    """The counters of one store.  Its methods are called inside the transaction whose step they count."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def charge(self, tenant: str, what: str, number: int = 1, *, before: Callable[[], int] = lambda: 0) -> None:
        """``tenant`` is about to have so many more (or fewer) of that; ``before`` says how many there are if nobody has counted yet.

        Raises:
            QuotaError: that is more than it may have.
        """
        limits = self._store.get(Limits, tenant)
        if limits is None or what not in limits.quotas:
            return
        usage = self._store.get(Usage, tenant) or Usage(tenant)
        after = (usage.counts[what] if what in usage.counts else before()) + number
        if number > 0 and after > limits.quotas[what]:
            raise QuotaError(f"this tenant has as many {what} as it may", quota=what, limit=limits.quotas[what])
        self._store.put(replace(usage, counts={**usage.counts, what: max(after, 0)}))

    def release(self, tenants: Iterable[str]) -> None:
        """A key or resource of these tenants is about to be given out.

        Raises:
            QuotaError: that is more in one day (UTC) than one of them may.
        """
        for tenant in tenants:
            limits = self._store.get(Limits, tenant)
            most = None if limits is None else limits.quotas.get(_RELEASES)
            if most is not None:
                now = self._clock()
                usage, today = self._store.get(Usage, tenant) or Usage(tenant), now.date().isoformat()
                releases = 1 + (usage.releases if usage.day == today else 0)
                if releases > most:
                    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), now.tzinfo)
                    wait = (midnight - now).total_seconds()
                    raise QuotaError("this tenant had as many releases today as it may", quota=_RELEASES, limit=most, retry_after_s=wait)
                self._store.put(replace(usage, day=today, releases=releases))

    def recount(self, tenant: str) -> None:
        """Count what a tenant's owners have, by asking the store for each.  Within the step that sets a quota.

        Resources are counted by the first command about one (``keys.kbs.admin``), which knows them.
        """
        found: Counter[str] = Counter()
        for owner in Tenants(self._store).members(tenant):
            found["owners"] += 1
            for key in self._store.find(Key, owner.name):
                found["keys"] += 1
                found["grants"] += self._store.count(Grant, key.id)
                versions = range(1, len(key.versions) + 1)
                found["datasets"] += sum(self._store.count(Dataset, version_ref(KeyRef(key.owner, key.name, one))) for one in versions)
        before = self._store.get(Usage, tenant) or Usage(tenant)
        self._store.put(replace(before, counts=dict(found)))

    def usage(self, tenant: str) -> Json:
        """What was counted: only of what has a quota is it kept up."""
        limits, found = self._store.get(Limits, tenant), self._store.get(Usage, tenant)
        if limits is None or found is None:
            return {}
        counts = {name: found.counts.get(name, 0) for name in limits.quotas if name not in {_RELEASES, "sessions"}}
        today = found.releases if found.day == self._clock().date().isoformat() else 0
        return {**counts, _RELEASES: today} if _RELEASES in limits.quotas else counts
