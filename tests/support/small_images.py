"""What a small image is made of: this machine's interpreter, a package of two lines in Confide's name, and what stands in for Gramine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from support.gramine import libpal
from support.wheels import lock_of, make_wheel

from confide.jobs.images.context import Request
from confide.jobs.images.layout import Shape
from confide.jobs.images.node_manifest import Enclave

METADATA = "Provides-Extra: k8s\nProvides-Extra: polars\nRequires-Dist: needed_one>=1\nRequires-Dist: polars; extra == 'polars'\n"


@dataclass(frozen=True)
class Shelf:
    """Packages, a lock of them and a Gramine, in a folder."""

    folder: Path

    @classmethod
    def fill(cls, folder: Path, node: bytes = b"print('node')\n") -> Shelf:
        """Put them there.  ``node``: the module that the image runs."""
        (folder / "packages").mkdir()
        modules = {"confide/jobs/__init__.py": b"", "confide/jobs/kubernetes/node.py": node, "confide/jobs/local/pod.py": node}
        make_wheel(folder, "confide", "9.9", files=modules, metadata=METADATA)
        packages = [make_wheel(folder / "packages", name) for name in ("needed_one", "polars")]
        (folder / "lock").write_text(lock_of(*packages))
        gramine = folder / "gramine"
        for name in ("sgx/loader", "runtime/glibc/libc.so.6", "libsysdb.so", "tests/left_out"):
            (gramine / name).parent.mkdir(parents=True, exist_ok=True)
            (gramine / name).write_bytes(name.encode())
        (gramine / "sgx" / "libpal.so").write_bytes(libpal())
        return cls(folder)

    @property
    def gramine(self) -> Path:
        """The folder that stands for an installed Gramine."""
        return self.folder / "gramine"

    def words(self) -> tuple[str, ...]:
        """The options of ``confide image build`` that name all this."""
        own, lock, packages = self.folder / "confide-9.9-py3-none-any.whl", self.folder / "lock", self.folder / "packages"
        return "--engine", "polars", "--wheel", str(own), "--lock", str(lock), "--packages", str(packages)

    def request(self, shape: Shape = Shape.SIMULATED, **changed: object) -> Request:
        """The same as a value."""
        own = self.folder / "confide-9.9-py3-none-any.whl"
        where = {"wheels": (own,), "lock": self.folder / "lock", "found_in": self.folder / "packages"}
        fixed = {**where, "enclave": Enclave("64M", 16, isv_svn=4)}
        gramine = self.gramine if shape is Shape.SGX else None
        return Request(shape, ("polars",), **{"gramine": gramine, **fixed, **changed})  # type: ignore[arg-type]

    def signer(self) -> str:
        """A program with the command line of Gramine's ``gramine-sgx-sign``."""
        path = self.folder / "gramine-sgx-sign"
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("gramine_sgx_sign.py")} "$@"\n')
        path.chmod(0o755)
        return str(path)
