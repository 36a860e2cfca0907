"""Images of nodes, built by a real builder without a registry, twice, and run by a real runtime as their recipe says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.buildah import Buildah, Container
from support.small_images import Shelf

from confide.jobs.images.context import Context

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
IMAGE = "localhost/node"
WRITTEN = ("/tmp", "/var/confide")
NODE = """
import json, os, sys

def writable(path):
    try:
        with open(os.path.join(path, "x"), "w"):
            return True
    except OSError:
        return False

status = open("/proc/self/status").read()
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "flags": [sys.flags.safe_path, sys.flags.no_user_site],
    "environment": dict(os.environ), "arguments": sys.orig_argv, "cwd": os.getcwd(),
    "writable": [path for path in ("/", "/opt/confide", "/opt/python/lib", "/etc", "/etc/confide/node", "/usr/lib", "/tmp", "/var/confide")
                 if writable(path)],
    "shells": [path for path in ("/bin/sh", "/usr/bin/sh", "/bin/bash", "/usr/bin/env") if os.path.exists(path)],
    "rights": [line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapBnd"))],
}))
"""


def build(out: Path, *words: str | Path, **environ: str) -> Context:
    """Run ``confide image build`` as a program of its own."""
    command = [sys.executable, "-m", "confide.cli.main", "image", "build", str(out), *map(str, words)]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Context.load(out)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Buildah, Buildah]]:
    found = Buildah(tmp_path / "one"), Buildah(tmp_path / "two")
    yield found
    for store in found:
        store.close()


def packed(store: Buildah, context: Path) -> str:
    store("build", "--timestamp", "0", "--tag", IMAGE, str(context))
    return store.digest(IMAGE)


def test_image_that_is_built_twice_has_one_digest_and_runs_as_nobody_on_a_root_that_it_cannot_write(
    stores: tuple[Buildah, Buildah], tmp_path: Path
) -> None:
    """A small one: this machine's interpreter, and a module that stands where the node does and says what it sees."""
    (tmp_path / "shelf").mkdir()
    words = Shelf.fill(tmp_path / "shelf", NODE.encode()).words()
    other = {"TMPDIR": str(tmp_path), "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"}
    first, second = build(tmp_path / "a", *words), build(tmp_path / "b", *words, **other)
    digest = packed(stores[0], first.folder)
    assert digest.startswith("sha256:")
    assert packed(stores[1], second.folder) == digest
    shutil.rmtree(tmp_path / "a")

    said = Container(stores[0], IMAGE, tmp_path).run(written=WRITTEN)
    assert said.returncode == 0, said.stderr
    seen = json.loads(said.stdout)
    assert (seen["uid"], seen["gid"], seen["flags"], seen["cwd"]) == (10001, 10001, [True, 1], "/var/confide")
    assert seen["arguments"] == ["/opt/confide/bin/python", "-I", "-B", "-m", "confide.jobs.local.pod"]
    assert set(seen["environment"]) == {"HOME", "LANG", "PATH", "TMPDIR"}
    assert seen["writable"] == ["/tmp", "/var/confide"]
    assert seen["shells"] == []
    assert set(seen["rights"]) == {"0" * 16}

    path = next(second.folder.glob("rootfs/opt/confide/lib/*/site-packages/polars/__init__.py"))
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    os.utime(path, (0, 0))
    assert packed(stores[1], second.folder) != digest, "one byte"


def test_nodes_of_an_image_report_the_measurement_that_was_printed(stores: tuple[Buildah, Buildah], tmp_path: Path) -> None:
    """A whole one, of the project's own lock: what its container measures of itself is what the build said."""
    store, policy = stores[0], tmp_path / "policy.json"
    image = build(tmp_path / "image", "--engine", "polars", "--policy-out", policy)
    packed(store, image.folder)
    shutil.rmtree(image.folder / "rootfs")  # half a gigabyte, and in the store by now
    container = Container(store, IMAGE, tmp_path)
    python = [*container.config["Entrypoint"][:3], "-m", "confide.cli.main"]
    assert container.run([*python, "--version"]).stdout.startswith("confide ")
    said = container.run([*python, "attest", "measure", "--simulate", "--json"], written=WRITTEN)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["measurements"] == image.facts["measurements"] == json.loads(policy.read_text())["measurements"]
    loads = "import kubernetes, polars, pyarrow, confide.jobs.polars_node, confide.node.agent; print(polars.DataFrame({'a': [1]}).height)"
    assert container.run([*python[:3], "-c", loads]).stdout == "1\n"
