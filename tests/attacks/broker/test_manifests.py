"""Manifests that are rolled back, changed, of another dataset or of another owner."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from support.broker_attacks import Granted
from support.broker_world import World, manifest

from confide.canonical import from_b64url
from confide.crypto.sign import unverified_payload
from confide.errors import CredentialError, ManifestError, RollbackError
from confide.keys.manifest_claims import ManifestClaims
from confide.keys.records import Dataset


def any_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened broker: a signed manifest of the dataset is taken, whatever was seen before."""
    monkeypatch.setattr(Dataset, "after", lambda self, claims: self)


def any_signer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened broker: a manifest is read and its signature is not."""
    read = classmethod(lambda cls, envelope, _digest, _signer: cls._read(unverified_payload(envelope)))
    monkeypatch.setattr(ManifestClaims, "_remembered", read)


def test_rolled_back_manifest_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    granted.airline.register_manifest(manifest(granted.minted, world.credential("airline").key, snapshot=2))
    with pytest.raises(RollbackError, match="older"):
        world.client(world.node()).release(granted.manifest)
    assert ("release", "manifest-rollback") in world.refusals()
    any_snapshot(monkeypatch)
    assert world.client(world.node()).release(granted.manifest)


def test_roll_back_is_noticed_after_a_restart_and_for_snapshots_seen_at_a_release(world: World) -> None:
    granted = Granted(world)
    newer = manifest(granted.minted, world.credential("airline").key, snapshot=5)
    world.client(world.node()).release(newer)
    world.restart()
    with pytest.raises(RollbackError):
        world.client(world.node()).release(granted.manifest)


def test_other_manifest_with_the_same_snapshot_number_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    twin = manifest(granted.minted, world.credential("airline").key, files=["another"])
    with pytest.raises(RollbackError, match="same snapshot"):
        world.client(world.node()).release(twin)
    any_snapshot(monkeypatch)
    assert world.client(world.node()).release(twin)


def test_manifest_of_another_dataset_does_not_open_this_one(world: World) -> None:
    granted = Granted(world)
    other = granted.airline.mint_dataset("flights")
    crossed = manifest(granted.minted, world.credential("airline").key, snapshot=2, wrapped=other.wrapped.to_json())
    with pytest.raises(ManifestError):
        world.client(world.node()).release(crossed)


def test_manifest_with_another_wrapped_key_than_the_broker_made_is_refused(world: World) -> None:
    granted = Granted(world)
    wrapped = replace(granted.minted.wrapped, ciphertext=bytes(48)).to_json()
    with pytest.raises(ManifestError):
        world.client(world.node()).release(manifest(granted.minted, world.credential("airline").key, snapshot=2, wrapped=wrapped))


def test_manifest_signed_by_another_owner_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    world.owner("weather")
    forged = manifest(granted.minted, world.credential("weather").key, snapshot=2)
    with pytest.raises(ManifestError, match="signed by"):
        world.client(world.node()).release(forged)
    with pytest.raises(CredentialError):
        world.stranger(world.credential("weather")).register_manifest(forged)
    any_signer(monkeypatch)
    assert world.client(world.node()).release(forged)


def test_manifest_that_was_changed_after_signing_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    payload = bytearray(from_b64url(granted.manifest["payload"].rstrip("=").replace("+", "-").replace("/", "_")))
    payload[payload.index(b'"snapshot":1') + 11] = ord("9")
    changed = {**granted.manifest, "payload": base64.b64encode(bytes(payload)).decode()}
    with pytest.raises(ManifestError):
        world.client(world.node()).release(changed)
    any_signer(monkeypatch)
    assert world.client(world.node()).release(changed)


def test_manifest_of_an_unknown_dataset_is_refused(world: World) -> None:
    granted = Granted(world)
    unknown = replace(granted.minted, dataset="ff" * 16, wrapped=replace(granted.minted.wrapped, dataset="ff" * 16))
    with pytest.raises(ManifestError, match="does not know"):
        world.client(world.node()).release(manifest(unknown, world.credential("airline").key))
