"""One cluster for all tests of this folder, a namespace for each, and a stage whose broker pods can reach."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster.built import BuiltImage, building, built
from cluster.kubernetes import HOST, TestCluster
from cluster.kubernetes import cluster as running
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


@pytest.fixture(scope="session")
def _image_process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes] | None]:
    """What makes the image beside the tests, if one of them asks for it.  It begins before this process is in the cluster's network."""
    if not any("built_image" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    with building() as process:
        yield process


@pytest.fixture(scope="session")
def cluster(_image_process: subprocess.Popen[bytes] | None) -> Iterator[TestCluster]:
    with running() as found:
        yield found


@pytest.fixture(scope="session")
def built_image(cluster: TestCluster, _image_process: subprocess.Popen[bytes] | None) -> BuiltImage:
    """The image that ``confide image build`` makes of this clone, on the first node alone."""
    found = built(_image_process)
    cluster.load(found.archive, "node1")
    return found


@pytest.fixture(scope="session")
def stage(cluster: TestCluster) -> Iterator[ClusterStage]:
    root = Path(tempfile.mkdtemp(prefix="confide-stage-", dir="/var/tmp"))
    made = ClusterStage(root)
    try:
        made.tee.measurement()
        archive = root / "node.tar"
        write_node_image(archive, made.settings.simulation_dir / "measured.json")
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
