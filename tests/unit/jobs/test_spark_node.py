"""What a node's engine for Spark takes from its job and its spec."""

from __future__ import annotations

import secrets
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from confide.ids import NodeId, RunId
from confide.jobs import spark_node
from confide.node.private_dir import PrivateDir

if TYPE_CHECKING:
    from confide.node.workload import NodeServices


@pytest.mark.parametrize("role_mb", [512, 2048])
def test_all_jvms_of_a_run_agree_on_the_cores_and_the_heap_of_its_executors(role_mb: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the memory of the node is that says so: the driver's, mostly."""
    monkeypatch.setattr(spark_node, "find_runtime", lambda: None)
    run = RunId(f"delays-{secrets.token_hex(6)}")  # a name in /dev/shm
    with PrivateDir(run, NodeId("driver")) as private:
        services = SimpleNamespace(
            private_dir=private,
            spec=SimpleNamespace(run_id=run, cores=1, memory_mb=role_mb),
            job=SimpleNamespace(name="delays", resources=SimpleNamespace(workers=3, cores=2, memory_mb=65536)),
            peer_host="127.0.0.1",
            certificate=SimpleNamespace(certificate_pem=b"certificate", ca_pem=b"ca", private_key_pem=b"key"),
        )
        found = spark_node.SparkEngine(cast("NodeServices", services)).run
    assert (found.app_id, found.app_name, found.cores, found.executor_mb) == (str(run), "delays", 6, 65536)
