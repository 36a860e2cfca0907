"""Nodes whose evidence is not good enough: for the vendor, for the owner's policy, or not any more."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.broker_attacks import Granted, Raw
from support.broker_world import JOB, World, policy

from confide.attest.insecure import Fault
from confide.attest.policy import appraise
from confide.errors import AppraisalError, CollateralError, ConfideError, EvidenceInvalidError
from confide.keys import runs
from confide.keys.sessions import Attested


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.DEBUG, AppraisalError),
        (Fault.REVOKED_PCK, EvidenceInvalidError),
        (Fault.STALE_COLLATERAL, CollateralError),
        (Fault.EXPIRED_CRL, CollateralError),
        (Fault.OUT_OF_DATE, AppraisalError),
        (Fault.WRONG_MEASUREMENT, AppraisalError),
    ],
)
def test_faulty_node_gets_no_key(world: World, fault: Fault, expected: type[ConfideError]) -> None:
    granted = Granted(world)
    with pytest.raises(expected):
        world.client(world.node(fault=fault)).release(granted.manifest)
    assert world.events("release") == []
    assert any(code == expected.code for _, code in world.refusals())


def test_evidence_is_verified_anew_at_each_release(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collateral that goes stale during a session ends the session's releases."""
    world.options = {"session_ttl": timedelta(days=365)}
    monkeypatch.setattr(runs, "RUN_SILENCE", timedelta(days=365))
    world.restart()
    granted, raw = Granted(world), Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    assert raw.release(granted.manifest) == "ok"
    world.ahead = timedelta(days=60)
    assert raw.release(granted.manifest) == "collateral-invalid"
    # The weakened broker looks at evidence once, when it comes, and takes it for good ever after.
    before = world.now() - world.ahead
    monkeypatch.setattr(Attested, "verified", lambda self, verifier, now: verifier.verify(self.evidence, before))
    monkeypatch.setattr(Attested, "appraise", lambda self, verified, policy, now: appraise(verified, policy, self.binding, now=before))
    assert raw.release(granted.manifest) == "ok"


def test_owners_policy_decides_not_the_jobs(world: World) -> None:
    granted = Granted(world, policy=policy("strict", min_tcb_eval=10_000))
    with pytest.raises(AppraisalError):
        world.client(world.node()).release(granted.manifest)
    granted.airline.grant("flights", job=JOB, policy=policy("lax"))
    assert world.client(world.node()).release(granted.manifest)


def test_simulated_node_is_refused_by_a_policy_without_the_switch(world: World) -> None:
    granted = Granted(world, policy=policy("real", allow=()))
    with pytest.raises(AppraisalError, match="simulated"):
        world.client(world.node()).release(granted.manifest)
    granted.airline.grant("flights", job=JOB, policy=policy("simulated"))
    assert world.client(world.node()).release(granted.manifest)
