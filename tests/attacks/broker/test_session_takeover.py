"""A session that was attested is used by somebody else, or for longer than it counts."""

from __future__ import annotations

from datetime import timedelta

from support.broker_attacks import Granted, Raw
from support.broker_world import OTHER_JOB, World


def test_cookie_moved_to_another_connection_is_refused(world: World) -> None:
    granted, good, thief = Granted(world), Raw(world), Raw(world)
    assert good.attest(good.message(good.auth())) == "ok"
    thief.cookie = good.cookie
    assert thief.release(granted.manifest) == "binding-mismatch"


def test_cookie_moved_to_another_attested_connection_is_refused(world: World) -> None:
    granted, good, thief = Granted(world), Raw(world), Raw(world, world.node(job=OTHER_JOB))
    for raw in (good, thief):
        assert raw.attest(raw.message(raw.auth())) == "ok"
    thief.cookie = good.cookie
    assert thief.release(granted.manifest) == "binding-mismatch"


def test_same_identity_on_another_connection_must_attest_again(world: World) -> None:
    granted = Granted(world)
    node = world.node()
    good, again = Raw(world, node), Raw(world, node)
    assert good.attest(good.message(good.auth())) == "ok"
    again.cookie = good.cookie
    assert again.release(granted.manifest) == "binding-mismatch"


def test_session_ends(world: World) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    world.ahead = timedelta(minutes=16)
    assert raw.release(granted.manifest) == "binding-mismatch"
