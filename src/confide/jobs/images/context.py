"""A container context: everything of an image in one folder, and the recipe that a builder makes it from without a registry.

``OUT/rootfs`` is the image's root, ``OUT/Containerfile`` the recipe, ``OUT/image.json`` says what it is made of; with the shape ``sgx``,
``OUT/node.manifest`` is what ``confide image sign`` signs.  A context appears whole, or not at all.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confide import __version__
from confide.attest.measure import measure
from confide.canonical import Json, parse_object
from confide.errors import ImageError, OutputExistsError, ParseError
from confide.ids import Tee
from confide.jobs.engines.java import find_java
from confide.jobs.images import lock, node_manifest
from confide.jobs.images.layout import ENVIRONMENT, GRAMINE, HOME, PYTHON, SCRATCH, UID, Shape, entrypoint, installed
from confide.jobs.images.machine import add_interpreter, add_java, add_libraries, add_system
from confide.jobs.images.private_keys import refuse_private_keys
from confide.jobs.images.tree import Entry, Tree, digest
from confide.jobs.images.wheels import Wheel, compile_modules, default_lock, fetch, own_wheel
from confide.regular_file import read_regular

FORMAT: Final = "confide-image-v1"
ROOT, RECIPE, LIST, UNSIGNED = "rootfs", "Containerfile", "image.json", "node.manifest"
ENGINES: Final = ("spark", "polars", "duckdb")
_MAX_LIST: Final = 64 << 20
_MAX_LOCK: Final = 16 << 20
_FACTS: Final = ("engines", "confide", "python", "tree", "files", "packages", "not_linked")
_NODE_EXTRA: Final = "k8s"
"""What every node of a cluster needs of Confide's extras: a driver asks for its workers."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an image is to have.  ``lock``: taken whole; without one, what is needed of the source tree's."""

    shape: Shape
    engines: tuple[str, ...]
    extras: tuple[str, ...] = ()
    wheels: tuple[Path, ...] = ()
    lock: Path | None = None
    found_in: Path | None = None
    gramine: Path | None = None
    enclave: node_manifest.Enclave = field(default_factory=node_manifest.Enclave)


@dataclass(frozen=True, slots=True)
class Context:
    """A context that was built."""

    folder: Path
    facts: Json

    @classmethod
    def load(cls, folder: Path) -> Context:
        """The context in a folder.

        Raises:
            ImageError: there is none, or its files are not those that it lists.
        """
        try:
            facts = parse_object(read_regular(folder / LIST, _MAX_LIST))
        except (OSError, ParseError) as cause:
            raise ImageError("there is no image here", path=str(folder), hint="`confide image build` makes one") from cause
        if facts.get("format") != FORMAT:
            raise ImageError("the image in this folder is of another version", path=str(folder))
        entries = facts.get("entries")
        whole = isinstance(entries, list) and all(isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries)
        if not whole or facts.get("shape") not in list(Shape) or any(name not in facts for name in _FACTS):
            raise ImageError("the list of the image's files is damaged", path=str(folder), hint="build it anew")
        return cls(folder, facts)

    @property
    def tree(self) -> Tree:
        """Its root."""
        return Tree(self.folder / ROOT)

    @property
    def shape(self) -> Shape:
        """In what its nodes run."""
        return Shape(self.facts["shape"])

    def check(self, *, besides: tuple[str, ...] = ()) -> tuple[Entry, ...]:
        """What is in its root, which is what was built; paths in ``besides`` came later.

        Raises:
            ImageError: a file was added, removed or changed.
        """
        entries = self.tree.entries()
        built = digest(tuple(entry for entry in entries if entry.path not in besides))
        if built != self.facts["tree"]:
            listed = {entry["path"]: entry for entry in self.facts["entries"]}
            other = [entry.path for entry in entries if entry.path not in besides and listed.pop(entry.path, None) != entry.to_json()]
            first = next(iter([*other, *(path for path in listed if path not in besides)]), None)
            raise ImageError("the image's files are not those that were built", path=first, expected=self.facts["tree"], got=built,
                             hint="build it anew")  # fmt: skip
        return entries


def build(out: Path, request: Request, tell: Callable[[str], None]) -> Context:
    """Make the context ``out``.  ``tell`` hears of each step.

    Raises:
        OutputExistsError: it is there already.
        ImageError: something that it is to have is not to be had, or would be no part of an image.
        ExtraMissingError: there is no Java here.
        ParseError: the lock, or a wheel's metadata, is none.
    """
    if out.exists():
        raise OutputExistsError(f"{out} exists", path=str(out), hint="an image is built into a new folder")
    if (request.shape is Shape.SGX) != (request.gramine is not None):
        hint = "--gramine /usr/lib/x86_64-linux-gnu/gramine"
        raise ImageError("a folder of Gramine goes with the shape sgx, and with no other", hint=hint)
    unfinished = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        facts = _fill(unfinished, request, tell)
        unfinished.rename(out)
    except OSError as cause:
        raise ImageError(f"cannot write {out}: {cause.strerror}", path=cause.filename) from cause
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Context(out, facts)


def _fill(folder: Path, request: Request, tell: Callable[[str], None]) -> Json:
    tree = Tree(folder / ROOT)
    with tempfile.TemporaryDirectory(prefix="confide-image-") as scratch:
        given, fetched = _wheels(request, Path(scratch), tell)
        tell("interpreter")
        add_system(tree)
        version = add_interpreter(tree)
        tell(f"{len(given) + len(fetched)} packages")
        site = f"{HOME}/lib/{version}/site-packages"
        # What a lock pins by its hash is public, keys of its tests among it; what others gave is looked at.
        public = {path for wheel in fetched for path in wheel.unpack(tree, site)}
        for wheel in given:
            wheel.unpack(tree, site)
    if "spark" in request.engines:
        tell("Java")
        add_java(tree, find_java())
    missing = add_libraries(tree)
    if request.gramine is not None:
        tell("Gramine")
        tree.copy_folder(request.gramine, GRAMINE, keeps=lambda name: name.split("/")[0] in {"libsysdb.so", "runtime", "sgx"})
    tell("looking for private keys")
    refuse_private_keys(path for path in tree.files() if path not in public)
    tell("byte code")
    compile_modules(tree, (f"{PYTHON}/lib", f"{HOME}/lib"))
    tell("digests")
    tree.seal()
    return _describe(folder, request, tree, sorted([*given, *fetched], key=lambda wheel: wheel.name), missing)


def _wheels(request: Request, scratch: Path, tell: Callable[[str], None]) -> tuple[list[Wheel], list[Wheel]]:
    """The packages, each one once: those that were given with Confide, and those of the lock."""
    given = [Wheel.of(path) for path in request.wheels]
    own = next((wheel for wheel in given if wheel.name == "confide"), None)
    if own is None:
        tell("Confide's own wheel")
        own_folder = scratch / "own"
        own_folder.mkdir()
        own = own_wheel(own_folder)
        given.append(own)
    path = request.lock or default_lock()
    try:
        locked = lock.parse(read_regular(path, _MAX_LOCK).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as cause:
        raise ImageError(f"cannot read {path}", path=str(path)) from cause
    wanted = lock.requirements(own.metadata(), {*request.engines, *request.extras, _NODE_EXTRA})
    there = {wheel.name for wheel in given}
    if len(there) != len(given):
        raise ImageError("a package was given twice", hint="one --wheel for each package")
    chosen = lock.needed(locked, set(wanted) - there) if request.lock is None else _whole(locked, set(wanted) - there)
    rest = {name: one for name, one in chosen.items() if name not in there}
    tell(f"fetching {len(rest)} packages")
    return given, fetch(rest, scratch, found_in=request.found_in)


def _whole(locked: dict[str, lock.Locked], wanted: set[str]) -> dict[str, lock.Locked]:
    lock.needed(locked, wanted)  # raises if something that is wanted is not in it
    return locked


def _describe(folder: Path, request: Request, tree: Tree, wheels: list[Wheel], missing: tuple[str, ...]) -> Json:
    entries = tree.entries()
    facts: dict[str, Any] = {
        "format": FORMAT,
        "shape": request.shape.value,
        "engines": sorted(request.engines),
        "confide": __version__,
        "python": platform.python_version(),
        "tree": digest(entries),
        "files": sum(entry.is_file for entry in entries),
        "packages": [wheel.to_json() for wheel in wheels],
        "not_linked": list(missing),
    }
    if request.shape is Shape.SIMULATED:
        measured = measure(installed(tree.root))
        facts["measurements"] = {tee.value: [measured.of(tee)] for tee in (Tee.SGX, Tee.TDX)}
    if request.shape is Shape.SGX:
        _write(folder / UNSIGNED, node_manifest.render(entries, request.enclave))
    _write(folder / RECIPE, recipe(request.shape))
    _write(folder / LIST, json.dumps({**facts, "entries": [entry.to_json() for entry in entries]}, indent=1, sort_keys=True) + "\n")
    return {**facts, "entries": [entry.to_json() for entry in entries]}


def recipe(shape: Shape) -> str:
    """The Containerfile."""
    environment = " ".join(f"{name}={value}" for name, value in sorted(ENVIRONMENT.items()))
    return "\n".join((
        "# Written by `confide image build`.  Build it with --timestamp 0 (buildah, podman), so that no time is in it.",
        "FROM scratch",
        f"COPY --chown=0:0 {ROOT}/ /",
        f"ENV {environment}",
        f"USER {UID}:{UID}",
        f"WORKDIR {SCRATCH}",
        "STOPSIGNAL SIGTERM",
        f"ENTRYPOINT {json.dumps(list(entrypoint(shape)))}",
        "",
    ))  # fmt: skip


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    os.utime(path, (0, 0))
