"""Where the backend starts nodes with the run's own init-data, a node that was started with another, or none, is refused."""

from __future__ import annotations

from typing import Any

import pytest
from support.launched import Launched
from support.node_stage import Changing, Stage, wait_for

from confide.attest.evidence import Evidence
from confide.errors import AppraisalError
from confide.ids import ReportData, Tee
from confide.node.control import Kind

OWN, OTHER = b"\x11" * 64, b"\x22" * 64


class Guest(Changing):
    """A node whose host started it with ``held``."""

    def __init__(self, world: Any, held: bytes) -> None:
        super().__init__(world, None)
        self.held = held

    def quote(self, data: ReportData) -> Evidence:
        return Launched(self.world.installation, Tee.SGX, "ab" * 32, self.held).quote(data)


def start(stage: Stage, monkeypatch: pytest.MonkeyPatch, **held: bytes) -> None:
    """The driver, and what each node's host gives it."""

    def attester(node: str, _fault: object) -> Guest:
        stage.attesters[node] = found = Guest(stage.world, held.get(node.replace("-", "_"), OWN))
        return found

    monkeypatch.setattr(stage, "attester", attester)
    stage.start_driver()


@pytest.mark.parametrize("held", [OTHER, bytes(64)], ids=["other", "none"])
def test_driver_with_other_init_data_gets_no_job(stage: Stage, monkeypatch: pytest.MonkeyPatch, held: bytes) -> None:
    start(stage, monkeypatch, driver=held)
    with pytest.raises(AppraisalError, match="not started with this run's init-data"):
        stage.attest(init_data=OWN.hex())


def test_worker_with_other_init_data_gets_no_certificate(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    start(stage, monkeypatch, worker_2=OTHER)
    stage.attest(init_data=OWN.hex()).submit()
    stage.until("start-workers")
    stage.start_worker("worker-1")
    stage.start_worker("worker-2")
    refused = stage.until("event", event="worker-refused")
    assert (refused["node"], refused["fields"]["code"]) == ("worker-2", "appraisal-refused")
    stage.until("event", event="program-started")
    assert ("worker-accepted", "worker-1") in stage.events()
    assert ("worker-accepted", "worker-2") not in stage.events()
    stage.engine.release.set()
    assert stage.until(Kind.RESULT)["ok"] is True


def test_nothing_is_asked_of_it_where_nodes_are_given_none(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    start(stage, monkeypatch, worker_2=OTHER)
    stage.attest().submit()
    stage.until("start-workers")
    stage.start_worker("worker-1")
    stage.start_worker("worker-2")
    wait_for(lambda: len(stage.driver.agent._workers.reports) == 2)  # type: ignore[union-attr]
