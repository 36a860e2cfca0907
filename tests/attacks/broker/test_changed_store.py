"""The broker's file is read, changed, or older rows of it are put back."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support.broker_attacks import Granted, change_row
from support.broker_world import World, manifest

from confide.canonical import b64url
from confide.crypto.secret import SecretBytes
from confide.errors import BrokerError, CredentialError, GrantError, StoreError
from confide.ids import Role
from confide.keys.custody.local import KeyFile, Passphrase
from confide.keys.store import Store


def test_recipient_that_was_written_into_a_grants_row_is_refused(world: World) -> None:
    world.owner("analyst")
    granted = Granted(world)
    change_row(world, "UPDATE records SET body = replace(body, '\"recipients\":[]', '\"recipients\":[\"analyst\"]') WHERE kind = 'grant'")
    with pytest.raises(BrokerError):
        world.client(world.node()).release(granted.manifest)
    assert world.events("release") == []


def test_owners_key_that_was_replaced_in_the_file_is_refused(world: World) -> None:
    Granted(world)
    thief = world.credential("thief")
    change_row(world, "UPDATE records SET ref = ? WHERE kind = 'owner'", thief.spki)
    with pytest.raises((BrokerError, CredentialError)):
        world.stranger(thief).keys()
    with pytest.raises(BrokerError):
        world.stranger(world.credential("airline")).keys()


def test_row_that_was_moved_to_another_place_is_refused(world: World) -> None:
    granted = Granted(world)
    _, other = world.dataset(granted.airline, "airline", "crews")
    change_row(world, "UPDATE records SET ref = 'airline/crews' WHERE kind = 'grant'")
    with pytest.raises((BrokerError, GrantError)):
        world.client(world.node()).release(other)
    with pytest.raises(BrokerError):
        world.client(world.node()).release(granted.manifest)


@pytest.mark.parametrize("restart", [False, True], ids=["in service", "restarted"])
def test_revoked_grant_whose_old_row_is_put_back_stops_the_broker(world: World, *, restart: bool) -> None:
    granted = Granted(world)
    with sqlite3.connect(world.folder / "store" / "broker.db") as database:
        body, mac = database.execute("SELECT body, mac FROM records WHERE kind = 'grant'").fetchone()
    database.close()
    granted.airline.revoke(granted.grant.id)
    change_row(world, "UPDATE records SET body = ?, mac = ? WHERE kind = 'grant'", body, mac)
    if restart:
        with pytest.raises(StoreError, match="put back"):
            world.restart()
    else:
        with pytest.raises(BrokerError):
            world.client(world.node()).release(granted.manifest)


def test_dataset_whose_old_row_is_put_back_to_hide_a_newer_snapshot_gets_no_key(world: World) -> None:
    granted = Granted(world)
    node = world.client(world.node())
    node.release(granted.manifest)
    with sqlite3.connect(world.folder / "store" / "broker.db") as database:
        body, mac = database.execute("SELECT body, mac FROM records WHERE kind = 'dataset'").fetchone()
    database.close()
    granted.airline.register_manifest(manifest(granted.minted, world.credential("airline").key, snapshot=2))
    change_row(world, "UPDATE records SET body = ?, mac = ? WHERE kind = 'dataset'", body, mac)
    with pytest.raises(BrokerError):
        node.release(granted.manifest)


def test_wrong_passphrase_or_key_file_opens_no_store(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    Store.create(path, Passphrase(SecretBytes(b"correct horse"))).close()
    with pytest.raises(StoreError, match="passphrase is not what"):
        Store.open(path, Passphrase(SecretBytes(b"battery staple")))
    with pytest.raises(StoreError, match="key file"):
        Store.open(path, KeyFile.create(tmp_path / "any.key"))
    Store.open(path, Passphrase(SecretBytes(b"correct horse"))).close()


def test_nothing_secret_is_in_the_clear_in_the_stores_files_or_the_log(world: World) -> None:
    granted = Granted(world)
    token = world.broker.owners.create_enrolment("analyst")
    driver = world.client(world.node(Role.DRIVER))
    secrets = [granted.minted.secret.reveal(), driver.output("result", inputs=[granted.minted.dataset], recipients=[]).secret.reveal()]
    secrets.append(world.store.signing_key.private_pem().reveal()[40:80])
    files = b"".join(path.read_bytes() for path in (world.folder / "store").iterdir())
    for secret in (*secrets, token.encode()):
        for form in (secret, secret.hex().encode(), b64url(secret).encode()):
            assert form not in files
