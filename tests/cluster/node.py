"""A node of a test cluster: process 1 of namespaces of its own, in which its containerd, kubelet and proxy run, and all of its pods.

``python -m cluster.node FOLDER SERVERS NAME``, started by :mod:`cluster.machine` under unshare(1), which then puts a network interface
in.  Reads ``go`` when the API server is there and images are loaded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from cluster import device_plugin
from cluster.plan import HOST, NODES, PAUSE_IMAGE, PODS, RUNTIMES, do, socket_of

_OWN = ("/var/lib", "/var/log", "/run")
"""Above the places that a kubelet, containerd and CNI plugins have fixed: empty folders of the node's own are mounted over the host's."""
_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet sets for the whole machine, which other programs have to live on: it finds them set, in files of the node's own."""


class Node:
    """See the module."""

    def __init__(self, folder: Path, servers: Path, name: str) -> None:
        self._cluster, self._servers, self._name = folder, servers, name
        self._folder = folder / name
        self._logs = folder / "logs"
        self._keys = folder / "pki"

    def run(self) -> None:
        self._folder.mkdir()
        self._mounts()
        self._cgroups()
        self._containerd()
        self._network()
        if sys.stdin.readline() != "go\n":
            return
        self._kubelet()
        self._start("proxy", self._servers / "kube-proxy", f"--kubeconfig={self._keys / 'proxy.conf'}", "--proxy-mode=iptables",
                    "--cluster-cidr=10.244.0.0/16", "--oom-score-adj=0", f"--hostname-override={self._name}",
                    "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s",
                    "--conntrack-tcp-timeout-close-wait=0s")  # fmt: skip
        while not (device_plugin.FOLDER / "kubelet.sock").exists():
            time.sleep(0.1)
        device_plugin.register()

    def _start(self, name: str, *words: object) -> None:
        with (self._logs / f"{self._name}-{name}.log").open("ab") as log:
            subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _mounts(self) -> None:
        for place in _OWN:
            do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place)
        for place in ("/run/netns", "/var/lib/kubelet", "/var/log/pods"):
            Path(place).mkdir()
        for name, value in _SYSCTLS.items():
            path = Path("/run/sysctls", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
            do("mount", "--bind", path, Path("/proc/sys", name))
        do("mount", "--make-rshared", "/")

    @property
    def _cgroup(self) -> str:
        return f"/{self._cluster.name}/{self._name}"

    def _cgroups(self) -> None:
        """A group of the node's own in each hierarchy: pods of two clusters do not meet, and what is left can be found."""
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, place, kind, *_ = line.split()
            if kind in {"cgroup", "cgroup2"}:
                made = Path(place + self._cgroup)
                made.mkdir(parents=True, exist_ok=True)
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    if kind == "cgroup" and (made / setting).exists():
                        for group in (made.parent, made):
                            (group / setting).write_text(Path(place, setting).read_text())

    def _network(self) -> None:
        device = Path("/sys/class/net/eth0")
        while subprocess.run(["ip", "link", "show", device.name], capture_output=True, check=False).returncode != 0:
            time.sleep(0.05)
        do("ip", "link", "set", "lo", "up")
        do("ip", "address", "add", f"{NODES[self._name]}/24", "dev", device.name)
        do("ip", "link", "set", device.name, "up")
        do("ip", "route", "add", "default", "via", HOST)
        for other, address in NODES.items():
            if other != self._name:
                do("ip", "route", "add", PODS[other], "via", address)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _containerd(self) -> None:
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [{
                "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS[self._name]}]], "routes": [{"dst": "0.0.0.0/0"}]},
            }],
        }  # fmt: skip
        (self._folder / "cni").mkdir()
        (self._folder / "cni" / "10-pods.conflist").write_text(json.dumps(network))
        plugin = 'plugins."io.containerd.grpc.v1.cri"'
        lines = [
            "version = 2", f'root = "{self._folder}/containerd"', 'state = "/run/containerd"', "oom_score = 0",
            "[grpc]", f'address = "{socket_of(self._cluster, self._name)}"',
            f"[{plugin}]", f'sandbox_image = "{PAUSE_IMAGE}"', "restrict_oom_score_adj = true",
            f"[{plugin}.cni]", 'bin_dir = "/usr/lib/cni"', f'conf_dir = "{self._folder}/cni"',
        ]  # fmt: skip
        for handler in ("runc", *RUNTIMES):
            lines += [f"[{plugin}.containerd.runtimes.{handler}]", 'runtime_type = "io.containerd.runc.v2"']
        (self._folder / "containerd.toml").write_text("\n".join(lines) + "\n")
        self._start("containerd", "containerd", "-c", self._folder / "containerd.toml")

    def _kubelet(self) -> None:
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "cgroupDriver": "cgroupfs",
            "cgroupRoot": self._cgroup, "failSwapOn": False, "oomScoreAdj": 0, "enforceNodeAllocatable": [], "maxPods": 110,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                               "x509": {"clientCAFile": str(self._keys / "ca.crt")}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self._keys / f"{self._name}.crt"), "tlsPrivateKeyFile": str(self._keys / f"{self._name}.key"),
            "clusterDomain": "cluster.local", "clusterDNS": [HOST], "resolvConf": str(self._cluster / "resolv.conf"),
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "nodeStatusUpdateFrequency": "2s", "imageGCHighThresholdPercent": 100,
        }  # fmt: skip
        (self._folder / "kubelet.yaml").write_text(yaml.safe_dump(settings))
        self._start("kubelet", self._servers / "kubelet", f"--config={self._folder / 'kubelet.yaml'}",
                    f"--kubeconfig={self._keys / f'{self._name}.conf'}", "--container-runtime=remote",
                    f"--container-runtime-endpoint=unix://{socket_of(self._cluster, self._name)}", f"--hostname-override={self._name}",
                    f"--node-ip={NODES[self._name]}", f"--root-dir={self._folder / 'kubelet'}",
                    "--node-labels=feature.node.kubernetes.io/cpu-security.sgx.enabled=true")  # fmt: skip


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Node(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).run()
    while True:  # process 1 gets everybody's orphans, and buries them
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
