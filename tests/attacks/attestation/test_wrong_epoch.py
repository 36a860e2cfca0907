"""Wrong epoch: evidence is judged by collateral of an earlier epoch that is still in its time, or by parts of two epochs.

That a set which was seen before is not rolled back is in ``test_collateral_rollback``; here the verifier has seen no other.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta

import pytest
from support.simulated_evidence import BINDING, NOW, POLICY, pem, signed_tcb

from confide.attest import collateral_sources
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import CollateralStore
from confide.attest.insecure.installation import raw_signature
from confide.attest.policy import AttestationResult, Policy, appraise
from confide.attest.verify import VerifiedEvidence
from confide.errors import AppraisalError, CollateralError
from confide.ids import Tee


def of_epoch(vendor, number: int) -> Collateral:
    """The vendor's own collateral of that TCB evaluation number, current and rightly signed."""
    signer, root = vendor._signer("tcb-signer"), vendor._signer("root")
    return signed_tcb(vendor.collateral(Tee.SGX), signer, pem(signer, root), tcbEvaluationDataNumber=number)


def accept(verified: VerifiedEvidence, now: datetime = NOW, **asks: object) -> AttestationResult:
    return appraise(verified, Policy.from_json({**POLICY.to_json(), **asks}), BINDING, now=now)


def test_collateral_of_an_earlier_evaluation_is_refused_by_a_policy_that_asks_for_a_later(vendor, with_collateral, evidence_of) -> None:
    """The vendor signs several evaluations side by side; the older ones know less.  The control is a policy that asks for less."""
    verified = with_collateral(of_epoch(vendor, 16)).verify(evidence_of(Tee.SGX), NOW)
    with pytest.raises(AppraisalError) as refused:
        accept(verified, min_tcb_eval=17)
    assert refused.value.facts["check"] == "tcb-eval"
    assert accept(verified, min_tcb_eval=16).claims.tcb_eval == 16
    assert accept(with_collateral(of_epoch(vendor, 17)).verify(evidence_of(Tee.SGX), NOW), min_tcb_eval=17)


def test_collateral_that_was_held_back_is_refused_by_a_policy_that_asks_for_its_age(vendor, with_collateral, evidence_of) -> None:
    """It is current for weeks yet; whoever hands it out hides what the vendor signed since."""
    later = NOW + timedelta(days=5)
    verified = with_collateral(vendor.collateral(Tee.SGX)).verify(evidence_of(Tee.SGX), later)
    with pytest.raises(AppraisalError) as refused:
        accept(verified, later, max_collateral_age_days=1)
    assert refused.value.facts["check"] == "collateral-age"
    assert accept(verified, later, max_collateral_age_days=30)
    assert accept(verified, later)


def test_collateral_that_went_stale_after_the_evidence_was_verified_is_refused(vendor, with_collateral, evidence_of) -> None:
    verified = with_collateral(vendor.collateral(Tee.SGX)).verify(evidence_of(Tee.SGX), NOW)
    with pytest.raises(AppraisalError) as refused:
        accept(verified, NOW + timedelta(days=60))
    assert refused.value.facts["check"] == "collateral"
    assert accept(verified)


def test_parts_of_two_epochs_are_no_newer_set(vendor, tmp_path, monkeypatch) -> None:
    """A new TCB info is put beside the quoting enclave identity of before, in which an enclave was not revoked yet."""
    signer, root, good = vendor._signer("tcb-signer"), vendor._signer("root"), of_epoch(vendor, 17)

    def with_identity(collateral: Collateral, number: int) -> Collateral:
        text = json.dumps({**collateral.qe, "tcbEvaluationDataNumber": number})
        return dataclasses.replace(
            collateral, qe_identity=text, qe_identity_signature=raw_signature(signer.key, text.encode()),
            qe_identity_issuer_chain=pem(signer, root),
        )  # fmt: skip

    mixed = with_identity(of_epoch(vendor, 18), 16)
    store = CollateralStore(tmp_path)
    store.put(with_identity(good, 17))
    with pytest.raises(CollateralError, match="older"):
        store.put(mixed)
    monkeypatch.setattr(collateral_sources, "check_not_older", lambda collateral, seen: None)
    store.put(mixed)
    assert store.get(*mixed.platform).epoch.qe_eval == 16
