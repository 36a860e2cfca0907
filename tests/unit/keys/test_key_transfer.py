"""Keys go from one broker to another wrapped, at their owner's word alone; two real brokers over TLS."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.broker_world import JOB, World, manifest, policy

from confide.attest.insecure import Installation
from confide.canonical import Json, b64url, canonical, from_b64url, parse_object
from confide.crypto.seal import SealKey
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey, dsse_sign, unverified_payload
from confide.errors import (
    ConfideError,
    CredentialError,
    KeyDestroyedError,
    ParseError,
    QuotaError,
    RollbackError,
    TransferError,
    UnwrapError,
    UsageError,
)
from confide.ids import SpkiDigest
from confide.keys import transfer_commands
from confide.keys.client import OwnerClient
from confide.keys.key_outlines import KeyOutline
from confide.keys.key_records import KeyState
from confide.keys.operators import Operation
from confide.keys.transfer import EXPORT_TYPE, ExportRequest, KeyExport, WrappingKey


class Two:
    """Two brokers; the airline is enrolled at both with one credential."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        for name in ("a", "b"):
            (folder / name).mkdir()
        self.a, self.b = World(folder / "a", installation), World(folder / "b", installation)
        self.there, self.credential = self.a.owner("airline"), self.a.credential("airline")
        self.here = self.at_b("airline", self.credential.key)

    def at_b(self, name: str, key: SigningKey) -> OwnerClient:
        """A client of the second broker, enrolled under ``name`` with ``key``."""
        folder = self.b.folder / "credentials"
        folder.mkdir(exist_ok=True)
        key.save_private(folder / f"{name}.key.pem")
        return self.b.owner(name)

    @property
    def target(self) -> SpkiDigest:
        return self.b.server.spki

    def export(self) -> list[str]:
        return list(self.there.export_key("flights", self.here.wrapping_key(), self.target))

    def close(self) -> None:
        self.a.close()
        self.b.close()


@pytest.fixture
def two(tmp_path: Path, installation: Installation) -> Iterator[Two]:
    made = Two(tmp_path, installation)
    yield made
    made.close()


def test_key_and_its_datasets_open_at_the_other_broker(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_commands, "DATASETS_PAGE", 1)
    minted, first = two.a.dataset(two.there, "airline", "flights")
    key = two.credential.key
    second = manifest(minted, key, 2)
    two.there.register_manifest(second)
    two.there.rotate_key("flights")
    newer = two.there.mint_dataset("flights")
    lines = two.export()
    assert len(lines) == 3
    ref, new = two.here.import_key(lines)
    assert (str(ref), new) == ("airline/flights@2", 2)

    assert two.here.open(second).secret.reveal() == minted.secret.reveal()
    assert two.here.open(manifest(newer, key)).secret.reveal() == newer.secret.reveal()
    with pytest.raises(RollbackError):
        two.here.open(first)
    two.here.grant("flights", job=JOB, policy=policy())
    released = two.b.client(two.b.node()).release(second)
    assert released.secret.reveal() == minted.secret.reveal()
    (info,) = two.here.keys()
    assert [(v.state, v.datasets) for v in info.versions] == [(KeyState.RETIRED, 1), (KeyState.ACTIVE, 1)]
    list(two.here.rewrap("flights"))
    assert two.here.open(second).secret.reveal() == minted.secret.reveal()
    assert two.there.open(second).secret.reveal() == minted.secret.reveal()


def test_import_may_be_repeated_and_goes_on_where_it_was(two: Two) -> None:
    minted, envelope = two.a.dataset(two.there, "airline", "flights")
    lines = two.export()
    assert two.here.import_key(lines[:1])[1] == 0
    assert two.here.import_key(lines)[1] == 1
    assert two.here.import_key(lines)[1] == 0
    two.here.rotate_key("flights")
    assert two.here.import_key(lines) == (two.here.keys()[0].key, 0)
    assert two.here.open(envelope).secret.reveal() == minted.secret.reveal()


def test_what_is_imported_counts_among_what_the_tenant_has(two: Two) -> None:
    minted, envelope = two.a.dataset(two.there, "airline", "flights")
    lines = two.export()
    for most, what in (({"keys": 0}, "keys"), ({"keys": 1, "datasets": 0}, "datasets")):
        Operation(two.b.store, two.b.now).set_limits("default", most)
        with pytest.raises(QuotaError) as caught:
            two.here.import_key(lines)
        assert caught.value.facts["quota"] == what
    Operation(two.b.store, two.b.now).set_limits("default", {"keys": 1, "datasets": 1})
    for new in (1, 0):
        assert two.here.import_key(lines)[1] == new
    assert two.here.open(envelope).secret.reveal() == minted.secret.reveal()


def test_destroyed_versions_stay_destroyed(two: Two) -> None:
    two.a.dataset(two.there, "airline", "flights")
    whole = two.export()
    two.there.rotate_key("flights")
    two.there.destroy_key("flights", 1, lose_datasets=True)
    two.here.import_key(two.export())
    (info,) = two.here.keys()
    assert [(v.state, v.datasets) for v in info.versions] == [(KeyState.DESTROYED, 0), (KeyState.ACTIVE, 0)]
    with pytest.raises(KeyDestroyedError):
        two.here._call("POST", "datasets/import", {"datasets": [json.loads(whole[1])]})
    with pytest.raises(UsageError, match="another key"):
        two.here.import_key(whole)


def test_key_without_a_version_that_opens_is_not_exported(two: Two) -> None:
    two.there.create_key("flights")
    two.there.retire_key("flights", 1)
    two.there.destroy_key("flights", 1)
    with pytest.raises(KeyDestroyedError):
        two.export()


def test_another_key_of_the_same_name_is_not_replaced(two: Two) -> None:
    two.there.create_key("flights")
    lines = two.export()
    two.here.create_key("flights")
    with pytest.raises(UsageError, match="another key"):
        two.here.import_key(lines)


def test_no_plaintext_is_in_the_export_and_both_brokers_log_it(two: Two) -> None:
    minted, _ = two.a.dataset(two.there, "airline", "flights")
    lines = two.export()
    text = "\n".join(lines)
    payload = unverified_payload(json.loads(lines[0])["export"]).decode()
    for secret in (minted.secret.reveal(),):
        for form in (secret.hex(), b64url(secret)):
            assert form not in text + payload
    two.here.import_key(lines)
    (out,), (came,) = two.a.events("export-key"), two.b.events("import-key")
    assert (out["key"], out["target"]) == ("airline/flights", two.b.server.spki)
    assert (came["key"], came["source"]) == ("airline/flights", two.a.server.spki)
    assert two.b.events("import-datasets")[0]["datasets"] == 1


# --- attacks --------------------------------------------------------------------------------------------------------


def test_wrapping_key_of_another_broker_than_named_is_refused_by_the_client(two: Two) -> None:
    """Somebody swaps the file on its way: the pin, which comes from elsewhere, decides."""
    two.there.create_key("flights")
    with pytest.raises(TransferError, match="another broker"):
        list(two.there.export_key("flights", two.there.wrapping_key(), two.target))
    forged = SigningKey.generate()
    own = {"format": "confide-wrapping-key-file-v1", "broker": b64url(forged.spki_der)}
    file = {**own, "wrapping_key": WrappingKey(SealKey.generate().public_jwk()).sign(forged)}
    with pytest.raises(TransferError, match="another broker"):
        list(two.there.export_key("flights", file, two.target))
    mixed = {**two.here.wrapping_key(), "wrapping_key": file["wrapping_key"]}
    with pytest.raises(TransferError, match="verify"):
        list(two.there.export_key("flights", mixed, two.target))
    for damaged in ({}, {**two.here.wrapping_key(), "more": 1}, {**two.here.wrapping_key(), "broker": "!"}):
        with pytest.raises(TransferError):
            list(two.there.export_key("flights", damaged, two.target))
    assert two.a.events("export-key") == []


def request_of(two: Two, signer: SigningKey, **changes: object) -> Json:
    jwk = WrappingKey.verify(two.here.wrapping_key()["wrapping_key"], two.here.broker_key()).jwk
    values: dict[str, object] = {"key": "airline/flights", "source": two.a.server.spki, "target": two.target, "jwk": jwk}
    return ExportRequest(**{**values, "time": datetime.now(UTC).isoformat(), **changes}).sign(signer)  # type: ignore[arg-type]


def test_export_needs_the_owners_own_signature_for_this_broker(two: Two) -> None:
    two.there.create_key("flights")
    weather = two.a.owner("weather")
    stranger = SigningKey.generate()
    for client, request in (
        (two.there, request_of(two, stranger)),
        (two.there, request_of(two, two.credential.key, source=two.target)),
        (weather, request_of(two, two.credential.key)),
    ):
        with pytest.raises(TransferError):
            client._call("POST", "keys/export", {"request": request})
    with pytest.raises(CredentialError):
        weather._call("POST", "keys/export", {"request": request_of(two, two.a.credential("weather").key)})
    assert two.a.events("export-key") == []
    assert two.there._call("POST", "keys/export", {"request": request_of(two, two.credential.key)}).field("export", dict)


def test_export_is_imported_by_who_asked_for_it_and_at_the_broker_that_it_is_for(two: Two, tmp_path: Path) -> None:
    two.there.create_key("flights")
    lines = two.export()
    thief = two.at_b("weather", SigningKey.generate())
    with pytest.raises(TransferError, match="verify"):
        thief.import_key(lines)
    with pytest.raises(TransferError, match="another broker"):
        two.there.import_key(lines)
    two.here.import_key(lines)


def test_key_of_another_owners_name_is_not_imported(two: Two) -> None:
    """At a broker that is friendly to the thief, the thief is enrolled as the airline; at this one the airline is somebody else."""
    thief = two.a.owner("thief")
    thief.create_key("k")
    here = two.at_b("weather", two.a.credential("thief").key)
    lines = list(thief.export_key("k", two.here.wrapping_key(), two.target))
    with pytest.raises(CredentialError, match="does not own"):
        here.import_key(lines)
    assert here.keys() == ()


def test_export_by_another_broker_than_the_owner_named_is_refused(two: Two) -> None:
    """A stranger who knows the target's wrapping key, and saw the owner's request, wraps a key of his own."""
    two.there.create_key("flights")
    head = json.loads(two.export()[0])
    payload = parse_object(unverified_payload(head["export"]))
    stranger = SigningKey.generate()
    request = ExportRequest.verify(payload["request"], two.credential.key.public)
    now = datetime.now(UTC)
    outline = KeyOutline("airline/flights", ((KeyState.ACTIVE, now),), now)
    export = KeyExport(request, payload["request"], stranger.public, outline, payload["jwe"])
    for source in (stranger.spki_der, two.a.server._identity.spki_der):
        forged = {"format": head["format"], "source": b64url(source), "export": export.sign(stranger)}
        with pytest.raises(TransferError):
            two.here.import_key([json.dumps(forged)])
    assert two.here.keys() == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda export: {"versions": [*export["versions"], {"state": "destroyed", "since": export["created"]}]},
        lambda export: {"versions": [{**export["versions"][0], "state": "retired"}]},
        lambda export: {"versions": []},
        lambda export: {"versions": [export["versions"][0], export["versions"][0]]},
        lambda export: {"jwe": export["jwe"][:-2]},
        lambda export: {"created": "yesterday"},
        lambda export: {"more": 1},
        lambda export: {"format": "confide-key-export-v2"},
    ],
)
def test_export_that_its_own_broker_changed_after_sealing_does_not_open(two: Two, change: Callable[[Json], Json]) -> None:
    two.there.create_key("flights")
    head = json.loads(two.export()[0])
    payload = parse_object(unverified_payload(head["export"]))
    changed = dsse_sign(two.a.store.signing_key, EXPORT_TYPE, canonical({**payload, **change(payload)}))
    with pytest.raises((TransferError, UnwrapError)):
        two.here.import_key([json.dumps({**head, "export": changed})])
    assert two.here.keys() == ()


def test_datasets_are_imported_by_their_signer_under_a_key_that_opens_them(two: Two) -> None:
    minted, _ = two.a.dataset(two.there, "airline", "flights")
    lines = two.export()
    two.here.import_key(lines[:1])
    good = json.loads(lines[1])
    stranger = SigningKey.generate()
    other = two.at_b("weather", stranger)
    for client, changes, refusal in (
        (two.here, {"signer": stranger.spki_der.hex()}, CredentialError),
        (other, {"signer": stranger.spki_der.hex()}, CredentialError),
        (two.here, {"dataset": "ff" * 16}, ParseError),
        (two.here, {"dataset": "ff" * 16, "wrapped": {**good["wrapped"], "dataset": "ff" * 16}}, UnwrapError),
        (two.here, {"wrapped": {**good["wrapped"], "version": 2}}, ConfideError),
        (two.here, {"origin": {"job": JOB}}, ParseError),
        (two.here, {"snapshot": True}, ParseError),
        (two.here, {"snapshot": None}, ParseError),
        (two.here, {"given": 3}, ParseError),
        (two.here, {"given": [3]}, ParseError),
        (two.here, {"more": 3}, ParseError),
    ):
        with pytest.raises(refusal):
            client._call("POST", "datasets/import", {"datasets": [{**good, **changes}]})
    for body in ({"datasets": [1]}, {"datasets": {}}, {"datasets": [good], "more": 1}, {"datasets": [good] * 1001}):
        with pytest.raises(ParseError):
            two.here._call("POST", "datasets/import", body)
    assert two.here.keys()[0].datasets == 0
    assert two.here._call("POST", "datasets/import", {"datasets": [good]}).field("imported", int) == 1
    assert minted.dataset == good["dataset"]


def test_known_dataset_is_not_set_back_by_an_old_export(two: Two) -> None:
    """The export was made before a newer snapshot was registered at the other broker."""
    minted, first = two.a.dataset(two.there, "airline", "flights")
    lines = two.export()
    two.here.import_key(lines)
    two.here.register_manifest(manifest(minted, two.credential.key, 5))
    two.here.import_key(lines)
    with pytest.raises(RollbackError):
        two.here.open(first)


@pytest.mark.parametrize("lines", [[], ["x"], ["{}"], ['{"format":"confide-key-transfer-v1","source":"","export":{},"more":1}']], ids=str)
def test_file_that_is_no_export_is_refused(two: Two, lines: list[str]) -> None:
    with pytest.raises(TransferError):
        two.here.import_key(lines)


def test_wrapping_key_is_the_same_after_a_restart_and_is_not_the_signing_key(two: Two) -> None:
    before = two.here.wrapping_key()
    jwk = WrappingKey.verify(before["wrapping_key"], two.here.broker_key()).jwk
    two.b.restart()
    again = two.b.stranger(two.credential)
    assert WrappingKey.verify(again.wrapping_key()["wrapping_key"], again.broker_key()).jwk == jwk
    assert from_b64url(jwk["x"]) not in again.broker_key().spki_der


def test_kept_wrapping_key_that_is_none_is_refused() -> None:
    with pytest.raises(UnwrapError):
        SealKey.from_private_pem(SecretBytes(b"no key"))
