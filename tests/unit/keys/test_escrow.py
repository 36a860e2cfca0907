"""A key in trustees' hands comes back whole at another broker, with its datasets, for its owner: two real brokers over TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.broker_world import JOB, manifest, policy
from support.escrow_world import TRUSTEES, Trust

from confide.attest.insecure import Installation
from confide.errors import (
    BrokerError,
    CredentialError,
    EscrowError,
    KeyDestroyedError,
    ManifestError,
    ParseError,
    QuotaError,
    RollbackError,
    TransferError,
    UnwrapError,
    UsageError,
)
from confide.keys import escrow_commands
from confide.keys.escrow_client import trustee_key
from confide.keys.escrow_records import KeptRecovery
from confide.keys.key_records import KeyState
from confide.keys.operators import Operation


@pytest.fixture
def same(tmp_path: Path, installation: Installation) -> Iterator[Trust]:
    made = Trust(tmp_path, installation, same_credential=True)
    yield made
    made.close()


@pytest.mark.parametrize("names", [("ada", "bob"), ("cyd", "ada"), TRUSTEES], ids=",".join)
def test_enough_trustees_bring_the_key_back_when_broker_and_credential_are_lost(trust: Trust, names: tuple[str, ...]) -> None:
    minted, first = trust.a.dataset(trust.airline, "airline", "flights")
    trust.airline.rotate_key("flights")
    newer = trust.airline.mint_dataset("flights")
    signed = manifest(newer, trust.a.credential("airline").key)
    trust.airline.register_manifest(signed)
    lines = trust.made()
    trust.a.server.stop()

    asked = trust.here.ask_recovery(lines)
    trust.b.restart()
    here = trust.b.stranger(trust.b.credential("airline"))
    ref, new = here.recover(lines, trust.contributions(names, lines, asked))
    assert (str(ref), new) == ("airline/flights@2", 2)
    for envelope, dataset in ((first, minted), (signed, newer)):
        assert here.open(envelope).secret.reveal() == dataset.secret.reveal()
    here.grant("flights", job=JOB, policy=policy())
    assert trust.b.client(trust.b.node()).release(first).secret.reveal() == minted.secret.reveal()
    (info,) = here.keys()
    assert [(v.state, v.datasets) for v in info.versions] == [(KeyState.RETIRED, 1), (KeyState.ACTIVE, 1)]


def test_owner_with_a_new_credential_signs_from_then_on(trust: Trust) -> None:
    minted, first = trust.a.dataset(trust.airline, "airline", "flights")
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    trust.here.recover(lines, trust.contributions(TRUSTEES[:2], lines, asked))
    old, new = trust.a.credential("airline").key, trust.b.credential("airline").key
    with pytest.raises(ManifestError):
        trust.here.register_manifest(manifest(minted, old, 2))
    second = manifest(minted, new, 2)
    trust.here.register_manifest(second)
    assert trust.here.open(second).secret.reveal() == minted.secret.reveal()
    for envelope in (first, manifest(minted, old, 3)):
        with pytest.raises(ManifestError):
            trust.here.open(envelope)


def test_lost_credential_counts_for_the_recovered_key_alone(trust: Trust) -> None:
    """The trustees of one key have said nothing of another, whose datasets the same lost credential has signed."""
    trust.a.dataset(trust.airline, "airline", "flights")
    lines = trust.made()
    other, envelope = trust.a.dataset(trust.airline, "airline", "crews")
    crews = list(trust.airline.escrow_key("crews", trust.pins(), 3))
    trust.here.create_key("crews")
    asked = trust.here.ask_recovery(lines)
    trust.here.recover(lines, trust.contributions(TRUSTEES[:2], lines, asked))
    with pytest.raises(CredentialError, match="another signer"):
        trust.here._call("POST", "datasets/import", {"datasets": [json.loads(crews[1])]})
    with pytest.raises(CredentialError, match="another signer"):
        trust.here.adopt_dataset(envelope)
    assert other.dataset == json.loads(crews[1])["dataset"]


def test_what_comes_back_counts_among_what_the_tenant_has(trust: Trust) -> None:
    trust.airline.create_key("flights")
    lines = trust.made()
    envelope = manifest(trust.airline.mint_dataset("flights"), trust.a.credential("airline").key)
    limits = Operation(trust.b.store, trust.b.now)
    given = trust.contributions(TRUSTEES[:2], lines, trust.here.ask_recovery(lines))
    for most, attempt in (
        ({"keys": 0}, lambda: trust.here.recover(lines, given)),
        ({"keys": 1, "datasets": 0}, lambda: trust.here.adopt_dataset(envelope)),
    ):
        limits.set_limits("default", most)
        with pytest.raises(QuotaError):
            attempt()
        limits.set_limits("default", {"keys": 1, "datasets": 1})
        attempt()
    assert trust.here.adopt_dataset(envelope) is False


def test_dataset_that_was_made_after_the_escrow_is_adopted_by_its_manifest(trust: Trust) -> None:
    trust.airline.create_key("flights")
    lines = trust.made()
    minted = trust.airline.mint_dataset("flights")
    old = trust.a.credential("airline").key
    envelope = manifest(minted, old, 4)
    asked = trust.here.ask_recovery(lines)
    with pytest.raises(CredentialError, match="another signer"):
        trust.here.adopt_dataset(envelope)
    trust.here.recover(lines, trust.contributions(TRUSTEES[:2], lines, asked))
    assert trust.here.adopt_dataset(envelope) is True
    assert trust.here.adopt_dataset(envelope) is False
    assert trust.here.open(envelope).secret.reveal() == minted.secret.reveal()
    with pytest.raises(RollbackError):
        trust.here.adopt_dataset(manifest(minted, old, 3))
    trust.airline.rotate_key("flights")
    for refusal, late in ((UnwrapError, {"wrapped": {**minted.wrapped.to_json(), "dataset": "ff" * 16}, "dataset": "ff" * 16}),
                          (ManifestError, {"format": "other"})):  # fmt: skip
        with pytest.raises(refusal):
            trust.here.adopt_dataset(manifest(minted, old, **late))
    with pytest.raises(ManifestError, match="version"):
        trust.here.adopt_dataset(manifest(trust.airline.mint_dataset("flights"), old))
    with pytest.raises(ManifestError, match="not a signed"):
        trust.here.adopt_dataset({})
    with pytest.raises(CredentialError):
        trust.clients["ada"].adopt_dataset(envelope)
    assert [event["snapshot"] for event in trust.b.events("adopt-dataset")] == [4, 4]


def test_owner_who_has_its_credential_still_needs_no_other(same: Trust) -> None:
    minted, envelope = same.a.dataset(same.airline, "airline", "flights")
    lines = same.made()
    asked = same.here.ask_recovery(lines)
    same.here.recover(lines, same.contributions(TRUSTEES[:2], lines, asked))
    assert same.here.open(envelope).secret.reveal() == minted.secret.reveal()
    same.here.register_manifest(manifest(minted, same.b.credential("airline").key, 2))


def test_recovery_may_go_on_where_it_was_and_meets_the_key_itself(trust: Trust) -> None:
    """The datasets' import was cut short; by another recovery it goes on, and the key that is there is the same one."""
    trust.a.dataset(trust.airline, "airline", "flights")
    lines = trust.made()
    for wanted, new in ((lines[:1], 0), (lines, 1), (lines, 0)):
        asked = trust.here.ask_recovery(lines)
        assert trust.here.recover(wanted, trust.contributions(TRUSTEES[:2], lines, asked))[1] == new


def test_another_key_of_that_name_is_not_replaced(trust: Trust) -> None:
    trust.airline.create_key("flights")
    lines = trust.made()
    trust.here.create_key("flights")
    asked = trust.here.ask_recovery(lines)
    with pytest.raises(UsageError, match="another key"):
        trust.here.recover(lines, trust.contributions(TRUSTEES[:2], lines, asked))


def test_destroyed_version_is_not_in_a_later_escrow_and_none_at_all_is_refused(trust: Trust) -> None:
    trust.airline.create_key("flights")
    trust.airline.rotate_key("flights")
    trust.airline.destroy_key("flights", 1)
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    trust.here.recover(lines, trust.contributions(TRUSTEES[:2], lines, asked))
    assert [v.state for v in trust.here.keys()[0].versions] == [KeyState.DESTROYED, KeyState.ACTIVE]
    trust.airline.retire_key("flights", 2)
    trust.airline.destroy_key("flights", 2)
    with pytest.raises(KeyDestroyedError):
        trust.made()


def test_every_step_is_in_the_log_of_those_whom_it_concerns(trust: Trust) -> None:
    trust.airline.create_key("flights")
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    escrow, recovery = trust.escrow(lines), trust.recovery(asked)
    trust.clients["ada"].announce(escrow, recovery)
    trust.here.recover(lines, trust.contributions(TRUSTEES[:2], lines, asked))
    (made,), (opened,) = trust.a.events("escrow-key"), trust.a.events("escrow-open")
    assert (made["key"], made["escrow"], made["threshold"], made["trustees"]) == ("airline/flights", escrow.digest, 2, "ada, bob, cyd")
    assert (opened["owner"], opened["target"], opened["requester"]) == ("ada", trust.b.server.spki, trust.b.credential("airline").spki)
    assert [event["owner"] for event in trust.a.events("trustee-key")] == list(TRUSTEES)
    for client in (trust.airline, trust.clients["cyd"]):
        seen = [entry.event["action"] for entry in client.audit().entries if entry.event is not None]
        assert "escrow-key" in seen
        assert ("escrow-open" in seen) == (client is trust.airline)
    (asked_for,), (came,) = trust.b.events("recovery-request"), trust.b.events("recover-key")
    assert asked_for["recovery"] == came["recovery"] == opened["recovery"] == recovery.digest
    assert (came["trustees"], came["source"], came["former"]) == ("ada, bob", trust.a.server.spki, trust.a.credential("airline").spki)


def test_escrows_are_listed_for_their_owner_alone(trust: Trust) -> None:
    trust.airline.create_key("flights")
    digests = [trust.escrow(trust.made()).digest, trust.escrow(trust.made(("ada", "bob"))).digest]
    found = trust.airline.escrows()
    assert [(one.digest, one.trustees) for one in found] == list(zip(digests, (TRUSTEES, ("ada", "bob")), strict=True))
    assert trust.clients["ada"].escrows() == ()


def test_waiting_recoveries_are_few_and_end(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escrow_commands, "_MAX_OPEN", 2)
    trust.airline.create_key("flights")
    lines = trust.made()
    for _ in range(2):
        asked = trust.here.ask_recovery(lines)
    with pytest.raises(UsageError, match="too many"):
        trust.here.ask_recovery(lines)
    trust.b.ahead = timedelta(days=7, seconds=1)
    with pytest.raises(EscrowError, match="over"):
        trust.here.recover(lines, trust.contributions(TRUSTEES[:2], lines, asked))
    trust.here.ask_recovery(lines)
    assert len(trust.b.store.find(KeptRecovery, "airline")) == 1


def test_trustees_key_is_made_once_and_is_not_its_credential(trust: Trust, tmp_path: Path) -> None:
    again = trustee_key(trust.a.folder / "credentials", "ada")
    assert again.thumbprint == trust.keys["ada"].thumbprint
    assert (trust.a.folder / "credentials" / "ada.escrow.pem").stat().st_mode & 0o077 == 0
    assert trustee_key(tmp_path, "ada").thumbprint != again.thumbprint


@pytest.mark.parametrize("lines", [[], ["{}"], ["x"]], ids=str)
def test_file_that_is_no_escrow_is_refused(trust: Trust, lines: list[str]) -> None:
    for step in (trust.here.ask_recovery, lambda given: trust.here.recover(given, [])):
        with pytest.raises((EscrowError, TransferError)):
            step(lines)


def test_request_of_another_form_is_refused(trust: Trust) -> None:
    for path, body in (
        ("escrow", {}),
        ("escrow/trustees", {"names": [1]}),
        ("escrow/trustees", {"names": ["ada"] * 33}),
        ("escrow/recover", {"head": {}, "contributions": [], "more": 1}),
        ("escrow/request", {"escrow": 1, "key": "k"}),
    ):
        with pytest.raises(ParseError, match="about an escrow"):
            trust.here._call("POST", path, body)
    with pytest.raises(UsageError, match="registered no key"):
        trust.here._call("POST", "escrow/trustees", {"names": ["airline"]})
    with pytest.raises(BrokerError):
        trust.here._call("GET", "escrow/recover")
