"""How much a tenant or a client may ask for.  Rates are kept per process, quotas in the store.

A *rate* is a token bucket: so many requests a second on average, with a burst.  Rates protect one process from floods, so each broker of
several counts its own.  A *quota* is how much of something a tenant may have; it is counted in the store, inside the transaction that makes
it, so that brokers which share a store share quotas too, and nothing is counted that did not happen.  Nothing is limited until it is set.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from confide.canonical import Json
from confide.errors import QuotaError, RateLimitedError, UsageError
from confide.keys.records import Owner
from confide.keys.store import Store
from confide.keys.tenant_records import DEFAULT_TENANT, EVERY_TENANT

QUOTAS: Final = ("owners", "keys", "datasets", "grants", "resources", "resource-bytes", "sessions", "releases-a-day")
"""What can be limited for a tenant.  ``sessions`` are nodes' connections that hold keys of it, in this process."""
_MAX_RATE: Final = 1_000_000
_MAX_QUOTA: Final = 1 << 50
_LOOK_EVERY_S: Final = 1.0
"""How late a process may notice a new rate."""
_MAX_CLIENTS: Final = 20_000
_LEAST_WAIT_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one tenant; for the name ``"*"``, the rate of each single client.  What is not named is not limited."""

    kind: ClassVar[str] = "limits"
    tenant: str
    rate: float = 0.0
    burst: int = 0
    quotas: Mapping[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The tenant's name."""
        return self.tenant

    @property
    def ref(self) -> str:
        """The tenant's name."""
        return self.tenant

    @classmethod
    def read(cls, tenant: str, said: Json) -> Self:
        """What an operator says.

        Raises:
            UsageError: a limit that there is not, or one that is no number above zero (for a quota: or zero).
        """
        rate, burst = said.get("rate", 0), said.get("burst", 0)
        quotas = {name: value for name, value in said.items() if name not in {"rate", "burst"}}
        for name, value in quotas.items():
            if name not in QUOTAS or not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_QUOTA:
                raise UsageError("not a limit of a tenant", hint=f"limits are rate, burst, {', '.join(QUOTAS)}", limit=name[:40])
        numbers = isinstance(rate, int | float) and isinstance(burst, int) and not isinstance(rate, bool) and not isinstance(burst, bool)
        if not numbers or not 0 <= rate <= _MAX_RATE or not 0 <= burst <= _MAX_RATE or (burst and not rate):
            raise UsageError("a rate is requests a second, and a burst how many at once", hint="a burst needs a rate")
        if tenant == EVERY_TENANT and quotas:
            raise UsageError("quotas are of tenants; for each client, there is a rate")
        return cls(tenant, float(rate), burst or (max(1, round(rate)) if rate else 0), quotas)

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"tenant": self.tenant, "rate": self.rate, "burst": self.burst, "quotas": dict(self.quotas)}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["tenant"], data["rate"], data["burst"], dict(data["quotas"]))


@dataclass(slots=True)
class _Bucket:
    tokens: float
    seen: float

    def wait(self, limits: Limits, now: float) -> float:
        """Take a token, or say how long it is until there is one."""
        self.tokens = min(float(limits.burst), self.tokens + (now - self.seen) * limits.rate)
        self.seen = now
        if self.tokens < 1.0:
            return (1.0 - self.tokens) / limits.rate
        self.tokens -= 1.0
        return 0.0


class RateLimits:
    """The buckets of one process, and its sessions by tenant.  Safe to use from several threads.  No tenant's bucket is another's."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Limits | None, float]] = {}
        self._tenants: dict[str, str] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._clients: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._holding: dict[str, set[bytes]] = {}

    def client(self, name: bytes) -> None:
        """One request of a client, named by its key or address.

        Raises:
            RateLimitedError: it asks too often.
        """
        limits = self._limits(EVERY_TENANT)
        if limits is None or not limits.rate:
            return
        with self._lock:
            bucket = self._clients.pop(name, None) or _Bucket(float(limits.burst), self._clock())
            self._clients[name] = bucket
            if len(self._clients) > _MAX_CLIENTS:
                self._clients.popitem(last=False)
            wait = bucket.wait(limits, self._clock())
        if wait:
            raise _too_often("this client", wait)

    def tenants(self, names: Iterable[str]) -> None:
        """One request that is the business of these tenants.

        Raises:
            RateLimitedError: one of them asks too often.
        """
        for name in names:
            limits = self._limits(name)
            if limits is not None and limits.rate:
                with self._lock:
                    bucket = self._buckets.setdefault(name, _Bucket(float(limits.burst), self._clock()))
                    wait = bucket.wait(limits, self._clock())
                if wait:
                    raise _too_often("this tenant", wait)

    def hold(self, names: Iterable[str], session: bytes) -> None:
        """A node's connection is given a key of these tenants.

        Raises:
            QuotaError: one of them has as many such connections as it may.
        """
        for name in names:
            limits = self._limits(name)
            most = None if limits is None else limits.quotas.get("sessions")
            if most is not None:
                with self._lock:
                    holding = self._holding.setdefault(name, set())
                    if session not in holding and len(holding) >= most:
                        raise QuotaError("as many nodes hold keys of this tenant as may", quota="sessions", limit=most)
                    holding.add(session)

    def end(self, session: bytes) -> None:
        """A connection has ended."""
        with self._lock:
            for holding in self._holding.values():
                holding.discard(session)

    def of(self, owners: Iterable[str]) -> list[str]:
        """The tenants of owners, each once.  An owner's tenant is for good, so it is looked up once."""
        found = set()
        for name in owners:
            tenant = self._tenants.get(name)
            if tenant is None:
                owner = self._store.get(Owner, name)
                tenant = DEFAULT_TENANT if owner is None else owner.tenant
                if owner is not None:
                    self._tenants[name] = tenant
            found.add(tenant)
        return sorted(found)

    def _limits(self, tenant: str) -> Limits | None:
        now = self._clock()
        found = self._known.get(tenant)
        if found is None or now - found[1] >= _LOOK_EVERY_S:
            found = self._known[tenant] = (self._store.get(Limits, tenant), now)
        return found[0]


def _too_often(who: str, wait: float) -> RateLimitedError:
    return RateLimitedError(f"{who} asks too often", retry_after_s=round(max(wait, _LEAST_WAIT_S), 3))
