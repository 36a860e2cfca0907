"""The broker as its chart installs it, in the test cluster: its image, its volume, its Secret, and how its operator and owners reach it.

Its image is that of ``deploy/container`` but for one thing: the code is this machine's, mounted, so that nothing is built or copied for a
test (``tests/deploy`` builds the image itself).
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes
from cluster import oci
from cluster.asking import Asking
from cluster.charts import Release
from cluster.conftest import ClusterStage
from cluster.kubernetes import TestCluster
from cluster.node_image import ROOT, code_volumes
from kubernetes.stream import stream

from confide.cli.owners import Enrolment
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.forward import Forward
from confide.jobs.local.simulation import SimulatedTee
from confide.keys.client import OwnerClient
from confide.keys.credentials import Credential

IMAGE, USER, PORT = "localhost/confide-broker", 65532, 7600
_WITHIN_S = 90.0
Json = dict[str, Any]


class DeployedBroker:
    """A release of the chart in a namespace of its own, with a volume that this machine keeps."""

    def __init__(self, cluster: TestCluster, stage: ClusterStage) -> None:
        self.namespace = f"keys-{secrets.token_hex(4)}"
        self._cluster = cluster
        self._asking = Asking(cluster.kubeconfig)
        self._volume = stage.root / self.namespace
        self.api = Cluster.connect("test", namespace=self.namespace, kubeconfig=cluster.kubeconfig)
        values = {
            "image": {"repository": IMAGE, "digest": self._image(stage.root / "broker.tar")},
            "custody": {"secretName": "confide-custody"},
            "storage": {"sqlite": {"storageClass": self.namespace, "size": "1Gi"}},
            "insecureSimulate": True,
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        }
        self.release = Release("confide-broker", values, name="keys", namespace=self.namespace)
        self.url = _found(r"is at (https://\S+)", self.release.notes)

    def _image(self, archive: Path) -> str:
        """The image's digest."""
        program = "/opt/confide/bin/confide"
        digest = oci.write_image(
            archive,
            f"{IMAGE}@",
            files={},
            links={"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", program.lstrip("/"): str(ROOT / ".venv/bin/confide")},
            folders=("proc", "sys", "dev", "run", "etc", "tmp", "var/lib/confide"),
            entrypoint=[program],
            environment={"PATH": "/opt/confide/bin:/usr/bin:/bin", "HOME": "/var/lib/confide", "PYTHONUNBUFFERED": "1"},
        )
        self._cluster.load(archive)
        return digest

    def install(self, tee: SimulatedTee) -> None:
        """Install it.  What its README says is there before: a Secret and a volume, in which is the simulated TEE of the tests."""
        SimulatedTee.unpacked(tee.packed(), self._volume / "simulated")
        for path in (self._volume, *self._volume.rglob("*")):
            os.chown(path, USER, USER)
        self._asking.post("/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self.put_master_key(self.new_master_key())
        volume = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": self.namespace}
        volume |= {"hostPath": {"path": str(self._volume)}}
        self._asking.post("/api/v1/persistentvolumes", {"metadata": {"name": self.namespace}, "spec": volume})
        pod = next(each for each in self.release.objects if each["kind"] == "StatefulSet")["spec"]["template"]["spec"]
        for number, each in enumerate(code_volumes()):
            pod["volumes"].append({"name": f"code-{number}", "hostPath": {"path": each["host_path"]}})
            for container in (*pod["initContainers"], *pod["containers"]):
                container["volumeMounts"].append({"name": f"code-{number}", "mountPath": each["mount"], "readOnly": True})
        self.release.install(self._asking)

    def new_master_key(self) -> bytes:
        """Another one than any before."""
        return secrets.token_bytes(32)

    def put_master_key(self, key: bytes) -> bytes | None:
        """Put a master key into the Secret; the one that was there."""
        before = self.api.get("Secret", "confide-custody")
        made = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "confide-custody"}}
        self.api.delete("Secret", "confide-custody")
        self.api.create({**made, "data": {"master.key": base64.b64encode(key).decode()}})
        return None if before is None else base64.b64decode(before["data"]["master.key"])

    # --- its pod ----------------------------------------------------------------------------------------------------------

    def pod(self) -> Json:
        """As the cluster has it now; empty while there is none."""
        return next(iter(self.api.list("Pod", "app.kubernetes.io/instance=keys")), {})

    def ready(self) -> Json:
        """The pod, once its probes say that it serves and its service leads to it."""

        def there() -> Json | None:
            pod = self.pod()
            told = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", [])}
            points = self.api.list("Endpoints", "app.kubernetes.io/instance=keys")
            return pod if told.get("Ready") == "True" and any(each.get("subsets", [{}])[0].get("addresses") for each in points) else None

        return self.until(there)

    def replaced(self) -> Json:
        """Delete the pod as ``kubectl delete pod`` does, giving it a second; the one that comes in its place, not ready yet."""
        old = self.pod()["metadata"]
        self.api.delete("Pod", old["name"], grace_s=1)
        return self.until(lambda: pod if (pod := self.pod()) and pod["metadata"]["uid"] != old["uid"] else None)

    def ended(self) -> Json:
        """How the broker's container has ended, once it has."""

        def found() -> Json | None:
            containers = self.pod().get("status", {}).get("containerStatuses", [])
            ends = [state["terminated"] for each in containers for state in (each["state"], each["lastState"]) if "terminated" in state]
            return ends[0] if ends else None

        return self.until(found)

    def until(self, look: Callable[[], Any]) -> Any:
        """What is looked for, once it is there."""
        end = time.monotonic() + _WITHIN_S
        while not (found := look()):
            assert time.monotonic() < end, (self.pod().get("status"), self.said())
            time.sleep(0.2)
        return found

    def said(self) -> str:
        """The broker's log."""
        pod = self.pod()["metadata"]["name"]
        return "\n".join(line.text for line in self.api.log_lines(pod, container="broker"))

    def enrolment(self, owner: str, folder: Path) -> Enrolment:
        """An enrolment, made by the command in the chart's notes."""
        words = _found(r"-- sh -ec \\\s+'(.+)' >", self.release.notes).replace("OWNER", owner)
        with kubernetes.config.new_client_from_config(str(self._cluster.kubeconfig)) as client:
            asked = kubernetes.client.CoreV1Api(client).connect_get_namespaced_pod_exec
            pod = self.pod()["metadata"]["name"]
            command = {"command": ["sh", "-ec", words], "container": "broker", "stdout": True, "stderr": True}
            done = stream(asked, pod, self.namespace, _preload_content=False, **command)
            done.run_forever(timeout=60)
            assert done.returncode == 0, done.read_stderr()
            (folder / owner).write_text(done.read_stdout())
        return Enrolment.load(folder / owner)


class DeployedStage(ClusterStage):
    """The tests' stage with another broker: an owner whose table's key that one has, reached through a forwarded port."""

    def __init__(self, stage: ClusterStage, broker: DeployedBroker) -> None:
        self.__dict__.update(stage.__dict__)
        self.root = stage.root / f"of-{broker.namespace}"
        self.root.mkdir()
        self.owners = {"people": "airline"}
        self.clients, self.dataset_keys = {}, {}
        pod = broker.ready()["metadata"]["name"]
        self._forward = Forward(broker.api, pod, PORT)
        for name in ("airline", "analyst"):
            made = broker.enrolment(name, self.root)
            self.server = made.broker  # type: ignore[assignment]  an address is all that jobs take of it
            credential = Credential.load(self.settings.credentials_dir, name)
            client = OwnerClient(f"https://127.0.0.1:{self._forward.port}", made.broker.spki, credential)
            client.enrol(made.token)
            self.clients[name] = client

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        self._forward.close()


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]
