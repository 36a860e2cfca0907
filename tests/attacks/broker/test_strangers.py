"""Attested strangers ask for a tenant's keys until its rate is used up, or its places for nodes are: its own nodes must go on."""

from __future__ import annotations

from typing import Any

import pytest
from support.broker_attacks import Granted
from support.broker_world import OTHER_JOB, World, policy
from support.kbs_world import Kbs

from confide.errors import AppraisalError, GrantError, QuotaError, RateLimitedError
from confide.ids import Purpose, Role
from confide.keys.limits import RateLimits, site_of
from confide.keys.operators import Operation


def _set(world: World, tenant: str, **said: Any) -> None:
    Operation(world.store, world.now).set_limits(tenant, {name.replace("_", "-"): value for name, value in said.items()})
    world.broker.limits._known.clear()  # instead of waiting a second


def test_strangers_use_up_nothing_of_a_tenants_rate(world: World) -> None:
    """Of another job, or of the granted one in other software: no grant lets them have the key."""
    granted = Granted(world)
    _set(world, "default", rate=0.01, burst=3)
    another_job = world.client(world.node(job=OTHER_JOB))
    other_software = world.client(world.node(name="worker-2", attester=world.attester(measurement="cd" * 32)))
    for stranger, refusal in ((another_job, GrantError), (other_software, AppraisalError), (another_job, GrantError)):
        with pytest.raises(refusal):
            stranger.release(granted.manifest)
    for stranger in (another_job, other_software):
        with pytest.raises(RateLimitedError, match="this address"):
            stranger.release(granted.manifest)
        with pytest.raises(RateLimitedError, match="this address"):
            stranger.output("report", inputs=[granted.minted.dataset], recipients=[])
    events = len(world.store.audit())
    with pytest.raises(RateLimitedError):
        another_job.release(granted.manifest)
    assert len(world.store.audit()) == events, "a flood of refusals is no flood of records"

    own = world.client(world.node(name="worker-3"))  # from the very same address
    for _ in range(3):
        own.release(granted.manifest)
    with pytest.raises(RateLimitedError, match="this tenant"):
        own.release(granted.manifest)


def test_strange_guests_use_up_nothing_of_a_tenants_rate(world: World) -> None:
    kbs = Kbs(world)
    guest = kbs.guest().ready()
    _set(world, "default", rate=0.01, burst=2)
    assert [guest.get("airline/other/flights").status for _ in range(4)] == [403, 403, 429, 429]
    assert [guest.get("airline/key/flights").status for _ in range(3)] == [200, 200, 429]


def test_refused_addresses_are_told_apart_and_take_no_memory_without_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.keys.limits._MAX_CLIENTS", 10)
    Operation(world.store, world.now).set_limits("default", {"rate": 1, "burst": 1})
    limits = RateLimits(world.store, lambda: 0.0)

    def refused(address: str) -> type[Exception]:
        with pytest.raises((GrantError, RateLimitedError)) as caught, limits.strangers(["default"], address):
            raise GrantError("no")
        return caught.type

    assert [refused(one) for one in ("192.0.2.1", "192.0.2.1", "192.0.2.2")] == [GrantError, RateLimitedError, GrantError]
    assert [refused(one) for one in ("[2001:db8::1]", "[2001:db8::2]", "[2001:db8:0:1::1]")] == [GrantError, RateLimitedError, GrantError]
    for number in range(50):
        refused(f"192.0.2.{number}")
    assert len(limits._strangers) == 10
    assert site_of("no address") == ""


def test_request_of_two_tenants_that_one_of_them_may_not_make_counts_to_none(world: World) -> None:
    world.owner("clinic", tenant="health")
    Operation(world.store, world.now).set_limits("default", {"rate": 0.01, "burst": 1})
    Operation(world.store, world.now).set_limits("health", {"rate": 0.01, "burst": 1})
    limits = RateLimits(world.store, lambda: 0.0)
    limits.tenants(["health"])
    for names in (["default", "health"], ["health", "default"]):
        with pytest.raises(RateLimitedError):
            limits.tenants(names)
    limits.tenants(["default"])


def test_place_of_a_node_whose_step_was_undone_is_given_back(world: World) -> None:
    granted = Granted(world)
    _set(world, "default", sessions=1, releases_a_day=1)
    first = world.client(world.node(Role.DRIVER))
    first.release(granted.manifest)
    with pytest.raises(QuotaError):  # the place that it has stays its own
        first.release(granted.manifest)
    assert len(world.broker.limits._holding["default"]) == 1
    first.close()

    clinic = world.owner("clinic", tenant="health")
    _, other = world.dataset(clinic, "clinic", "records")
    clinic.grant("records", job=world.node().job, policy=policy())
    _set(world, "health", sessions=1)
    second = world.client(world.node())
    with pytest.raises(QuotaError):  # the second dataset is one too many today, which undoes the first one's part of the step
        second.releases([other, granted.manifest], Purpose.READ)
    assert not world.broker.limits._holding["health"]
    world.client(world.node(name="worker-2")).release(other)
