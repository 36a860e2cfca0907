"""Policy downgrade: the attacker would be accepted under a weaker policy, and tries to have it used."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.attested_session import MEASUREMENT, Connect, World, aside, show
from support.simulated_evidence import BINDING, MEASUREMENTS, NOW

from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.policy import Policy, appraise
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import AppraisalError, EvidenceInvalidError
from confide.ids import Role, Tee
from confide.node.session import present


def test_tampered_node_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.WRONG_MEASUREMENT)
    assert refused.value.facts["check"] == "measurement"


def test_tampered_node_passes_only_a_policy_that_names_its_measurement(world: World, linked: Connect) -> None:
    tampered = "aa" + "ab" * 31
    assert show(world, linked, Fault.WRONG_MEASUREMENT, {"measurements": {"sgx": [tampered]}}).result.claims.measurement == tampered


def test_out_of_date_tcb_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.OUT_OF_DATE)
    assert (refused.value.facts["check"], refused.value.facts["got"]) == ("tcb-status", "OutOfDate")


def test_out_of_date_tcb_passes_only_a_policy_that_allows_it(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.OUT_OF_DATE, {"statuses": ["UpToDate", "OutOfDate"], "min_tcb_eval": 1})
    # With the status allowed, the platform's advisories are the next thing to answer for.
    assert refused.value.facts["check"] == "advisories"
    names = str(refused.value.facts["got"]).split(", ")
    allowed = {"statuses": ["UpToDate", "OutOfDate"], "min_tcb_eval": 1, "advisories_allowed": names}
    assert show(world, linked, Fault.OUT_OF_DATE, allowed).result.claims.tcb_status == "OutOfDate"


def test_simulated_evidence_is_refused_by_a_policy_that_does_not_allow_it(world: World, linked: Connect) -> None:
    with pytest.raises(AppraisalError) as refused:
        show(world, linked, Fault.WRONG_MEASUREMENT, {"allow": []})
    assert refused.value.facts["check"] == "simulated"


def test_simulated_evidence_of_another_installation_is_not_genuine(world: World, linked: Connect, tmp_path: Path) -> None:
    other = Installation.create(tmp_path / "other")
    near, far = linked()
    attester = InsecureAttester(other, Tee.SGX, MEASUREMENT)
    aside(lambda: present(near, attester=attester, role=Role.WORKER, context=world.context()))
    with pytest.raises(EvidenceInvalidError):
        world.attest(far)


def test_simulated_evidence_is_refused_where_simulation_was_not_asked_for(vendor, evidence_of) -> None:
    with pytest.raises(EvidenceInvalidError, match="root"):
        Verifier(TrustRoots(), vendor.collateral_source()).verify(evidence_of(Tee.SGX), NOW)


def test_simulated_evidence_is_refused_by_a_policy_that_does_not_name_it(verifier, evidence_of) -> None:
    shipped = Policy.from_json({"name": "real", "measurements": {"sgx": [MEASUREMENTS[Tee.SGX]]}})
    with pytest.raises(AppraisalError) as caught:
        appraise(verifier.verify(evidence_of(Tee.SGX), NOW), shipped, BINDING, now=NOW)
    assert caught.value.facts["check"] == "simulated"
