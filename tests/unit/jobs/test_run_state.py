"""The run's state machine: the one way forward, and every way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.errors import ConfideError, InterruptedRunError, JobFailedError, NodeLostError, ProtocolError
from confide.ids import NodeId, Role
from confide.jobs import state as s

DRIVER = NodeId("driver")
W1 = NodeId("worker-1")


W2 = NodeId("worker-2")
BOTH = frozenset({W1, W2})


def run(*events: s.Event) -> tuple[s.RunState, list[s.Command]]:
    state = s.begin(DRIVER, BOTH)
    commands: list[s.Command] = []
    for event in events:
        state, new = s.step(state, event)
        commands += new
    return state, commands


TO_RUNNING = (s.NodeStarted(DRIVER, Role.DRIVER), s.DriverListening("127.0.0.1", 1), s.DriverAttested())
WHOLE = (*TO_RUNNING, s.WorkersWanted(BOTH, "127.0.0.1", 2), s.WorkerAccepted(W1), s.Finished({"a": 1}), s.ReceiptVerified())


def test_a_run_goes_from_start_to_a_verified_receipt() -> None:
    state, commands = run(*WHOLE)
    assert state.phase is s.Phase.DONE
    assert [type(c) for c in commands] == [s.AttestDriver, s.StartWorkers, s.VerifyReceipt, s.StopAll]


def test_workers_are_started_only_after_the_driver_is_attested() -> None:
    state, commands = run(s.DriverListening("127.0.0.1", 1), s.WorkersWanted(BOTH, "127.0.0.1", 2))
    assert isinstance(state.error, ProtocolError)
    assert not any(isinstance(c, s.StartWorkers) for c in commands)


@pytest.mark.parametrize("nodes", [frozenset(), frozenset({NodeId("worker-9")}), BOTH | {DRIVER}])
def test_a_driver_cannot_ask_for_workers_that_are_not_planned(nodes: frozenset[NodeId]) -> None:
    state, _ = run(*TO_RUNNING, s.WorkersWanted(nodes, "127.0.0.1", 2))
    assert isinstance(state.error, ProtocolError)


def test_a_driver_cannot_ask_for_workers_twice() -> None:
    state, _ = run(*TO_RUNNING, s.WorkersWanted(BOTH, "127.0.0.1", 2), s.WorkersWanted(BOTH, "127.0.0.1", 2))
    assert isinstance(state.error, ProtocolError)


def test_a_receipt_before_attestation_is_refused() -> None:
    state, _ = run(s.Finished({}))
    assert isinstance(state.error, ProtocolError)


def test_a_run_without_a_verified_receipt_is_not_done() -> None:
    state, _ = run(*WHOLE[:-1])
    assert state.phase is s.Phase.CHECKING


def test_losing_the_driver_ends_the_run() -> None:
    state, commands = run(*TO_RUNNING, s.NodeExited(DRIVER, -9))
    assert isinstance(state.error, NodeLostError)
    assert isinstance(commands[-1], s.StopAll)
    assert state.phase is s.Phase.FAILED


def test_a_driver_that_leaves_after_its_receipt_is_no_loss() -> None:
    state, _ = run(*WHOLE[:-1], s.NodeExited(DRIVER, 0), s.ReceiptVerified())
    assert state.phase is s.Phase.DONE


def test_losing_a_worker_is_the_drivers_decision() -> None:
    state, _ = run(*TO_RUNNING, s.WorkersWanted(BOTH, "h", 2), s.WorkerAccepted(W1), s.NodeExited(W1, -9))
    assert state.phase is s.Phase.RUNNING
    assert state.nodes[W1].standing == "lost"


def test_a_refused_worker_stays_refused_when_it_exits() -> None:
    state, _ = run(*TO_RUNNING, s.WorkersWanted(BOTH, "h", 2), s.WorkerRefused(W1, "appraisal-refused"), s.NodeExited(W1, 3))
    assert state.nodes[W1] == s.NodeView(Role.WORKER, "refused", "appraisal-refused")


def test_an_interrupted_run_stops_everything() -> None:
    state, commands = run(*TO_RUNNING, s.Interrupted())
    assert isinstance(state.error, InterruptedRunError)
    assert commands[-1] == s.StopAll()
    assert state.phase is s.Phase.FAILED


ANY_EVENT = st.sampled_from([*WHOLE, s.NodeExited(DRIVER, 1), s.NodeExited(W1, 1), s.WorkerRefused(W1, "x"),
                             s.Failed(JobFailedError("x")), s.Interrupted()])  # fmt: skip


@given(st.lists(ANY_EVENT, max_size=12))
def test_whatever_happens_everything_is_stopped_exactly_once_when_a_run_is_final(events: list[s.Event]) -> None:
    state, commands = run(*events)
    assert commands.count(s.StopAll()) == (1 if state.phase in s.FINAL else 0)
    assert (state.error is None) == (state.phase is not s.Phase.FAILED)


@given(st.lists(ANY_EVENT, max_size=12), ANY_EVENT)
def test_nothing_changes_a_final_run(events: list[s.Event], late: s.Event) -> None:
    state, _ = run(*events, s.Interrupted())
    assert s.step(state, late) == (state, [])


def test_the_error_of_a_failed_run_is_the_first_one() -> None:
    first: ConfideError = JobFailedError("first")
    state, _ = run(*TO_RUNNING, s.Failed(first), s.Failed(NodeLostError("second")))
    assert state.error is first


@pytest.mark.parametrize("status", [0, -9])
def test_worker_that_is_cut_off_stays_so_however_its_process_ends(status: int) -> None:
    running = s.RunState(NodeId("driver"), frozenset({W1}), s.Phase.RUNNING)
    state, commands = s.step(running, s.WorkerAccepted(W1))
    assert (state.nodes[W1].standing, commands) == ("accepted", [])
    for event in (s.WorkerCutOff(W1, "evidence-overdue"), s.NodeExited(W1, status)):
        state, commands = s.step(state, event)
        assert (state.nodes[W1], state.phase, commands) == (s.NodeView(Role.WORKER, "cut-off", "evidence-overdue"), s.Phase.RUNNING, [])


def test_news_of_a_cut_off_out_of_order_ends_the_run() -> None:
    state, commands = s.step(s.begin(NodeId("driver"), [W1]), s.WorkerCutOff(W1, "evidence-overdue"))
    assert (state.phase, commands) == (s.Phase.FAILED, [s.StopAll()])
