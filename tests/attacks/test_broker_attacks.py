"""Attacks on the broker, each over TLS against a real server: what is refused, with which error, and that the log says so."""

from __future__ import annotations

import base64
import importlib.util
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from confide.attest.binding import report_data
from confide.attest.evidence import NodeContext
from confide.attest.insecure import Fault, Installation
from confide.canonical import Json, b64url, from_b64url
from confide.crypto.http import Response, request
from confide.crypto.seal import SealKey
from confide.crypto.secret import SecretBytes
from confide.crypto.tls import Channel, Identity, PinnedSpki, connect
from confide.errors import (
    AppraisalError,
    AuditError,
    BindingError,
    BrokerError,
    CollateralError,
    ConfideError,
    CredentialError,
    EvidenceInvalidError,
    GrantError,
    ManifestError,
    RollbackError,
    StoreError,
    UnwrapError,
)
from confide.ids import NodeId, Nonce, Purpose, Role, RunId, Tee
from confide.keys.kms import KeyFile, Passphrase
from confide.keys.store import Store

_name = "broker_world"
_spec = importlib.util.spec_from_file_location(_name, Path(__file__).parents[1] / "unit" / "keys" / "broker_world.py")
assert _spec is not None
assert _spec.loader is not None
if _name not in sys.modules:
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])

from broker_world import JOB, OTHER_JOB, RUN, Node, World, manifest, policy  # noqa: E402  loaded by path above


@pytest.fixture(scope="module")
def tee(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


@pytest.fixture
def world(tmp_path: Path, tee: Installation) -> Iterator[World]:
    made = World(tmp_path, tee)
    yield made
    made.close()


class Granted:
    """An airline whose flights are granted to one job."""

    def __init__(self, world: World, **grant: Any) -> None:
        self.airline = world.owner("airline")
        self.minted, self.manifest = world.dataset(self.airline, "airline", "flights")
        self.grant = self.airline.grant("flights", job=JOB, policy=grant.pop("policy", policy()), **grant)


class Raw:
    """A node that speaks the protocol by hand, so that it can break it anywhere."""

    def __init__(self, world: World, node: Node | None = None) -> None:
        self.node = node or world.node()
        host, port = world.server.url.removeprefix("https://").split(":")
        self.channel: Channel = connect(host, int(port), self.node.identity, trust=PinnedSpki(world.server.spki))
        self.cookie: dict[str, str] = {}

    def send(self, path: str, body: Json, **headers: str) -> Response:
        return request(self.channel, "POST", path, body, {**self.cookie, **headers})

    def auth(self) -> Nonce:
        answer = self.send("/kbs/v0/auth", {"version": "0.4.0", "tee": "sgx", "extra-params": {}})
        assert answer.status == 200
        assert answer.json is not None
        self.cookie = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
        return Nonce(from_b64url(answer.json["nonce"]))

    def message(self, nonce: Nonce, /, **changed: Any) -> Json:
        """An attest message; ``changed`` replaces what goes into the report data, but not what is said."""
        said: dict[str, Any] = {
            "role": self.node.role,
            "exporter": self.channel.exporter(),
            "nonce": nonce,
            "spki": self.node.identity.spki_der,
            "context": self.node.context.digest,
        }
        evidence = self.node.attester.quote(report_data(**{**said, **changed}))
        return self.wrap(nonce, evidence.to_json(), self.node.context)

    def wrap(self, nonce: Nonce, evidence: Json, context: NodeContext) -> Json:
        runtime = {"nonce": b64url(nonce), "tee-pubkey": context.seal, "confide-context": context.to_json(), "role": self.node.role.value}
        return {"runtime-data": runtime, "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""}}

    def attest(self, message: Json) -> str:
        """The error's code, or ``ok``."""
        return code_of(self.send("/kbs/v0/attest", message))

    def release(self, envelope: Json) -> str:
        return code_of(self.send("/confide/v0/release", {"manifest": envelope, "purpose": "read"}))


def code_of(answer: Response) -> str:
    assert answer.json is not None
    if answer.status == 200:
        return "ok"
    assert "jwe" not in answer.json
    return str(answer.json["code"])


# --- the hand-made node is a good one when it breaks nothing: otherwise the refusals below would prove nothing --------------


def test_hand_made_node_that_breaks_nothing_gets_the_key(world: World) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    assert raw.release(granted.manifest) == "ok"


# --- sessions and evidence ------------------------------------------------------------------------------------------


def test_no_key_without_attestation(world: World) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.release(granted.manifest) == "binding-mismatch"
    raw.auth()
    assert raw.release(granted.manifest) == "binding-mismatch"
    assert ("session", "binding-mismatch") in world.refusals()


def test_replayed_evidence_is_refused(world: World) -> None:
    first, second = Raw(world), Raw(world)
    message = first.message(first.auth())
    assert first.attest(message) == "ok"
    second.auth()
    assert second.attest(message) == "nonce-refused"


def test_replayed_evidence_under_a_fresh_nonce_is_refused(world: World) -> None:
    first, second = Raw(world), Raw(world)
    message = first.message(first.auth())
    assert first.attest(message) == "ok"
    nonce = second.auth()
    stolen = {**message, "runtime-data": {**message["runtime-data"], "nonce": b64url(nonce)}}
    assert second.attest(stolen) == "binding-mismatch"
    assert ("attest", "binding-mismatch") in world.refusals()


def test_stored_evidence_of_an_earlier_session_is_refused(world: World) -> None:
    raw = Raw(world, world.node(fault=Fault.REPLAY))
    assert raw.attest(raw.message(raw.auth())) == "binding-mismatch"


def test_evidence_relayed_from_another_tls_session_is_refused(world: World) -> None:
    """CVE-2026-33697: the victim attests to a middleman, who relays its quote over a session of his own."""
    victim, middleman = Raw(world), Raw(world)
    nonce = middleman.auth()
    quote = victim.message(nonce, spki=middleman.node.identity.spki_der)
    assert middleman.attest(quote) == "binding-mismatch"


@pytest.mark.parametrize(
    "changed",
    [{"role": Role.DRIVER}, {"nonce": Nonce(bytes(32))}, {"exporter": bytes(32)}, {"context": bytes(48)}, {"spki": b"another key"}],
    ids=lambda changed: next(iter(changed)),
)
def test_evidence_for_something_else_than_is_said_is_refused(world: World, changed: dict[str, Any]) -> None:
    raw = Raw(world)
    assert raw.attest(raw.message(raw.auth(), **changed)) == "binding-mismatch"


def test_expired_nonce_is_refused(world: World) -> None:
    raw = Raw(world)
    nonce = raw.auth()
    world.ahead = timedelta(seconds=61)
    assert raw.attest(raw.message(nonce)) == "nonce-refused"


def test_nonce_works_once(world: World) -> None:
    raw = Raw(world)
    message = raw.message(raw.auth())
    assert raw.attest(message) == "ok"
    assert raw.attest(message) == "nonce-refused"


def test_cookie_moved_to_another_connection_is_refused(world: World) -> None:
    granted, good, thief = Granted(world), Raw(world), Raw(world)
    assert good.attest(good.message(good.auth())) == "ok"
    thief.cookie = good.cookie
    assert thief.release(granted.manifest) == "binding-mismatch"


def test_cookie_moved_to_another_attested_connection_is_refused(world: World) -> None:
    granted, good, thief = Granted(world), Raw(world), Raw(world, world.node(job=OTHER_JOB))
    for raw in (good, thief):
        assert raw.attest(raw.message(raw.auth())) == "ok"
    thief.cookie = good.cookie
    assert thief.release(granted.manifest) == "binding-mismatch"


def test_same_identity_on_another_connection_must_attest_again(world: World) -> None:
    granted = Granted(world)
    node = world.node()
    good, again = Raw(world, node), Raw(world, node)
    assert good.attest(good.message(good.auth())) == "ok"
    again.cookie = good.cookie
    assert again.release(granted.manifest) == "binding-mismatch"


def test_session_ends(world: World) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    world.ahead = timedelta(minutes=16)
    assert raw.release(granted.manifest) == "binding-mismatch"


def test_key_to_seal_to_must_be_the_attested_one(world: World) -> None:
    raw = Raw(world)
    message = raw.message(raw.auth())
    message["runtime-data"]["tee-pubkey"] = SealKey.generate().public_jwk()
    assert raw.attest(message) == "binding-mismatch"


def test_node_without_a_tls_key_is_refused(world: World) -> None:
    raw = Raw(world)
    host, port = world.server.url.removeprefix("https://").split(":")
    raw.channel = connect(host, int(port), None, trust=PinnedSpki(world.server.spki))
    assert raw.attest(raw.message(raw.auth())) == "binding-mismatch"


def test_sealed_key_opens_with_the_nodes_own_seal_key_only(world: World) -> None:
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    answer = raw.send("/confide/v0/release", {"manifest": granted.manifest, "purpose": "read"}).json
    assert answer is not None
    context = {"dataset": granted.minted.dataset, "job": JOB, "run": RUN, "purpose": "read"}
    with pytest.raises(UnwrapError):
        SealKey.generate().open(answer["jwe"], context=context)
    with pytest.raises(UnwrapError):
        raw.node.seal_key.open(answer["jwe"], context={**context, "purpose": "write"})
    assert raw.node.seal_key.open(answer["jwe"], context=context).reveal() == granted.minted.secret.reveal()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.DEBUG, AppraisalError),
        (Fault.REVOKED_PCK, EvidenceInvalidError),
        (Fault.STALE_COLLATERAL, CollateralError),
        (Fault.EXPIRED_CRL, CollateralError),
        (Fault.OUT_OF_DATE, AppraisalError),
        (Fault.WRONG_MEASUREMENT, AppraisalError),
    ],
)
def test_faulty_node_gets_no_key(world: World, fault: Fault, expected: type[ConfideError]) -> None:
    granted = Granted(world)
    with pytest.raises(expected):
        world.client(world.node(fault=fault)).release(granted.manifest)
    assert world.events("release") == []
    assert any(code == expected.code for _, code in world.refusals())


def test_evidence_is_verified_anew_at_each_release(world: World) -> None:
    """Collateral that goes stale during a session ends the session's releases."""
    world.options = {"session_ttl": timedelta(days=365)}
    world.restart()
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    assert raw.release(granted.manifest) == "ok"
    world.ahead = timedelta(days=60)
    assert raw.release(granted.manifest) == "collateral-invalid"


def test_owners_policy_decides_not_the_jobs(world: World) -> None:
    granted = Granted(world, policy=policy("strict", min_tcb_eval=10_000))
    with pytest.raises(AppraisalError):
        world.client(world.node()).release(granted.manifest)


def test_simulated_node_is_refused_by_a_policy_without_the_switch(world: World) -> None:
    granted = Granted(world, policy=policy("real", allow=()))
    with pytest.raises(AppraisalError, match="simulated"):
        world.client(world.node()).release(granted.manifest)


# --- a node that its run's driver does not accept any more --------------------------------------------------------------


def test_node_that_was_cut_off_gets_no_key_not_even_for_fresh_evidence(world: World) -> None:
    granted = Granted(world)
    worker, other = world.client(world.node()), world.client(world.node(name="worker-2"))
    worker.release(granted.manifest)
    world.client(world.node(Role.DRIVER)).cut_off(NodeId("worker-1"))
    for client in (worker, world.client(world.node())):  # its session, and one anew with keys of its own
        with pytest.raises(GrantError, match="does not accept this node"):
            client.release(granted.manifest)
    world.restart()
    with pytest.raises(GrantError, match="does not accept this node"):
        world.client(world.node()).release(granted.manifest)
    assert ("release", "grant-missing") in world.refusals()
    other = world.client(world.node(name="worker-2"))
    other.release(granted.manifest)
    world.client(world.node(run=RunId("another-run"))).release(granted.manifest)
    (event,) = world.events("cut-off")
    assert (event["node"], event["cut_off"]) == ("driver-1", "worker-1")


@pytest.mark.parametrize(("role", "target"), [(Role.WORKER, "worker-2"), (Role.DRIVER, "driver-1")])
def test_only_a_driver_cuts_off_and_only_others(world: World, role: Role, target: str) -> None:
    with pytest.raises(GrantError):
        world.client(world.node(role)).cut_off(NodeId(target))
    assert world.events("cut-off") == []


def test_driver_of_the_same_run_that_made_no_output_cuts_off_nobody(world: World) -> None:
    granted = Granted(world, purposes=[Purpose.READ, Purpose.WRITE])
    world.client(world.node(Role.DRIVER)).output("delays", inputs=[granted.minted.dataset], recipients=[])
    with pytest.raises(BindingError, match="another driver"):
        world.client(world.node(Role.DRIVER, name="driver-2")).cut_off(NodeId("worker-1"))


# --- grants ---------------------------------------------------------------------------------------------------------


def test_ungranted_job_gets_no_key(world: World) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    with pytest.raises(GrantError, match="covers this job"):
        world.client(world.node()).release(envelope)
    assert ("release", "grant-missing") in world.refusals()


def test_job_with_another_digest_gets_no_key(world: World) -> None:
    granted = Granted(world)
    with pytest.raises(GrantError, match="covers this job"):
        world.client(world.node(job=OTHER_JOB)).release(granted.manifest)


@pytest.mark.parametrize("changes", [{"roles": [Role.DRIVER]}, {"purposes": [Purpose.WRITE]}], ids=["role", "purpose"])
def test_other_role_or_purpose_than_granted_gets_no_key(world: World, changes: dict[str, Any]) -> None:
    granted = Granted(world, **changes)
    with pytest.raises(GrantError):
        world.client(world.node()).release(granted.manifest, Purpose.READ)


def test_revoked_grant_stops_a_session_that_already_got_the_key(world: World) -> None:
    granted = Granted(world)
    client = world.client(world.node())
    client.release(granted.manifest)
    granted.airline.revoke(granted.grant.id)
    with pytest.raises(GrantError, match="revoked"):
        client.release(granted.manifest)


def test_grant_ends_at_its_time(world: World) -> None:
    granted = Granted(world, not_after=world.now() + timedelta(minutes=1))
    client = world.client(world.node())
    client.release(granted.manifest)
    world.ahead = timedelta(minutes=2)
    with pytest.raises(GrantError, match="ended"):
        client.release(granted.manifest)


def test_grant_of_one_key_opens_no_other(world: World) -> None:
    granted = Granted(world)
    _, other = world.dataset(granted.airline, "airline", "crews")
    with pytest.raises(GrantError):
        world.client(world.node()).release(other)


# --- manifests ------------------------------------------------------------------------------------------------------


def test_rolled_back_manifest_is_refused(world: World) -> None:
    granted = Granted(world)
    granted.airline.register_manifest(manifest(granted.minted, world.credential("airline").key, snapshot=2))
    with pytest.raises(RollbackError, match="older"):
        world.client(world.node()).release(granted.manifest)
    assert ("release", "manifest-rollback") in world.refusals()


def test_roll_back_is_noticed_after_a_restart_and_for_snapshots_seen_at_a_release(world: World) -> None:
    granted = Granted(world)
    newer = manifest(granted.minted, world.credential("airline").key, snapshot=5)
    world.client(world.node()).release(newer)
    world.restart()
    with pytest.raises(RollbackError):
        world.client(world.node()).release(granted.manifest)


def test_other_manifest_with_the_same_snapshot_number_is_refused(world: World) -> None:
    granted = Granted(world)
    twin = manifest(granted.minted, world.credential("airline").key, files=["another"])
    with pytest.raises(RollbackError, match="same snapshot"):
        world.client(world.node()).release(twin)


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


def test_manifest_signed_by_another_owner_is_refused(world: World) -> None:
    granted = Granted(world)
    world.owner("weather")
    forged = manifest(granted.minted, world.credential("weather").key, snapshot=2)
    with pytest.raises(ManifestError, match="signed by"):
        world.client(world.node()).release(forged)
    with pytest.raises(CredentialError):
        world.stranger(world.credential("weather")).register_manifest(forged)


def test_manifest_that_was_changed_after_signing_is_refused(world: World) -> None:
    granted = Granted(world)
    payload = bytearray(from_b64url(granted.manifest["payload"].rstrip("=").replace("+", "-").replace("/", "_")))
    payload[payload.index(b'"snapshot":1') + 11] = ord("9")


    with pytest.raises(ManifestError):
        world.client(world.node()).release({**granted.manifest, "payload": base64.b64encode(bytes(payload)).decode()})


def test_manifest_of_an_unknown_dataset_is_refused(world: World) -> None:
    granted = Granted(world)
    unknown = replace(granted.minted, dataset="ff" * 16, wrapped=replace(granted.minted.wrapped, dataset="ff" * 16))
    with pytest.raises(ManifestError, match="does not know"):
        world.client(world.node()).release(manifest(unknown, world.credential("airline").key))


# --- owners ---------------------------------------------------------------------------------------------------------


def test_owner_b_never_sees_or_uses_what_is_owner_as(world: World) -> None:
    granted = Granted(world)
    weather = world.owner("weather")
    for attempt in (
        lambda: weather.mint_dataset("airline/flights"),
        lambda: weather.rotate_key("airline/flights"),
        lambda: weather.create_key("airline/more"),
        lambda: weather.grant("airline/flights", job=OTHER_JOB, policy=policy()),
        lambda: weather.revoke(granted.grant.id),
        lambda: weather.open(granted.manifest),
        lambda: weather.register_manifest(granted.manifest),
    ):
        with pytest.raises(CredentialError):
            attempt()
    assert weather.keys() == ()
    assert weather.grants() == ()
    assert world.client(world.node()).release(granted.manifest).secret.reveal() == granted.minted.secret.reveal()


def test_answer_for_another_owners_key_is_the_same_whether_it_exists(world: World) -> None:
    Granted(world)
    weather = world.owner("weather")
    refusals = []
    for name in ("airline/flights", "airline/nothing"):
        with pytest.raises(CredentialError) as caught:
            weather.mint_dataset(name)
        refusals.append((caught.value.message, set(caught.value.facts)))
    assert refusals[0] == refusals[1]


def test_credential_that_is_not_enrolled_can_do_nothing(world: World) -> None:
    granted = Granted(world)
    stranger = world.stranger(world.credential("nobody"))
    for attempt in (stranger.keys, stranger.grants, stranger.audit, stranger.audit_head, lambda: stranger.open(granted.manifest)):
        with pytest.raises(CredentialError):
            attempt()


def test_credential_with_an_owners_name_but_another_key_can_do_nothing(world: World, tmp_path: Path) -> None:
    Granted(world)
    from confide.keys.credentials import Credential

    impostor = world.stranger(Credential.create(tmp_path / "elsewhere", "airline"))
    with pytest.raises(CredentialError):
        impostor.keys()
    with pytest.raises(CredentialError):
        impostor.enrol("guess")


def test_attested_node_is_no_owner_and_an_owner_is_no_node(world: World) -> None:
    granted = Granted(world)
    raw = Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    assert code_of(raw.send("/confide/v0/open", {"manifest": granted.manifest})) == "credential-refused"
    owner = Raw(world, world.node(attester=world.attester(measurement="cd" * 32)))
    host, port = world.server.url.removeprefix("https://").split(":")
    owner.channel = connect(host, int(port), world.credential("airline").identity(), trust=PinnedSpki(world.server.spki))
    assert owner.release(granted.manifest) == "binding-mismatch"


# --- the server's answers and the client --------------------------------------------------------------------------------


def test_broker_with_another_key_than_the_pinned_one_is_not_asked(world: World) -> None:
    granted = Granted(world)
    node = world.node()
    from confide.keys.client import NodeBrokerClient

    client = NodeBrokerClient(
        world.server.url,
        Identity.generate("other").spki_digest,
        identity=node.identity,
        attester=node.attester,
        context=node.context,
        seal_key=node.seal_key,
        role=node.role,
    )
    with pytest.raises(BrokerError, match="pinned"):
        client.release(granted.manifest)


def test_broker_that_is_down_yields_no_key(world: World) -> None:
    granted = Granted(world)
    client = world.client(world.node())
    client.release(granted.manifest)
    world.server.stop()
    for _ in range(2):
        with pytest.raises(BrokerError):
            client.release(granted.manifest)


def test_failure_inside_the_broker_is_a_500_that_yields_no_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    client = world.client(world.node())

    def broken(*_: object) -> SecretBytes:
        raise RuntimeError("canary-4711")

    monkeypatch.setattr(world.broker._keys, "dataset_key", broken)
    with pytest.raises(BrokerError) as caught:
        client.release(granted.manifest)
    assert caught.value.facts["status"] == 500
    assert "canary" not in str(caught.value)


def test_no_key_leaves_when_the_audit_log_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    client = world.client(world.node())
    client.audit_head()

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(world.store, "_put", full)
    with pytest.raises(BrokerError):
        client.release(granted.manifest)


# --- the store's file -----------------------------------------------------------------------------------------------


def _change(world: World, sql: str, *values: object) -> None:
    with sqlite3.connect(world.folder / "store" / "broker.db") as database:
        assert database.execute(sql, values).rowcount > 0
    database.close()


def test_recipient_that_was_written_into_a_grants_row_is_refused(world: World) -> None:
    world.owner("analyst")
    granted = Granted(world)
    _change(world, "UPDATE records SET body = replace(body, '\"recipients\": []', '\"recipients\": [\"analyst\"]') WHERE kind = 'grant'")
    with pytest.raises(BrokerError):
        world.client(world.node()).release(granted.manifest)
    assert world.events("release") == []


def test_owners_key_that_was_replaced_in_the_file_is_refused(world: World) -> None:
    Granted(world)
    thief = world.credential("thief")
    _change(world, "UPDATE records SET ref = ? WHERE kind = 'owner'", thief.spki)
    with pytest.raises(BrokerError):
        world.stranger(thief).keys()


def test_row_that_was_moved_to_another_place_is_refused(world: World) -> None:
    granted = Granted(world)
    _, other = world.dataset(granted.airline, "airline", "crews")
    _change(world, "UPDATE records SET ref = 'airline/crews' WHERE kind = 'grant'")
    with pytest.raises(BrokerError):
        world.client(world.node()).release(other)


@pytest.mark.parametrize("restart", [False, True], ids=["in service", "restarted"])
def test_revoked_grant_whose_old_row_is_put_back_stops_the_broker(world: World, *, restart: bool) -> None:
    granted = Granted(world)
    with sqlite3.connect(world.folder / "store" / "broker.db") as database:
        body, mac = database.execute("SELECT body, mac FROM records WHERE kind = 'grant'").fetchone()
    database.close()
    granted.airline.revoke(granted.grant.id)
    _change(world, "UPDATE records SET body = ?, mac = ? WHERE kind = 'grant'", body, mac)
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
    _change(world, "UPDATE records SET body = ?, mac = ? WHERE kind = 'dataset'", body, mac)
    with pytest.raises(BrokerError):
        node.release(granted.manifest)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)",
        "DELETE FROM audit",
        "UPDATE audit SET event = replace(event, 'airline', 'weather') WHERE seq = 1",
        "DELETE FROM records WHERE kind = 'audit-head'",
    ],
)
def test_audit_log_that_was_cut_or_changed_stops_the_broker(world: World, sql: str) -> None:
    Granted(world)
    _change(world, sql)
    with pytest.raises(AuditError):
        world.restart()


def test_wrong_passphrase_or_key_file_opens_no_store(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    Store.create(path, Passphrase(SecretBytes(b"correct horse"))).close()
    with pytest.raises(StoreError, match="not the one"):
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


@pytest.mark.parametrize("run", ["../x", "UPPER", "a" * 200])
def test_context_with_a_bad_name_is_refused_before_anything_is_stored(world: World, run: str) -> None:
    raw = Raw(world)
    nonce = raw.auth()
    message = raw.message(nonce)
    message["runtime-data"]["confide-context"]["run"] = RunId(run)
    assert raw.attest(message) == "parse"


def test_kinds_of_tee_are_a_closed_list(world: World) -> None:
    raw = Raw(world)
    assert code_of(raw.send("/kbs/v0/auth", {"version": "0.4.0", "tee": "sample", "extra-params": {}})) == "parse"
    assert code_of(raw.send("/kbs/v0/auth", {"version": "0.1.0", "tee": Tee.SGX.value, "extra-params": {}})) == "parse"
