"""Names and addresses of a test cluster.  Nothing of them is seen outside of its network namespace."""

from __future__ import annotations

import subprocess
from pathlib import Path

HOST = "10.10.0.1"
"""Where the control plane, DNS and the tests themselves are."""
SERVICE = "10.96.0.1"
SERVICES = "10.96.0.0/16"
NODES = {"node1": "10.10.0.11", "node2": "10.10.0.12"}
PODS = {"node1": "10.244.1.0/24", "node2": "10.244.2.0/24"}
RUNTIMES = ("kata-qemu-tdx", "kata-qemu-snp")
"""Runtime classes of confidential pods, mapped to runc: it protects nothing."""
PAUSE_IMAGE = "localhost/pause:1"
EPC = "2Gi"
"""What each node says it has of an enclave's memory."""


def socket_of(folder: Path, node: str) -> Path:
    """Where a node's containerd listens."""
    return folder / node / "containerd.sock"


def do(*words: object) -> None:
    """Run a program that must succeed."""
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
