"""Two real brokers, a key's owner, its trustees, and the owner again at the other broker: with its credential, or with a new one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey
from confide.ids import SpkiDigest
from confide.keys.client import OwnerClient
from confide.keys.escrow import Escrow, Recovery
from confide.keys.escrow_client import contribute, trustee_key

from .broker_world import World

TRUSTEES = ("ada", "bob", "cyd")


class Trust:
    """The airline's key ``flights`` at the broker ``a``; ``ada``, ``bob`` and ``cyd`` are ready to be its trustees."""

    def __init__(self, folder: Path, installation: Installation, *, same_credential: bool = False) -> None:
        for name in ("a", "b"):
            (folder / name).mkdir()
        self.a, self.b = World(folder / "a", installation), World(folder / "b", installation)
        self.airline = self.a.owner("airline")
        self.clients: dict[str, OwnerClient] = {name: self.a.owner(name) for name in TRUSTEES}
        self.keys: dict[str, SealKey] = {name: self.ready(name) for name in TRUSTEES}
        self.here = self.at_b("airline", self.a.credential("airline").key if same_credential else SigningKey.generate())

    def ready(self, name: str) -> SealKey:
        """``name``'s key for shares, registered."""
        key = trustee_key(self.a.folder / "credentials", name)
        self.clients[name].register_trustee_key(key)
        return key

    def at_b(self, name: str, key: SigningKey) -> OwnerClient:
        """A client of the second broker, enrolled under ``name`` with ``key``."""
        folder = self.b.folder / "credentials"
        folder.mkdir(exist_ok=True)
        key.save_private(folder / f"{name}.key.pem")
        return self.b.owner(name)

    def pins(self, names: Sequence[str] = TRUSTEES) -> dict[str, SpkiDigest]:
        """The trustees and their credentials' digests, as they have told them."""
        return {name: self.a.credential(name).spki for name in names}

    def made(self, names: Sequence[str] = TRUSTEES, threshold: int = 2) -> list[str]:
        """The lines of an escrow of the key."""
        return list(self.airline.escrow_key("flights", self.pins(names), threshold))

    def contribution(
        self, name: str, lines: list[str], asked: Json, *, at: World | None = None, requester: SpkiDigest | None = None
    ) -> Json:
        """What ``name`` contributes to the recovery that was asked for at the second broker (or ``at`` another)."""
        ends = {"target": (at or self.b).server.spki, "requester": requester or self.b.credential("airline").spki}
        return contribute(json.loads(lines[0]), asked, self.a.credential(name), self.keys[name], **ends)

    def contributions(self, names: Sequence[str], lines: list[str], asked: Json) -> list[Json]:
        """What each of them contributes."""
        return [self.contribution(name, lines, asked) for name in names]

    def escrow(self, lines: list[str]) -> Escrow:
        return Escrow.of_head(json.loads(lines[0]))

    def recovery(self, asked: Json) -> Recovery:
        return Recovery.of_file(asked, self.b.server.spki)

    def close(self) -> None:
        self.a.close()
        self.b.close()
