"""The machine of a test cluster: process 1 of namespaces of its own, in which all of Kubernetes runs and with which all of it ends.

``python -m cluster.machine FOLDER SERVERS``, started by :mod:`cluster.kubernetes` under unshare(1).  Its standard output says ``ready``.
Network, mounts and processes are those of the namespaces: when this process ends, the kernel takes all of it away.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml
from cluster import pki
from cluster.asking import Asking
from cluster.device_plugin import RESOURCES
from cluster.naming import Names
from cluster.plan import EPC, HOST, NODES, PODS, RUNTIMES, SERVICE, SERVICES, do, socket_of

_READY_S = 180.0


class Machine:
    """See the module."""

    def __init__(self, folder: Path, servers: Path) -> None:
        self.folder, self.servers = folder, servers
        self.logs = folder / "logs"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> None:
        (self.folder / "etcd").mkdir(mode=0o700)
        (self.folder / "resolv.conf").write_text(f"nameserver {HOST}\n")
        self._network()
        pki.make(self.folder / "pki", HOST, SERVICE, NODES)
        self._asking = Asking(self.folder / "pki" / "machine.conf")
        self._control_plane()
        for name in NODES:
            self._node(name)
        self._await("the API server", lambda: self._asking.text("/readyz") == "ok")
        self._controllers()
        self._dns()
        self._await("containerd", lambda: all(socket_of(self.folder, name).exists() for name in NODES))
        self.load(self.folder / "pause.tar")
        self._objects()
        for name in NODES:
            nodes_input = self.processes[name].stdin
            assert nodes_input is not None
            nodes_input.write(b"go\n")
            nodes_input.flush()
        told: set[str] = set()
        self._await("the nodes", lambda: all(self._is_ready(name, told) for name in NODES))
        print("ready", flush=True)

    def _network(self) -> None:
        do("ip", "link", "set", "lo", "up")
        do("ip", "link", "add", "node0", "type", "bridge")
        do("ip", "address", "add", f"{HOST}/24", "dev", "node0")
        do("ip", "link", "set", "node0", "up")
        for name, address in NODES.items():
            do("ip", "route", "add", PODS[name], "via", address)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _node(self, name: str) -> None:
        """Start a node in namespaces of its own, and put its end of a cable in."""
        words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private"]
        with (self.logs / f"{name}.log").open("ab") as log:
            arguments = [*words, sys.executable, "-m", "cluster.node", str(self.folder), str(self.servers), name]
            started = self.processes[name] = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=log, stderr=log)
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        self._await(name, lambda: bool(children.read_text().split()))
        cable = f"to-{name}"
        do("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", children.read_text().split()[0])
        do("ip", "link", "set", cable, "master", "node0", "up")

    # --- servers ----------------------------------------------------------------------------------------------------------

    def _start(self, name: str, *words: object) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _control_plane(self) -> None:
        keys = self.folder / "pki"
        local = "http://127.0.0.1"
        peers = f"{local}:2380"
        self._start("etcd", "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--listen-client-urls", f"{local}:2379",
                    "--advertise-client-urls", f"{local}:2379", "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
                    "--initial-cluster", f"default={peers}")  # fmt: skip
        policy = self.folder / "audit.yaml"
        rules = [{"level": "None", "users": ["machine"]}, {"level": "RequestResponse"}]
        policy.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        self._start(
            "apiserver", self.servers / "kube-apiserver", f"--etcd-servers={local}:2379", "--secure-port=6443", "--bind-address=0.0.0.0",
            f"--advertise-address={HOST}", f"--tls-cert-file={keys / 'api.crt'}", f"--tls-private-key-file={keys / 'api.key'}",
            f"--client-ca-file={keys / 'ca.crt'}", f"--token-auth-file={keys / 'tokens.csv'}", "--authorization-mode=Node,RBAC",
            f"--service-cluster-ip-range={SERVICES}", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys / 'sa.key'}", f"--service-account-signing-key-file={keys / 'sa.key'}",
            "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP", "--feature-gates=TTLAfterFinished=true",
            "--enable-admission-plugins=NodeRestriction,ResourceQuota,ExtendedResourceToleration",
            f"--kubelet-client-certificate={keys / 'kubelet-client.crt'}", f"--kubelet-client-key={keys / 'kubelet-client.key'}",
            f"--kubelet-certificate-authority={keys / 'ca.crt'}", f"--audit-policy-file={policy}",
            f"--audit-log-path={self.logs / 'audit.jsonl'}",
        )  # fmt: skip

    def _controllers(self) -> None:
        keys = self.folder / "pki"
        self._start("controller-manager", self.servers / "kube-controller-manager", f"--kubeconfig={keys / 'controller-manager.conf'}",
                    f"--service-account-private-key-file={keys / 'sa.key'}", f"--root-ca-file={keys / 'ca.crt'}",
                    "--leader-elect=false", "--use-service-account-credentials=true", "--allocate-node-cidrs=false",
                    "--feature-gates=TTLAfterFinished=true")  # fmt: skip
        self._start("scheduler", self.servers / "kube-scheduler", f"--kubeconfig={keys / 'scheduler.conf'}", "--leader-elect=false")

    def load(self, archive: Path, *nodes: str) -> None:
        """Take an image from an archive, on these nodes or on all."""
        for name in nodes or NODES:
            do("ctr", "-a", socket_of(self.folder, name), "-n", "k8s.io", "images", "import", archive)

    def _objects(self) -> None:
        """What an administrator makes once."""
        self._make("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
            "metadata": {"name": "proxy"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
            "subjects": [{"kind": "User", "name": "system:kube-proxy", "apiGroup": "rbac.authorization.k8s.io"}],
        })  # fmt: skip
        overhead = {"podFixed": {"memory": "64Mi", "cpu": "50m"}}
        for name in RUNTIMES:
            self._make("/apis/node.k8s.io/v1/runtimeclasses", {"metadata": {"name": name}, "handler": name, "overhead": overhead})
        self._start("proxy", self.servers / "kube-proxy", f"--kubeconfig={self.folder / 'pki' / 'proxy.conf'}", "--proxy-mode=iptables",
                    "--cluster-cidr=10.244.0.0/16", "--oom-score-adj=0", "--hostname-override=tests", "--conntrack-max-per-core=0",
                    "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s")  # fmt: skip

    def _make(self, path: str, body: Any) -> None:
        """Create an object, however long the API server takes to be wholly there."""

        def made() -> bool:
            try:
                self._asking.post(path, body)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.CONFLICT:
                    raise
            return True

        self._await(path, made)

    def _dns(self) -> None:
        """Services' names.  SIGHUP, by which dnsmasq is told of changes, ends it if it comes before dnsmasq waits for it: hence env(1)."""
        hosts = self.folder / "hosts"
        hosts.touch()
        self._start("dns", "env", "--ignore-signal=HUP", "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts",
                    "--port=53", f"--listen-address={HOST}",
                    "--no-negcache", "--bind-interfaces",
                    f"--addn-hosts={hosts}", "--local=/cluster.local/", "--pid-file=", "--user=root")  # fmt: skip
        Names(self._asking, hosts, self.processes["dns"]).follow()

    def restart_api_server(self) -> None:
        """End the API server and start it again; everything else goes on."""
        old = self.processes.pop("apiserver")
        old.kill()
        old.wait()
        self._start("apiserver", *old.args)

    def _is_ready(self, name: str, told: set[str]) -> bool:
        """Whether a node takes pods, and offers what enclaves need: their memory is added here, as Intel's operator does it."""
        path = f"/api/v1/nodes/{name}"
        status = self._asking.get(path)["status"]
        if name not in told:
            self._asking.patch(f"{path}/status", [{"op": "add", "path": "/status/capacity/sgx.intel.com~1epc", "value": EPC}])
            told.add(name)
        offered = status.get("allocatable", {})
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))
        return ready and all(offered.get(each, "0") != "0" for each in (*RESOURCES, "sgx.intel.com/epc"))

    def _await(self, what: str, there: Callable[[], Any]) -> None:
        until = time.monotonic() + _READY_S
        while True:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    sys.exit(f"{name} ended with {process.returncode}: see {self.logs}")
            try:
                if there():
                    return
            except (OSError, ValueError):
                pass  # not yet
            if time.monotonic() > until:
                sys.exit(f"{what} is not there after {_READY_S:.0f} s: see {self.logs}")
            time.sleep(0.1)


def main() -> None:
    machine = Machine(Path(sys.argv[1]), Path(sys.argv[2]))
    machine.run()
    for command in sys.stdin:  # until whoever started this ends
        match command.split():
            case ["import", archive, *nodes]:
                machine.load(Path(archive), *nodes)
            case ["restart", "apiserver"]:
                machine.restart_api_server()
        print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
