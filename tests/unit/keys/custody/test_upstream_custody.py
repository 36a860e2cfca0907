"""A broker whose root key is at an upstream key broker to which it attests: another broker of Confide, or a stand-in of Trustee."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, World, policy
from support.custody.backends import http
from support.custody.mischief import MischiefServer
from support.custody.tls import Tls
from support.kbs_world import Kbs
from support.trustee_stand_in import TrusteeStandIn

from confide.attest.insecure import InsecureAttester, Installation
from confide.canonical import b64url
from confide.crypto.secret import SecretBytes
from confide.errors import AttesterError, ConfideError, ConfigError, CustodyError, CustodyOfflineError, StoreError
from confide.ids import SpkiDigest, Tee
from confide.keys.custody.envelope import EnvelopeKms
from confide.keys.custody.root import Custody
from confide.keys.custody.seal_state import Patience, SealableKms
from confide.keys.kbs.resources import ResourceName
from confide.keys.kbs.upstream import UpstreamKey
from confide.keys.store import Store

PLACE = "airline/key/root"


@dataclass
class Kept:
    """A broker, its upstream, and what it asks there."""

    world: World
    upstream: Kbs
    key: UpstreamKey
    manifest: dict[str, Any]
    root: bytes

    def release(self) -> str:
        try:
            self.world.client(self.world.node()).release(self.manifest)
        except ConfideError as error:
            return error.code
        return "ok"

    def ask_again(self) -> None:
        assert isinstance(self.world.store.kms, SealableKms)
        self.world.store.kms.ask_again()

    def put(self, value: bytes) -> None:
        assert self.upstream.post("airline", f"resource/{PLACE}", value).status == 200

    def open(self) -> Store:
        return Store.open(self.world.place, self.world.unlock)

    def health(self) -> tuple[int, Any]:
        answer = Kbs.guest(_Only(self.world), None).ask("GET", "/healthz")
        return answer.status, answer.json


class _Only(Kbs):
    def __init__(self, world: World) -> None:
        self.world = world
        self.attester = world.attester()


@pytest.fixture
def kept(tmp_path: Path, installation: Installation) -> Iterator[Kept]:
    for name in ("upstream", "own"):
        (tmp_path / name).mkdir()
    upstream = Kbs(World(tmp_path / "upstream", installation))
    root = SecretBytes.random().reveal()
    assert upstream.post("airline", f"resource/{PLACE}", root).status == 200
    server = upstream.world.server
    key = UpstreamKey(server.url, ResourceName.parse(PLACE), lambda: upstream.attester, spki=SpkiDigest(server.spki), timeout_s=2)
    custody = Custody(EnvelopeKms(key), "kbs", Patience(every_s=300, grace_s=0))
    world = World(tmp_path / "own", installation, unlock=custody)
    airline = world.owner("airline")
    _, manifest = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    yield Kept(world, upstream, key, manifest, root)
    world.close()
    upstream.world.close()


def test_broker_comes_up_by_its_evidence_and_after_a_restart(kept: Kept) -> None:
    assert kept.release() == "ok"
    kept.ask_again()
    kept.world.restart()
    assert kept.release() == "ok"
    assert kept.health() == (200, {"status": "ok"})
    event = kept.upstream.world.events("kbs-resource")[-1]
    assert (event["resource"], event["measurement"]) == (PLACE, "ab" * 32)


def test_other_software_does_not_come_up(kept: Kept, installation: Installation) -> None:
    object.__setattr__(kept.key, "attester", lambda: InsecureAttester(installation, Tee.SGX, "ee" * 32))
    kept.world.server.stop()
    with pytest.raises(CustodyError) as refused:
        kept.open()
    assert (refused.value.code, refused.value.facts["reason"]) == ("custody-refused", "resource-denied")


def test_broker_that_its_upstream_refuses_later_is_sealed_and_says_why(kept: Kept) -> None:
    kept.upstream.set_rules("airline", [])
    kept.ask_again()
    assert kept.release() == "broker-sealed"
    status, body = kept.health()
    assert (status, body["facts"]) == (503, {"reason": "custody"})  # no more than that is anybody's business
    assert "refuses" in str(kept.world.store.kms.sealed)
    kept.upstream.set_rules("airline", [{"resource": "airline/key/*", "policy": "simulated"}])
    kept.ask_again()
    assert (kept.release(), kept.health()[0]) == ("ok", 200)


def test_broker_whose_upstream_is_away_later_is_sealed_and_says_why(kept: Kept) -> None:
    object.__setattr__(kept.key, "address", "https://127.0.0.1:1")
    kept.ask_again()
    assert kept.release() == "broker-sealed"
    assert kept.health()[1]["facts"] == {"reason": "custody"}
    assert "could not be reached" in str(kept.world.store.kms.sealed)
    kept.world.server.stop()
    with pytest.raises(CustodyOfflineError):
        kept.open()


def test_resource_that_was_replaced_is_refused_and_not_taken(kept: Kept) -> None:
    kept.put(SecretBytes.random().reveal())
    kept.ask_again()
    assert kept.release() == "broker-sealed"
    with pytest.raises(CustodyError, match="not the one that this was wrapped under") as refused:
        kept.open()
    assert refused.value.code == "custody-refused"
    kept.put(kept.root)
    kept.ask_again()
    assert kept.release() == "ok"


@pytest.mark.parametrize("size", [1, 16, 31, 33, 64])
def test_resource_of_another_size_is_no_key(kept: Kept, size: int) -> None:
    kept.put(kept.root.ljust(64, b"\0")[:size])
    for call in (lambda: kept.key.wrap_key(SecretBytes.random(), bytes(32)), kept.open):
        with pytest.raises(CustodyError, match="not a key of 32 bytes") as refused:
            call()
        assert refused.value.code == "custody-refused"


def test_resource_that_moved_is_found_among_older_keys(kept: Kept) -> None:
    assert kept.upstream.post("airline", "resource/airline/key/newer", SecretBytes.random().reveal()).status == 200
    newer = replace(kept.key, key=ResourceName.parse("airline/key/newer"), older=(kept.key.key,))
    Store.open(kept.world.place, Custody(EnvelopeKms(newer), "kbs")).close()


def test_upstream_that_answers_a_resource_with_an_error_is_no_key(kept: Kept, tls: Tls) -> None:
    kept.world.server.stop()
    for answer in (http(200, b'{"error":"internal"}'), http(500, kept.root), http(200, kept.root), http(200, b"{", length=100), b""):
        server = MischiefServer(tls, answer)
        false = replace(kept.key, address=f"https://127.0.0.1:{server.port}", spki=None, ca=tls.ca)
        with pytest.raises(CustodyOfflineError):
            Store.open(kept.world.place, Custody(EnvelopeKms(false), "kbs"))
        server.stop()


def test_broker_outside_of_a_tee_is_offline_and_says_so(kept: Kept) -> None:
    def none() -> Any:
        raise AttesterError("this process does not run in a TEE")

    with pytest.raises(CustodyOfflineError, match="no evidence"):
        replace(kept.key, attester=none).wrap_key(SecretBytes.random(), bytes(32))


def test_resource_and_root_key_are_in_no_file_of_the_broker(kept: Kept) -> None:
    found = [path.read_bytes() for path in (kept.world.folder / "store").iterdir()]
    assert found
    for form in (kept.root, kept.root.hex().encode(), b64url(kept.root).encode()):
        assert not any(form in data for data in found)


def test_upstream_is_known_by_a_key_or_certificates(kept: Kept, tmp_path: Path) -> None:
    for trust in ({"ca": None, "spki": None}, {"ca": tmp_path / "ca.pem", "spki": SpkiDigest("00" * 32)}):
        with pytest.raises(ConfigError):
            replace(kept.key, **trust)
    other = replace(kept.key, spki=SpkiDigest("00" * 32))
    with pytest.raises(CustodyOfflineError):
        other.wrap_key(SecretBytes.random(), bytes(32))
    (tmp_path / "ca.pem").write_text("none")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError):
            replace(kept.key, spki=None, ca=tmp_path / name).wrap_key(SecretBytes.random(), bytes(32))


def test_stand_in_of_trustee_is_an_upstream_too(tmp_path: Path, installation: Installation, tls: Tls) -> None:
    trustee = TrusteeStandIn(tls)
    trustee.resources[PLACE] = SecretBytes.random().reveal()
    attester = InsecureAttester(installation, Tee.SGX, "ab" * 32)
    custody = Custody(EnvelopeKms(UpstreamKey(trustee.url, ResourceName.parse(PLACE), lambda: attester, ca=tls.ca)), "kbs")
    Store.create(tmp_path / "store.db", custody).close()
    trustee.denied.add(PLACE)
    with pytest.raises(CustodyError, match="refuses"):
        Store.open(tmp_path / "store.db", custody)
    trustee.stop()


# --- what a wrong opening is called ---------------------------------------------------------------------------------------


def test_wrong_opening_is_called_what_it_is(tmp_path: Path) -> None:
    from confide.keys.custody.local import KeyFile, MasterKey, Passphrase
    from confide.keys.custody.protocol import Unlock
    from confide.keys.custody.shares import SharedRoot

    class Other(MasterKey):
        """A custody that says yes, and gives a root key of its own."""

        def unwrap(self, wrapped: bytes, *, context: Any) -> SecretBytes:
            return SecretBytes.random()

    key = SecretBytes.random()
    one = SharedRoot.create(threshold=2, count=3)[0]
    ways: list[tuple[Unlock, Unlock, str]] = [
        (Passphrase(SecretBytes(b"correct horse")), Passphrase(SecretBytes(b"wrong horse!")), "the passphrase is not what"),
        (KeyFile.create(tmp_path / "a"), KeyFile.create(tmp_path / "b"), f"the key file {tmp_path / 'b'} is not what"),
        (one, replace(one, root=SecretBytes.random()), "the key that these shares make is not what"),
        (Custody(MasterKey(key), "vault"), Custody(Other(key), "vault"), "the key in the custody of vault is not what"),
    ]
    for number, (right, wrong, said) in enumerate(ways):
        place = tmp_path / f"{number}.db"
        Store.create(place, right).close()
        with pytest.raises(StoreError, match=said) as refused:
            Store.open(place, wrong)
        assert refused.value.code == "store-unavailable"
