"""Two brokers, each in a process of its own, on one store: who races at both for one nonce gets in at one, once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import World
from support.databases import Place
from support.kbs_guest import Guest
from support.kbs_world import NAME, SECRET, Kbs

from confide.attest.binding import NonceBook
from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.keys.kbs.sessions import GuestSessions

SECOND = """
import sys
from pathlib import Path
from confide.attest.insecure import Installation
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.keys.broker import Broker
from confide.keys.custody.local import KeyFile
from confide.keys.server import BrokerServer
from confide.keys.storage.database import Postgres, SqliteFile
from confide.keys.store import Store
place, key, tee = sys.argv[1:]
store = Store.open(Postgres(place) if "://" in place else SqliteFile(Path(place)), KeyFile(Path(key)))
installation = Installation.open(Path(tee))
verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
server = BrokerServer(Broker(store, verifier))
print(server.url, flush=True)
server.serve_forever()
"""


class Second:
    """A broker in another process."""

    def __init__(self, world: World) -> None:
        self.spki = world.server.spki
        words = [sys.executable, "-c", SECOND, world.place.name, str(world.folder / "master.key"), str(world.installation._folder)]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture
def kbs(tmp_path: Path, installation: Installation, place: Place) -> Iterator[Kbs]:
    world = World(tmp_path, installation, place=place.location)
    yield Kbs(world)
    world.close()


@pytest.fixture
def second(kbs: Kbs) -> Iterator[Second]:
    made = Second(kbs.world)
    yield made
    made.stop()


def raced(kbs: Kbs, second: Second, rounds: int) -> list[list[str]]:
    """Where evidence for one nonce of the first broker was accepted, when it was shown to both at once, from many connections."""
    found = []
    for _ in range(rounds):
        guest = kbs.guest()
        guest.auth()
        found.append(_shown_at_once(guest, guest.evidence(), {"first": kbs.world.server, "second": second}))
    return found


def _shown_at_once(guest: Guest, message: Json, servers: dict[str, Any]) -> list[str]:
    accepted: list[str] = []
    begin = threading.Barrier(3 * len(servers))

    def attest(name: str) -> None:
        other = Guest(servers[name], guest.attester, cookie=guest.cookie)
        begin.wait()
        if other.attest(message).status == 200:
            accepted.append(name)

    threads = [threading.Thread(target=attest, args=(name,)) for name in [*servers] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return accepted


@pytest.mark.slow
def test_one_nonce_at_two_brokers_is_taken_once(kbs: Kbs, second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    assert raced(kbs, second, 4) == [["first"]] * 4
    theirs = Guest(second, kbs.attester).ready()
    assert theirs.key.open(theirs.get(NAME).json).reveal() == SECRET, "the other process is a broker of the same store"
    assert theirs.channel is not None
    here = Guest(kbs.world.server, kbs.attester, key=theirs.key, cookie=theirs.cookie)
    assert here.get(NAME).status == 401, "a session is of the process that has begun it"
    taken_as_often_as_shown(monkeypatch)
    assert any(len(accepted) > 1 for accepted in raced(kbs, second, 4)), "the control"


def taken_as_often_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence taken out: a nonce is not used up, and a session may be attested again."""

    def admit(self: GuestSessions, name: str, guest: Any, token: str, now: datetime) -> None:
        self._attested[name] = replace(self._waiting[name], guest=guest, token=token, expires=now + self.ttl)

    monkeypatch.setattr(NonceBook, "redeem", lambda self, nonce, now: None)
    monkeypatch.setattr(GuestSessions, "admit", admit)
