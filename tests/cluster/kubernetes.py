"""A real Kubernetes of two nodes for tests: up, down, images, and this process in its network.

All of it is in namespaces of its own (:mod:`cluster.machine`): no route, rule, mount, sysctl or process of the host's is touched, and when
the process that started it ends, even by SIGKILL, the kernel ends everything.  What the kernel leaves, a folder and empty cgroups, is
removed at the end; after a SIGKILL, by the next start.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cluster import oci
from cluster.asking import Asking
from cluster.pki import kubeconfig
from cluster.plan import HOST, PAUSE_IMAGE
from cluster.servers import PAUSE, servers

__all__ = ["HOST", "TestCluster", "cluster"]
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_PLACE, _PREFIX, _LOCK = Path("/var/tmp"), "confide-cluster-", "lock"
_ENDING_S = 30.0
class TestCluster:
    """A running cluster.  ``kubeconfig``: of its administrator, context ``test``; ``tell`` has its machine do something."""

    __test__ = False

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self.kubeconfig = folder / "pki" / "admin.conf"
        self.audit_log = folder / "logs" / "audit.jsonl"
        self.tell = tell

    def load(self, archive: Path, *nodes: str) -> None:
        """Give these nodes an image (an OCI archive); all of them if none is named."""
        self.tell(" ".join(["import", str(archive), *nodes]))

    def kubeconfig_of(self, namespace: str, account: str) -> Path:
        """A kubeconfig of a service account, with a token that the API server made for it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        token = Asking(self.kubeconfig).post(path, {"spec": {"audiences": ["https://kubernetes.default.svc"]}})["status"]["token"]
        made = self.folder / f"{namespace}-{account}.conf"
        made.write_text(kubeconfig(f"https://{HOST}:6443", self.folder / "pki" / "ca.crt", token, namespace=namespace))
        return made

    def restart_api_server(self) -> None:
        """End the API server and start it again."""
        self.tell("restart apiserver")


@contextmanager
def cluster() -> Iterator[TestCluster]:
    """Bring a cluster up, and take it down whatever happens.  This process, and what it starts, is in the cluster's network meanwhile."""
    binaries = servers()
    remove_left()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
    lock = (folder / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = None
    try:
        oci.write_image(folder / "pause.tar", PAUSE_IMAGE, files={"pause": (binaries / PAUSE).read_bytes()}, entrypoint=["/pause"])
        process = _start(folder, binaries)
        with in_own_network():
            enter(_network_of(process))
            yield TestCluster(folder, partial(_tell, process))
    finally:
        if process is not None:
            process.kill()
            process.wait()
        _remove(folder)
        lock.close()


def _tell(process: subprocess.Popen[str], command: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(command + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n", f"{command}: see the cluster's logs"


def _start(folder: Path, binaries: Path) -> subprocess.Popen[str]:
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private"]
    tests = Path(__file__).parents[1]
    (folder / "logs").mkdir()
    with (folder / "logs" / "machine.log").open("w") as log:
        process = subprocess.Popen(
            [*words, sys.executable, "-m", "cluster.machine", str(folder), str(binaries)],
            cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=_end_with_parent,  # noqa: PLW1509
        )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.readline()
    if said != "ready\n":
        process.kill()
        logs = "\n".join(f"== {path.name}\n" + path.read_text(errors="replace")[-2000:] for path in sorted((folder / "logs").glob("*.log")))
        raise RuntimeError(f"the cluster did not start\n{logs}")
    return process


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _network_of(process: subprocess.Popen[str]) -> int:
    """The network of the machine's process 1, a child of unshare(1)."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return os.open(f"/proc/{children[0]}/ns/net", os.O_RDONLY)


@contextmanager
def in_own_network() -> Iterator[None]:
    """Whichever network this thread enters meanwhile, it is back in its own afterwards."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        enter(own)


def enter(network: int) -> None:
    """Enter a network with this thread, and close its descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(network)


def remove_left() -> None:
    """Remove what is left of clusters whose process was killed.  Those that run hold a lock."""
    for folder in _PLACE.glob(f"{_PREFIX}*"):
        with suppress(OSError), (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a cluster's folder and its cgroups.  Its last processes may still be ending."""
    until = time.monotonic() + _ENDING_S
    while left := [each for each in Path("/sys/fs/cgroup").glob(f"**/{folder.name}") if not _remove_cgroup(each)]:
        if time.monotonic() > until:
            raise RuntimeError(f"processes of a test cluster do not end: {left}")
        time.sleep(0.1)
    shutil.rmtree(folder)


def _remove_cgroup(top: Path) -> bool:
    """Remove a cgroup and those below; False when a process is in one of them."""
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            Path(folder).rmdir()
        except OSError:
            return False
    return True
