"""A small image of each kind: this machine's interpreter, a package of two lines in Confide's name, and what stands in for Gramine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.gramine import libpal
from support.wheels import lock_of, make_wheel

from confide.jobs.images.context import Context, Request, build
from confide.jobs.images.layout import Shape
from confide.jobs.images.node_manifest import Enclave

METADATA = "Provides-Extra: k8s\nProvides-Extra: polars\nRequires-Dist: needed_one>=1\nRequires-Dist: polars; extra == 'polars'\n"


@dataclass(frozen=True)
class Shelf:
    """Packages, a lock of them and a Gramine, in a folder."""

    folder: Path

    def request(self, shape: Shape = Shape.SIMULATED, **changed: object) -> Request:
        own = self.folder / "confide-9.9-py3-none-any.whl"
        fixed = {"wheels": (own,), "lock": self.folder / "lock", "found_in": self.folder / "packages"}
        gramine = self.folder / "gramine" if shape is Shape.SGX else None
        enclave = Enclave("64M", 16, isv_svn=4)
        return Request(shape, ("polars",), **{"gramine": gramine, "enclave": enclave, **fixed, **changed})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "packages").mkdir()
    make_wheel(folder, "confide", "9.9", files={"confide/jobs/kubernetes/node.py": b"print('node')\n"}, metadata=METADATA)
    packages = [make_wheel(folder / "packages", name) for name in ("needed_one", "polars")]
    (folder / "lock").write_text(lock_of(*packages))
    gramine = folder / "gramine"
    for name in ("sgx/loader", "runtime/glibc/libc.so.6", "libsysdb.so", "tests/left_out"):
        (gramine / name).parent.mkdir(parents=True, exist_ok=True)
        (gramine / name).write_bytes(name.encode())
    (gramine / "sgx" / "libpal.so").write_bytes(libpal())
    return Shelf(folder)


@pytest.fixture(scope="session")
def built(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shape], Context]:
    """An image of a shape, made once."""
    made: dict[Shape, Context] = {}

    def of(shape: Shape) -> Context:
        if shape not in made:
            made[shape] = build(tmp_path_factory.mktemp("images") / shape.value, shelf.request(shape), lambda _: None)
        return made[shape]

    return of


@pytest.fixture
def own_copy(built: Callable[[Shape], Context], tmp_path: Path) -> Callable[[Shape], Context]:
    """A copy of it, to change."""

    def of(shape: Shape) -> Context:
        shutil.copytree(built(shape).folder, tmp_path / "copy", symlinks=True)
        return Context.load(tmp_path / "copy")

    return of
