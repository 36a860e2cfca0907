"""A machine shows a log that hides what was started, beside a genuine quote of it: for whoever judges the log and not the PCRs."""

from __future__ import annotations

import pytest
from support.tpm import log_of
from support.tpm_world import EVENTS, TpmWorld, remade

from confide.attest import tpm
from confide.attest.evidence import Evidence
from confide.errors import EvidenceInvalidError

ROOT_KIT = (7, b"root kit")
LIES = {
    "event left out": log_of(*EVENTS),
    "event told as another": log_of(*EVENTS, (7, b"secure boot")),
    "events in another order": log_of(EVENTS[0], EVENTS[2], EVENTS[1], ROOT_KIT),
    "event told twice": log_of(*EVENTS, EVENTS[1], ROOT_KIT),
    "other locality of start": log_of(*EVENTS, ROOT_KIT, locality=3),
    "event of a register that is not quoted": log_of(*EVENTS, ROOT_KIT, (9, b"harmless")),
}


@pytest.fixture(scope="module")
def quoted(machine: TpmWorld) -> Evidence:
    machine.measure(*ROOT_KIT)
    evidence = machine.quote()
    machine.verify(evidence)
    return evidence


@pytest.mark.parametrize("log", LIES.values(), ids=LIES)
def test_log_that_does_not_lead_to_the_quoted_values_is_refused(machine: TpmWorld, quoted: Evidence, log: bytes) -> None:
    with pytest.raises(EvidenceInvalidError, match=r"does not lead|does not cover"):
        machine.verify(remade(quoted, log=log))


@pytest.mark.parametrize("log", LIES.values(), ids=LIES)
def test_attack_works_against_a_verifier_that_replays_nothing(
    machine: TpmWorld, quoted: Evidence, log: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpm, "_check_log", lambda log, pcrs: None)
    assert machine.verify(remade(quoted, log=log)).claims.vendor["log_events"] >= len(EVENTS)
