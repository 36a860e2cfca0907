"""Re-wrapping: datasets' keys under the newest version of their key, in steps, whatever ends whom in between."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from support.broker_world import JOB, World, manifest, policy
from support.databases import Place
from support.kept_keys import Bench

from confide.crypto.envelope import WrappedKey, wrap
from confide.crypto.secret import SecretBytes
from confide.errors import KeyDestroyedError, ManifestError, RollbackError, UnwrapError, UsageError
from confide.keys import key_commands
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.key_commands import Rewrap
from confide.keys.records import Dataset

# --- over TLS -------------------------------------------------------------------------------------------------------


def test_rewrapped_datasets_open_as_before_for_owners_and_nodes(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    airline.rotate_key("flights")
    (progress,) = airline.rewrap("flights")
    assert (str(progress.key), progress.done, progress.left) == ("airline/flights@2", 1, 0)
    opened = airline.open(envelope)
    assert (opened.secret.reveal(), opened.key.version) == (minted.secret.reveal(), 2)
    released = world.client(world.node()).release(envelope)
    assert (released.secret.reveal(), released.key.version) == (minted.secret.reveal(), 2)
    airline.destroy_key("flights", 1)
    assert airline.open(envelope).secret.reveal() == minted.secret.reveal()


def test_second_rewrap_takes_datasets_of_all_older_versions(world: World) -> None:
    airline = world.owner("airline")
    first, envelope = world.dataset(airline, "airline", "flights")
    airline.rotate_key("flights")
    list(airline.rewrap("flights"))
    second = airline.mint_dataset("flights")
    airline.rotate_key("flights")
    assert [step.left for step in airline.rewrap("flights")][-1] == 0
    (info,) = airline.keys()
    assert [v.datasets for v in info.versions] == [0, 0, 2]
    assert airline.open(envelope).secret.reveal() == first.secret.reveal()
    other = manifest(second, world.credential("airline").key)
    assert airline.open(other).secret.reveal() == second.secret.reveal()


def test_rewrap_is_in_the_audit_log(world: World) -> None:
    airline = world.owner("airline")
    world.dataset(airline, "airline", "flights")
    airline.rotate_key("flights")
    list(airline.rewrap("flights"))
    (event,) = world.events("rewrap")
    assert {"key": "airline/flights", "version": 2, "done": 1, "left": 0, "owner": "airline"}.items() <= event.items()


def test_key_without_an_active_version_is_not_rewrapped(world: World) -> None:
    airline = world.owner("airline")
    world.dataset(airline, "airline", "flights")
    airline.rotate_key("flights")
    airline.retire_key("flights", 2)
    with pytest.raises(UsageError, match="active"):
        list(airline.rewrap("flights"))


def test_datasets_under_a_destroyed_version_are_left_out(world: World) -> None:
    airline = world.owner("airline")
    _, lost = world.dataset(airline, "airline", "flights")
    airline.rotate_key("flights")
    airline.destroy_key("flights", 1, lose_datasets=True)
    airline.rotate_key("flights")
    (progress,) = airline.rewrap("flights")
    assert (progress.done, progress.left) == (0, 0)
    with pytest.raises(KeyDestroyedError):
        airline.open(lost)


def test_releases_go_on_between_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_commands, "PART", 1)
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    more = [airline.mint_dataset("flights") for _ in range(3)]
    airline.grant("flights", job=JOB, policy=policy())
    airline.rotate_key("flights")
    node = world.client(world.node())
    left = []
    for step in airline.rewrap("flights"):
        left.append(step.left)
        assert node.release(envelope).secret.reveal() == minted.secret.reveal()
        assert airline.open(manifest(more[-1], world.credential("airline").key)).secret.reveal() == more[-1].secret.reveal()
    assert left == [3, 2, 1, 0]


# --- manifests ------------------------------------------------------------------------------------------------------


def test_rollback_is_refused_after_a_rewrap_as_before(world: World) -> None:
    airline = world.owner("airline")
    minted, first = world.dataset(airline, "airline", "flights")
    key = world.credential("airline").key
    second = manifest(minted, key, 2)
    airline.register_manifest(second)
    airline.rotate_key("flights")
    list(airline.rewrap("flights"))
    with pytest.raises(RollbackError, match="older"):
        airline.open(first)
    with pytest.raises(RollbackError, match="same snapshot number"):
        airline.open(manifest(minted, key, 2, files=["another"]))
    assert airline.open(second).secret.reveal() == minted.secret.reveal()
    airline.register_manifest(manifest(minted, key, 3))
    with pytest.raises(RollbackError):
        airline.open(second)


@pytest.mark.parametrize("rotations", [0, 1, 2])
def test_manifest_must_name_a_wrapped_key_that_was_given_out(world: World, rotations: int) -> None:
    """Before and after re-wraps: the form that the owner was given, and no other one of the same dataset, key and version."""
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    for _ in range(rotations):
        airline.rotate_key("flights")
        list(airline.rewrap("flights"))
    key = world.credential("airline").key
    for version in range(1, rotations + 3):
        forged = wrap(SecretBytes.random(), SecretBytes.random(), key="airline/flights", version=version, dataset=minted.dataset)
        with pytest.raises(ManifestError):
            airline.open(manifest(minted, key, 2, version=version, wrapped=forged.to_json()))
    elsewhere = wrap(SecretBytes.random(), SecretBytes.random(), key="airline/other", version=1, dataset=minted.dataset)
    with pytest.raises(ManifestError):
        airline.open(manifest(minted, key, 2, key="airline/other", wrapped=elsewhere.to_json()))
    assert airline.open(envelope).secret.reveal() == minted.secret.reveal()


def test_what_is_opened_is_the_stores_own_form_and_the_old_one_needs_the_old_key(world: World) -> None:
    airline = world.owner("airline")
    minted, _ = world.dataset(airline, "airline", "flights")
    airline.rotate_key("flights")
    list(airline.rewrap("flights"))
    kept = world.store.get(Dataset, minted.dataset)
    assert kept is not None
    assert (kept.wrapped.version, minted.wrapped.version) == (2, 1)
    assert kept.wrapped.ciphertext != minted.wrapped.ciphertext
    hierarchy = KeyHierarchy(world.store)
    old = WrappedKey("airline/flights", 2, minted.dataset, minted.wrapped.nonce, minted.wrapped.ciphertext)
    swapped = Dataset(kept.dataset, old, b"")
    with pytest.raises(UnwrapError):
        hierarchy.dataset_key(swapped)


# --- without a network: many datasets (kills are in test_killed_broker) ---------------------------------------------


@pytest.mark.parametrize("few", [0, 1000], ids=["walk", "by name"])
def test_each_dataset_is_rewrapped_once_on_either_way(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(key_commands, "_FEW", few)
    monkeypatch.setattr(key_commands, "PART", 40)
    bench = Bench(tmp_path, 150, place.location)
    commands = bench.commands()
    commands.rotate_key(bench.peer, "airline/flights")
    said = []
    while not said or said[-1]["left"]:
        said.append(commands.rewrap(bench.peer, "airline/flights"))
    assert said[-1] == {"key": "airline/flights", "version": 2, "done": 150, "left": 0}
    assert len(said) > 1
    assert all(a["done"] < b["done"] for a, b in pairwise(said))
    assert bench.store.get(Rewrap, "airline/flights") is None
    bench.require_whole()
    bench.store.close()


def test_rotation_during_a_rewrap_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_commands, "_FEW", 0)
    monkeypatch.setattr(key_commands, "PART", 60)
    bench = Bench(tmp_path, 150)
    commands = bench.commands()
    commands.rotate_key(bench.peer, "airline/flights")
    assert commands.rewrap(bench.peer, "airline/flights")["left"] > 0
    commands.rotate_key(bench.peer, "airline/flights")
    while commands.rewrap(bench.peer, "airline/flights")["left"]:
        pass
    (key,) = commands.keys(bench.peer)["keys"]
    assert [v["datasets"] for v in key["versions"]] == [0, 0, 150]
    bench.require_whole()
    bench.store.close()
