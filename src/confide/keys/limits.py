"""How much a tenant or a client may ask for.  Rates are kept per process, quotas in the store.

A *rate* is a token bucket: so many requests a second on average, with a burst.  Rates protect one process from floods, so each broker of
several counts its own.  A *quota* is how much of something a tenant may have; it is counted in the store, inside the transaction that makes
it, so that brokers which share a store share quotas too, and nothing is counted that did not happen.  Nothing is limited until it is set.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from confide.canonical import Json
from confide.errors import AuditError, ConfideError, QuotaError, RateLimitedError, StoreError, UsageError
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
_IPV6_SITE: Final = 64
"""Bits of an IPv6 address that one client is given (RFC 6177, section 2)."""


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
        if rate == 0 and "rate" in said:
            raise UsageError("a rate of nothing would be no limit at all", hint="to shut somebody out: `confide broker withdraw`")
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
        """How long it is until there is a token; nothing if there is one."""
        self.tokens = min(float(limits.burst), self.tokens + (now - self.seen) * limits.rate)
        self.seen = now
        return (1.0 - self.tokens) / limits.rate if self.tokens < 1.0 else 0.0

    def take(self, limits: Limits, now: float) -> float:
        """As :meth:`wait`, and take the token."""
        wait = self.wait(limits, now)
        if not wait:
            self.tokens -= 1.0
        return wait


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
        self._strangers: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._holding: dict[str, set[bytes]] = {}

    def client(self, name: bytes) -> None:
        """One request of a client, named by its key or address.

        Raises:
            RateLimitedError: it asks too often.
        """
        limits = self._limits(EVERY_TENANT)
        if limits is None or not limits.rate:
            return
        wait = self._taken(self._clients, name, limits)
        if wait:
            raise _too_often("this client", wait)

    def tenants(self, names: Iterable[str]) -> None:
        """One request of these tenants: of its people, or of a node or guest whom they let have what it asks for.

        Raises:
            RateLimitedError: one of them asks too often.  Then it counts to none.
        """
        limited = self._limited(names)
        with self._lock:
            now = self._clock()
            found = [(self._buckets.setdefault(name, _Bucket(float(limits.burst), now)), limits) for name, limits in limited]
            wait = max((bucket.wait(limits, now) for bucket, limits in found), default=0.0)
            if not wait:
                for bucket, limits in found:
                    bucket.take(limits, now)
        if wait:
            raise _too_often("this tenant", wait)

    @contextmanager
    def strangers(self, names: Iterable[str], address: str) -> Iterator[None]:
        """A refusal that leaves the block counts to the address that asked, at these tenants' rates, and not to them.

        Anybody can have software attested and ask for a tenant's keys: that must take nothing from those whom the tenant lets have them.

        Raises:
            RateLimitedError: in the place of the refusal, which therefore is not recorded: that address was refused too often.
        """
        try:
            yield
        except (StoreError, AuditError):
            raise
        except ConfideError as refusal:
            for name, limits in self._limited(names):
                wait = self._taken(self._strangers, f"{name} {site_of(address)}".encode(), limits)
                if wait:
                    raise _too_often("this address", wait) from refusal
            raise

    def _limited(self, names: Iterable[str]) -> list[tuple[str, Limits]]:
        """Those of the tenants that have a rate, with their limits."""
        return [(name, limits) for name in names if (limits := self._limits(name)) is not None and limits.rate]

    def _taken(self, buckets: OrderedDict[bytes, _Bucket], name: bytes, limits: Limits) -> float:
        with self._lock:
            bucket = buckets.pop(name, None) or _Bucket(float(limits.burst), self._clock())
            buckets[name] = bucket
            if len(buckets) > _MAX_CLIENTS:
                buckets.popitem(last=False)
            return bucket.take(limits, self._clock())

    @contextmanager
    def undone(self, session: bytes) -> Iterator[None]:
        """If a step fails, its connection holds what it held before.  To be put outside of the step's transaction."""
        with self._lock:
            before = {name for name, holding in self._holding.items() if session in holding}
        try:
            yield
        except BaseException:
            with self._lock:
                for name, holding in self._holding.items():
                    if name not in before:
                        holding.discard(session)
            raise

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


def site_of(address: str) -> str:
    """What a client's network address counts as: itself, or for IPv6 its /64; nothing for what is no address."""
    try:
        found = ipaddress.ip_address(address.strip("[]"))
        return str(found) if found.version == 4 else str(ipaddress.ip_network((found, _IPV6_SITE), strict=False))
    except ValueError:
        return ""


def _too_often(who: str, wait: float) -> RateLimitedError:
    return RateLimitedError(f"{who} asks too often", retry_after_s=round(max(wait, _LEAST_WAIT_S), 3))
