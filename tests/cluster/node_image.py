"""The image of a test's nodes: it holds an entry point and nothing else; interpreter, packages and source are this machine's, mounted.

So that nothing is copied for a test: what `confide image build` makes is tested beside it.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import oci

from confide.jobs.local.pod import ENTRY, MEASURED_FILE

NODE_IMAGE = "localhost/confide-node:test"
ROOT = Path(__file__).parents[2]
_FOLDERS = ("proc", "sys", "dev", "run", "etc", "tmp", "var/confide")


def write_node_image(
    target: Path,
    measured: Path,
    *,
    name: str = NODE_IMAGE,
    environment: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> str:
    """Write the image; its digest.  ``measured``: digests of this machine's files, so that nodes need not read them all."""
    return oci.write_image(
        target,
        name,
        files={
            str(MEASURED_FILE).lstrip("/"): measured.read_bytes(),
            "etc/passwd": b"root:x:0:0::/:/bin/false\nnode:x:10001:10001::/tmp:/bin/false\n",
            "etc/group": b"root:x:0:\nnode:x:10001:\n",
            **(files or {}),
        },
        links={"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"},
        folders=_FOLDERS,
        entrypoint=[sys.executable, *ENTRY],
        environment={"PATH": f"{_java()}/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", **(environment or {})},
    )


def _java() -> Path:
    """This machine's Java, by its own name: what /etc/alternatives says is not in the image."""
    return Path(os.environ.get("JAVA_HOME") or Path(shutil.which("java") or "/usr/bin/java").resolve().parents[1])


def code_volumes() -> list[dict[str, Any]]:
    """Where the image's code is on this machine, as volumes of a profile."""
    base = Path(sysconfig.get_config_var("installed_base"))
    settings = (_java() / "conf" / "security" / "java.security").resolve().parents[1]  # Debian has them under /etc
    customized = (Path(sysconfig.get_path("stdlib")) / "sitecustomize.py").resolve().parent  # Debian's Python has it there, too
    places = dict.fromkeys(["/usr", str(base), str(ROOT), str(_java()), str(settings), str(customized)])
    inside = [place for place in places if not any(place != other and Path(place).is_relative_to(other) for other in places)]
    return [{"mount": place, "host_path": place, "read_only": True} for place in inside]
