"""Debug, migratable and badly configured TEEs."""

from __future__ import annotations

from contextlib import suppress

import pytest
from support.attested_session import Connect, World, show
from support.simulated_evidence import BINDING, NOW, POLICY, accept, fresh, td

from confide.attest import intel
from confide.attest.insecure import Fault
from confide.attest.policy import Policy, appraise
from confide.errors import AppraisalError, EvidenceInvalidError


def test_debug_quote_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.DEBUG)
    assert refused.value.facts["check"] == "debug"


@pytest.mark.parametrize(
    ("attributes", "switch"),
    [
        (0, "tdx-no-sept-ve-disable"),
        (1 << 28 | 1 << 1, "debug"),
        (1 << 28 | 1 << 7, "debug"),
        (1 << 28 | 1 << 29, "tdx-migratable"),
    ],
)
def test_td_with_weak_attributes_is_refused(vendor, verifier, attributes, switch) -> None:
    evidence = td(vendor, attributes)
    with pytest.raises(AppraisalError) as caught:
        accept(verifier, evidence)
    assert caught.value.facts["check"] == switch.removeprefix("tdx-")
    lenient = Policy.from_json({**POLICY.to_json(), "allow": ["simulated", switch]})
    appraise(verifier.verify(evidence, NOW), lenient, BINDING, now=NOW)


@pytest.mark.parametrize("bit", [8, 16, 27, 32, 62])
def test_td_with_an_unknown_attribute_is_refused_whatever_the_policy(vendor, monkeypatch, bit) -> None:
    evidence = td(vendor, 1 << 28 | 1 << bit)
    with pytest.raises(EvidenceInvalidError, match="attributes"):
        fresh(vendor).verify(evidence, NOW)
    monkeypatch.setattr(intel, "TD_KNOWN", (1 << 64) - 1)
    assert fresh(vendor).verify(evidence, NOW)


def test_attributes_of_a_td_that_are_known_are_these(vendor) -> None:
    """Of 64, by Intel's table: debug (0 to 7), SEPT_VE_DISABLE, migratable, and the harmless PKS, key locker and performance counters."""
    known = set()
    for bit in range(64):
        with suppress(EvidenceInvalidError):
            fresh(vendor).verify(td(vendor, 1 << bit), NOW)
            known.add(bit)
    assert known == {0, 1, 2, 3, 4, 5, 6, 7, 28, 29, 30, 31, 63}


def test_debug_quote_passes_only_a_policy_with_the_switch(world: World, linked: Connect) -> None:
    assert show(world, linked, Fault.DEBUG, {"allow": ["simulated", "debug"]}).result.claims.debug
