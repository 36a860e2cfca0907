"""The image of a node as users make it: ``confide image build`` and a real builder, kept outside the clone by what it is made of.

``python -m cluster.built`` makes it, which takes minutes, most of them waiting for packages: the tests have it made beside them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.buildah import Buildah

NAME = "localhost/confide-built"
_ROOT = Path(__file__).parents[2]
_MADE_OF = ("src", "pyproject.toml", "requirements.lock", "tests/cluster/built.py")
_KEPT = 3


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An archive for containerd, the name by digest under which it comes, and the policy that the build printed."""

    archive: Path
    name: str
    policy: dict[str, Any]

    @classmethod
    def kept(cls) -> BuiltImage | None:
        """The one that this clone's files make, if it is there."""
        folder = _folder()
        if not folder.exists():
            return None
        return cls(folder / "image.tar", (folder / "name").read_text(), json.loads((folder / "policy.json").read_text()))


def _folder() -> Path:
    digest = hashlib.sha256(f"{sys.base_prefix} {sys.version}".encode())
    for part in _MADE_OF:
        place = _ROOT / part
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(_ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "confide" / "node-images"
    return base / digest.hexdigest()[:16]


@contextmanager
def building() -> Iterator[subprocess.Popen[bytes] | None]:
    """While the block runs, the image is made by another process, which gives way to all others; none if it is there already."""
    if BuiltImage.kept() is not None:
        yield None
        return
    words = ["nice", "-n", "5", sys.executable, "-m", "cluster.built"]
    paths = os.pathsep.join(str(_ROOT / part) for part in ("src", "tests"))
    started = subprocess.Popen(words, cwd=_ROOT / "tests", env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def build() -> Path:
    """Make the image, and put it where it is kept."""
    kept = _folder()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix="building-") as place:
        work, made = Path(place), Path(place) / "made"
        made.mkdir()
        command = [sys.executable, "-m", "confide.cli.main", "image", "build", str(work / "context"), "--engine", "polars"]
        subprocess.run([*command, "--policy-out", str(made / "policy.json")], check=True, stdout=subprocess.DEVNULL)
        store = Buildah(work / "store")
        try:
            store("build", "--timestamp", "0", "--tag", NAME, str(work / "context"))
            store("push", NAME, f"oci:{work / 'layout'}")
        finally:
            store.close()
        (made / "name").write_text(_archive(work / "layout", made / "image.tar"))
        made.rename(kept)
    for old in sorted(kept.parent.glob("[0-9a-f]" * 16), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old)
    return kept


def _archive(layout: Path, target: Path) -> str:
    """Write an OCI layout as an archive, in which its image has a name by its digest, as one that was pulled; that name."""
    index = json.loads((layout / "index.json").read_text())
    (entry,) = index["manifests"]
    name = f"{NAME}@{entry['digest']}"
    entry["annotations"] = {"io.containerd.image.name": name}
    (layout / "index.json").write_text(json.dumps(index))
    with tarfile.open(target, "w") as archive:
        for path in sorted(layout.iterdir()):
            archive.add(path, path.name)
    return name


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it removes what it has begun
    build()
