"""A job that nobody granted, or more than was granted, or after the grant has ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.broker_attacks import Granted
from support.broker_world import OTHER_JOB, World

from confide.errors import GrantError
from confide.ids import Purpose, Role
from confide.keys import decisions
from confide.keys.grants import Decision, Grant, Request


def test_ungranted_job_gets_no_key(world: World) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    with pytest.raises(GrantError, match="covers this job"):
        world.client(world.node()).release(envelope)
    assert ("release", "grant-missing") in world.refusals()


def granting(monkeypatch: pytest.MonkeyPatch, **lax: Any) -> None:
    """The weakened decision: grants are read as if they said something else."""
    honest = decisions.decide

    def decide(grants: list[Grant], request: Request, *rest: Any) -> Decision:
        changed = [replace(grant, **lax) for grant in grants]
        return honest(changed, replace(request, key=changed[0].key), *rest)

    monkeypatch.setattr(decisions, "decide", decide)


def test_job_with_another_digest_gets_no_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    with pytest.raises(GrantError, match="covers this job"):
        world.client(world.node(job=OTHER_JOB)).release(granted.manifest)
    granting(monkeypatch, job=OTHER_JOB)
    assert world.client(world.node(job=OTHER_JOB)).release(granted.manifest)


@pytest.mark.parametrize("changes", [{"roles": [Role.DRIVER]}, {"purposes": [Purpose.WRITE]}], ids=["role", "purpose"])
def test_other_role_or_purpose_than_granted_gets_no_key(world: World, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    granted = Granted(world, **changes)
    with pytest.raises(GrantError):
        world.client(world.node()).release(granted.manifest, Purpose.READ)
    granting(monkeypatch, roles=tuple(Role), purposes=tuple(Purpose))
    assert world.client(world.node()).release(granted.manifest, Purpose.READ)


def test_revoked_grant_stops_a_session_that_already_got_the_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    client = world.client(world.node())
    client.release(granted.manifest)
    granted.airline.revoke(granted.grant.id)
    with pytest.raises(GrantError, match="revoked"):
        client.release(granted.manifest)
    granting(monkeypatch, revoked=None)
    assert client.release(granted.manifest)


def test_grant_ends_at_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world, not_after=world.now() + timedelta(minutes=1))
    client = world.client(world.node())
    client.release(granted.manifest)
    world.ahead = timedelta(minutes=2)
    with pytest.raises(GrantError, match="ended"):
        client.release(granted.manifest)
    granting(monkeypatch, not_after=None)
    assert client.release(granted.manifest)


def test_grant_of_one_key_opens_no_other(world: World) -> None:
    granted = Granted(world)
    _, other = world.dataset(granted.airline, "airline", "crews")
    with pytest.raises(GrantError):
        world.client(world.node()).release(other)
