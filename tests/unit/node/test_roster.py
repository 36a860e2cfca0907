from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from confide.attest.evidence import Evidence, NodeContext, max_quote_bytes
from confide.crypto.channel import MAX_FRAME_BYTES
from confide.crypto.seal import SealKey
from confide.errors import NodeLostError
from confide.ids import JobDigest, NodeId, Nonce, Role, RunId, Tee
from confide.job import Resources
from confide.node.record import EvidenceRecord
from confide.node.roster import Phase, Roster

A, B, C = NodeId("worker-1"), NodeId("worker-2"), NodeId("worker-3")


def at(roster: Roster, node: NodeId, *phases: Phase) -> Roster:
    for phase in phases:
        roster = roster.advance(node, phase)
    return roster


WAY = (Phase.ACCEPTED, Phase.READY, Phase.STARTED)


def test_run_settles_when_every_worker_has_started_or_ended() -> None:
    roster = at(Roster.of([A, B]), A, *WAY)
    assert not roster.settled
    assert roster.end(B, Phase.LOST, "node-lost").settled
    assert at(roster, B, *WAY).settled


def test_steps_out_of_order_change_nothing() -> None:
    roster = Roster.of([A])
    for phase in (Phase.READY, Phase.STARTED):
        assert roster.advance(A, phase) == roster
    assert roster.advance(B, Phase.ACCEPTED) == roster
    lost = at(roster, A, Phase.ACCEPTED).end(A, Phase.LOST, "node-lost")
    assert at(lost, A, *WAY) == lost
    assert lost.end(A, Phase.FAILED, "other") == lost


def test_name_is_taken_once() -> None:
    roster = Roster.of([A])
    assert roster.can_enter(A)
    assert not roster.advance(A, Phase.ACCEPTED).can_enter(A)
    assert not roster.can_enter(B)


def test_impostor_does_not_keep_the_real_worker_out() -> None:
    roster = Roster.of([A]).refuse(A, "appraisal-refused")
    assert roster.settled
    assert roster.can_enter(A)
    back = at(roster, A, *WAY)
    assert back.count(Phase.STARTED) == 1
    assert [(r.node, r.code) for r in back.refusals] == [(A, "appraisal-refused")]


def test_impostor_does_not_push_an_accepted_worker_out() -> None:
    roster = at(Roster.of([A]), A, *WAY).refuse(A, "binding-mismatch")
    assert roster.count(Phase.STARTED) == 1
    assert len(roster.refusals) == 1


def test_refusals_of_strangers_are_told_but_not_counted() -> None:
    roster = Roster.of([A]).refuse(C, "appraisal-refused")
    roster.check(Resources(workers=1))
    assert not roster.settled
    for _ in range(2000):
        roster = roster.refuse(C, "appraisal-refused")
    assert len(roster.refusals) == 1000


def test_long_evidence_of_strangers_leaves_room_for_the_result_in_its_frame() -> None:
    """They all travel in the one frame that has the run's result."""
    context = NodeContext(JobDigest("1" * 96), RunId("r"), C, SealKey.generate().public_jwk())
    evidence = Evidence(Tee.TPM, bytes(max_quote_bytes(Tee.TPM)))
    record = EvidenceRecord(Role.WORKER, context, evidence, bytes(32), Nonce(bytes(32)), b"spki", datetime.now(UTC))
    roster = Roster.of([A])
    for _ in range(60):
        roster = roster.refuse(C, "appraisal-refused", record)
    kept = [one.record.to_json() for one in roster.refusals if one.record is not None]
    assert len(roster.refusals) == 60
    assert kept
    assert len(json.dumps(kept)) < MAX_FRAME_BYTES / 2


def test_too_few_workers_left_end_the_run() -> None:
    resources = Resources(workers=2, min_workers=2)
    roster = Roster.of([A, B])
    roster.check(resources)
    with pytest.raises(NodeLostError) as ended:
        roster.end(B, Phase.LOST, "node-lost").check(resources)
    assert ended.value.facts["ended"] == "worker-2 lost (node-lost)"


def test_refusal_ends_the_run_if_the_job_says_so() -> None:
    roster = Roster.of([A, B]).refuse(A, "appraisal-refused")
    roster.check(Resources(workers=2))
    with pytest.raises(NodeLostError, match="was refused"):
        roster.check(Resources(workers=2, refused_worker="fail"))


def test_program_does_not_start_with_too_few() -> None:
    roster = at(Roster.of([A, B]), A, *WAY)
    roster.check_started(Resources(workers=2, min_workers=1))
    with pytest.raises(NodeLostError, match="in time"):
        roster.check_started(Resources(workers=2, min_workers=2))
