"""A run from its announcement to its result: driver, workers and client together, over real channels, with real evidence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from support.node_stage import (
    Executor,
    Stage,
    private_folders,
    wait_for,
)

from confide.attest.insecure import Fault
from confide.crypto.identity import AnyKeyUntilAttested, Identity
from confide.crypto.tls import connect
from confide.errors import (
    AttestationError,
    BindingError,
    ChannelError,
    ConfideError,
    JobFailedError,
    KeyAccessError,
    KeyRevokedError,
    NodeLostError,
)
from confide.ids import NodeId, Role
from confide.node.control import PROTOCOL, Kind, read
from confide.node.record import EvidenceRecord
from confide.node.session import present


def test_run_goes_from_announcement_to_receipt_and_leaves_nothing(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    assert len(private_folders(stage.specs.run)) == 3
    assert all(executor.engine == {"endpoint": "127.0.0.1:7077", "secret": "hidden"} for _, executor in stage.workers.values())
    stage.engine.release.set()
    result = stage.until("result")
    assert result["ok"] is True
    assert result["summary"] == {"rows": 3}
    assert [node[:2] for node in result["receipt"]["nodes"]] == [["driver", "ok"], ["worker-1", "ok"], ["worker-2", "ok"]]
    stage.leave()
    assert stage.driver.join() is None
    assert [running.join() for running, _ in stage.workers.values()] == [None, None]
    assert stage.engine.stopped.is_set()
    assert private_folders(stage.specs.run) == []


def test_receipt_evidence_can_be_checked_again_from_json(stage: Stage, world: Any) -> None:
    stage.begin("worker-1", "worker-2")
    stage.engine.release.set()
    nodes = stage.until("result")["receipt"]["nodes"]
    for name, _, data in nodes:
        record = EvidenceRecord.from_json(data)
        result = record.recheck(world.verifier, world.policy, record.at)
        assert result.context.node == name
        assert result.role == (Role.DRIVER if name == "driver" else Role.WORKER)
    assert EvidenceRecord.from_json(nodes[0][2]).spki == stage.engine.services.identity.spki_der  # type: ignore[union-attr]


def test_worker_events_carry_the_name_that_was_attested(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.engine.release.set()
    stage.until("result")
    assert ("keys-opened", "worker-1") in stage.events()
    assert ("keys-opened", "worker-2") in stage.events()


def test_what_a_worker_tells_is_heard_under_its_attested_name_before_it_goes_on(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    tell = stage.workers["worker-2"][1].services.tell  # type: ignore[union-attr]
    tell({"note": 1, "node": "driver"})
    assert stage.engine.reports == [("worker-2", {"note": 1, "node": "driver"})]
    stage.engine.services.tell({"note": 2})  # type: ignore[union-attr]
    assert stage.engine.reports[1:] == [("driver", {"note": 2})]
    stage.engine.release.set()
    stage.until("result")
    stage.leave()
    stage.workers["worker-2"][0].join()
    with pytest.raises(ChannelError):
        tell({"note": 3})


def test_tampered_worker_is_refused_and_the_run_goes_on(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    tampered = stage.start_worker("worker-3", fault=Fault.WRONG_MEASUREMENT)
    refused = stage.until("event", event="worker-refused")
    assert (refused["node"], refused["fields"]["code"], refused["fields"]["facts"]["check"]) == (
        "worker-3",
        "appraisal-refused",
        "measurement",
    )
    error = tampered.join()
    assert isinstance(error, AttestationError)
    assert error.code == "appraisal-refused"
    assert stage.workers["worker-3"][1].services is None
    stage.engine.release.set()
    result = stage.until("result")
    assert result["ok"]
    assert result["receipt"]["refused"] == [["worker-3", "appraisal-refused"]]


def test_worker_that_the_owners_would_refuse_gets_nothing_of_the_engine(stage: Stage) -> None:
    stage.engine.unwanted = {"worker-2"}
    stage.begin("worker-1", "worker-2")
    failed = stage.until("event", event="worker-failed")
    assert (failed["node"], failed["fields"]["code"]) == ("worker-2", "appraisal-refused")
    stage.until("event", event="program-started")
    assert stage.workers["worker-1"][1].engine is not None
    assert isinstance(stage.workers["worker-2"][0].join(), NodeLostError)
    assert stage.workers["worker-2"][1].engine is None


def test_refused_worker_ends_the_run_if_the_job_asks_so(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 1, "refused_worker": "fail"}))
    stage.begin("worker-1")
    stage.start_worker("worker-2", fault=Fault.WRONG_MEASUREMENT)
    result = stage.until("result")
    assert (result["ok"], result["error"]["code"]) == (False, "node-lost")
    stage.leave()
    assert isinstance(stage.driver.join(), NodeLostError)
    stage.workers["worker-1"][0].join()


def test_run_fails_when_too_few_workers_come_in_time(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 2}))
    stage.start_driver(timing={"start_timeout_s": 1.0, "heartbeat_s": 0.2, "lost_after_s": 2.0})
    stage.attest().submit()
    stage.until("start-workers")
    stage.start_worker("worker-1")
    error = stage.until("result")["error"]
    assert error["code"] == "node-lost"
    assert error["facts"] == {"started": 1, "min_workers": 2}


def test_program_starts_with_the_workers_that_are_left(stage: Stage) -> None:
    stage.begin("worker-1")
    assert stage.client is not None
    stage.client.worker_ended(NodeId("worker-2"))
    stage.until("event", event="worker-lost")
    assert stage.until("event", event="program-started")["fields"] == {"workers": 1}


def test_worker_that_dies_mid_run_is_reported_and_the_run_goes_on(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.workers["worker-1"][1].status = -9
    lost = stage.until("event", event="worker-lost")
    assert (lost["node"], lost["fields"]["facts"]["status"]) == ("worker-1", -9)
    wait_for(lambda: stage.engine.lost == ["worker-1"])
    assert isinstance(stage.workers["worker-1"][0].join(), NodeLostError)
    stage.engine.release.set()
    result = stage.until("result")
    assert result["ok"]
    assert [node[:2] for node in result["receipt"]["nodes"]] == [["driver", "ok"], ["worker-1", "lost"], ["worker-2", "ok"]]


def test_run_ends_when_too_few_workers_are_left(world: Any, stage_of: Callable[[Any], Stage]) -> None:
    stage = stage_of(world.with_job(resources={"workers": 2, "min_workers": 2}))
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.workers["worker-2"][1].status = 1
    error = stage.until("result")["error"]
    assert (error["code"], error["facts"]["left"]) == ("node-lost", 1)
    assert stage.engine.stopped.wait(5)


@pytest.mark.parametrize("first", ["driver", "worker-1"])
def test_withdrawn_key_ends_the_run_whichever_node_hears_of_it_first(first: str, stage: Stage) -> None:
    """The job could go on with fewer workers, but not with a key whose owner took it back."""
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    services = stage.engine.services if first == "driver" else stage.workers[first][1].services
    assert services is not None
    services.fail(KeyRevokedError("withdrawn", key="airline/flights", reason="grant-missing"))
    error = stage.until("result")["error"]
    assert (error["code"], error["facts"]) == ("key-revoked", {"key": "airline/flights", "reason": "grant-missing"})
    assert stage.engine.stopped.wait(5)
    for name in ("worker-1", "worker-2"):
        assert stage.workers[name][1].stopped.wait(5), name


def test_worker_that_is_refused_a_key_reports_the_reason(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2", worker_2=Executor(open_fails=KeyAccessError("no grant", key="a/b")))
    failed = stage.until("event", event="worker-failed")
    assert (failed["node"], failed["fields"]["code"], failed["fields"]["facts"]) == ("worker-2", "key-refused", {"key": "a/b"})
    assert isinstance(stage.workers["worker-2"][0].join(), KeyAccessError)
    stage.until("event", event="program-started")


def test_failed_program_ends_everything_with_its_error(stage: Stage) -> None:
    stage.engine.fails = JobFailedError("division by zero", status=1)
    stage.begin("worker-1", "worker-2")
    stage.engine.release.set()
    result = stage.until("result")
    assert result["error"]["code"] == "job-failed"
    assert result["error"]["facts"] == {"status": 1}
    stage.leave()
    assert isinstance(stage.driver.join(), JobFailedError)
    for running, _ in stage.workers.values():
        running.join()
    assert private_folders(stage.specs.run) == []


def test_failed_preparation_ends_the_run(stage: Stage) -> None:
    stage.engine.prepare_fails = KeyAccessError("no grant")
    stage.begin()
    assert stage.until("result")["error"]["code"] == "key-refused"


def test_driver_without_its_client_ends_the_run_and_wipes(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.leave()
    error = stage.driver.join()
    assert isinstance(error, NodeLostError)
    assert "client" in error.message
    for running, executor in stage.workers.values():
        running.join()
        assert executor.stopped.is_set()
    assert private_folders(stage.specs.run) == []


def test_worker_without_its_driver_wipes_and_ends(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.driver.agent._workers._links["worker-1"]._channel._wire.shut()  # type: ignore[union-attr]
    running, executor = stage.workers["worker-1"]
    error = running.join()
    assert isinstance(error, NodeLostError)
    assert executor.stopped.is_set()
    assert len(private_folders(stage.specs.run)) == 2


def test_client_hears_that_its_driver_is_gone(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.driver.agent._client._link._channel._wire.shut()  # type: ignore[union-attr]
    with pytest.raises(NodeLostError, match="driver is gone"):
        stage.until("result")


def test_stopped_driver_tells_its_client(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    assert stage.client is not None
    stage.client.stop()
    assert stage.until("result")["error"]["code"] == "interrupted"


def test_client_that_never_comes_ends_the_driver(stage: Stage) -> None:
    stage.start_driver(timing={"start_timeout_s": 0.3, "heartbeat_s": 0.2, "lost_after_s": 2.0})
    error = stage.driver.join()
    assert isinstance(error, NodeLostError)
    assert "client" in error.message


def test_driver_refuses_another_job_than_it_was_started_for(world: Any, stage: Stage) -> None:
    stage.start_driver()
    client = stage.attest()
    client._job = world.with_job(files={"main.py": b"print('other')"}).job
    with pytest.raises(BindingError):
        client.submit()
    assert stage.engine.services is None
    client.close()
    stage.attest().submit()
    stage.until("start-workers")


def test_second_client_is_turned_away(stage: Stage) -> None:
    stage.begin()
    first = stage.client
    second = stage.attest()
    with pytest.raises(ConfideError, match="has its client already"):
        second.submit()
    second.close()
    stage.client = first
    assert stage.driver.error is None


def test_worker_of_another_job_refuses_the_driver_and_is_refused(world: Any, stage: Stage) -> None:
    stage.begin("worker-1")
    other = stage.start_worker("worker-2", job=world.with_job(arguments=["--other"]).job)
    refused = stage.until("event", event="worker-refused")
    assert (refused["node"], refused["fields"]["code"]) == ("worker-2", "binding-mismatch")
    assert isinstance(other.join(), BindingError)


def test_second_worker_of_a_name_is_refused(world: Any, stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    identity = Identity.generate("twin")
    with connect(stage.address.host, stage.address.port, identity, trust=AnyKeyUntilAttested()) as channel:
        channel.send_frame({"kind": "hello", "protocol": PROTOCOL, "role": "worker", "node": "worker-1"})
        present(channel, attester=world.attester(), role=Role.WORKER, context=world.context(stage.specs.run, "worker-1"))
        with pytest.raises(BindingError, match="or it is here already"):
            read(channel.recv_frame(), Kind.JOB)
    stage.engine.release.set()
    assert [node[:2] for node in stage.until("result")["receipt"]["nodes"]][1:] == [["worker-1", "ok"], ["worker-2", "ok"]]


def test_job_is_not_told_to_a_worker_that_is_not_accepted(world: Any, stage: Stage) -> None:
    stage.begin()
    identity = Identity.generate("spy")
    with connect(stage.address.host, stage.address.port, identity, trust=AnyKeyUntilAttested()) as channel:
        channel.send_frame({"kind": "hello", "protocol": PROTOCOL, "role": "worker", "node": "worker-1"})
        with pytest.raises(AttestationError):
            present(channel, attester=world.attester(Fault.DEBUG), role=Role.WORKER, context=world.context(stage.specs.run, "worker-1"))
        rest = []
        with suppress(ConfideError):
            while True:
                rest.append(channel.recv_frame())
    assert [frame["kind"] for frame in rest] == ["error"]
    assert "main.py" not in str(rest)


def test_frames_end_with_the_result(stage: Stage) -> None:
    stage.engine.release.set()
    stage.begin("worker-1", "worker-2")
    assert stage.client is not None
    assert [frame["kind"] for frame in stage.client.frames()][-1] == Kind.RESULT


def test_worker_that_is_stopped_from_outside_is_lost(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.workers["worker-2"][0].agent.stop("SIGTERM")
    assert stage.until("event", event="worker-lost")["node"] == "worker-2"


def test_services_name_the_node_for_its_peers(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    services = stage.workers["worker-1"][1].services
    assert services is not None
    assert services.peer_host == "127.0.0.1"
    assert services.job.digest == stage.job.digest
    assert services.certificate.private_key_pem.reveal().startswith(b"-----BEGIN PRIVATE KEY")


def test_client_leaves_a_driver_that_it_does_not_accept(world: Any, stage: Stage) -> None:
    stage.start_driver(Fault.WRONG_MEASUREMENT)
    with pytest.raises(AttestationError):
        stage.attest()
    assert stage.engine.services is None
