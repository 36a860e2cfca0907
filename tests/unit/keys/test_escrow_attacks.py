"""Attacks on a key in trustees' hands: by too few of them, by one who lies or replays, by brokers, and by who has the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from support.escrow_world import TRUSTEES, Trust

from confide.canonical import Json, b64url, canonical, parse_object
from confide.crypto.seal import SealKey, seal
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey, dsse_sign, unverified_payload
from confide.errors import CredentialError, EscrowError, TransferError, UnwrapError
from confide.keys.custody.shares import Share, split
from confide.keys.escrow import (
    CONTRIBUTION_TYPE,
    Contribution,
)
from confide.keys.escrow_client import contribute
from confide.keys.escrow_records import KeptRecovery
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.key_records import Key


@pytest.fixture(autouse=True)
def _key(trust: Trust) -> None:
    trust.airline.create_key("flights")


def key_bytes(trust: Trust) -> bytes:
    """The plain key at the first broker."""
    key = trust.a.store.get(Key, "airline/flights")
    assert key is not None
    return KeyHierarchy(trust.a.store).outline(key)[1].reveal()


def share_of(trust: Trust, name: str, lines: list[str]) -> Share:
    """What ``name`` could read with a program of its own."""
    escrow = trust.escrow(lines)
    index = escrow.index_of(trust.a.credential(name).spki)
    return Share.parse(trust.keys[name].open(escrow.sealed[index - 1], context=escrow.share_context(index)))


def test_fewer_trustees_than_the_owner_said_recover_nothing(trust: Trust) -> None:
    lines = trust.made(threshold=3)
    asked = trust.here.ask_recovery(lines)
    for few in (*combinations(TRUSTEES, 2), *combinations(TRUSTEES, 1)):
        with pytest.raises(EscrowError, match="too few"):
            trust.here.recover(lines, trust.contributions(few, lines, asked))
    ada = trust.contributions(("ada", "ada", "ada"), lines, asked)
    with pytest.raises(EscrowError, match="contribution of ada is refused: this share was given already"):
        trust.here.recover(lines, ada)
    with pytest.raises(EscrowError, match="one recovery"):
        trust.here.recover(lines, [])
    assert trust.here.keys() == ()
    trust.here.recover(lines, trust.contributions(TRUSTEES, lines, asked))


def lie(trust: Trust, name: str, lines: list[str], asked: Json, value: SecretBytes, **changes: Any) -> Json:
    """A contribution of another share than the one that ``name`` was given."""
    own = share_of(trust, name, lines)
    escrow, recovery = trust.escrow(lines), trust.recovery(asked)
    made = Contribution(escrow.digest, recovery.digest, own.index)
    false = replace(own, value=value, **changes)
    return made.sign(trust.a.credential(name).key, seal(false.to_text(), recovery.jwk, context=made.context))


def test_wrong_share_is_found_and_its_trustee_named_and_the_others_still_count(trust: Trust) -> None:
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    others = share_of(trust, "ada", lines)
    false = [
        lie(trust, "bob", lines, asked, SecretBytes.random()),
        lie(trust, "bob", lines, asked, others.value, index=others.index),
        lie(trust, "bob", lines, asked, others.value, set_id=b"\0" * 8),
    ]
    right, cyds = (trust.contribution(name, lines, asked) for name in ("ada", "cyd"))
    for one, beside in ((false[0], right), (false[1], cyds), (false[2], right)):
        with pytest.raises(EscrowError, match="contribution of bob is refused") as caught:
            trust.here.recover(lines, [beside, one])
        assert caught.value.facts["trustee"] == "bob"
    assert trust.here.keys() == ()
    trust.here.recover(lines, [right, cyds])


def test_trustees_share_is_not_contributed_by_somebody_else(trust: Trust) -> None:
    """Bob has learned ada's share, or only has her file: what she did not sign does not count."""
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    made = Contribution(trust.escrow(lines).digest, trust.recovery(asked).digest, 1)
    sealed = seal(share_of(trust, "ada", lines).to_text(), trust.recovery(asked).jwk, context=made.context)
    own = trust.contribution("bob", lines, asked)
    for forged in (made.sign(trust.a.credential("bob").key, sealed), made.sign(SigningKey.generate(), sealed), {}):
        with pytest.raises(EscrowError):
            trust.here.recover(lines, [own, forged])
    with pytest.raises(EscrowError, match="no trustee"):
        contribute(json.loads(lines[0]), asked, trust.b.credential("airline"), trust.keys["ada"],
                   target=trust.b.server.spki, requester=trust.b.credential("airline").spki)  # fmt: skip
    ends = {"target": trust.b.server.spki, "requester": trust.b.credential("airline").spki}
    with pytest.raises(UnwrapError):
        contribute(json.loads(lines[0]), asked, trust.a.credential("ada"), trust.keys["bob"], **ends)


def test_contributions_to_one_recovery_serve_no_other(trust: Trust) -> None:
    """A second request at the same broker, somebody else at it, and another broker: each time the shares are replayed."""
    lines = trust.made()
    asked, again = trust.here.ask_recovery(lines), trust.here.ask_recovery(lines)
    given = trust.contributions(TRUSTEES[:2], lines, asked)
    mixed = [given[0], trust.contribution("bob", lines, again)]
    with pytest.raises(EscrowError, match="one recovery"):
        trust.here.recover(lines, mixed)
    renamed = [resigned(trust, name, one, recovery=trust.recovery(again).digest) for name, one in zip(TRUSTEES, given, strict=False)]
    with pytest.raises(EscrowError, match="contribution of ada is refused"):
        trust.here.recover(lines, renamed)
    thief = trust.at_b("thief", SigningKey.generate())
    with pytest.raises(CredentialError, match="does not own"):
        thief.recover(lines, given)
    with pytest.raises(CredentialError, match="does not own"):
        thief._call("POST", "escrow/request", {"escrow": trust.escrow(lines).digest, "key": "airline/flights"})
    with pytest.raises(EscrowError, match="no such recovery"):
        trust.airline.recover(lines, given)
    trust.here.recover(lines, given)
    with pytest.raises(EscrowError, match="no such recovery"):
        trust.here.recover(lines, given)


def resigned(trust: Trust, name: str, contribution: Json, **changes: object) -> Json:
    """A contribution that its own trustee signed again, with other words."""
    payload = parse_object(unverified_payload(contribution))
    return dsse_sign(trust.a.credential(name).key, CONTRIBUTION_TYPE, canonical({**payload, **changes}))


def test_recovery_of_somebody_elses_who_has_the_owners_name_now_is_refused(trust: Trust) -> None:
    """The credential that asked is the one that gets the key: a new one under the same name asks anew, and trustees are asked anew."""
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    given = trust.contributions(TRUSTEES[:2], lines, asked)
    kept = trust.b.store.get(KeptRecovery, trust.recovery(asked).digest)
    assert kept is not None
    other = replace(kept, recovery=replace(kept.recovery, requester=SigningKey.generate().spki_digest))
    trust.b.store.put(other)
    trust.b.store.delete(KeptRecovery, kept.id)
    changed = [resigned(trust, name, one, recovery=other.id) for name, one in zip(TRUSTEES, given, strict=False)]
    with pytest.raises(EscrowError, match="no such recovery"):
        trust.here.recover(lines, changed)


def test_trustee_contributes_only_to_the_broker_and_the_credential_that_it_was_told(trust: Trust) -> None:
    lines, other = trust.made(), trust.made(threshold=3)
    asked = trust.here.ask_recovery(lines)
    for refused in (
        lambda: trust.contribution("ada", lines, asked, at=trust.a),
        lambda: trust.contribution("ada", lines, asked, requester=SigningKey.generate().spki_digest),
        lambda: trust.contribution("ada", other, asked),
        lambda: trust.contribution("ada", lines, {**asked, "broker": b64url(trust.a.store.signing_key.spki_der)}, at=trust.a),
        lambda: trust.contribution("ada", lines, {**asked, "more": 1}),
        lambda: trust.contribution("ada", lines, trust.recovery(asked).sign(trust.a.store.signing_key), at=trust.a),
        lambda: trust.contribution(
            "ada", lines, replace(trust.recovery(asked), jwk=SealKey.generate().public_jwk()).sign(SigningKey.generate())
        ),
    ):
        with pytest.raises(EscrowError):
            refused()


def test_shares_of_two_escrows_do_not_mix(trust: Trust) -> None:
    """Of the same key, with the same trustees: an older one, from before a trustee was taken out, gives nothing to the newer one."""
    old, new = trust.made(), trust.made(("ada", "bob"))
    asked = trust.here.ask_recovery(new)
    with pytest.raises(EscrowError, match="no trustee"):
        trust.contribution("cyd", new, asked)
    escrow, recovery = trust.escrow(new), trust.recovery(asked)
    for name, place in (("ada", 1), ("cyd", 2)):
        made = Contribution(escrow.digest, recovery.digest, place)
        share = replace(share_of(trust, name, old), index=place)
        given = made.sign(trust.a.credential(name).key, seal(share.to_text(), recovery.jwk, context=made.context))
        with pytest.raises(EscrowError):
            trust.here.recover(new, [trust.contribution("bob", new, asked), given])
    given = trust.contributions(("ada", "bob"), new, asked)
    moved = [resigned(trust, name, one, escrow=trust.escrow(old).digest) for name, one in zip(("ada", "bob"), given, strict=True)]
    with pytest.raises(EscrowError, match="another escrow"):
        trust.here.recover(old, moved)
    with pytest.raises(EscrowError, match="to another escrow"):
        Contribution.verify(moved[0], escrow)
    assert trust.here.keys() == ()


def forms(secret: bytes) -> list[bytes]:
    return [secret, secret.hex().encode(), b64url(secret).encode()]


def test_neither_key_nor_share_is_in_any_file_in_the_clear(trust: Trust, tmp_path: Path) -> None:
    """Both brokers' folders, every file that travels, and the trustees' own; nor do the brokers hold what opens a share."""
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    given = trust.contributions(TRUSTEES[:2], lines, asked)
    canaries = forms(key_bytes(trust))
    for name in TRUSTEES:
        share = share_of(trust, name, lines)
        canaries += [*forms(share.value.reveal()), share.to_text().reveal()]
    (tmp_path / "escrow.jsonl").write_text("\n".join(lines))
    (tmp_path / "request.json").write_text(json.dumps(asked))
    (tmp_path / "given.json").write_text(json.dumps(given))
    for file in tmp_path.glob("*.json*"):  # payloads as they are inside their envelopes, too
        found = [json.loads(line) for line in file.read_text().splitlines()]
        file.with_suffix(".inside").write_bytes(b"\n".join(inside(found)))
    trust.here.recover(lines, given)
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        data = file.read_bytes()
        assert not [canary for canary in canaries if canary in data], file


def inside(value: object) -> Iterator[bytes]:
    """Every signed payload in a value, and those in it."""
    if isinstance(value, list):
        for one in value:
            yield from inside(one)
    elif isinstance(value, dict):
        if "payload" in value:
            payload = unverified_payload(value)
            yield payload
            yield from inside(json.loads(payload))
        for one in value.values():
            yield from inside(one)


def test_broker_that_made_the_escrow_cannot_open_a_share(trust: Trust) -> None:
    """With its master key and all of its store: no share, and no escrow key, is kept; each share opens with its trustee's key alone."""
    lines = trust.made()
    escrow = trust.escrow(lines)
    for index, sealed in enumerate(escrow.sealed, start=1):
        own = SealKey.from_private_pem(trust.a.store.signing_key.private_pem())
        for key in (own, trust.keys[TRUSTEES[index % 3]]):
            with pytest.raises(UnwrapError):
                key.open(sealed, context=escrow.share_context(index))
    with pytest.raises(UnwrapError):
        trust.a.store.kms.unwrap(escrow.wrapped, context=escrow.context)
    with pytest.raises(UnwrapError):
        trust.keys["ada"].open(escrow.sealed[0], context=escrow.share_context(2))


def test_master_keys_share_is_no_share_of_an_escrow(trust: Trust) -> None:
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    masters = split(SecretBytes.random(), threshold=2, count=3)[1]
    given = lie(trust, "bob", lines, asked, masters.value, set_id=masters.set_id)
    with pytest.raises(EscrowError, match="bob"):
        trust.here.recover(lines, [trust.contribution("ada", lines, asked), given])


def test_line_of_the_file_that_is_another_owners_dataset_is_refused(trust: Trust) -> None:
    lines = trust.made()
    trust.a.dataset(trust.clients["ada"], "ada", "own")
    foreign = list(trust.clients["ada"].escrow_key("own", {name: pin for name, pin in trust.pins().items() if name != "ada"}, 2))
    asked = trust.here.ask_recovery(lines)
    with pytest.raises(CredentialError):
        trust.here.recover([lines[0], foreign[1]], trust.contributions(TRUSTEES[:2], lines, asked))
    with pytest.raises(TransferError, match="not JSON"):
        trust.here.ask_recovery(["["])
