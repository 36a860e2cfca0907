"""A real broker whose master key is in another's custody: it comes up through it, and gives no key once the custody takes it back."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, World, policy
from support.custody import backends
from support.custody.tls import Tls, private_file
from support.custody.transit import NAMESPACE, TransitServer

from confide.attest.insecure import Installation
from confide.canonical import b64url
from confide.crypto.http_messages import Response
from confide.crypto.secret import SecretBytes
from confide.crypto.tls import PinnedSpki, connect
from confide.errors import ConfideError, CustodyError, CustodyOfflineError, StoreError
from confide.ids import Role
from confide.keys.custody.envelope import EnvelopeKms
from confide.keys.custody.root import Custody
from confide.keys.custody.seal_state import Patience, SealableKms, watching
from confide.keys.custody.shares import SharedRoot
from confide.keys.custody.vault import VaultTransit
from confide.keys.seal_events import seals_audited
from confide.keys.store import Store


@dataclass
class Kept:
    """A broker in the custody of a stand-in for Vault, with one granted dataset."""

    world: World
    vault: VaultTransit
    custody: Custody
    manifest: dict[str, Any]
    dataset: str

    @property
    def kms(self) -> SealableKms:
        assert isinstance(self.world.store.kms, SealableKms)
        return self.world.store.kms

    def release(self) -> str:
        try:
            self.world.client(self.world.node()).release(self.manifest)
        except ConfideError as error:
            return error.code
        return "ok"


@pytest.fixture
def kept(tmp_path: Path, installation: Installation, transit: TransitServer, tls: Tls) -> Iterator[Kept]:
    transit.rotate("broker")
    token = private_file(tmp_path / "token", backends.TOKEN_TEXT)
    vault = VaultTransit(transit.address, "broker", token, namespace=NAMESPACE, ca=tls.ca, timeout_s=2)
    custody = Custody(EnvelopeKms(vault), "vault", Patience(every_s=300, grace_s=0))
    world = World(tmp_path / "world", installation, unlock=custody)
    airline = world.owner("airline")
    minted, manifest = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    yield Kept(world, vault, custody, manifest, minted.dataset)
    world.close()


def deny(kept: Kept) -> None:
    kept.vault.token_file.write_text("hvs.revoked")


def unplug(kept: Kept) -> None:
    object.__setattr__(kept.vault, "address", "https://127.0.0.1:1")


def test_a_broker_gives_keys_while_its_custody_agrees_and_after_a_restart(kept: Kept) -> None:
    assert kept.release() == "ok"
    kept.kms.ask_again()
    assert kept.release() == "ok"
    kept.world.restart()
    assert kept.release() == "ok"


@pytest.mark.parametrize("stop", [deny, unplug])
def test_no_key_leaves_a_broker_whose_custody_refuses_or_is_away(kept: Kept, stop: Callable[[Kept], None]) -> None:
    node = kept.world.client(kept.world.node())
    node.release(kept.manifest)
    airline = kept.world.stranger(kept.world.credential("airline"))
    stop(kept)
    kept.kms.ask_again()
    assert kept.release() == "broker-sealed"
    driver = kept.world.client(kept.world.node(Role.DRIVER))
    for ask in (lambda: node.release(kept.manifest), lambda: airline.create_key("another"), lambda: airline.mint_dataset("flights"),
                lambda: driver.output("result", inputs=[kept.dataset], recipients=[])):  # fmt: skip
        with pytest.raises(ConfideError) as refused:
            ask()
        assert refused.value.code == "broker-sealed"
    assert ("release", "broker-sealed") in kept.world.refusals()


@pytest.mark.parametrize(("stop", "code"), [(deny, "custody-refused"), (unplug, "custody-offline")])
def test_a_broker_does_not_come_up_without_its_custody(kept: Kept, stop: Callable[[Kept], None], code: str) -> None:
    kept.world.server.stop()
    stop(kept)
    with pytest.raises(CustodyError) as refused:
        Store.open(kept.world.folder / "store" / "broker.db", kept.custody)
    assert refused.value.code == code
    assert isinstance(refused.value, CustodyOfflineError) is (stop is unplug)


def test_a_sealed_broker_gives_keys_again_when_the_custody_does(kept: Kept) -> None:
    address = kept.vault.address
    unplug(kept)
    kept.kms.ask_again()
    assert kept.release() == "broker-sealed"
    object.__setattr__(kept.vault, "address", address)
    kept.kms.ask_again()
    assert kept.release() == "ok"


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_log_says_which_custody_sealed_and_unsealed_the_broker_and_when(kept: Kept) -> None:
    address, began = kept.vault.address, datetime.now(UTC)
    with watching(kept.kms, seals_audited(kept.world.store, "kbs-1")):
        unplug(kept)
        kept.kms.ask_again()
        until(lambda: kept.world.events("seal"))
        object.__setattr__(kept.vault, "address", address)
        kept.kms.ask_again()
        until(lambda: len(kept.world.events("unseal")) == 2)
    (sealed,), (opened, again) = kept.world.events("seal"), kept.world.events("unseal")
    assert {event["custody"] for event in (sealed, opened, again)} == {"vault"}
    assert {event["host"] for event in (sealed, opened, again)} == {"kbs-1"}
    assert "could not be reached" in sealed["reason"]
    times = [datetime.fromisoformat(event["time"]) for event in (opened, sealed, again)]
    assert times == sorted(times)
    assert began <= times[1] <= datetime.now(UTC)
    kept.world.store.check()


def _asked(kept: Kept, path: str) -> Response:
    host, port = kept.world.server.url.removeprefix("https://").split(":")
    channel = connect(host, int(port), None, trust=PinnedSpki(kept.world.server.spki))
    channel.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    data = b""
    while piece := channel.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return Response(int(head.split()[1]), text=body.decode())


@pytest.mark.parametrize("stop", [deny, unplug])
def test_sealed_broker_lives_but_is_not_ready_and_says_no_more_than_that(kept: Kept, stop: Callable[[Kept], None]) -> None:
    address, token = kept.vault.address, kept.vault.token_file.read_text()
    assert _asked(kept, "/healthz").status == 200
    assert "confide_broker_sealed 0.0" in str(_asked(kept, "/metrics").text)
    stop(kept)
    kept.kms.ask_again()
    answer = _asked(kept, "/healthz")
    assert answer.status == 503
    assert json.loads(str(answer.text))["facts"] == {"reason": "custody"}
    assert not any(word in str(answer.text) for word in (address, token, "vault"))
    assert _asked(kept, "/livez").status == 200
    counts = str(_asked(kept, "/metrics").text)
    assert "confide_broker_sealed 1.0" in counts
    assert kept.release() == "broker-sealed"
    counts = str(_asked(kept, "/metrics").text)
    assert 'confide_broker_refusals_total{code="broker-sealed"}' in counts
    assert "confide_broker_custody_checks_total" in counts
    object.__setattr__(kept.vault, "address", address)
    kept.vault.token_file.write_text(token)
    kept.kms.ask_again()
    assert _asked(kept, "/healthz").status == 200
    assert kept.release() == "ok"


def test_an_error_page_in_the_custodys_place_is_no_key(kept: Kept, tls: Tls) -> None:
    server = backends.MischiefServer(tls, backends.http(500, b"0123456789abcdef0123456789abcdef"))
    object.__setattr__(kept.vault, "address", f"https://127.0.0.1:{server.port}")
    with pytest.raises(CustodyOfflineError):
        Store.open(kept.world.folder / "store" / "broker.db", kept.custody)
    server.stop()


def test_the_root_key_is_in_no_file(kept: Kept, tmp_path: Path) -> None:
    asked: list[SecretBytes] = []

    class Spy:
        def wrap(self, secret: SecretBytes, *, context: dict[str, Any]) -> bytes:
            raise NotImplementedError

        def unwrap(self, wrapped: bytes, *, context: dict[str, Any]) -> SecretBytes:
            found = kept.custody.kms.unwrap(wrapped, context=context)
            asked.append(SecretBytes(found.reveal()))
            return found

    Store.open(kept.world.folder / "store" / "broker.db", Custody(Spy(), "vault")).close()
    root = asked[0].reveal()
    assert len(root) == 32
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        data = path.read_bytes()
        for form in (root, root.hex().encode(), b64url(root).encode(), base64.b64encode(root)):
            assert form not in data


def test_a_store_of_another_custody_key_is_refused(kept: Kept, transit: TransitServer) -> None:
    kept.world.server.stop()
    transit.keys["broker"] = []
    transit.rotate("broker")
    with pytest.raises(StoreError):
        Store.open(kept.world.folder / "store" / "broker.db", kept.custody)


def test_shares_that_the_store_was_made_to_accept_by_a_forger_open_nothing(tmp_path: Path) -> None:
    """Who can write the file can put in the digests of shares that they made, but not what these would open."""
    import json
    import sqlite3

    path = tmp_path / "store.db"
    genuine, _ = SharedRoot.create(threshold=2, count=3)
    Store.create(path, genuine).close()
    forged, _ = SharedRoot.create(threshold=2, count=3)
    database = sqlite3.connect(path)
    meta = json.loads(database.execute("SELECT value FROM meta WHERE name = 'store'").fetchone()[0])
    meta["master"] = forged.new_parameters()
    database.execute("UPDATE meta SET value = ? WHERE name = 'store'", (json.dumps(meta),))
    database.commit()
    database.close()
    with pytest.raises(StoreError):
        Store.open(path, forged)
    with pytest.raises(StoreError):
        Store.open(path, genuine)
