"""How the nodes of a run in a cluster stand, for people: the driver's word, written without waiting, and what the cluster says of pods."""

from __future__ import annotations

import threading
import time
from typing import Any

from support.cluster_plans import RUN, profile_for, tee_of
from support.cluster_plans import plan_for as planned
from support.kubernetes_api import InMemoryApi

from confide.errors import UnavailableError
from confide.ids import NodeId, RunId
from confide.jobs.kubernetes.board import Board
from confide.jobs.kubernetes.objects import render
from confide.jobs.kubernetes.pod_host import PodHost
from confide.jobs.kubernetes.profile import Shape
from confide.jobs.kubernetes.standing import standing_of

MAP = ("ConfigMap", f"{RUN}-result")


def under_way() -> InMemoryApi:
    """A run's objects, its driver's pod and its workers'."""
    api, made = InMemoryApi(), render(planned(Shape.SIMULATED), profile_for(Shape.SIMULATED), simulated_tee=tee_of(Shape.SIMULATED))
    template = made.driver_job["spec"]["template"]
    driver = {"kind": "Pod", "metadata": {"name": f"{RUN}-x7", **template["metadata"]}, "spec": {**template["spec"], "nodeName": "one"}}
    for found in (*made.applied, driver, *made.workers.values()):
        api.create(found)
    api.set_status(f"{RUN}-x7", {"phase": "Running", "containerStatuses": [{"name": "node", "state": {"running": {}}}]})
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes: 4 Insufficient cpu."}
    api.set_status(f"{RUN}-worker-2", {"phase": "Pending", "conditions": [waits]})
    return api


def until(there: Any) -> None:
    limit = time.monotonic() + 5
    while not there():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_pods_and_the_drivers_word_are_told_together() -> None:
    api = under_way()
    host = PodHost(api, RunId(RUN), f"{RUN}-x7", {})
    host.tell("job-accepted", NodeId("driver"), {"job": "ab"})
    host.tell("worker-accepted", NodeId("worker-1"), {"tee": "sgx"})
    host.tell("worker-refused", NodeId("worker-2"), {"code": "appraisal-refused", "message": "long"})
    until(lambda: "worker-2" in api.objects[MAP]["data"].get("standing", ""))
    nodes, ended = standing_of(api, RunId(RUN))
    assert not ended
    assert [(node.node, node.said, node.code) for node in nodes] == [
        ("driver", "job-accepted", ""),
        ("worker-1", "worker-accepted", ""),
        ("worker-2", "worker-refused", "appraisal-refused"),
    ]
    assert (nodes[0].host, nodes[0].shape, nodes[0].phase, nodes[0].pod) == ("one", "simulated", "running", f"{RUN}-x7")
    assert "Insufficient cpu" in nodes[2].condition
    host.keep("sealed")
    assert standing_of(api, RunId(RUN))[1]


def test_only_what_stands_in_events_that_people_look_for_is_told() -> None:
    api = under_way()
    host = PodHost(api, RunId(RUN), f"{RUN}-x7", {})
    host.tell("rows-counted", NodeId("driver"), {"rows": 4711})
    host.tell("worker-failed", NodeId("worker-1"), {"code": "job-failed", "message": "patient 4711"})
    until(lambda: "standing" in api.objects[MAP]["data"])
    assert api.objects[MAP]["data"]["standing"] == '{"worker-1":{"code":"job-failed","type":"worker-failed"}}'


def test_what_the_cluster_keeps_instead_is_told_as_nothing() -> None:
    api = under_way()
    for text in ("", "[]", "{", '{"worker-1": "accepted", "driver": {"type": 7}}'):
        api.objects[MAP]["data"]["standing"] = text
        assert [node.said for node in standing_of(api, RunId(RUN))[0]] in (["", "", ""], ["7", "", ""])
    del api.objects[MAP]
    assert len(standing_of(api, RunId(RUN))[0]) == 3


def test_who_tells_does_not_wait_and_what_comes_at_once_is_written_at_once() -> None:
    written: list[str] = []
    slow = threading.Event()

    def write(text: str) -> None:
        slow.wait(5)
        written.append(text)

    board = Board(write, every_s=0.01)
    begun = time.monotonic()
    for number in range(1000):
        board.note("worker-accepted", f"worker-{number}", None)
    assert time.monotonic() - begun < 2
    slow.set()
    until(lambda: written and "worker-999" in written[-1])
    assert len(written) < 10
    board.close()


def test_a_cluster_that_takes_nothing_ends_nothing() -> None:
    tried: list[str] = []

    def write(text: str) -> None:
        tried.append(text)
        if len(tried) == 1:
            raise UnavailableError("the API server is down")

    board = Board(write, every_s=0.01)
    board.note("worker-accepted", "worker-1", None)
    until(lambda: len(tried) == 1)
    board.note("worker-lost", "worker-1", "node-lost")
    until(lambda: len(tried) == 2)
    assert tried[1] == '{"worker-1":{"code":"node-lost","type":"worker-lost"}}'
    board.close()


def test_no_more_is_written_than_there_is_to_say_and_not_more_often_than_it_should_be() -> None:
    written: list[str] = []
    board = Board(written.append, every_s=0.2)
    for number in range(30):
        board.note("worker-accepted", f"worker-{number}", None)
        time.sleep(0.01)
    until(lambda: written and "worker-29" in written[-1])
    assert len(written) < 8, "thirty things to say in a third of a second"
    said = len(written)
    time.sleep(0.5)
    assert len(written) == said, "there is nothing new"
    board.close()


def test_a_board_that_is_closed_writes_no_more_and_its_host_closes_it() -> None:
    written: list[str] = []
    board = Board(written.append, every_s=0.01)
    board.note("worker-accepted", "worker-1", None)
    until(lambda: written)
    board.close()
    board.note("worker-lost", "worker-1", "node-lost")
    time.sleep(0.1)
    assert len(written) == 1

    api, before = under_way(), set(threading.enumerate())
    host = PodHost(api, RunId(RUN), "driver", {})
    host.tell("worker-accepted", NodeId("worker-1"), {})
    until(lambda: "worker-1" in api.objects[MAP]["data"].get("standing", ""))
    host.close()
    until(lambda: set(threading.enumerate()) <= before)
