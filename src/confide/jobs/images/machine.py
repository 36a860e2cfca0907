"""What an image gets from the machine that builds it: the interpreter that runs this, Java, and the libraries that both are linked to.

So the same machine, or another one made of the same packages, makes the same image; the list in ``image.json`` has every file's digest.
"""

from __future__ import annotations

import re
import ssl
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confide.errors import ImageError
from confide.jobs.engines.java import HINT
from confide.jobs.images.layout import HOME, JAVA, PYTHON, SCRATCH, UID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confide.jobs.images.tree import Tree

_INTERP: Final = 3
"""PT_INTERP (System V ABI, "Program Header")."""
_LIBRARY: Final = re.compile(r"^\s+(\S+) => (?:(/\S+) \(|(not found))", re.MULTILINE)
_NOT_STDLIB: Final = re.compile(
    r"__pycache__|.*/__pycache__|site-packages|dist-packages|test|.*/tests?|idlelib|turtledemo|turtle\.py|tkinter|ensurepip|lib2to3|pydoc_data"
    r"|config-[^/]*|lib-dynload/_test.*|lib-dynload/_tkinter.*|.*\.a|EXTERNALLY-MANAGED|sitecustomize\.py"
)
"""Tests, build files and desktop programs; an installer; what this machine's own set-up adds."""
_NOT_JAVA: Final = re.compile(r"bin/(?!java$).*|man|jmods|include|demo|sample|docs|lib/src\.zip|lib/ct\.sym|lib/.*\.(debuginfo|diz)")
_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_ZONES: Final = Path("/usr/share/zoneinfo")
_TEXTS: Final = {
    "/etc/passwd": f"root:x:0:0:root:/:/nologin\nconfide:x:{UID}:{UID}:node:{SCRATCH}:/nologin\n",
    "/etc/group": f"root:x:0:\nconfide:x:{UID}:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_FOLDERS: Final = ("/dev/shm", "/etc/confide/node", "/etc/confide/simulation", "/proc", "/run", "/sys")  # noqa: S108


def add_system(tree: Tree) -> None:
    """The folders, users and public certificates that programs look for."""
    for path, text in _TEXTS.items():
        tree.write(path, text.encode())
    for path in _FOLDERS:
        tree.folder(path)
    for path in ("/tmp", SCRATCH):  # noqa: S108 -- memory that is mounted there gets the rights that are there
        tree.shared_folder(path)
    for name in ("lib", "lib64"):
        tree.folder(f"/usr/{name}")
        tree.link(f"/{name}", f"usr/{name}")
    trusted = ssl.get_default_verify_paths()
    if trusted.cafile:
        tree.copy(Path(trusted.cafile), _CERTIFICATES)
        if trusted.openssl_cafile != _CERTIFICATES:
            tree.copy(Path(trusted.cafile), trusted.openssl_cafile)
    if _ZONES.is_dir():
        tree.copy_folder(_ZONES, str(_ZONES), keeps=lambda name: name.split("/")[0] not in {"posix", "right", "localtime", "posixrules"})


def add_interpreter(tree: Tree) -> str:
    """The interpreter that runs this, and an environment for packages; the name of its folder below ``lib``.

    Raises:
        ImageError: it is not one that can be moved.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    program = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if not (stdlib / "os.py").is_file() or not program.name.startswith("python3"):
        hint = "use CPython as python.org or a distribution makes it"
        raise ImageError("this interpreter has no standard library of its own", path=str(program), hint=hint)
    tree.copy(program, f"{PYTHON}/bin/{version}")
    tree.copy_folder(stdlib, f"{PYTHON}/lib/{version}", keeps=lambda name: not _NOT_STDLIB.fullmatch(name))
    tree.write(f"{HOME}/pyvenv.cfg", f"home = {PYTHON}/bin\ninclude-system-site-packages = false\n".encode())
    tree.link(f"{HOME}/bin/python", f"../../python/bin/{version}")
    tree.folder(f"{HOME}/lib/{version}/site-packages")
    return version


def add_java(tree: Tree, java: Path) -> None:
    """A Java runtime: what runs programs, and none of its tools.

    Raises:
        ImageError: the program is not in a runtime's folder.
    """
    home = java.resolve().parents[1]
    if not (home / "lib" / "server" / "libjvm.so").is_file():
        hint = f"{HINT}; or put the runtime's own bin first on PATH"
        raise ImageError("this is not the `java` of a Java runtime", path=str(java), hint=hint)
    tree.copy_folder(home, JAVA, keeps=lambda name: not _NOT_JAVA.fullmatch(name))


def add_libraries(tree: Tree) -> tuple[str, ...]:
    """The shared libraries that programs and libraries of the tree are linked to, and the loader; which of them this machine does not have.

    Those are parts that are never loaded (a Java's windows and sound): whatever loads one says so.

    Raises:
        ImageError: this machine's loader is not glibc's.
    """
    program = next((tree.root / PYTHON[1:] / "bin").glob("python3.*"))
    loader = _loader(program.read_bytes())
    if loader is None or not Path(loader).name.startswith("ld-linux"):
        raise ImageError("images are built with glibc's loader", got=str(loader), hint="build on Debian, Ubuntu, Fedora or their like")
    linked = [path for path in tree.files() if _is_elf(path)]
    found, missing = _needed(Path(loader), linked, tree.root.resolve())
    folder = _merged(found["libc.so.6"].parent)
    for name, source in sorted(found.items()):
        tree.copy(source, f"{folder}/{name}")
    tree.copy(Path(loader), _merged(Path(loader)))
    return tuple(sorted(missing - {path.name for path in linked}))


def _merged(path: Path) -> str:
    """The path below /usr: /lib and /lib64 are links there, here and in the image."""
    return path.as_posix() if path.is_relative_to("/usr") else f"/usr{path.as_posix()}"


def _needed(loader: Path, linked: Iterable[Path], root: Path) -> tuple[dict[str, Path], set[str]]:
    """This machine's libraries by the names under which they are asked for; and those names that nothing answers to."""
    found: dict[str, Path] = {}
    missing: set[str] = set()
    for path in linked:
        command = [str(loader), "--list", str(path)]
        # An empty environment: LD_LIBRARY_PATH or LD_PRELOAD of whoever builds choose nothing.
        told = subprocess.run(command, capture_output=True, text=True, check=False, env={}, timeout=60).stdout
        for name, place, unknown in _LIBRARY.findall(told):
            if unknown:
                missing.add(name)
            elif not Path(place).resolve().is_relative_to(root):
                found.setdefault(Path(name).name, Path(place))
    return found, missing


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _loader(data: bytes) -> str | None:
    """The path of the loader that a 64-bit ELF program asks for."""
    start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for at in range(start, start + size * count, size):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, at)
        if kind == _INTERP:
            return data[offset : offset + length].rstrip(b"\0").decode()
    return None
