"""Buildah with a store of its own, and runc for what it built: neither needs a daemon or a registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Buildah:
    """One store in a folder.  :meth:`close` removes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Its steps run in a chroot, which needs no rights that a test machine may lack.
        self.environ = {**os.environ, "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *words: str) -> str:
        done = subprocess.run(["buildah", *self.place(), *words], env=self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout.strip()

    def place(self) -> list[str]:
        """The options that name the store."""
        return ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")]

    def digest(self, image: str) -> str:
        """An image's digest, which a registry would know it by."""
        return self("images", "--format", "{{.Digest}}", image)

    def close(self) -> None:
        """Unmount and remove everything."""
        self("umount", "--all")
        self("rm", "--all")
        # buildah keeps its store mounted
        subprocess.run(["umount", str(self.folder / "root" / "overlay")], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Container:
    """A container of an image, run by runc as its recipe says: its user, environment and entrypoint, and no rights at all."""

    def __init__(self, buildah: Buildah, image: str, folder: Path) -> None:
        self._folder = folder
        self.config: Mapping[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
        self.root = Path(buildah("mount", buildah("from", "--pull-never", image)))

    def run(self, arguments: Iterable[str] | None = None, *, written: Iterable[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run its entrypoint (or ``arguments``) on a root that cannot be written, with memory at each path of ``written``."""
        bundle = self._folder / "bundle"
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").unlink(missing_ok=True)
        subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["root"] = {"path": str(self.root), "readonly": True}
        uid, _, gid = self.config["User"].partition(":")
        config["process"] |= {
            "terminal": False, "user": {"uid": int(uid), "gid": int(gid)}, "args": list(arguments or self.config["Entrypoint"]),
            "env": self.config["Env"], "cwd": self.config["WorkingDir"], "noNewPrivileges": True,
            "capabilities": {name: [] for name in ("bounding", "effective", "permitted", "ambient", "inheritable")},
        }  # fmt: skip
        memory = {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=64m"]}
        config["mounts"] += [{"destination": path, **memory} for path in written]
        (bundle / "config.json").write_text(json.dumps(config))
        name = f"confide-test-{os.getpid()}"
        command = ["runc", "--root", str(self._folder / "state"), "run", "--bundle", str(bundle), name]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
