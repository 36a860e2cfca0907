"""What a broker remembers so that releases are fast never outlives a change: the very next release on an open, busy session refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.broker_world import JOB, World, manifest, policy
from support.simulated_evidence import signed_tcb

from confide.attest.collateral import Collateral
from confide.attest.insecure import Installation
from confide.attest.insecure.documents import Machine
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json
from confide.crypto.sign import SigningKey
from confide.errors import ConfideError, ManifestError
from confide.ids import NodeId, Role, Tee
from confide.keys import manifest_claims, standing
from confide.keys.client import NodeBrokerClient, OwnerClient
from confide.keys.released_keys import ReleasedKey

Ask = Callable[[NodeBrokerClient, Json], list[ReleasedKey]]
PEOPLE = ("ada", "bob", "eve")


class Switched:
    """A source of collateral whose sets can be replaced while a broker serves."""

    def __init__(self, installation: Installation) -> None:
        self._store = installation.collateral_source()
        self.change: Callable[[Collateral], Collateral] = lambda found: found

    def get(self, platform: str, ca: str, tee: Tee) -> Collateral:
        found = self._store.get(platform, ca, tee)
        assert isinstance(found, Collateral)
        return self.change(found)


class Busy:
    """A node on an open session that was given the key of an approved grant several times already."""

    def __init__(self, folder: Path, tee: Installation) -> None:
        self.installation = tee
        self.source = Switched(tee)
        self.world = World(folder, tee, verifier=Verifier(TrustRoots(simulated=tee.root_der), self.source))
        self.airline = self.world.owner("airline")
        self.people = {name: self.world.owner(name) for name in PEOPLE}
        self.minted, self.manifest = self.world.dataset(self.airline, "airline", "flights")
        self.airline.set_approvers("flights", 2, PEOPLE)
        self.grant = self.granted(not_after=datetime.now(UTC) + timedelta(minutes=5))
        self.client = self.world.client(self.world.node())
        for _ in range(3):
            for ask in ASKS.values():
                assert [key.secret.reveal() for key in ask(self.client, self.manifest)] == [self.minted.secret.reveal()]

    def granted(self, **terms: Any) -> str:
        made = self.airline.grant("flights", job=JOB, policy=terms.pop("policy", policy()), **terms)
        for name in PEOPLE[:2]:
            self.people[name].vote(made.id, "approve")
        return made.id

    # --- changes ---------------------------------------------------------------------------------------------------------

    def withdraw(self) -> None:
        self.airline.revoke(self.grant)

    def withdraw_elsewhere(self) -> None:
        """At another broker on the same store."""
        with OwnerClient(self.world.second().url, self.world.server.spki, self.world.credential("airline")) as airline:
            airline.revoke(self.grant)

    def take_back_an_approval(self) -> None:
        self.people["ada"].take_back(self.grant)

    def reject(self) -> None:
        self.people["ada"].vote(self.grant, "reject")

    def ask_for_more_approvals(self) -> None:
        change = self.airline.set_approvers("flights", 3, PEOPLE)
        assert change is not None
        for name in PEOPLE[:2]:
            self.people[name].vote(change.change.id, "approve")

    def destroy_the_key(self) -> None:
        self.airline.rotate_key("flights")
        self.airline.destroy_key("flights", 1, lose_datasets=True)

    def cut_off(self) -> None:
        self.world.client(self.world.node(Role.DRIVER)).cut_off(NodeId("worker-1"))

    def change_the_policy(self) -> None:
        self.withdraw()
        self.granted(policy=policy(measurements={Tee.SGX: ("cd" * 32,)}))

    def pass_the_end(self) -> None:
        self.world.ahead = timedelta(minutes=6)

    def register_a_newer_snapshot(self) -> None:
        self.airline.register_manifest(manifest(self.minted, self.world.credential("airline").key, snapshot=2))

    def lower_the_rating(self) -> None:
        """Intel has found that the platform is out of date: new collateral says so."""
        levels = [{**level, "tcbStatus": "OutOfDate"} for level in self.installation.collateral(Tee.SGX).tcb["tcbLevels"]]
        signer, root = self.installation._signer("tcb-signer"), self.installation._root.public_bytes(Encoding.PEM).decode()
        chain = signer.certificate.public_bytes(Encoding.PEM).decode() + root
        self.source.change = lambda found: signed_tcb(found, signer, chain, tcbLevels=levels)

    def let_the_collateral_go_stale(self) -> None:
        stale = self.installation.collateral(Tee.SGX, Machine.STALE_COLLATERAL)
        self.source.change = lambda _: stale


ASKS: dict[str, Ask] = {
    "alone": lambda client, manifest: [client.release(manifest)],
    "together": lambda client, manifest: client.releases([manifest]),
}
CHANGES = {
    Busy.withdraw: "grant-missing",
    Busy.withdraw_elsewhere: "grant-missing",
    Busy.take_back_an_approval: "grant-missing",
    Busy.reject: "grant-missing",
    Busy.ask_for_more_approvals: "grant-missing",
    Busy.destroy_the_key: "key-destroyed",
    Busy.cut_off: "grant-missing",
    Busy.change_the_policy: "appraisal-refused",
    Busy.pass_the_end: "grant-missing",
    Busy.register_a_newer_snapshot: "manifest-rollback",
    Busy.lower_the_rating: "appraisal-refused",
    Busy.let_the_collateral_go_stale: "collateral-invalid",
}


@pytest.fixture
def busy(tmp_path: Path, tee: Installation) -> Iterator[Busy]:
    made = Busy(tmp_path, tee)
    yield made
    made.world.close()


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_next_release_after_a_change_is_refused(busy: Busy, change: Callable[[Busy], None], ask: str) -> None:
    change(busy)
    with pytest.raises(ConfideError) as refusal:
        ASKS[ask](busy.client, busy.manifest)
    assert refusal.value.code == CHANGES[change], json.dumps(refusal.value.to_json())
    assert busy.world.refusals()[-1][1] == CHANGES[change]


@pytest.mark.parametrize("change", [Busy.take_back_an_approval, Busy.reject, Busy.ask_for_more_approvals], ids=lambda one: one.__name__)
def test_approvals_are_counted_anew_only_because_the_records_are_compared(
    busy: Busy, change: Callable[[Busy], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence taken out: what was counted before would stand."""
    monkeypatch.setattr(standing._Counted, "is_of", lambda *_: True)
    assert busy.client.release(busy.manifest)
    change(busy)
    if change is Busy.ask_for_more_approvals:
        with pytest.raises(ConfideError, match="2 of 3"):  # how many are needed is read each time, whoever was counted
            busy.client.release(busy.manifest)
    else:
        assert busy.client.release(busy.manifest)


def test_a_rating_is_looked_up_anew_only_because_the_collateral_is_compared(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence taken out: what evidence said under the collateral of before would stand."""
    monkeypatch.setattr(Collateral, "digest", property(lambda _: "one for all"))
    busy.world.broker.verifier._intel._genuine.clear()
    assert busy.client.release(busy.manifest)
    busy.lower_the_rating()
    assert busy.client.release(busy.manifest)


def forged(genuine: Json) -> Json:
    """The manifest with other words under the same signature."""
    payload = base64.b64decode(genuine["payload"]).replace(b'"files":[]', b'"files":[1]')
    return {**genuine, "payload": base64.b64encode(payload).decode()}


@pytest.mark.parametrize("ask", ASKS)
def test_changed_manifest_is_refused_although_the_genuine_one_is_known(busy: Busy, ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = manifest(busy.minted, SigningKey.generate())
    relabelled = {**foreign, "signatures": [{**foreign["signatures"][0], "keyid": busy.manifest["signatures"][0]["keyid"]}]}
    for shown in (forged(busy.manifest), foreign, relabelled, {**busy.manifest, "more": 1}, {**busy.manifest, "signatures": []}):
        with pytest.raises(ManifestError):
            ASKS[ask](busy.client, shown)
    # The defence taken out: one name for all envelopes.
    monkeypatch.setattr(manifest_claims, "_digest", lambda _: b"")
    for table in ("_verified", "_named"):
        monkeypatch.setattr(manifest_claims, table, {})
    assert ASKS[ask](busy.client, busy.manifest)
    assert ASKS[ask](busy.client, forged(busy.manifest))


def test_what_is_known_of_manifests_is_bounded_and_genuine(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_claims, "_MAX_KNOWN", 2)
    key = busy.world.credential("airline").key
    for snapshot in range(1, 6):
        busy.client.release(manifest(busy.minted, key, snapshot=snapshot))
        assert len(manifest_claims._verified) <= 2
        assert {digest for digest, _ in manifest_claims._verified} == set(manifest_claims._named)
    before = dict(manifest_claims._verified)
    with pytest.raises(ManifestError):
        busy.client.release(forged(busy.manifest))
    assert manifest_claims._verified == before
