"""A run that failed tells its client what its workers showed: records and collateral, nothing else, and read strictly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from support.node_stage import Executor, Stage

from confide.attest.binding import report_data
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import Evidence
from confide.attest.insecure import Fault
from confide.attest.verify import VerifiedEvidence
from confide.canonical import Json
from confide.crypto.sign import SigningKey
from confide.errors import AppraisalError, CollateralError, ConfideError, KeyAccessError, ProtocolError
from confide.ids import Nonce, Role
from confide.node.agent import DriverAgent
from confide.node.record import EvidenceRecord
from confide.node.remains import Remains
from confide.node.session import utc_now


def test_failed_run_tells_who_was_accepted_and_who_was_refused(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 3, "min_workers": 3}))
    stage.begin("worker-1", worker_1=Executor(open_fails=KeyAccessError("no grant")))
    stage.until("event", event="worker-failed")
    result = stage.until("result")
    assert [(r.role, r.context.node) for r in Remains.from_json(result["evidence"]).accepted] == [(Role.WORKER, "worker-1")]


def test_evidence_of_a_refused_worker_is_judged_again_from_what_is_left(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 1, "refused_worker": "fail"}))
    stage.begin()
    stage.start_worker("worker-2", fault=Fault.WRONG_MEASUREMENT)
    left = Remains.from_json(stage.until("result")["evidence"])
    (record,) = left.refused
    assert (left.accepted, record.context.node) == ((), "worker-2")
    then = world.verifier.with_collateral(FixedCollateral(*left.collateral))
    with pytest.raises(AppraisalError, match="measurement"):
        record.recheck(then, world.policy, record.at)


def test_keys_are_wiped_before_what_is_left_of_a_failed_run_is_collected(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 1, "refused_worker": "fail"}))
    stage.begin()
    seen: list[bool] = []
    driver = stage.driver.agent
    assert isinstance(driver, DriverAgent)
    services = driver._services
    assert services is not None

    class Watched:
        """The driver's verifier, and whether its keys were wiped when it was asked."""

        def verify(self, evidence: Evidence, now: datetime) -> VerifiedEvidence:
            seen.append(stage.engine.stopped.is_set() and not len(services.certificate.private_key_pem))
            return world.verifier.verify(evidence, now)  # type: ignore[no-any-return]

    driver._verifier = Watched()  # type: ignore[assignment]  # from now on; those that accept workers have theirs
    stage.start_worker("worker-2", fault=Fault.WRONG_MEASUREMENT)
    assert len(Remains.from_json(stage.until("result")["evidence"]).refused) == 1
    assert seen == [True]


def test_run_that_failed_before_a_worker_came_has_none(stage: Stage) -> None:
    stage.engine.prepare_fails = KeyAccessError("no grant")
    stage.begin()
    assert Remains.from_json(stage.until("result")["evidence"]) == Remains()


class _Unreachable:
    """A vendor that nobody reaches, and how often it was asked."""

    asked = 0

    def get(self, *_: object) -> Any:
        self.asked += 1
        raise CollateralError("a collateral service cannot be reached")


def test_vendor_that_could_not_be_reached_is_not_asked_again_while_a_run_ends(world: Any, record: EvidenceRecord) -> None:
    source = _Unreachable()
    verifier = world.verifier.with_collateral(source)
    assert Remains.of_refused(record, CollateralError.code, verifier) == Remains((), (record,), ())
    assert source.asked == 0
    assert Remains.of_refused(record, AppraisalError.code, verifier) == Remains((), (record,), ())


@pytest.fixture
def record(world: Any, specs: Any) -> EvidenceRecord:
    context, key = world.context(specs.run, "worker-1"), SigningKey.generate()
    nonce, exporter = Nonce(b"n" * 32), b"e" * 32
    data = report_data(role=Role.WORKER, exporter=exporter, nonce=nonce, spki=key.spki_der, context=context.digest)
    return EvidenceRecord(Role.WORKER, context, world.attester().quote(data), exporter, nonce, key.spki_der, utc_now())


def test_remains_go_into_json_and_back(world: Any, record: EvidenceRecord) -> None:
    collateral = world.verifier.verify(record.evidence, record.at).collateral
    found = Remains((record,), (record,), (collateral,))
    assert Remains.from_json(found.to_json()) == found


def _changed(**changes: object) -> Json:
    return {"accepted": [], "refused": [], "collateral": [], **changes}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"accepted": [], "refused": []},
        _changed(more=[]),
        _changed(accepted={}),
        _changed(refused=[1]),
        _changed(refused=[{}]),
        _changed(accepted=[{"format": "confide-evidence-v1"}]),
        _changed(collateral=[{}]),
    ],
    ids=lambda data: str(data)[:40],
)
def test_remains_of_another_form_are_none(data: object) -> None:
    with pytest.raises(ConfideError):
        Remains.from_json(data)


def test_more_records_than_a_run_can_have_are_not_taken(record: EvidenceRecord) -> None:
    many = [record.to_json()] * 2048
    assert len(Remains.from_json(_changed(accepted=many)).accepted) == 2048
    with pytest.raises(ProtocolError):
        Remains.from_json(_changed(accepted=[*many, many[0]]))
