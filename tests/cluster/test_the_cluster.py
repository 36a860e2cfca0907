"""What the tests of runs rest on: that the cluster is a real one, of two nodes, and says no where a real one does."""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from cluster import oci
from cluster.kubernetes import TestCluster, remove_left
from cluster.node import _SYSCTLS
from cluster.node_image import code_volumes
from cluster.plan import NODES

from confide.errors import ConfideError
from confide.jobs.kubernetes.client import Cluster

pytestmark = pytest.mark.timeout(300)
IMAGE = "localhost/python:test"


@pytest.fixture(scope="session", autouse=True)
def _image(cluster: TestCluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """This machine's Python, with nothing else: it runs what it is given."""
    archive = tmp_path_factory.mktemp("image") / "python.tar"
    folders = ("proc", "sys", "dev", "etc", "tmp")
    links = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
    oci.write_image(archive, IMAGE, files={}, links=links, folders=folders, entrypoint=[sys.executable, "-I", "-c"])
    cluster.load(archive)


def pod(name: str, program: str, *, limits: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    volumes = list(enumerate(code_volumes()))
    container = {
        "name": "node", "image": IMAGE, "imagePullPolicy": "Never", "args": [program], "resources": {"limits": limits or {}},
        "volumeMounts": [{"name": f"v{number}", "mountPath": each["mount"], "readOnly": True} for number, each in volumes],
        **spec.pop("container", {}),
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False, "containers": [container],
            "volumes": [{"name": f"v{number}", "hostPath": {"path": each["host_path"]}} for number, each in volumes], **spec,
        },
    }  # fmt: skip


def start(api: Cluster, made: dict[str, Any]) -> None:
    """Create a pod in a namespace that has the service account which pods need: the cluster makes one, a moment after the namespace."""
    until(lambda: api.exists("ServiceAccount", "default"))
    api.create(made)


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)
    return found


def phase(api: Cluster, name: str) -> str:
    return str((api.get("Pod", name) or {}).get("status", {}).get("phase", ""))


def said_by(api: Cluster, name: str) -> str:
    """The log of a pod that succeeds."""
    assert until(lambda: phase(api, name) in {"Succeeded", "Failed"} and phase(api, name)) == "Succeeded"
    return "\n".join(str(getattr(line, "text", line)) for line in api.log_lines(name))


def test_it_is_two_nodes_of_the_version_that_was_built(api: Cluster) -> None:
    nodes = api.list("Node")
    assert sorted(each["metadata"]["name"] for each in nodes) == ["node1", "node2"]
    assert {each["status"]["nodeInfo"]["kubeletVersion"] for each in nodes} == {"v1.20.2"}


def test_scheduler_says_that_no_node_has_so_much_of_an_enclaves_memory(api: Cluster) -> None:
    start(api, pod("much", "pass", limits={"sgx.intel.com/epc": "4Gi", "sgx.intel.com/enclave": "1"}))

    def told() -> str:
        conditions = (api.get("Pod", "much") or {})["status"].get("conditions", [])
        return next((each["message"] for each in conditions if each.get("reason") == "Unschedulable"), "")

    assert until(told) == "0/2 nodes are available: 2 Insufficient sgx.intel.com/epc."


def test_device_plugin_hands_out_the_devices_of_enclaves(api: Cluster) -> None:
    limits = {"sgx.intel.com/epc": "64Mi", "sgx.intel.com/enclave": "1", "sgx.intel.com/provision": "1"}
    start(api, pod("enclave", "import os; print(sorted(each for each in os.listdir('/dev') if 'sgx' in each))", limits=limits))
    assert said_by(api, "enclave") == "['sgx_enclave', 'sgx_provision']"
    start(api, pod("none", "import os; print(sorted(each for each in os.listdir('/dev') if 'sgx' in each))"))
    assert said_by(api, "none") == "[]"


def test_runtime_class_that_is_not_there_is_forbidden(api: Cluster) -> None:
    with pytest.raises(ConfideError, match="kata-qemu-nowhere"):
        start(api, pod("class", "pass", runtimeClassName="kata-qemu-nowhere"))


def test_runtime_class_of_confidential_pods_adds_its_overhead(api: Cluster) -> None:
    start(api, pod("class", "print('ran')", runtimeClassName="kata-qemu-tdx"))
    assert said_by(api, "class") == "ran"
    assert (api.get("Pod", "class") or {})["spec"]["overhead"] == {"cpu": "50m", "memory": "64Mi"}


def test_pods_of_two_nodes_find_each_other_by_a_services_name(api: Cluster) -> None:
    serves = "import socket; s = socket.create_server(('', 7443)); c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()"
    asks = (
        "import socket, time\nfor _ in range(200):\n try: c = socket.create_connection(('NAME', 7443)); break\n"
        " except OSError: time.sleep(.1)\nprint(c.recv(99).decode() == c.getsockname()[0])"
    )
    spec = {"clusterIP": "None", "selector": {"app": "server"}, "publishNotReadyAddresses": True, "ports": [{"port": 7443}]}
    api.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "door"}, "spec": spec})
    start(api, pod("server", serves, nodeSelector={"kubernetes.io/hostname": "node1"}))
    start(api, pod("asker", asks.replace("NAME", f"door.{api.namespace}.svc"), nodeSelector={"kubernetes.io/hostname": "node2"}))
    assert said_by(api, "asker") == "True"  # and nobody on the way put another address in


def test_service_account_may_do_nothing_that_no_role_says(cluster: TestCluster, api: Cluster) -> None:
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    with (
        Cluster.connect("test", namespace=api.namespace, kubeconfig=cluster.kubeconfig_of(api.namespace, "nobody")) as nobody,
        pytest.raises(ConfideError, match="nobody"),
    ):
        nobody.list("Pod")


def test_finished_job_is_removed_after_its_time(api: Cluster) -> None:
    template = {"metadata": {"labels": {"app": "brief"}}, "spec": pod("brief", "pass")["spec"]}
    spec = {"ttlSecondsAfterFinished": 1, "backoffLimit": 0, "template": template}
    api.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "brief"}, "spec": spec})
    until(lambda: api.get("Job", "brief") is None)
    until(lambda: api.list("Pod", "app=brief") == [])


def test_port_forward_carries_bytes_both_ways(api: Cluster) -> None:
    turns = "import socket; s = socket.create_server(('', 7443)); c, _ = s.accept(); c.sendall(c.recv(99)[::-1]); c.close()"
    start(api, pod("echo", turns))
    until(lambda: phase(api, "echo") == "Running")

    def answer() -> bytes:
        try:
            with api.port_forward("echo", 7443) as there:
                there.sendall(b"abc")
                return there.recv(99)
        except (OSError, ConfideError):
            return b""  # it does not listen yet

    assert until(answer) == b"cba"


def test_kubelet_answers_nobody_without_a_certificate(cluster: TestCluster) -> None:
    context = ssl.create_default_context(cafile=str(cluster.folder / "pki" / "ca.crt"))
    with pytest.raises(HTTPError) as refused:
        urlopen(f"https://{NODES['node1']}:10250/pods", context=context, timeout=5)
    assert refused.value.code == 401


def test_cluster_whose_tests_are_killed_ends_and_the_next_start_removes_what_it_left() -> None:
    """By SIGKILL of the process that brought it up, which can remove nothing any more."""
    program = "from cluster.kubernetes import cluster\nwith cluster() as c: print(c.folder, flush=True); input()"
    tests = Path(__file__).parents[1]
    started = subprocess.Popen([sys.executable, "-c", program], cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdin is not None
    assert started.stdout is not None
    folder = Path(started.stdout.readline().strip())
    assert folder.is_dir()
    started.kill()
    started.wait()
    until(lambda: not processes_of(folder))
    remove_left()
    assert not folder.exists()
    assert list(Path("/sys/fs/cgroup").glob(f"*/{folder.name}")) == []
    started.stdin.close()
    started.stdout.close()


def processes_of(folder: Path) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_text():
                found.append(path)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended
    return found


def test_sysctls_of_the_machine_stay_as_they_were(cluster: TestCluster) -> None:
    """A kubelet sets six of them; these kubelets see files of their own there."""
    machine = Path("/proc/1/mounts").read_text()
    assert not [name for name in _SYSCTLS if f"/proc/sys/{name}" in machine]
    for node in NODES:
        log = (cluster.folder / "logs" / f"{node}-kubelet.log").read_text()
        assert "Updating kernel flag" not in log
