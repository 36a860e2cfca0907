"""A dataset's newest wrapped key for its next manifest: who is given it, and which forms the broker knows again, for how long."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.broker_world import JOB, World, manifest, policy

from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.crypto.envelope import WrappedKey, wrap
from confide.crypto.secret import SecretBytes
from confide.errors import CredentialError, KeyDestroyedError, ManifestError, RollbackError, UnwrapError
from confide.ids import DatasetId, Role
from confide.keys.client import OwnerClient
from confide.keys.records import Dataset, wrapped_digest
from confide.keys.storage.locations import SqliteFile
from confide.keys.store import Store


class Airline:
    """An owner with a dataset whose key is put under newer versions."""

    def __init__(self, world: World) -> None:
        self.world, self.client = world, world.owner("airline")
        self.minted, self.first = world.dataset(self.client, "airline", "flights")
        self.client.grant("flights", job=JOB, policy=policy())

    def newer(self) -> None:
        self.client.rotate_key("flights")
        list(self.client.rewrap("flights"))

    def signed(self, wrapped: WrappedKey, snapshot: int) -> Json:
        return manifest(self.minted, self.world.credential("airline").key, snapshot, version=wrapped.version, wrapped=wrapped.to_json())

    def opens(self, envelope: Json) -> bool:
        """For its owner, and for a node."""
        owners = self.client.open(envelope).secret.reveal()
        nodes = self.world.client(self.world.node()).release(envelope).secret.reveal()
        return owners == nodes == self.minted.secret.reveal()

    @property
    def row(self) -> Dataset:
        found = self.world.store.get(Dataset, self.minted.dataset)
        assert found is not None
        return found


@pytest.fixture
def airline(world: World) -> Airline:
    return Airline(world)


def test_form_is_the_one_that_the_broker_opens(airline: Airline) -> None:
    assert airline.client.wrapped_form(airline.first) == airline.minted.wrapped
    airline.newer()
    form = airline.client.wrapped_form(airline.first)
    assert (form, form.version, form.dataset) == (airline.row.wrapped, 2, airline.minted.dataset)
    assert airline.opens(airline.first)
    second = airline.signed(form, 2)
    airline.client.register_manifest(second)
    assert airline.opens(second)
    with pytest.raises(RollbackError):
        airline.client.open(airline.first)
    (*_, event) = airline.world.events("wrapped-form")
    assert {"dataset": airline.minted.dataset, "key": "airline/flights", "version": 2, "snapshot": 1}.items() <= event.items()


@pytest.mark.parametrize("told", [True, False], ids=["registered", "stopped before the broker was told"])
def test_form_that_was_given_out_is_known_after_further_rewraps(airline: Airline, told: bool) -> None:
    airline.newer()
    second = airline.signed(airline.client.wrapped_form(airline.first), 2)
    if told:
        airline.client.register_manifest(second)
    for _ in range(2):
        airline.newer()
    airline.client.destroy_key("flights", 1)
    airline.client.destroy_key("flights", 2)
    assert airline.opens(second)
    third = airline.signed(airline.client.wrapped_form(second), 3)
    airline.newer()
    airline.world.restart()
    airline.client = airline.world.stranger(airline.world.credential("airline"))
    assert airline.opens(third)


def test_form_that_was_never_given_out_is_not_known(airline: Airline) -> None:
    airline.newer()
    between = airline.row.wrapped  # nobody asked for it
    airline.newer()
    forged = wrap(SecretBytes.random(), SecretBytes.random(), key="airline/flights", version=2, dataset=airline.minted.dataset)
    for form in (between, forged):
        with pytest.raises(ManifestError, match="does not belong"):
            airline.client.open(airline.signed(form, 2))
    assert airline.opens(airline.first)


def test_forms_are_for_who_signs_the_dataset(airline: Airline) -> None:
    weather = airline.world.owner("weather")
    with pytest.raises(CredentialError, match="no such dataset"):
        weather.wrapped_form(airline.first)
    stolen = manifest(airline.minted, airline.world.credential("weather").key, 2)
    for client in (weather, airline.client):
        with pytest.raises((CredentialError, ManifestError)):
            client.wrapped_form(stolen)
    unknown = manifest(replace(airline.minted, dataset=DatasetId("0" * 32)), airline.world.credential("airline").key)
    with pytest.raises(CredentialError, match="no such dataset"):
        airline.client.wrapped_form(unknown)
    assert ("wrapped-form", "credential-refused") in airline.world.refusals()


def test_no_form_is_given_for_an_older_manifest(airline: Airline) -> None:
    """Whoever keeps the storage would have the owner sign an older state as the newest."""
    second = airline.signed(airline.minted.wrapped, 2)
    airline.client.register_manifest(second)
    airline.newer()
    with pytest.raises(RollbackError):
        airline.client.wrapped_form(airline.first)
    other = manifest(airline.minted, airline.world.credential("airline").key, 2, files=[{"path": "x"}])
    with pytest.raises(RollbackError, match="another one"):
        airline.client.wrapped_form(other)
    third = airline.signed(airline.minted.wrapped, 3)  # the broker has not heard of it
    airline.client.wrapped_form(third)
    with pytest.raises(RollbackError):
        airline.client.wrapped_form(second)


def test_no_form_is_given_of_a_runs_output(airline: Airline) -> None:
    world = airline.world
    driver = world.node(Role.DRIVER)
    client = world.client(driver)
    client.release(airline.first)
    made = client.output("delays", inputs=[airline.minted.dataset], recipients=["airline"])
    for signer in (driver.identity.key, world.credential("airline").key):
        with pytest.raises(CredentialError, match="no such dataset"):
            airline.client.wrapped_form(manifest(made, signer))


def test_no_form_is_given_under_a_version_that_is_gone(airline: Airline) -> None:
    airline.client.rotate_key("flights")
    airline.client.destroy_key("flights", 1, lose_datasets=True)
    with pytest.raises(KeyDestroyedError):
        airline.client.wrapped_form(airline.first)


def test_broker_that_came_back_from_an_old_backup_gives_the_form_that_it_has(tmp_path: Path, installation: Installation) -> None:
    place = tmp_path / "broker.db"
    world = World(tmp_path, installation, place=SqliteFile(place))
    airline = Airline(world)
    world.server.stop()
    world.store.close()
    shutil.copy(place, tmp_path / "backup.db")
    world.serve(Store.open(world.place, world.unlock))
    airline.client = world.stranger(world.credential("airline"))
    airline.newer()
    second = airline.signed(airline.client.wrapped_form(airline.first), 2)
    airline.client.register_manifest(second)
    world.server.stop()
    world.store.close()
    for file in tmp_path.glob("broker.db*"):
        file.unlink()
    shutil.copy(tmp_path / "backup.db", place)
    world.serve(Store.open(world.place, world.unlock))
    airline.client = world.stranger(world.credential("airline"))
    with pytest.raises(ManifestError, match="does not belong"):
        airline.client.open(second)
    third = airline.signed(airline.client.wrapped_form(second), 3)
    airline.client.register_manifest(third)
    assert airline.opens(third)
    with pytest.raises(RollbackError):
        airline.client.wrapped_form(airline.first)
    world.close()


def test_form_that_a_manifest_is_seen_to_have_is_known_after_further_rewraps(airline: Airline) -> None:
    """The broker came back from a backup that was made after the re-wrap, and before the form was given out."""
    airline.newer()
    row = airline.row
    second = airline.signed(airline.client.wrapped_form(airline.first), 2)
    with airline.world.store.transaction():
        airline.world.store.put(row)
    assert airline.opens(second)
    airline.newer()
    assert airline.opens(second)


@pytest.fixture
def two_brokers(tmp_path: Path, installation: Installation) -> Iterator[tuple[World, World]]:
    worlds = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        worlds.append(World(tmp_path / name, installation))
    yield worlds[0], worlds[1]
    for world in worlds:
        world.close()


def test_manifest_with_the_newest_form_opens_at_a_broker_that_has_the_key_and_no_row(two_brokers: tuple[World, World]) -> None:
    """What decision 0022 says of a manifest without its broker: with the older form it is lost, with the newest it is not."""
    a, b = two_brokers
    airline = Airline(a)
    key = a.credential("airline").key
    airline.newer()
    airline.client.destroy_key("flights", 1)
    second = airline.signed(airline.client.wrapped_form(airline.first), 2)
    (b.folder / "credentials").mkdir()
    key.save_private(b.folder / "credentials" / "airline.key.pem")
    here: OwnerClient = b.owner("airline")
    here.import_key(list(airline.client.export_key("flights", here.wrapping_key(), b.server.spki))[:1])
    with pytest.raises((UnwrapError, KeyDestroyedError)):
        here.adopt_dataset(airline.first)
    assert here.adopt_dataset(second)
    assert here.open(second).secret.reveal() == airline.minted.secret.reveal()


def test_rows_of_earlier_versions_are_read(airline: Airline) -> None:
    row, digest = airline.row.to_json(), wrapped_digest(airline.minted.wrapped)
    assert Dataset.from_json({**row, "given": None}).given == ()
    assert Dataset.from_json({**row, "given": digest}).given == (digest,)
    assert Dataset.from_json({**row, "given": [digest]}).given == (digest,)


def test_one_form_is_noted_once(airline: Airline) -> None:
    assert airline.row.giving() == airline.row
    airline.newer()
    for _ in range(3):
        airline.client.wrapped_form(airline.first)
    assert airline.row.given == (wrapped_digest(airline.minted.wrapped), wrapped_digest(airline.row.wrapped))
