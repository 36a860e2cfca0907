"""A store with one owner, and datasets under one key, without a network: what re-wraps and kills are tried on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from confide.crypto.sign import SigningKey
from confide.ids import DatasetId
from confide.keys.audit import AuditLog
from confide.keys.custody.local import KeyFile
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.key_commands import KeyCommands
from confide.keys.records import Dataset, Owner
from confide.keys.sessions import Peer
from confide.keys.storage.locations import Location, SqliteFile
from confide.keys.store import Store


class Bench:
    """The store, what its datasets open as, and the owner that commands it."""

    def __init__(self, folder: Path, count: int, location: Location | None = None) -> None:
        self.place = location or SqliteFile(folder / "broker.db")
        self.unlock = KeyFile.create(folder / "master.key")
        self.signer = SigningKey.generate()
        self.peer = Peer(b"", self.signer.spki_der)
        self.store = Store.create(self.place, self.unlock)
        now = datetime.now(UTC)
        self.secrets: dict[DatasetId, bytes] = {}
        with self.store.transaction():
            self.store.put(Owner("airline", self.signer.spki_der, now))
            hierarchy = KeyHierarchy(self.store)
            key = hierarchy.create("airline", "flights", now)
            for _ in range(count):
                wrapped, secret = hierarchy.mint(key)
                self.store.put(Dataset(DatasetId(wrapped.dataset), wrapped, self.signer.spki_der))
                self.secrets[DatasetId(wrapped.dataset)] = secret.reveal()

    def commands(self) -> KeyCommands:
        return KeyCommands(self.store, lambda: datetime.now(UTC))

    def reopen(self) -> None:
        self.store = Store.open(self.place, self.unlock)

    def require_whole(self) -> None:
        """Every dataset is there and opens as what it was; the audit log is whole, and so is every row."""
        hierarchy = KeyHierarchy(self.store)
        found = {d.dataset: hierarchy.dataset_key(d).reveal() for _, part in self.store.walk(Dataset) for d in part}
        assert found == self.secrets
        self.store.check()
        AuditLog(self.store.audit(), self.store.signed_head(datetime.now(UTC))).verify(self.store.signing_key.public)

    def left(self) -> int:
        (key,) = self.commands().keys(self.peer)["keys"]
        return int(key["datasets"] - key["versions"][-1]["datasets"])
