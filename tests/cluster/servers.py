"""The servers of a real Kubernetes, built from Debian's source package of it, and kept outside the clone by what they are built from.

Debian packages kubectl only, but its source package is the whole tree with everything that it needs (decision 0029).  Two patches are
needed: the vendored reflect2 does not work with this Go, and Spark's client needs a default that upstream added a version later.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
PAUSE = "pause"
"""What holds a pod's namespaces while its containers come and go."""
VERSION = "v1.20.2"
_GO = Path("/usr/lib/go-1.19")
_REFLECT = Path("/usr/share/gocode/src/github.com/modern-go/reflect2")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TYPES = "staging/src/k8s.io/api/core/v1/types.go"
_PROTOCOL = (
    "\t// Default is TCP.\n\t// +optional\n"
    '\tProtocol Protocol `json:"protocol,omitempty" protobuf:"bytes,2,opt,name=protocol,casttype=Protocol"`'
)
_DEFAULTED = _PROTOCOL.replace("\t// +optional", '\t// +default="TCP"\n\t// +optional')
_PAUSE_GO = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	said := make(chan os.Signal, 8)
	signal.Notify(said, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for each := range said {
		if each != syscall.SIGCHLD {
			return
		}
		for pid := 1; pid > 0; { // the pod's orphans
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
"""


def servers() -> Path:
    """The folder of the servers; builds them first, which takes minutes, if this machine has none of this very recipe."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "confide" / "cluster-servers"
    kept = base / hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    if kept.exists():
        return kept
    base.mkdir(parents=True, exist_ok=True)
    with _alone(base):
        if not kept.exists():  # nobody built them meanwhile
            with tempfile.TemporaryDirectory(dir=base, prefix="building-") as work:
                _build(Path(work)).rename(kept)
    return kept


@contextmanager
def _alone(base: Path) -> Iterator[None]:
    """One build at a time; what builds that were killed left is removed."""
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in base.glob("building-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _build(work: Path) -> Path:
    begun = time.monotonic()

    def told(what: str) -> None:
        print(f"[{time.monotonic() - begun:5.0f} s] {what}", file=sys.stderr, flush=True)

    told("source package of Kubernetes")
    tree = _source(work)
    environment = {
        "PATH": f"{_GO}/bin:/usr/bin:/bin",
        "HOME": str(work),
        "GOROOT": str(_GO),
        "GOPATH": str(work / "go"),
        "GOCACHE": str(work / "cache"),
        "CGO_ENABLED": "0",
        "GO111MODULE": "off",
    }

    def go(*words: str) -> None:
        subprocess.run(["go", *words], cwd=tree, env=environment, check=True)

    _patch(tree)
    told("the generated file that the package lacks")
    go("build", "-o", str(work / "openapi-gen"), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
    generated = ["-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi", "-h", "/dev/null", "-r", "/dev/null"]
    subprocess.run([work / "openapi-gen", "-i", ",".join(_with_openapi(tree)), *generated], cwd=tree, env=environment, check=True)
    made = work / "bin"
    made.mkdir()
    for name in NAMES:
        told(name)
        go("build", "-tags", "providerless,dockerless", "-ldflags", f"-s -w {_version_flags()}", "-o", str(made / name), f"./cmd/{name}")
    (work / "pause.go").write_text(_PAUSE_GO)
    go("build", "-ldflags", "-s -w", "-o", str(made / PAUSE), str(work / "pause.go"))
    told("done")
    return made


def _source(work: Path) -> Path:
    """Fetch and unpack the source package by the machine's own package sources, with a state of apt's that is nobody else's."""
    state = work / "apt"
    for folder in ("lists/partial", "archives/partial", "sources"):
        (state / folder).mkdir(parents=True)
    (state / "sources" / "debian.list").write_text(_debian_sources())
    options = {
        "Dir::State::lists": state / "lists",
        "Dir::Cache::archives": state / "archives",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": state / "sources",
        "APT::Sandbox::User": "root",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    for command in (["update"], ["source", "--download-only", "kubernetes"]):
        subprocess.run(["apt-get", "-qq", *words, *command], cwd=work, check=True)
    place = work / "go" / "src" / "k8s.io"
    place.mkdir(parents=True)
    (archive,) = work.glob("kubernetes_*.orig.tar.gz")
    subprocess.run(["tar", "xzf", archive, "-C", place], check=True)
    (unpacked,) = place.glob("kubernetes-*")
    return unpacked.rename(place / "kubernetes")


def _debian_sources() -> str:
    """Where this machine gets Debian's packages from, as the places of their sources: nothing that others sell is asked."""
    form = f"deb-src [signed-by={_KEYRING}] $(REPO_URI) $(RELEASE) $(COMPONENT)"
    words = ["apt-get", "indextargets", "--format", form, "Created-By: Packages", "Origin: Debian"]
    lines = set(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines())
    if not lines:
        raise RuntimeError("this machine's package sources are not Debian's, whose source package of Kubernetes is built: use Debian 12")
    return "".join(f"{line}\n" for line in sorted(lines))


def _patch(tree: Path) -> None:
    vendored = tree / "vendor/github.com/modern-go/reflect2"
    for path in (*vendored.glob("*.go"), *vendored.glob("*.s")):
        path.unlink()
    for path in (*_REFLECT.glob("*.go"), *_REFLECT.glob("*.s")):
        shutil.copy(path, vendored)
    types = tree / _TYPES
    text = types.read_text()
    assert text.count(_PROTOCOL) == 1
    types.write_text(text.replace(_PROTOCOL, _DEFAULTED))


def _with_openapi(tree: Path) -> list[str]:
    """The packages whose types are in the API's description."""
    listed = subprocess.run(
        ["grep", "-rl", "--include=*.go", "+k8s:openapi-gen=", "pkg", "cmd", "staging/src/k8s.io"],
        cwd=tree, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    left_out = ("code-generator", "sample-apiserver", "/testdata/", "_test.go", "zz_generated")
    folders = sorted({str(Path(path).parent) for path in listed if not any(part in path for part in left_out)})
    vendored = "k8s.io/kubernetes/vendor/"
    return [vendored + f.removeprefix("staging/src/") if f.startswith("staging/src/") else f"k8s.io/kubernetes/{f}" for f in folders]


def _version_flags() -> str:
    values = {"gitVersion": VERSION, "gitMajor": "1", "gitMinor": "20", "gitTreeState": "archive", "buildDate": "2021-01-13T13:20:00Z"}
    packages = [f"k8s.io/kubernetes/vendor/k8s.io/{part}/version" for part in ("component-base", "client-go/pkg")]
    return " ".join(f"-X {package}.{name}={value}" for package in packages for name, value in values.items())


if __name__ == "__main__":
    print(servers())
