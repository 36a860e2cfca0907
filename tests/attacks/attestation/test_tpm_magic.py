"""A restricted key signs data from outside if it does not begin as the TPM's own does: a forged quote under the enrolled key itself.

TPM2_Hash gives a ticket for data that does not begin with TPM_GENERATED_VALUE, and with the ticket TPM2_Sign signs it (TCG "Trusted
Platform Module Library", Part 1, "Signing", and Part 3, TPM2_Hash): the four bytes are all that tells a quote from it.
"""

from __future__ import annotations

import hashlib

import pytest
from support.tpm_world import HANDLE, TpmWorld, remade

from confide.attest import tpm_format
from confide.attest.evidence import Evidence
from confide.attest.tpm_format import GENERATED, TpmEvidence
from confide.errors import EvidenceInvalidError

WANTED = (bytes(32), b"\x5a" * 32, b"\xa5" * 32)
OTHER = GENERATED ^ 1


def signed(machine: TpmWorld, data: bytes) -> bytes:
    """What the enrolled key signs of data from outside, with a ticket that it is not the TPM's own."""
    machine.tpm.path("outside").write_bytes(data)
    machine.tpm.tool("tpm2_hash", "-C", "e", "-g", "sha256", "-o", "digest", "-t", "ticket", "outside")
    machine.tpm.tool("tpm2_sign", "-c", HANDLE, "-g", "sha256", "-s", "ecdsa", "-d", "-t", "ticket", "-o", "outside.sig", "digest")
    machine.tpm.flush()
    return machine.tpm.path("outside.sig").read_bytes()


def forged(machine: TpmWorld, magic: int) -> Evidence:
    good = machine.quote()
    parts = TpmEvidence.parse(good.quote)
    own, wanted = (hashlib.sha256(b"".join(pcrs)).digest() for pcrs in (parts.pcrs, WANTED))
    attest = magic.to_bytes(4) + parts.attest[4:].replace(own, wanted)
    return remade(good, attest=attest, signature=signed(machine, attest), pcrs=WANTED, log=b"")


def test_signed_data_that_does_not_begin_as_a_tpms_is_no_quote(machine: TpmWorld) -> None:
    with pytest.raises(EvidenceInvalidError, match="was not made by a TPM"):
        machine.verify(forged(machine, OTHER))


def test_it_is_one_for_a_verifier_that_does_not_look_at_the_magic(machine: TpmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = forged(machine, OTHER)
    monkeypatch.setattr(tpm_format, "GENERATED", OTHER)
    claims = machine.verify(evidence).claims
    assert (claims.registers["pcr7"], claims.vendor["key_name"]) == ("a5" * 32, machine.key.name.hex())


def test_tpm_signs_nothing_from_outside_that_begins_as_its_own(machine: TpmWorld) -> None:
    with pytest.raises(RuntimeError, match="tpm2_sign"):
        forged(machine, GENERATED)
    machine.tpm.flush()
