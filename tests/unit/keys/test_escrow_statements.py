"""Attacks on the statements of an escrow: changed, mixed or signed by others; and on who its trustees are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.escrow_world import TRUSTEES, Trust

from confide.canonical import Json, b64url, canonical, parse_object
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey, dsse_sign, unverified_payload
from confide.errors import ConfideError, CredentialError, EscrowError, UnwrapError, UsageError
from confide.keys.escrow import (
    COUNTERSIGN_TYPE,
    ESCROW_TYPE,
    REQUEST_TYPE,
    Escrow,
    EscrowRequest,
    TrusteeKey,
)
from confide.keys.escrow_records import KeptTrusteeKey
from confide.keys.records import Owner
from confide.keys.tenants import Tenants


@pytest.fixture(autouse=True)
def _key(trust: Trust) -> None:
    trust.airline.create_key("flights")


@pytest.mark.parametrize(
    "change",
    [
        lambda form: {"sealed": form["sealed"][::-1]},
        lambda form: {"sealed": form["sealed"][:-1]},
        lambda form: {"wrapped": form["wrapped"][:-4] + "AAAA"},
        lambda form: {"created": "2020-01-01T00:00:00+00:00"},
        lambda form: {"versions": [*form["versions"], {"state": "destroyed", "since": form["created"]}]},
        lambda form: {"shares": {**form["shares"], "threshold": 3}},
        lambda form: {"shares": {**form["shares"], "digests": form["shares"]["digests"][::-1]}},
        lambda form: {"more": 1},
        lambda form: {"format": "confide-key-escrow-v2"},
        lambda form: {"sealed": [1, 2, 3]},
        lambda form: {"wrapped": 1},
    ],
)
def test_escrow_that_its_own_broker_changed_is_refused(trust: Trust, change: Callable[[Json], Json]) -> None:
    """By the owner's countersignature; and with that (the owner was talked into it), nothing comes back that is not the key."""
    lines = trust.made()
    head = json.loads(lines[0])
    form = parse_object(unverified_payload(head["escrow"]))
    changed = {**form, **change(form)}
    head["escrow"] = dsse_sign(trust.a.store.signing_key, ESCROW_TYPE, canonical(changed))
    with pytest.raises(EscrowError):
        trust.here.ask_recovery([json.dumps(head)])
    owner = trust.a.credential("airline").key
    try:
        escrow = Escrow.verify(head["escrow"], owner.public, trust.a.store.signing_key.spki_der)
    except EscrowError:
        return
    whole = [json.dumps(escrow.head(head["escrow"], owner))]
    asked = trust.here.ask_recovery(whole)
    with pytest.raises(ConfideError) as caught:
        trust.here.recover(whole, trust.contributions(TRUSTEES[:2], whole, asked))
    assert isinstance(caught.value, EscrowError | UnwrapError)
    assert trust.here.keys() == ()


def test_escrow_file_whose_parts_are_others_is_refused(trust: Trust) -> None:
    lines, other = trust.made(), trust.made()
    head, strange = json.loads(lines[0]), SigningKey.generate()
    own = canonical({"format": "confide-key-escrow-countersign-v1", "escrow": trust.escrow(lines).digest})
    for changes in (
        {"countersign": json.loads(other[0])["countersign"]},
        {"countersign": dsse_sign(strange, COUNTERSIGN_TYPE, own)},
        {"owner": b64url(strange.spki_der)},
        {"owner": b64url(strange.spki_der), "countersign": dsse_sign(strange, COUNTERSIGN_TYPE, own)},
        {"source": b64url(strange.spki_der)},
        {"more": 1},
    ):
        with pytest.raises(EscrowError):
            Escrow.of_head({**head, **changes})


def request_of(trust: Trust, signer: SigningKey, names: tuple[str, ...] = TRUSTEES, threshold: int = 2, **changes: Any) -> Json:
    found = trust.escrow(trust.made()).request
    trustees = tuple(one for one in found.trustees if one.name in names)
    return replace(found, trustees=trustees, threshold=threshold, **changes).sign(signer)


def test_escrow_needs_the_owners_signature_for_this_broker_and_key(trust: Trust) -> None:
    own, strange = trust.a.credential("airline").key, SigningKey.generate()
    before = len(trust.a.events("escrow-key"))
    for client, request in (
        (trust.airline, request_of(trust, strange)),
        (trust.airline, request_of(trust, own, source=trust.b.server.spki)),
        (trust.clients["ada"], request_of(trust, own)),
        (trust.clients["ada"], request_of(trust, trust.a.credential("ada").key)),
        (trust.airline, request_of(trust, own, key="ada/flights")),
    ):
        with pytest.raises((EscrowError, CredentialError)):
            client._call("POST", "escrow", {"request": request})
    assert len(trust.a.events("escrow-key")) == before + 5  # those that request_of made to begin with


def test_nobody_is_enough_alone(trust: Trust) -> None:
    """By the threshold, under two names, with one key for two, or as the owner: refused wherever it is read."""
    own = trust.a.credential("airline").key
    found = trust.escrow(trust.made()).request
    ada, bob, cyd = found.trustees
    for bad in (
        replace(found, threshold=1),
        replace(found, threshold=4),
        replace(found, trustees=(ada,), threshold=1),
        replace(found, trustees=(ada, replace(ada, name="bob"), cyd)),
        replace(found, trustees=(ada, replace(bob, name="ada"), cyd)),
        replace(found, trustees=(ada, replace(bob, jwk=ada.jwk), cyd)),
        replace(found, trustees=(ada, bob, replace(cyd, key=own.public))),
    ):
        for refused in (lambda bad=bad: bad.check(own.public), lambda bad=bad: EscrowRequest.verify(bad.sign(own), own.public),
                        lambda bad=bad: trust.airline._call("POST", "escrow", {"request": bad.sign(own)})):  # fmt: skip
            with pytest.raises(EscrowError):
                refused()
    with pytest.raises(EscrowError):
        EscrowRequest.verify(dsse_sign(own, REQUEST_TYPE, canonical({**found._form(), "threshold": True})), own.public)


def test_operators_stand_in_for_a_trustee_is_found(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator enrols a key of its own as a trustee, or puts one for shares into the store: pins and signatures decide."""
    pins = trust.pins()
    false = {**pins, "bob": SigningKey.generate().spki_digest}
    with pytest.raises(UsageError, match="bob is not enrolled"):
        list(trust.airline.escrow_key("flights", false, 2))
    with monkeypatch.context() as lying:
        lying.setattr(Tenants, "find", lambda self, _who, text, _what: self._store.get(Owner, str(text).partition("@")[0]))
        with pytest.raises(EscrowError, match="another than was named") as caught:
            list(trust.airline.escrow_key("flights", false, 2))
    assert caught.value.facts["trustee"] == "bob"
    operators = SealKey.generate()
    for envelope in (TrusteeKey(operators.public_jwk()).sign(SigningKey.generate()), {}):
        trust.a.store.put(KeptTrusteeKey("bob", envelope))
        with pytest.raises(EscrowError):
            list(trust.airline.escrow_key("flights", pins, 2))
    with pytest.raises(EscrowError):
        trust.clients["bob"]._call(
            "POST", "escrow/trustee-key", {"envelope": TrusteeKey(operators.public_jwk()).sign(SigningKey.generate())}
        )
    trust.ready("bob")
    assert trust.made()


def test_key_that_a_trustee_has_replaced_or_another_enrolment_is_refused_by_the_broker(trust: Trust) -> None:
    own = trust.a.credential("airline").key
    found = trust.escrow(trust.made()).request
    ada = found.trustees[0]
    for bad in (
        replace(ada, jwk=SealKey.generate().public_jwk()),
        replace(ada, name="airline"),
        replace(ada, key=SigningKey.generate().public),
    ):
        request = replace(found, trustees=(bad, *found.trustees[1:])).sign(own)
        with pytest.raises(EscrowError, match="trustee"):
            trust.airline._call("POST", "escrow", {"request": request})


def test_only_a_trustee_announces_and_only_a_recovery_of_that_escrow(trust: Trust) -> None:
    lines, other = trust.made(("ada", "bob")), trust.made()
    escrow, recovery = trust.escrow(lines), trust.recovery(trust.here.ask_recovery(lines))
    for client, of, asked, refusal in (
        (trust.clients["cyd"], escrow, recovery, CredentialError),
        (trust.airline, escrow, recovery, CredentialError),
        (trust.clients["ada"], trust.escrow(other), recovery, EscrowError),
        (trust.here, escrow, recovery, EscrowError),
    ):
        with pytest.raises(refusal):
            client.announce(of, asked)
    for damaged in ({}, {**recovery.form(), "more": 1}, {**recovery.form(), "format": "v2"}, {**recovery.form(), "expires": "later"}):
        with pytest.raises(EscrowError):
            trust.clients["ada"]._call("POST", "escrow/announce", {"escrow": escrow.digest, "recovery": damaged})
    assert trust.a.events("escrow-open") == []


def test_escrow_by_another_broker_than_the_owner_named_is_refused(trust: Trust) -> None:
    """A stranger who saw the owner's request makes an escrow of a key of its own; and has even the owner's countersignature."""
    found, stranger, own = trust.escrow(trust.made()), SigningKey.generate(), trust.a.credential("airline").key
    forged = replace(found, source=stranger.public)
    with pytest.raises(EscrowError, match="another broker"):
        Escrow.of_head(forged.head(forged.sign(stranger), own))
    with pytest.raises(EscrowError, match="another broker"):
        Escrow.of_head({**forged.head(found.sign(stranger), own), "source": b64url(stranger.spki_der)})


def test_trustee_does_not_pass_on_a_share_that_its_broker_did_not_name(trust: Trust) -> None:
    """Who has dealt a wrong share is found by the first trustee, and not blamed on the one who passes it on."""
    found, own = trust.escrow(trust.made()), trust.a.credential("airline").key
    false = replace(found, shares=replace(found.shares, digests=found.shares.digests[::-1]))
    lines = [json.dumps(false.head(false.sign(trust.a.store.signing_key), own))]
    asked = trust.here.ask_recovery(lines)
    with pytest.raises(EscrowError, match="not the one that its broker named"):
        trust.contribution("ada", lines, asked)
