"""A session that was attested is used by somebody else, or for longer than it counts."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from support.broker_attacks import Granted, Raw
from support.broker_world import OTHER_JOB, World

from confide.keys.sessions import Peer, Sessions


def sessions_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened broker: who knows a session's name has the session, from whatever connection and however late."""

    def find(self: Sessions, peer: Peer, name: str, now: datetime) -> object:
        return next(session for session in self._sessions.values() if session.name == name)

    monkeypatch.setattr(Sessions, "_session", find)



def test_cookie_moved_to_another_connection_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted, good, thief = Granted(world), Raw(world), Raw(world)
    assert good.attest(good.message(good.auth())) == "ok"
    thief.cookie = good.cookie
    assert thief.release(granted.manifest) == "binding-mismatch"
    sessions_by_name_alone(monkeypatch)
    assert thief.release(granted.manifest) == "ok"


def test_cookie_moved_to_another_attested_connection_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted, good, thief = Granted(world), Raw(world), Raw(world, world.node(job=OTHER_JOB))
    for raw in (good, thief):
        assert raw.attest(raw.message(raw.auth())) == "ok"
    thief.cookie = good.cookie
    assert thief.release(granted.manifest) == "binding-mismatch"
    sessions_by_name_alone(monkeypatch)
    assert thief.release(granted.manifest) == "ok"


def test_same_identity_on_another_connection_must_attest_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    node = world.node()
    good, again = Raw(world, node), Raw(world, node)
    assert good.attest(good.message(good.auth())) == "ok"
    again.cookie = good.cookie
    assert again.release(granted.manifest) == "binding-mismatch"
    sessions_by_name_alone(monkeypatch)
    assert again.release(granted.manifest) == "ok"


def test_session_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    world.ahead = timedelta(minutes=16)
    assert raw.release(granted.manifest) == "binding-mismatch"
    sessions_by_name_alone(monkeypatch)
    assert raw.release(granted.manifest) == "ok"
