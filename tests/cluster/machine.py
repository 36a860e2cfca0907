"""The machine of a test cluster: process 1 of namespaces of its own, in which all of Kubernetes runs and with which all of it ends.

``python -m cluster.machine FOLDER SERVERS``, started by :mod:`cluster.kubernetes` under unshare(1).  Its standard output says ``ready``.
Network, mounts and processes are those of the namespaces: when this process ends, the kernel takes all of it away.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from cluster import pki

HOST, SERVICE = "10.10.0.1", "10.96.0.1"
PODS = "10.244.0.0/24"
_OWN = ("/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/run/netns", "/var/lib/cni")
"""Folders that Kubernetes has fixed places for: empty ones of this machine's own are mounted over the host's."""
_READY_S = 120.0
PAUSE_IMAGE = "localhost/pause:1"


class Machine:
    """See the module."""

    def __init__(self, folder: Path, servers: Path) -> None:
        self.folder, self.servers = folder, servers
        self.logs = folder / "logs"
        self.processes: list[subprocess.Popen[bytes]] = []

    def run(self) -> None:
        for name in ("logs", "etcd", "containerd", "run", "kubelet", "static", "dns", "cni/net.d", "images"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._mounts()
        self._network()
        pki.make(self.folder / "pki", HOST, SERVICE)
        self._control_plane()
        self._containerd()
        self._await("the API server", lambda: self._ask("/readyz", text=True) == "ok")
        self._controllers()
        self._node()
        self._dns()
        self._await("the node", self._node_is_ready)
        print("ready", flush=True)

    # --- namespaces -------------------------------------------------------------------------------------------------------

    def _mounts(self) -> None:
        _do("mount", "--bind", self.folder, self.folder)
        _do("mount", "--make-rshared", self.folder)
        for place in _OWN:
            Path(place).mkdir(parents=True, exist_ok=True)
            _do("mount", "-t", "tmpfs", "tmpfs", place)
            _do("mount", "--make-rshared", place)

    def _network(self) -> None:
        _do("ip", "link", "set", "lo", "up")
        _do("ip", "link", "add", "node0", "type", "bridge")
        _do("ip", "address", "add", f"{HOST}/24", "dev", "node0")
        _do("ip", "link", "set", "node0", "up")
        _do("ip", "route", "add", "default", "via", "10.10.0.254", "dev", "node0", "onlink")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    # --- servers ----------------------------------------------------------------------------------------------------------

    def _start(self, name: str, *words: object) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes.append(subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def _control_plane(self) -> None:
        keys = self.folder / "pki"
        local = "http://127.0.0.1"
        self._start("etcd", "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--listen-client-urls", f"{local}:2379",
                    "--advertise-client-urls", f"{local}:2379", "--listen-peer-urls", f"{local}:2380", "--initial-advertise-peer-urls",
                    f"{local}:2380", "--initial-cluster", f"default={local}:2380")  # fmt: skip
        policy = self.folder / "audit.yaml"
        policy.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "RequestResponse"}]}))
        self._start(
            "apiserver", self.servers / "kube-apiserver", f"--etcd-servers={local}:2379", "--secure-port=6443", "--bind-address=0.0.0.0",
            f"--advertise-address={HOST}", f"--tls-cert-file={keys / 'api.crt'}", f"--tls-private-key-file={keys / 'api.key'}",
            f"--client-ca-file={keys / 'ca.crt'}", f"--token-auth-file={keys / 'tokens.csv'}", "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys / 'sa.key'}", f"--service-account-signing-key-file={keys / 'sa.key'}",
            "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP", "--feature-gates=TTLAfterFinished=true",
            "--enable-admission-plugins=NodeRestriction,ResourceQuota,ExtendedResourceToleration",
            f"--audit-policy-file={policy}", f"--audit-log-path={self.logs / 'audit.jsonl'}",
        )  # fmt: skip

    def _controllers(self) -> None:
        keys = self.folder / "pki"
        self._start("controller-manager", self.servers / "kube-controller-manager", f"--kubeconfig={keys / 'controller-manager.conf'}",
                    f"--service-account-private-key-file={keys / 'sa.key'}", f"--root-ca-file={keys / 'ca.crt'}", "--leader-elect=false",
                    "--use-service-account-credentials=true", "--allocate-node-cidrs=false", "--feature-gates=TTLAfterFinished=true")  # fmt: skip
        self._start("scheduler", self.servers / "kube-scheduler", f"--kubeconfig={keys / 'scheduler.conf'}", "--leader-elect=false")

    def _containerd(self) -> None:
        runc = {"runtime_type": "io.containerd.runc.v2"}
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [{
                "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}],
                         "dataDir": str(self.folder / "cni" / "ipam")},
            }],
        }  # fmt: skip
        (self.folder / "cni/net.d/10-pods.conflist").write_text(json.dumps(network))
        plugin = 'plugins."io.containerd.grpc.v1.cri"'
        lines = [
            "version = 2", f'root = "{self.folder}/containerd"', f'state = "{self.folder}/run/containerd"', "oom_score = 0",
            "[grpc]", f'address = "{self.socket}"',
            f"[{plugin}]", f'sandbox_image = "{PAUSE_IMAGE}"', "restrict_oom_score_adj = true",
            f"[{plugin}.cni]", 'bin_dir = "/usr/lib/cni"', f'conf_dir = "{self.folder}/cni/net.d"',
        ]  # fmt: skip
        for handler in ("runc", "kata-qemu-tdx", "kata-qemu-snp"):
            lines += [f"[{plugin}.containerd.runtimes.{handler}]", f'runtime_type = "{runc["runtime_type"]}"']
        (self.folder / "containerd.toml").write_text("\n".join(lines) + "\n")
        self._start("containerd", "containerd", "-c", self.folder / "containerd.toml")
        self._await("containerd", self.socket.exists)
        for archive in sorted((self.folder / "images").glob("*.tar")):
            self.load(archive)

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "containerd.sock"

    def load(self, archive: Path) -> None:
        """Take an image from an archive."""
        _do("ctr", "-a", self.socket, "-n", "k8s.io", "images", "import", archive)

    def _node(self) -> None:
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "cgroupDriver": "cgroupfs", "failSwapOn": False,
            "oomScoreAdj": 0, "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"}, "enforceNodeAllocatable": [], "clusterDomain": "cluster.local", "clusterDNS": [HOST],
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}, "maxPods": 110,
            "staticPodPath": str(self.folder / "static"), "resolvConf": str(self.folder / "resolv.conf"),
            "nodeStatusUpdateFrequency": "2s",
        }  # fmt: skip
        (self.folder / "resolv.conf").write_text(f"nameserver {HOST}\n")
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(settings))
        keys = self.folder / "pki"
        self._start("kubelet", self.servers / "kubelet", f"--config={self.folder / 'kubelet.yaml'}", f"--kubeconfig={keys / 'kubelet.conf'}",
                    "--container-runtime=remote", f"--container-runtime-endpoint=unix://{self.socket}", "--hostname-override=node1",
                    f"--node-ip={HOST}", f"--root-dir={self.folder / 'kubelet'}", f"--cert-dir={keys / 'kubelet'}")  # fmt: skip
        self._post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "proxy"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
            "subjects": [{"kind": "User", "name": "system:kube-proxy", "apiGroup": "rbac.authorization.k8s.io"}],
        })  # fmt: skip
        self._start("proxy", self.servers / "kube-proxy", f"--kubeconfig={keys / 'proxy.conf'}", "--proxy-mode=iptables",
                    "--cluster-cidr=10.244.0.0/16", "--oom-score-adj=0", "--hostname-override=node1", "--conntrack-max-per-core=0")  # fmt: skip

    # --- names ------------------------------------------------------------------------------------------------------------

    def _dns(self) -> None:
        """Services' names: dnsmasq over a folder that a thread writes from the cluster's endpoints."""
        hosts = self.folder / "dns"
        (hosts / "kubernetes").write_text(f"{SERVICE} kubernetes.default.svc.cluster.local\n")
        self._start("dns", "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--port=53", f"--listen-address={HOST}",
                    "--bind-interfaces", f"--hostsdir={hosts}", "--local=/cluster.local/", "--pid-file=", "--user=root")  # fmt: skip
        threading.Thread(target=self._name_services, args=(hosts,), daemon=True).start()

    def _name_services(self, hosts: Path) -> None:
        written = ""
        while True:
            try:
                found = "".join(sorted(_hosts_line(each, address) for each in self._ask("/api/v1/endpoints")["items"] for address in _of(each)))
            except (OSError, ValueError):
                found = written
            if found != written:
                (hosts / "endpoints").write_text(found)
                written = found
            time.sleep(0.3)

    def restart_api_server(self) -> None:
        """End the API server and start it again; everything else goes on."""
        old = next(process for process in self.processes if "apiserver" in str(process.args))
        old.kill()
        self.processes.remove(old)
        time.sleep(1)
        with (self.logs / "apiserver.log").open("ab") as log:
            self.processes.append(subprocess.Popen(old.args, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        time.sleep(1)

    # --- asking -----------------------------------------------------------------------------------------------------------

    def _ask(self, path: str, *, text: bool = False, body: Any = None) -> Any:
        config = yaml.safe_load((self.folder / "pki" / "dns.conf").read_text())
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"https://{HOST}:6443{path}", data=data, headers=headers)
        context = ssl.create_default_context(cafile=str(self.folder / "pki" / "ca.crt"))
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            said = answer.read().decode()
        return said if text else json.loads(said)

    def _post(self, path: str, body: Any) -> None:
        self._ask(path, body=body)

    def _node_is_ready(self) -> bool:
        conditions = [each for node in self._ask("/api/v1/nodes")["items"] for each in node["status"].get("conditions", [])]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _await(self, what: str, there: Any) -> None:
        until = time.monotonic() + _READY_S
        while True:
            ended = [process for process in self.processes if process.poll() is not None]
            if ended:
                sys.exit(f"{ended[0].args!r} ended with {ended[0].returncode}: see {self.logs}")
            try:
                if there():
                    return
            except (OSError, ValueError):
                pass
            if time.monotonic() > until:
                sys.exit(f"{what} is not there after {_READY_S:.0f} s: see {self.logs}")
            time.sleep(0.2)


def _of(endpoints: Any) -> list[Any]:
    return [address for part in endpoints.get("subsets") or [] for kind in ("addresses", "notReadyAddresses") for address in part.get(kind) or []]


def _hosts_line(endpoints: Any, address: Any) -> str:
    about = endpoints["metadata"]
    host = f"{address['hostname']}." if address.get("hostname") else ""
    return f"{address['ip']} {host}{about['name']}.{about['namespace']}.svc.cluster.local\n" if about["name"] != "kubernetes" else ""


def _do(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    machine = Machine(Path(sys.argv[1]), Path(sys.argv[2]))
    machine.run()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # process 1 gets everybody's orphans: the kernel is to bury them
    for command in sys.stdin:  # until whoever started this ends
        match command.split():
            case ["import", archive]:
                machine.load(Path(archive))
            case ["restart", "apiserver"]:
                machine.restart_api_server()
        print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
