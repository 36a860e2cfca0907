"""Debug, migratable and badly configured TEEs."""

from __future__ import annotations

import dataclasses

import pytest
from support.attested_session import Connect, World, show
from support.simulated_evidence import BINDING, MEASUREMENTS, NOW, POLICY, accept, resigned, td

from confide.attest.insecure import Fault, InsecureAttester
from confide.attest.policy import Policy, appraise
from confide.attest.quote import TdBody, parse_quote
from confide.errors import AppraisalError, AttestationError, EvidenceInvalidError
from confide.ids import Tee


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
def test_td_with_an_unknown_attribute_is_refused_whatever_the_policy(vendor, verifier, bit) -> None:
    with pytest.raises(EvidenceInvalidError, match="attributes"):
        verifier.verify(td(vendor, 1 << 28 | 1 << bit), NOW)


def test_migratable_td_is_refused(vendor, verifier) -> None:
    """A TD that can be migrated ends up where the migration TD's policy says, not where it was attested."""
    attester = InsecureAttester(vendor, Tee.TDX, MEASUREMENTS[Tee.TDX])
    quote = parse_quote(attester.quote(BINDING.report_data).quote)
    assert isinstance(quote.body, TdBody)
    body = dataclasses.replace(quote.body, td_attributes=(1 << 28 | 1 << 29).to_bytes(8, "little"))
    with pytest.raises(AttestationError):
        accept(verifier, resigned(dataclasses.replace(quote, body=body), attester._key))


def test_debug_quote_passes_only_a_policy_with_the_switch(world: World, linked: Connect) -> None:
    assert show(world, linked, Fault.DEBUG, {"allow": ["simulated", "debug"]}).result.claims.debug
