"""A run that ends while its parts are still being made: every part is ended all the same, and no key waits for another part's end."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from confide.errors import UnavailableError
from confide.jobs import spark_worker, workload
from confide.jobs.spark_worker import SparkWorker
from confide.jobs.workload import JobDriver
from confide.node.workload import NodeServices

if TYPE_CHECKING:
    from collections.abc import Callable


class Parts:
    """Parts of a node that note what they are asked, and do something when they are."""

    def __init__(self, **then: Callable[[], object]) -> None:
        self.asked: list[str] = []
        self._then = then

    def part(self, name: str) -> Any:
        def asked(word: str) -> Callable[..., Any]:
            def ask(*_: object, **__: object) -> Any:
                self.asked.append(f"{name}.{word}")
                self._then.get(f"{name}_{word}", lambda: None)()
                return {"read-key": None, "write-key": None}

            return ask

        return type(name, (), {"__getattr__": lambda _, word: asked(word), "reads_data": True})()


def fail() -> None:
    raise OSError("it does not end")


def test_what_does_not_end_keeps_no_key_here() -> None:
    parts, driver = Parts(engine_stop=fail, outputs_close=fail), JobDriver()
    driver._engine, driver._keys, driver._outputs = (parts.part(name) for name in ("engine", "keys", "outputs"))
    with pytest.raises(OSError, match="does not end"):
        driver.stop()
    assert parts.asked == ["engine.stop", "keys.close", "outputs.close"]
    parts, worker = Parts(engine_stop=fail), SparkWorker()
    worker._engine, worker._keys = parts.part("engine"), parts.part("keys")
    with pytest.raises(OSError, match="does not end"):
        worker.stop()
    assert parts.asked == ["engine.stop", "keys.close"]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("at", ["engine_serve", "engine_begin", "keys_operations"])
def test_a_driver_that_is_stopped_while_it_is_prepared_ends_what_it_has_made_since(
    at: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if what is made then fails by it: processes are not started any more."""
    driver, node = JobDriver(), _node()

    def stop() -> None:
        if not node.stopping.is_set():
            node.stopping.set()
            driver.stop()
            parts.asked.clear()
            if fails:
                raise UnavailableError("the node is ending")

    parts = Parts(**{at: stop})
    monkeypatch.setattr(workload, "_ENGINES", {"polars": lambda _: parts.part("engine")})
    monkeypatch.setattr(workload, "open_sending", lambda *_: SimpleNamespace(folders={}))
    for name in ("Outputs", "BrokerKeys"):
        monkeypatch.setattr(workload, name, lambda *_, name=name: parts.part({"Outputs": "outputs", "BrokerKeys": "keys"}[name]))
    monkeypatch.setattr(workload, "open_inputs", lambda *_: pytest.fail("a run that has ended reads an input"))
    monkeypatch.setattr(JobDriver, "_write_code", lambda *_: None)
    with pytest.raises(UnavailableError, match="ending"):
        driver.prepare(node)
    assert parts.asked[-3:] == ["engine.stop", "keys.close", "outputs.close"]


def test_a_worker_that_is_stopped_while_it_opens_ends_what_it_has_made_since(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, node = SparkWorker(), _node()

    def stop() -> None:
        node.stopping.set()
        worker.stop()
        parts.asked.clear()

    parts = Parts(engine_start=stop)
    monkeypatch.setattr(spark_worker, "SparkEngine", lambda _: parts.part("engine"))
    monkeypatch.setattr(spark_worker, "BrokerKeys", lambda _: parts.part("keys"))
    monkeypatch.setattr(spark_worker, "executor_command", lambda *_: None)
    monkeypatch.setattr(spark_worker, "open_inputs", lambda *_: pytest.fail("a run that has ended reads an input"))
    with pytest.raises(UnavailableError, match="ending"):
        worker.open(node)
    assert parts.asked == ["engine.stop", "keys.close"]


class Node:
    job = SimpleNamespace(inputs={}, outputs={}, engine="polars")
    spec = SimpleNamespace(run_id="r1", index=1)
    identity = SimpleNamespace(key=None)
    attester = tell = None
    making, check_going_on = NodeServices.making, NodeServices.check_going_on

    def __init__(self) -> None:
        self.stopping = threading.Event()


def _node() -> Any:
    return Node()
