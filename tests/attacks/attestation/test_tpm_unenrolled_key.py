"""A genuine TPM signs by a key that no owner enrolled, by one whose enrolment is over, or by one that was revoked."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.tpm import Owner
from support.tpm_world import TpmWorld

from confide.attest import tpm
from confide.attest.evidence import Evidence
from confide.attest.tpm import TpmCollateral
from confide.attest.tpm_trust import TpmTrust
from confide.errors import EvidenceInvalidError


@pytest.fixture(scope="module")
def foreign(machine: TpmWorld) -> Evidence:
    """Genuine in all but this: nobody challenged its key."""
    machine.tpm.make_ak("foreign")
    return machine.quote(key="foreign")


def trust_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpm, "_trusted", lambda public, chain, trust, now: TpmCollateral("any", "2099-01-01T00:00:00+00:00"))


def test_key_that_is_not_enrolled_is_refused(machine: TpmWorld, foreign: Evidence) -> None:
    with pytest.raises(EvidenceInvalidError, match="no root that is trusted"):
        machine.verify(foreign)


def test_key_that_is_not_enrolled_is_accepted_where_every_genuine_quote_is(
    machine: TpmWorld, foreign: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust_all(monkeypatch)
    assert machine.verify(foreign).claims.vendor["key_name"] != machine.key.name.hex()


def test_certificate_of_the_enrolled_key_does_not_help_another(
    machine: TpmWorld, foreign: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(machine.now)
    chain = machine.tpm.enrol("one", machine.key, owner, machine.ek)
    borrowed, trust = dataclasses.replace(foreign, chain=chain), TpmTrust(issuers=owner.pins)
    assert machine.verify(dataclasses.replace(machine.quote(), chain=chain), trust).claims.vendor["key_name"] == machine.key.name.hex()
    with pytest.raises(EvidenceInvalidError, match="another attestation key"):
        machine.verify(borrowed, trust)
    trust_all(monkeypatch)
    machine.verify(borrowed, trust)


def test_certificate_by_the_attackers_own_issuer_is_refused(machine: TpmWorld, foreign: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attacker = Owner(machine.now), Owner(machine.now)
    public = machine.tpm.make_ak("own")
    chain = machine.tpm.enrol("own", public, attacker, machine.ek)
    evidence, trust = dataclasses.replace(machine.quote(key="own"), chain=chain), TpmTrust(issuers=owner.pins)
    with pytest.raises(EvidenceInvalidError, match="no root that is trusted"):
        machine.verify(evidence, trust)
    # A root for endorsement keys vouches for no attestation key.
    with pytest.raises(EvidenceInvalidError, match="no root that is trusted"):
        machine.verify(evidence, TpmTrust(issuers=owner.pins, manufacturers=attacker.pins))
    # With the owner's root behind it, the signature does not hold.
    leaf = chain[: chain.index(b"-----BEGIN", 1)]
    with pytest.raises(EvidenceInvalidError, match="not signed by the next"):
        machine.verify(dataclasses.replace(evidence, chain=leaf + owner.root.public_bytes(Encoding.PEM)), trust)
    trust_all(monkeypatch)
    machine.verify(evidence, trust)


def test_revoked_key_is_refused_whoever_vouches_for_it(machine: TpmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(machine.now)
    chain = machine.tpm.enrol("one", machine.key, owner, machine.ek)
    evidence = dataclasses.replace(machine.quote(), chain=chain)
    for trust in (machine.trust(), TpmTrust(issuers=owner.pins)):
        machine.verify(evidence, trust)
        with pytest.raises(EvidenceInvalidError, match="revoked"):
            machine.verify(evidence, trust.without_key(machine.key.name.hex()))
    monkeypatch.setattr(TpmTrust, "check_not_revoked", lambda self, name: None)
    machine.verify(evidence, machine.trust().without_key(machine.key.name.hex()))


def test_revoked_key_is_not_enrolled_again(machine: TpmWorld) -> None:
    with pytest.raises(EvidenceInvalidError, match="is revoked"):
        machine.trust().without_key(machine.key.name.hex()).with_key(machine.record(machine.key))


@pytest.mark.parametrize("later", [timedelta(days=31), timedelta(days=-2)], ids=["over", "not begun"])
def test_enrolment_has_a_beginning_and_an_end(machine: TpmWorld, later: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, verifier = machine.quote(), machine.verifier()
    with pytest.raises(EvidenceInvalidError, match="not enrolled for this time"):
        verifier.verify(evidence, machine.now + later)
    monkeypatch.setattr(tpm, "_enrolled", lambda key, now: TpmCollateral(key.name, key.until.isoformat()))
    verifier.verify(evidence, machine.now + later)
