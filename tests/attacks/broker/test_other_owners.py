"""One owner, or somebody who is none, reaches for what is another's."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.broker_attacks import Granted
from support.broker_world import OTHER_JOB, World, policy

from confide.errors import CredentialError
from confide.keys.credentials import Credential


def test_owner_b_never_sees_or_uses_what_is_owner_as(world: World) -> None:
    granted = Granted(world)
    weather = world.owner("weather")
    for attempt in (
        lambda: weather.mint_dataset("airline/flights"),
        lambda: weather.rotate_key("airline/flights"),
        lambda: weather.create_key("airline/more"),
        lambda: weather.grant("airline/flights", job=OTHER_JOB, policy=policy()),
        lambda: weather.revoke(granted.grant.id),
        lambda: weather.open(granted.manifest),
        lambda: weather.register_manifest(granted.manifest),
    ):
        with pytest.raises(CredentialError):
            attempt()
    assert weather.keys() == ()
    assert weather.grants() == ()
    assert world.client(world.node()).release(granted.manifest).secret.reveal() == granted.minted.secret.reveal()


def test_answer_for_another_owners_key_is_the_same_whether_it_exists(world: World) -> None:
    Granted(world)
    weather = world.owner("weather")
    refusals = []
    for name in ("airline/flights", "airline/nothing"):
        with pytest.raises(CredentialError) as caught:
            weather.mint_dataset(name)
        refusals.append((caught.value.message, set(caught.value.facts)))
    assert refusals[0] == refusals[1]


def test_credential_that_is_not_enrolled_can_do_nothing(world: World) -> None:
    granted = Granted(world)
    stranger = world.stranger(world.credential("nobody"))
    for attempt in (stranger.keys, stranger.grants, stranger.audit, stranger.audit_head, lambda: stranger.open(granted.manifest)):
        with pytest.raises(CredentialError):
            attempt()


def test_credential_with_an_owners_name_but_another_key_can_do_nothing(world: World, tmp_path: Path) -> None:
    Granted(world)
    impostor = world.stranger(Credential.create(tmp_path / "elsewhere", "airline"))
    with pytest.raises(CredentialError):
        impostor.keys()
    with pytest.raises(CredentialError):
        impostor.enrol("guess")
