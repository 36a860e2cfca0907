"""Versions of key-encryption keys: active, retired, destroyed; over TLS against a real broker."""

from __future__ import annotations

import sqlite3

import pytest
from support.broker_world import JOB, World, manifest, policy

from confide.errors import BrokerError, ConfideError, CredentialError, KeyDestroyedError, ParseError, StoreError, UsageError
from confide.keys.client import OwnerClient
from confide.keys.connection import Answer
from confide.keys.key_client import KeyInfo, _info
from confide.keys.key_records import Key, KeyState, KeyVersion


def states(info: KeyInfo) -> list[tuple[int, str, int]]:
    return [(v.version, v.state.value, v.datasets) for v in info.versions]


def only(client: OwnerClient) -> KeyInfo:
    (info,) = client.keys()
    return info


def test_new_version_is_active_and_retires_the_one_before(world: World) -> None:
    airline = world.owner("airline")
    world.dataset(airline, "airline", "flights")
    assert states(only(airline)) == [(1, "active", 1)]
    airline.rotate_key("flights")
    airline.mint_dataset("flights")
    airline.mint_dataset("flights")
    info = only(airline)
    assert states(info) == [(1, "retired", 1), (2, "active", 2)]
    assert (str(info.key), info.datasets) == ("airline/flights@2", 3)
    assert info.created <= info.versions[0].since <= info.versions[1].since


def test_retired_key_opens_and_takes_nothing_new(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    assert states(airline.retire_key("flights", 1)) == [(1, "retired", 1)]
    with pytest.raises(UsageError, match="no version of this key is active"):
        airline.mint_dataset("flights")
    assert airline.open(envelope).secret.reveal() == minted.secret.reveal()
    assert airline.rotate_key("flights").version == 2
    assert airline.mint_dataset("flights").key.version == 2


@pytest.mark.parametrize("version", [0, 2, 3])
def test_only_the_active_version_is_retired(world: World, version: int) -> None:
    airline = world.owner("airline")
    airline.create_key("flights")
    airline.rotate_key("flights")
    airline.retire_key("flights", 2)
    with pytest.raises(UsageError):
        airline.retire_key("flights", version)


def test_destroyed_version_opens_nothing_any_more_for_owners_or_nodes(world: World) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    airline.rotate_key("flights")
    newer = airline.mint_dataset("flights")
    assert states(airline.destroy_key("flights", 1, lose_datasets=True)) == [(1, "destroyed", 1), (2, "active", 1)]
    with pytest.raises(KeyDestroyedError) as caught:
        airline.open(envelope)
    assert caught.value.facts == {"key": "airline/flights", "version": 1}
    with pytest.raises(KeyDestroyedError):
        world.client(world.node()).release(envelope)
    assert ("open", "key-destroyed") in world.refusals()
    assert ("release", "key-destroyed") in world.refusals()
    other = manifest(newer, world.credential("airline").key)
    assert airline.open(other).secret.reveal() == newer.secret.reveal()
    (event,) = world.events("destroy-key")
    assert {"key": "airline/flights", "version": 1, "lost": 1, "owner": "airline"}.items() <= event.items()


def test_version_with_datasets_is_destroyed_only_if_they_may_be_lost(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    airline.rotate_key("flights")
    with pytest.raises(UsageError, match="1 datasets are under version 1") as caught:
        airline.destroy_key("flights", 1)
    assert caught.value.facts["datasets"] == 1
    assert airline.open(envelope).secret.reveal() == minted.secret.reveal()


def test_only_a_retired_version_is_destroyed(world: World) -> None:
    airline = world.owner("airline")
    airline.create_key("flights")
    with pytest.raises(UsageError, match="version 1 of airline/flights is active"):
        airline.destroy_key("flights", 1, lose_datasets=True)
    airline.rotate_key("flights")
    airline.destroy_key("flights", 1)
    for version in (0, 1, 3):
        with pytest.raises(UsageError):
            airline.destroy_key("flights", version)


def test_nothing_of_a_destroyed_version_is_left_in_the_stores_files(world: World) -> None:
    airline = world.owner("airline")
    airline.create_key("flights")
    airline.rotate_key("flights")
    before = world.store.get(Key, "airline/flights")
    assert before is not None
    gone, kept = (str(version.wrapped and version.wrapped.hex()).encode() for version in before.versions)
    files = lambda: b"".join(path.read_bytes() for path in (world.folder / "store").iterdir())  # noqa: E731
    assert gone in files()
    airline.destroy_key("flights", 1)
    assert gone not in files()
    assert kept in files()
    world.restart()
    assert gone not in files()


def test_commands_of_versions_are_the_owners_alone(world: World) -> None:
    airline, weather = world.owner("airline"), world.owner("weather")
    airline.create_key("flights")
    airline.rotate_key("flights")
    for attempt in (
        lambda: weather.retire_key("airline/flights", 2),
        lambda: weather.destroy_key("airline/flights", 1, lose_datasets=True),
        lambda: list(weather.rewrap("airline/flights")),
    ):
        with pytest.raises(CredentialError):
            attempt()
    assert states(only(airline)) == [(1, "retired", 0), (2, "active", 0)]
    assert {("retire-key", "credential-refused"), ("destroy-key", "credential-refused"), ("rewrap", "credential-refused")} <= set(
        world.refusals()
    )


@pytest.mark.parametrize(
    "body",
    [
        {"key": "airline/flights", "version": 1},
        {"key": "airline/flights", "version": True, "lose_datasets": True},
        {"key": "airline/flights", "version": 1, "lose_datasets": 1},
        {"key": "airline/flights", "version": 1, "lose_datasets": True, "more": 1},
    ],
    ids=str,
)
def test_request_to_destroy_of_another_form_is_refused(world: World, body: dict[str, object]) -> None:
    airline = world.owner("airline")
    airline.create_key("flights")
    airline.rotate_key("flights")
    with pytest.raises(ParseError):
        airline._call("POST", "keys/destroy", body)
    assert states(only(airline))[0] == (1, "retired", 0)


def test_state_that_contradicts_what_is_kept_is_refused(world: World) -> None:
    now = world.now()
    for state, wrapped in ((KeyState.DESTROYED, b"x"), (KeyState.ACTIVE, None)):
        with pytest.raises(ParseError):
            KeyVersion(state, now, wrapped)


def test_state_that_is_changed_in_the_file_stops_the_broker(world: World) -> None:
    airline = world.owner("airline")
    world.dataset(airline, "airline", "flights")
    airline.rotate_key("flights")
    world.server.stop()
    world.store.close()
    with sqlite3.connect(world.folder / "store" / "broker.db") as db:
        done = db.execute("update records set body = replace(body, '\"retired\"', '\"active\"') where kind = 'key'").rowcount
    assert done == 1
    with pytest.raises(StoreError, match="changed by somebody else"):
        world.restart()


VERSION = {"version": 1, "state": "active", "since": "2026-01-01T00:00:00+00:00", "datasets": 0}


@pytest.mark.parametrize("changes", [{"state": "blessed"}, {"state": None}, {"version": "1"}, {"since": "now"}, {"datasets": 0.5}], ids=str)
def test_answer_with_a_wrong_version_is_refused(changes: dict[str, object]) -> None:
    answer = {"key": "airline/flights", "version": 1, "created": VERSION["since"], "datasets": 0, "versions": [VERSION | changes]}
    with pytest.raises(BrokerError):
        _info(Answer(answer))
    with pytest.raises(ConfideError):
        _info(Answer({**answer, "versions": [3]}))
