"""Makes small wheels and locks, for images that need no package index."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from confide.canonical import sha256_hex


def make_wheel(folder: Path, name: str, version: str = "1.0", *, files: Mapping[str, bytes] | None = None, metadata: str = "") -> Path:
    """A wheel with one module of its name, and ``files`` beside it."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    content = {f"{name}/__init__.py": f"NAME = {name!r}\n".encode(), **(files or {})}
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}".encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{info}/RECORD"] = b""
    with zipfile.ZipFile(path, "w") as archive:
        for inside, data in content.items():
            archive.writestr(zipfile.ZipInfo(inside), data)
    return path


def lock_of(*wheels: Path) -> str:
    """A lock of these wheels."""
    return "".join(f"{w.name.split('-')[0]}=={w.name.split('-')[1]} \\\n    --hash=sha256:{sha256_hex(w.read_bytes())}\n" for w in wheels)
