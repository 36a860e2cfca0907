"""One cluster for all tests of this folder, a namespace for each, and a stage whose broker pods can reach."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster.built import BuiltImage
from cluster.keeper import kept_cluster
from cluster.kubernetes import HOST, TestCluster
from cluster.node_image import NODE_IMAGE, code_volumes, write_node_image
from support.stage import Stage

from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.keys.server import BrokerServer


class ClusterStage(Stage):
    """A broker at the cluster's address, and folders that pods share with this machine."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.server = BrokerServer(self.broker, host=HOST)

    def shared(self) -> None:
        """Let the pods' user read and write the stage's datasets, and nothing else of it."""
        self.root.chmod(0o711)
        for name in self.owners:
            for path in (self.root / name, *(self.root / name).rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)

    def place(self) -> Path:
        """A new folder for outputs."""
        made = self.root / f"out-{secrets.token_hex(4)}"
        made.mkdir()
        made.chmod(0o777)
        return made


_BEGIN = ("restart_of_the_api_server", "spark_submit_runs", "main_job", "copied_anothers", "no_canary", "drained", "pod_was_changed")
"""What takes longest, in parts of tests' names: the others fill the time that is left beside it."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((at for at, word in enumerate(_BEGIN) if word in item.name), len(_BEGIN)))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[TestCluster]:
    """One cluster, however many processes the tests are shared between."""
    image = any("built_image" in getattr(item, "fixturenames", ()) for item in request.session.items)
    with kept_cluster(os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid()), image=image) as found:
        yield found


@contextmanager
def turn(cluster: TestCluster, *, alone: bool = False) -> Iterator[None]:
    """While the block runs, no other process is in such a block that is ``alone``; and none at all, if this one is."""
    with (cluster.folder / "gate").open("w") as gate, (cluster.folder / "turns").open("w") as turns:
        fcntl.flock(gate, fcntl.LOCK_EX)  # nobody comes past somebody who waits to be alone
        fcntl.flock(turns, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def _beside_others(request: pytest.FixtureRequest, cluster: TestCluster) -> Iterator[None]:
    with turn(cluster, alone=request.node.get_closest_marker("alone") is not None):
        yield


@pytest.fixture(scope="session")
def built_image(cluster: TestCluster) -> BuiltImage:
    """The image that ``confide image build`` makes of this clone, on the first node alone."""
    cluster.tell("image")
    found = BuiltImage.kept()
    assert found is not None
    cluster.load(found.archive, "node1")
    return found


def measured(cluster: TestCluster, stage: ClusterStage) -> Path:
    """The digests of this machine's files, which one process reads for all."""
    known, own = cluster.folder / "measured.json", stage.settings.simulation_dir / "measured.json"
    with (cluster.folder / "measuring").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if known.exists():
            shutil.copy(known, own)
        stage.tee.measurement()
        shutil.copy(own, known)
    return own


@pytest.fixture(scope="session")
def stage(cluster: TestCluster) -> Iterator[ClusterStage]:
    """Of each process that runs tests, with a broker of its own."""
    root = Path(tempfile.mkdtemp(prefix="confide-stage-", dir="/var/tmp"))
    made = ClusterStage(root)
    try:
        archive = root / "node.tar"
        write_node_image(archive, measured(cluster, made))
        cluster.load(archive)
        made.open()
        made.shared()
        yield made
        made.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def namespace(cluster: TestCluster) -> Iterator[Cluster]:
    """A namespace of its own."""
    name = f"test-{secrets.token_hex(4)}"
    with Cluster.connect("test", namespace=name, kubeconfig=cluster.kubeconfig) as found:
        found.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield found
        found.delete("Namespace", name)


def profile_of(stage: ClusterStage, name: str) -> dict[str, Any]:
    """The profile of the test cluster for a namespace, as a table."""
    data = {"mount": str(stage.root), "host_path": str(stage.root)}
    return {
        "image": NODE_IMAGE,
        "allow_tag": True,
        "shape": "simulated",
        "namespace": name,
        "insecure_host_path": True,
        "volumes": [*code_volumes(), data],
        "cpu_request": 0.1,
        "shm_mb": 512,
        "ttl_s": 60,
    }


@pytest.fixture
def api(cluster: TestCluster) -> Iterator[Cluster]:
    """A namespace of this test's own."""
    with namespace(cluster) as found:
        yield found


@pytest.fixture
def profile(stage: ClusterStage, api: Cluster) -> dict[str, Any]:
    return profile_of(stage, api.namespace)


@pytest.fixture
def target(api: Cluster, profile: dict[str, Any]) -> KubernetesTarget:
    return KubernetesTarget(api, ClusterProfile.from_json(profile), context="test")
