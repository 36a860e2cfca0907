"""Who has every disk of the broker - database and its log, backups, the broker's own log and output - has no key."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.broker_attacks import Granted
from support.broker_world import World, manifest
from support.canaries import files_under, found_in, found_under
from support.databases import PostgresServer, SqlitePlace
from support.kbs_world import NAME, SECRET, Kbs

from confide.attest.insecure import Installation
from confide.crypto.secret import SecretBytes
from confide.errors import ConfideError
from confide.ids import Role
from confide.keys.custody.local import MasterKey, Passphrase
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.key_records import Key
from confide.keys.records import Owner
from confide.keys.storage.backup import backup

PASSPHRASE = b"canary passphrase 7731 of the operators"


class Disk:
    """A broker's world in which everything that it writes is kept: the folders, and what its process has said."""

    def __init__(self, world: World, folders: list[Path], master: list[bytes]) -> None:
        self.world, self.folders, self.master = world, folders, master

    def live(self) -> dict[str, bytes]:
        """Everything that a broker does, as often as it has something secret to keep; returns the secrets."""
        world = self.world
        airline, harbour = Granted(world, recipients=["airline"]), Kbs.__new__(Kbs)
        harbour.world = world
        driver = world.client(world.node(Role.DRIVER))
        output = driver.output("result", inputs=[airline.minted.dataset], recipients=["airline"])
        world.client(world.node()).release(airline.manifest)
        airline.airline.rotate_key("flights")
        list(airline.airline.rewrap("flights"))
        airline.airline.open(manifest(airline.minted, world.credential("airline").key, snapshot=2))
        assert harbour.post("airline", f"resource/{NAME}", SECRET).status == 200
        token = world.broker.owners.create_enrolment("analyst")
        for wrong in (lambda: airline.airline.create_key("flights"), lambda: world.stranger(world.credential("thief")).enrol("x" * 43)):
            with pytest.raises(ConfideError):
                wrong()
        backup(world.place, world.folder / "store" / "backup")
        key = world.store.get(Key, "airline/flights")
        assert key is not None
        hierarchy = KeyHierarchy(world.store)
        private = world.store.signing_key.unwrapped()
        number = private.private_numbers().private_value  # type: ignore[attr-defined]
        return {
            "dataset": airline.minted.secret.reveal(),
            "output": output.secret.reveal(),
            "first key": hierarchy._open(key, 1).reveal(),
            "second key": hierarchy._open(key, 2).reveal(),
            "resource": SECRET,
            "token": token.encode(),
            "signing key": number.to_bytes(32),
            "rows": world.store._steps._head_key,
            "master": self.master[0],
            "passphrase": PASSPHRASE,
        }


@pytest.fixture(params=["sqlite", "postgresql"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, tee: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    server: PostgresServer | None = request.getfixturevalue("postgres_server") if request.param == "postgresql" else None
    store = tmp_path / "store"
    store.mkdir()
    place = server.new() if server else SqlitePlace(store / "broker.db")
    handler = logging.FileHandler(store / "broker.log")
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    master: list[bytes] = []
    made = MasterKey.__init__

    def noted(self: MasterKey, key: SecretBytes) -> None:
        master.append(key.reveal())
        made(self, key)

    monkeypatch.setattr(MasterKey, "__init__", noted)
    world = World(tmp_path, tee, place=place.location, unlock=Passphrase(SecretBytes(PASSPHRASE)))
    yield Disk(world, [store, *([server.folder] if server else [])], master)
    world.close()
    root.removeHandler(handler)
    root.setLevel(level)
    handler.close()


@pytest.mark.slow
def test_operator_with_every_disk_finds_no_key(disk: Disk, capfd: pytest.CaptureFixture[str]) -> None:
    secrets = disk.live()
    read = list(files_under(disk.folders))
    assert {"broker.log", "backup"} <= {path.name for path in read}
    assert sum(path.stat().st_size for path in read) > 100_000
    assert found_under(disk.folders, secrets) == set()
    assert found_in("".join(capfd.readouterr()).encode(), secrets) == set()
    disk.world.restart()
    assert found_under(disk.folders, secrets) == set()


@pytest.mark.slow
def test_key_that_is_left_in_the_clear_is_found(disk: Disk, capfd: pytest.CaptureFixture[str]) -> None:
    """The control: in a row of the database, in the log, and in what the process says."""
    secrets = disk.live()
    disk.world.store.put(Owner("careless", secrets["dataset"], datetime.now(UTC)))
    logging.getLogger("confide.keys").debug("the output's key is %s", secrets["output"].hex())
    sys.stderr.write(secrets["master"].hex())
    assert {name for name, _ in found_under(disk.folders, secrets)} == {"dataset", "output"}
    assert found_in("".join(capfd.readouterr()).encode(), secrets) == {"master"}
