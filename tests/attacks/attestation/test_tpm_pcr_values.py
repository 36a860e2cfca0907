"""A machine that started something else shows a genuine quote of that, beside the PCR values that the policy asks for."""

from __future__ import annotations

import pytest
from support.tpm_world import TpmWorld, remade

from confide.attest import tpm
from confide.attest.evidence import Evidence
from confide.attest.policy import Policy
from confide.attest.tpm_format import TpmEvidence
from confide.errors import EvidenceInvalidError


@pytest.fixture(scope="module")
def attack(machine: TpmWorld) -> tuple[Policy, Evidence]:
    """The policy for the machine as it was, and what it shows after it started a root kit."""
    policy, good = machine.policy(), TpmEvidence.parse(machine.quote().quote)
    machine.measure(7, b"root kit")
    return policy, remade(machine.quote(), pcrs=good.pcrs, log=good.log)


def test_values_that_were_not_quoted_are_refused(machine: TpmWorld, attack: tuple[Policy, Evidence]) -> None:
    with pytest.raises(EvidenceInvalidError, match="not those that the TPM quoted"):
        machine.verify(attack[1])


def test_machine_that_tells_the_truth_is_refused_by_the_policy(machine: TpmWorld, attack: tuple[Policy, Evidence]) -> None:
    assert not machine.accepted(machine.verify(machine.quote()), attack[0])


def test_swapped_values_are_refused(machine: TpmWorld) -> None:
    good = machine.quote()
    first, second, third = TpmEvidence.parse(good.quote).pcrs
    with pytest.raises(EvidenceInvalidError, match="not those that the TPM quoted"):
        machine.verify(remade(good, pcrs=(second, first, third), log=b""))


def test_attack_works_against_a_verifier_that_believes_the_values(
    machine: TpmWorld, attack: tuple[Policy, Evidence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpm, "_check_content", lambda container, attest: None)
    assert machine.accepted(machine.verify(attack[1]), attack[0])
