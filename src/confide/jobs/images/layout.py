"""Where things are in an image, and as whom its nodes run.  Pure."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final

from confide.attest.measure import Installed
from confide.errors import ImageError

UID: Final = 10001
"""User and group of a node: nobody's elsewhere, and no owner of any file of the image."""
PYTHON: Final = "/opt/python"
"""The interpreter with its standard library."""
HOME: Final = "/opt/confide"
"""A virtual environment: the packages.  No installer, no scripts."""
JAVA: Final = "/opt/java"
GRAMINE: Final = "/opt/gramine"
SCRATCH: Final = "/var/confide"
PROGRAM: Final = f"{HOME}/bin/python"
ARGUMENTS: Final = (PROGRAM, "-I", "-B", "-m", "confide.jobs.kubernetes.node")
"""What a node runs, whatever a pod says.  -I: no variable, current folder or user's own folder names a module; -B: writes no byte code."""
SIMULATED_ARGUMENTS: Final = (*ARGUMENTS[:-1], "confide.jobs.local.pod")
"""What a simulated node runs: the program of real nodes cannot make simulated evidence."""
ENVIRONMENT: Final = {
    "HOME": SCRATCH,
    "LANG": "C.UTF-8",
    "PATH": f"{HOME}/bin:{JAVA}/bin",
    "TMPDIR": "/tmp",  # noqa: S108 -- the node's own, in memory
}
"""All of a node's environment."""
MANIFEST: Final = f"{HOME}/node"
"""Gramine finds ``.manifest.sgx`` and ``.sig`` behind this."""


class Shape(StrEnum):
    """In what kind of TEE the nodes of an image run."""

    SGX = "sgx"
    VM = "vm"
    SIMULATED = "simulated"


def entrypoint(shape: Shape) -> tuple[str, ...]:
    """What the container starts: the node, or Gramine's loader, whose manifest says what the node is."""
    if shape is Shape.SGX:
        return (f"{GRAMINE}/sgx/loader", f"{GRAMINE}/sgx/libpal.so", "init", MANIFEST)
    return SIMULATED_ARGUMENTS if shape is Shape.SIMULATED else ARGUMENTS


def installed(root: Path) -> Installed:
    """What a node of the image at ``root`` measures of itself.

    Raises:
        ImageError: it has no interpreter.
    """
    programs = sorted((root / PYTHON[1:] / "bin").glob("python3.*"))
    if len(programs) != 1:
        raise ImageError("the image has no interpreter, or several", path=str(root))
    version = programs[0].name
    packages, stdlib = root / HOME[1:] / "lib" / version, root / PYTHON[1:] / "lib" / version
    site = packages / "site-packages"
    # Python looks for the standard library's compiled part in the environment first: a folder that has nothing but the packages.
    return Installed(programs[0], site / "confide", (site,), (stdlib, packages))
