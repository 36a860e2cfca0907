"""A real Kubernetes of one node for tests: up, down, images, and this process in its network.

All of it is in namespaces of its own (:mod:`cluster.machine`): no route, rule, mount or process of the host's is touched, and when the
process that started it ends, even by SIGKILL, the kernel ends everything.  What the kernel leaves is put back: cgroups and sysctls.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import oci
from cluster.machine import HOST, PAUSE_IMAGE
from cluster.servers import servers

__all__ = ["HOST", "TestCluster", "cluster"]
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_PAUSE = """
#include <unistd.h>
#include <signal.h>
#include <sys/wait.h>
#include <stdlib.h>
static void bury(int s) { while (waitpid(-1, 0, WNOHANG) > 0); }
static void leave(int s) { exit(0); }
int main() { signal(SIGCHLD, bury); signal(SIGTERM, leave); signal(SIGINT, leave); for (;;) pause(); }
"""
_SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")
"""What a kubelet sets for the whole machine."""


class TestCluster:
    """A running cluster.  ``kubeconfig``: of its administrator, context ``test``."""

    __test__ = False

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.kubeconfig = folder / "pki" / "admin.conf"
        self.audit_log = folder / "logs" / "audit.jsonl"
        self._process = process

    def load(self, archive: Path) -> None:
        """Give the node an image (an OCI archive)."""
        self._tell(f"import {archive}")

    def restart_api_server(self) -> None:
        """End the API server and start it again."""
        self._tell("restart apiserver")

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n", f"{command}: see {self.folder / 'logs'}"


@contextmanager
def cluster() -> Iterator[TestCluster]:
    """Bring a cluster up, and take it down whatever happens.  This process, and what it starts, is in the cluster's network meanwhile."""
    binaries = servers()
    before = {name: Path("/proc/sys", name).read_text() for name in _SYSCTLS}
    own_network = os.open("/proc/self/ns/net", os.O_RDONLY)
    folder = Path(tempfile.mkdtemp(prefix="confide-cluster-", dir="/var/tmp"))
    process = None
    try:
        (folder / "images").mkdir()
        _pause_image(folder / "images" / "pause.tar")
        process = _start(folder, binaries)
        _enter(_network_of(process))
        yield TestCluster(folder, process)
    finally:
        _enter(own_network)
        os.close(own_network)
        if process is not None:
            process.kill()
            process.wait()
        for name, value in before.items():
            Path("/proc/sys", name).write_text(value)
        _remove_cgroups()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, binaries: Path) -> subprocess.Popen[str]:
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private"]
    tests = Path(__file__).parents[1]
    process = subprocess.Popen(
        [*words, sys.executable, "-m", "cluster.machine", str(folder), str(binaries)],
        cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=_end_with_parent,  # noqa: PLW1509
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


def _enter(network: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _pause_image(target: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        source, made = Path(work, "pause.c"), Path(work, "pause")
        source.write_text(_PAUSE)
        subprocess.run(["gcc", "-static", "-Os", "-o", made, source], check=True)
        oci.write_image(target, PAUSE_IMAGE, files={"pause": made.read_bytes()}, entrypoint=["/pause"])


def _remove_cgroups() -> None:
    for top in ("kubepods", "k8s.io"):
        for folder in sorted(Path("/sys/fs/cgroup").glob(f"*/{top}"), reverse=True):
            for path in sorted((each for each in folder.rglob("*") if each.is_dir()), key=lambda each: len(each.parts), reverse=True):
                _rmdir(path)
            _rmdir(folder)


def _rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # its last process is still ending: an empty cgroup harms nobody
