"""Long runs: nodes are attested again, and who loses its good standing is cut off."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.node_stage import (
    GRACE,
    INTERVAL,
    Stage,
    again_of,
    beats,
    finished,
    private_folders,
    wait_for,
    watches,
    working,
)

from confide.attest.insecure import Fault
from confide.errors import (
    AppraisalError,
    AttestationError,
    BindingError,
    ConfideError,
    NodeLostError,
    OverdueError,
)
from confide.ids import NodeId
from confide.node.agent import WorkerAgent
from confide.node.jobca import CONTROL_LIFETIME, LIFETIME


def test_all_nodes_of_a_long_run_attest_themselves_again(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    before = {node: attester.asked for node, attester in stage.attesters.items()}
    for count in (1, 2):
        stage.seconds.value += INTERVAL
        beats(stage, lambda expected=count: {*again_of(stage), *(w.count for w in watches(stage))} == {expected})
    after = {node: attester.asked - before[node] for node, attester in stage.attesters.items()}
    assert after == {"worker-1": 2, "worker-2": 2, "driver": 6}, "once for its driver, or for two workers and the client"
    assert finished(stage)["again"] == {"driver": [2, True], "worker-1": [2, True], "worker-2": [2, True]}


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.OUT_OF_DATE, "appraisal-refused"), (Fault.REVOKED_PCK, "evidence-invalid"), (Fault.REPLAY, "binding-mismatch")],
)
def test_worker_that_loses_its_good_standing_is_cut_off_and_the_run_goes_on(fault: Fault, code: str, stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["worker-1"].fault = fault
    stage.seconds.value += INTERVAL
    cut = stage.until("event", event="worker-cut-off")
    assert (cut["node"], cut["fields"]["code"]) == ("worker-1", code)
    running, executor = stage.workers["worker-1"]
    error = running.join()
    assert isinstance(error, AttestationError)
    assert error.code == code
    assert executor.stopped.is_set()
    wait_for(lambda: stage.engine.cut == stage.engine.lost == ["worker-1"])
    receipt = finished(stage)
    assert [node[:2] for node in receipt["nodes"]] == [["driver", "ok"], ["worker-1", "failed"], ["worker-2", "ok"]]
    assert receipt["refused"] == [["worker-1", code]]


def test_worker_that_was_cut_off_comes_back_neither_with_its_certificate_nor_anew(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    agent = stage.workers["worker-1"][0].agent
    assert isinstance(agent, WorkerAgent)
    workers = stage.driver.agent._workers  # type: ignore[union-attr]
    spki = workers._peers[NodeId("worker-1")].record.spki  # type: ignore[union-attr]
    stage.attesters["worker-1"].fault = Fault.OUT_OF_DATE
    stage.seconds.value += INTERVAL
    stage.until("event", event="worker-cut-off")
    del workers._links[NodeId("worker-1")]  # type: ignore[union-attr]  # so that the roster alone keeps it out
    with pytest.raises(BindingError, match="no accepted worker"):
        workers._take(None, spki)  # type: ignore[union-attr, arg-type]
    assert isinstance(stage.start_worker("worker-1").join(), ConfideError)
    assert stage.workers["worker-1"][1].services is None


def test_control_certificate_of_a_worker_is_short_lived(stage: Stage) -> None:
    stage.begin()
    issued: list[timedelta] = []
    ca = stage.driver.agent._ca
    original = ca.issue

    def issue(*args: Any, **options: Any) -> bytes:
        issued.append(options.get("lifetime", LIFETIME))
        return original(*args, **options)

    ca.issue = issue  # type: ignore[method-assign]
    stage.start_worker("worker-1")
    stage.until("event", event="worker-started")
    assert sorted(issued) == [CONTROL_LIFETIME, LIFETIME], "one for the control channel, one for the engine"


def test_worker_that_is_silent_for_too_long_is_cut_off(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["worker-2"].trouble = True
    stage.seconds.value += INTERVAL
    beats(stage, lambda: again_of(stage) == [1, 1, 0] and {watch.count for watch in watches(stage)} == {1})
    stage.seconds.value += GRACE
    cut = stage.until("event", event="worker-cut-off")
    assert (cut["node"], cut["fields"]["code"]) == ("worker-2", "evidence-overdue")
    assert isinstance(stage.workers["worker-2"][0].join(), OverdueError)


def test_attester_that_is_busy_for_a_while_is_no_refusal(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["worker-2"].trouble = True
    stage.seconds.value += INTERVAL
    beats(stage, lambda: again_of(stage) == [1, 1, 0] and {watch.count for watch in watches(stage)} == {1})
    stage.attesters["worker-2"].trouble = False
    beats(stage, lambda: again_of(stage) == [1, 1, 1])
    assert finished(stage)["refused"] == []


def test_worker_that_is_cut_off_ends_the_run_if_the_job_asks_so(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 1, "refused_worker": "fail"}))
    working(stage, "worker-1", "worker-2")
    stage.attesters["worker-1"].fault = Fault.OUT_OF_DATE
    stage.seconds.value += INTERVAL
    error = stage.until("result")["error"]
    assert (error["code"], error["facts"]["code"]) == ("node-lost", "appraisal-refused")


def test_driver_that_loses_its_good_standing_ends_the_run_for_its_client_and_wipes(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["driver"].fault = Fault.OUT_OF_DATE
    stage.seconds.value += INTERVAL
    with pytest.raises(AppraisalError):
        stage.until("result")
    stage.leave()
    assert isinstance(stage.driver.join(), ConfideError)
    assert stage.engine.stopped.is_set()
    assert [executor.stopped.wait(5) for _, executor in stage.workers.values()] == [True, True]
    for running, _ in stage.workers.values():
        running.join()
    assert private_folders(stage.specs.run) == []


def test_worker_leaves_a_driver_that_lost_its_good_standing(stage: Stage) -> None:
    working(stage, "worker-1", "worker-2")
    stage.attesters["driver"].fault = Fault.OUT_OF_DATE
    stage.seconds.value += INTERVAL  # the client does not look: it is the workers who notice
    errors = [running.join() for running, _ in stage.workers.values()]
    assert any(isinstance(error, AppraisalError) for error in errors)
    assert all(isinstance(error, AppraisalError | NodeLostError) for error in errors)
    assert all(executor.stopped.is_set() for _, executor in stage.workers.values())
    assert isinstance(stage.driver.join(), NodeLostError)
