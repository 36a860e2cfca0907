"""A key of a genuine TPM that signs anything signs a quote that no TPM made: a machine with any PCRs that its operator likes."""

from __future__ import annotations

import hashlib

import pytest
from support.tpm_world import TpmWorld, remade

from confide.attest import tpm, tpm_enrol
from confide.attest.evidence import Evidence
from confide.attest.tpm_enrol import challenge
from confide.attest.tpm_format import Public, TpmEvidence
from confide.errors import EvidenceInvalidError

WANTED = (bytes(32), b"\x5a" * 32, b"\xa5" * 32)
"""The PCRs of a machine that is in order."""


@pytest.fixture(scope="module")
def plain(machine: TpmWorld) -> Public:
    return Public.parse(machine.tpm.make_plain_key("plain"))


@pytest.fixture(scope="module")
def forged(machine: TpmWorld, plain: Public) -> Evidence:
    """A genuine quote with the wanted PCRs in the place of its own, signed by the key that signs anything."""
    good = machine.quote()
    parts = TpmEvidence.parse(good.quote)
    own, wanted = (hashlib.sha256(b"".join(pcrs)).digest() for pcrs in (parts.pcrs, WANTED))
    assert parts.attest.count(own) == 1
    attest = parts.attest.replace(own, wanted)
    public = machine.tpm.path("plain.pub").read_bytes()
    return remade(good, attest=attest, signature=machine.tpm.sign("plain", attest), public=public, pcrs=WANTED, log=b"")


def test_forged_quote_is_refused_even_of_a_key_that_was_enrolled_by_mistake(machine: TpmWorld, plain: Public, forged: Evidence) -> None:
    with pytest.raises(EvidenceInvalidError, match="signs only what its TPM made"):
        machine.verify(forged, machine.trust(plain))


def test_forged_quote_is_accepted_where_attributes_are_not_looked_at(
    machine: TpmWorld, plain: Public, forged: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpm, "check_attestation_key", lambda public: None)
    assert machine.verify(forged, machine.trust(plain)).claims.registers["pcr7"] == "a5" * 32


def test_key_that_signs_anything_gets_no_challenge(machine: TpmWorld, plain: Public, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvidenceInvalidError, match="signs only what its TPM made"):
        challenge(machine.ek, plain, machine.manufacturers, machine.now)
    monkeypatch.setattr(tpm_enrol, "check_attestation_key", lambda public: None)
    asked = challenge(machine.ek, plain, machine.manufacturers, machine.now)
    machine.tpm.activate("plain", asked.credential, asked.encrypted_secret)


def test_restricted_key_signs_no_forged_quote(machine: TpmWorld) -> None:
    """What the attribute is relied on for: the TPM itself refuses."""
    machine.tpm.make_ak("restricted")
    with pytest.raises(RuntimeError, match="tpm2_sign"):
        machine.tpm.sign("restricted", TpmEvidence.parse(machine.quote().quote).attest)
    machine.tpm.flush()
