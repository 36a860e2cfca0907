"""A driver whose host starts its workers and keeps its result: its run goes on when the client is gone, and the client may come back."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
from support.node_stage import Stage, private_folders, wait_for

from confide.crypto.identity import Identity
from confide.errors import ConfideError, NodeLostError, UnavailableError
from confide.ids import NodeId
from confide.node.control import Kind
from confide.node.kept_result import open_result

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.node.host import Ended, Heard
    from confide.node.spec import Announcement


class Cluster:
    """Starts workers on the stage."""

    goes_on_alone = True

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.starts: Sequence[str] = ("worker-1", "worker-2")
        self.dead: Sequence[str] = ()
        self.fails: ConfideError | None = None
        self.keeps = True
        self.sealed: list[str] = []
        self.client = Identity.generate("client")
        self.closed = 0
        self.told: list[tuple[str, NodeId]] = []

    def announce(self, said: Announcement) -> None:
        said.save(self.stage.specs.folder / "announce.json")

    def start_workers(self, nodes: Sequence[NodeId], *, heard: Heard, ended: Ended) -> bool:
        if self.fails is not None:
            raise self.fails
        assert list(nodes) == ["worker-1", "worker-2"]
        for node in self.starts:
            heard("node-started", NodeId(node), {"process": f"pod-{node}"})
            self.stage.start_worker(node)
        for node in self.dead:
            ended(NodeId(node))
        return True

    def tell(self, kind: str, node: NodeId, fields: Json) -> None:
        self.told.append((kind, node))

    def keep(self, result: str) -> None:
        if not self.keeps:
            raise UnavailableError("no place")
        self.sealed.append(result)

    @property
    def kept(self) -> list[Json]:
        specs, world = self.stage.specs, self.stage.world
        found = [open_result(text, self.client.key, specs.run) for text in self.sealed]
        return [one.by_driver(NodeId("driver"), job=world.job.digest, run=specs.run, side=world.side, known=None) for one in found]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def cluster(stage: Stage) -> Cluster:
    stage.host = made = Cluster(stage)
    return made


def begin(stage: Stage) -> None:
    """The client of the cluster starts a run."""
    assert isinstance(stage.host, Cluster)
    stage.start_driver()
    stage.attest(identity=stage.host.client).submit()


def come_back(stage: Stage, identity: Identity) -> None:
    wait_for(lambda: not stage.driver.agent._client.here)  # type: ignore[union-attr]
    stage.frames.clear()
    stage.attest(identity=identity).submit()


def test_host_starts_the_workers_and_keeps_the_result(stage: Stage, cluster: Cluster) -> None:
    begin(stage)
    stage.until("event", event="program-started")
    stage.engine.release.set()
    result = stage.until("result")
    assert "start-workers" not in {frame["kind"] for frame in stage.frames}
    assert ("node-started", "worker-2") in stage.events()
    assert {("job-accepted", "driver"), ("worker-accepted", "worker-1"), ("worker-accepted", "worker-2")} <= set(cluster.told)
    assert cluster.kept == [{name: value for name, value in result.items() if name != "kind"}]
    stage.leave()
    assert stage.driver.join() is None
    assert cluster.closed == 1


def test_run_goes_on_when_its_client_is_gone(stage: Stage, cluster: Cluster) -> None:
    begin(stage)
    stage.until("event", event="program-started")
    stage.leave()
    wait_for(lambda: not stage.driver.agent._client.here)  # type: ignore[union-attr]
    stage.engine.release.set()
    assert stage.driver.join() is None
    assert [result["ok"] for result in cluster.kept] == [True]
    wait_for(lambda: private_folders(stage.specs.run) == [])


def test_client_that_comes_back_hears_what_it_missed_and_the_rest(stage: Stage, cluster: Cluster) -> None:
    identity = cluster.client
    begin(stage)
    stage.until("event", event="program-started")
    before = stage.events()
    stage.leave()
    come_back(stage, identity)
    stage.engine.release.set()
    assert stage.until("result")["ok"] is True
    assert stage.events()[: len(before)] == before
    assert stage.events()[-1][0] == "program-ended"


def test_another_client_is_refused_while_the_run_has_none(stage: Stage, cluster: Cluster) -> None:
    begin(stage)
    stage.until("event", event="program-started")
    stage.leave()
    with pytest.raises(ConfideError, match="has its client already"):
        come_back(stage, Identity.generate("client"))
    stage.engine.release.set()
    assert stage.driver.join() is None


def test_the_same_client_is_refused_while_it_is_still_here(stage: Stage, cluster: Cluster) -> None:
    identity = cluster.client
    begin(stage)
    first = stage.client
    with pytest.raises(ConfideError, match="has its client already"):
        stage.attest(identity=identity).submit()
    stage.client = first
    stage.engine.release.set()
    assert stage.until("result")["ok"] is True


def test_client_that_came_back_can_stop_the_run(stage: Stage, cluster: Cluster) -> None:
    identity = cluster.client
    begin(stage)
    stage.until("event", event="program-started")
    stage.leave()
    come_back(stage, identity)
    assert stage.client is not None
    stage.client.stop()
    assert stage.until("result")["error"]["code"] == "interrupted"
    assert [result["error"]["code"] for result in cluster.kept] == ["interrupted"]


def test_client_that_came_back_attests_the_driver_again(stage: Stage, cluster: Cluster) -> None:
    identity = cluster.client
    begin(stage)
    stage.until("event", event="program-started")
    asked = stage.attesters["driver"].asked
    stage.leave()
    come_back(stage, identity)
    assert stage.attesters["driver"].asked == asked + 1


def test_workers_that_cannot_be_started_end_the_run(stage: Stage, cluster: Cluster) -> None:
    cluster.fails = UnavailableError("exceeded quota: pods")
    begin(stage)
    assert stage.until("result")["error"]["message"] == "exceeded quota: pods"
    stage.leave()
    error = stage.driver.join()
    assert isinstance(error, UnavailableError)
    assert cluster.closed == 1


def test_worker_whose_process_ended_is_not_waited_for(stage: Stage, cluster: Cluster) -> None:
    cluster.starts, cluster.dead = ("worker-1",), ("worker-2",)
    begin(stage)
    assert stage.until("event", event="worker-lost")["node"] == "worker-2"


def test_result_that_cannot_be_kept_still_reaches_the_client(stage: Stage, cluster: Cluster) -> None:
    cluster.keeps = False
    begin(stage)
    stage.until("event", event="program-started")
    stage.engine.release.set()
    assert stage.until(Kind.RESULT)["ok"] is True
    stage.leave()
    assert stage.driver.join() is None


def test_client_that_leaves_a_driver_on_its_own_machine_ends_the_run(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.leave()
    assert isinstance(stage.driver.join(), NodeLostError)


def test_client_that_comes_back_while_others_speak_misses_nothing_and_breaks_nothing(stage: Stage, cluster: Cluster) -> None:
    begin(stage)
    stage.until("event", event="program-started")
    stage.leave()
    wait_for(lambda: not stage.driver.agent._client.here)  # type: ignore[union-attr]
    over = threading.Event()

    def speak() -> None:
        number = 0
        while not over.is_set():
            number += 1
            stage.engine.services.emit("counted", number=number)  # type: ignore[union-attr]

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    wait_for(lambda: len(stage.driver.agent._client._events) > 2000)  # type: ignore[union-attr]
    come_back(stage, cluster.client)
    over.set()
    speaker.join()
    stage.engine.release.set()
    assert stage.until("result")["ok"] is True
    counted = [frame["fields"]["number"] for frame in stage.frames if frame.get("type") == "counted"]
    assert counted == list(range(counted[0], counted[0] + len(counted)))
